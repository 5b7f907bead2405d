#!/bin/sh
# ansible-test sanity on the collection, without Docker: ansible_sanity.sh BIN PYTHON_VERSION
# BIN is the folder of ansible-test. The collection is copied to a repository of its own, as ansible-test wants it.
# PowerShell's linter is left out: the collection has none. pip comes from the Python, not from the network.
set -eu
bin=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/ansible_collections/tailbite" "$work/home/.ansible/test/cache"
cp -R "$root/deploy/ansible" "$work/ansible_collections/tailbite/tailbite"
find "$work/ansible_collections" -name __pycache__ -prune -exec rm -rf {} +
printf 'import ensurepip\nensurepip.bootstrap()\n' > "$work/home/.ansible/test/cache/get_pip_24_2.py"
cd "$work/ansible_collections/tailbite/tailbite"
git init --quiet .
git add --all
git -c user.name=tailbite -c user.email=tailbite@localhost commit --quiet --message=collection
HOME="$work/home" PATH="$bin:$PATH" ansible-test sanity --local --python "$2" --skip-test pslint
