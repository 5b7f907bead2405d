#!/bin/sh
# Build kube-apiserver and kube-controller-manager from Debian's source package, with Debian's Go and nothing from the
# network but the package: build_apiserver.sh FOLDER. About 12 minutes of CPU time, 1 GB of disk.
# The source is Kubernetes 1.20.2; `providerless` leaves the clouds out.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$folder"

if [ ! -d source ]; then
  for part in bookworm "bookworm-security -security"; do
    set -- $part
    echo "deb-src http://deb.debian.org/debian${2:-} $1 main"
  done > sources.list
  options="-o Dir::Etc::sourcelist=$folder/sources.list -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists=$folder/lists -o APT::Sandbox::User=root"
  mkdir -p lists/partial
  apt-get $options update
  apt-get $options source kubernetes
  mv kubernetes-*/ source
  # The copy of reflect2 in there reads maps as Go did before 1.18: the server would crash at a custom resource.
  apt-get download golang-github-modern-go-reflect2-dev
  dpkg-deb -x golang-github-modern-go-reflect2-dev_*.deb reflect2
  rm -rf source/vendor/github.com/modern-go/reflect2
  cp -R reflect2/usr/share/gocode/src/github.com/modern-go/reflect2 source/vendor/github.com/modern-go/
fi

export GOPATH="$folder/go" GO111MODULE=off CGO_ENABLED=0 GOCACHE="$folder/cache"
mkdir -p "$GOPATH/src/k8s.io"
ln -sfn "$folder/source" "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"

# The one generated file that the source lacks.
if [ ! -f pkg/generated/openapi/zz_generated.openapi.go ]; then
  go build -o "$folder/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  inputs=$(grep -rl --include=*.go '+k8s:openapi-gen=' pkg staging/src/k8s.io | xargs -n1 dirname | LC_ALL=C sort -u |
    sed 's,^staging/src/,vendor/,' | grep -v -e code-generator -e sample-apiserver |
    sed 's,^,k8s.io/kubernetes/,' | paste -sd,)
  "$folder/openapi-gen" --logtostderr -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi \
    -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$folder/violations" \
    --output-base "$GOPATH/src"
fi

version=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  package=k8s.io/kubernetes/vendor/$package
  version="$version -X $package.gitVersion=v1.20.2 -X $package.gitMajor=1 -X $package.gitMinor=20"
done
for program in kube-apiserver kube-controller-manager; do
  go build -tags providerless -ldflags "-s -w $version" -o "$folder/$program" "./cmd/$program"
done
