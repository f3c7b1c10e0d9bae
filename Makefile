# `make help` lists the targets. Needed: Python, git, make, curl, and Go or pip; the rest is fetched.

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:

PYTHON ?= python3
DOCKER ?= docker
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubernaut-datastorage
OWN_UV := $(CACHE)/uv/bin/uv
UV ?= $(or $(shell command -v uv 2>/dev/null),$(OWN_UV))
BIN := .venv/bin
READY := .venv/.ready

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' operator/datastorage/__init__.py)
IMAGE ?= kubernaut-datastorage:$(VERSION)
# The commit and its time; a changed working tree builds an image that no commit describes.
IMAGE_SOURCES := Dockerfile .dockerignore README.md harness/image operator pyproject.toml uv.lock
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)$(shell \
	test -z "$$(git status --porcelain -- $(IMAGE_SOURCES) 2>/dev/null)" || echo -dirty)
EPOCH = $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 0))
CREATED = $(shell $(PYTHON) -c 'import datetime; print(datetime.datetime.fromtimestamp($(EPOCH), datetime.UTC).strftime("%FT%TZ"))')
PLATFORMS ?= linux/amd64,linux/arm64
IMAGE_ARGS = $(foreach name,VERSION REVISION CREATED,--build-arg $(name)="$($(name))") \
	--build-arg SOURCE_DATE_EPOCH="$(EPOCH)" $(CHOSEN_ARGS)
# Only what stands on make's command line: what the shell has set for pip is about this machine.
CHOSEN_ARGS := $(foreach name,BASE_IMAGE EXTRA PIP_INDEX_URL PIP_CERT,\
	$(if $(filter command,$(origin $(name))),--build-arg $(name)="$($(name))"))

# What the tests of the control plane install Go with, if they have to.
export UV
# The environment of this repository, whatever the caller's shell has active.
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV
# Otherwise each of the hundreds of processes of the tests would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: ARGS (demo, dashboard-images, chart, bench, bench-search, e2e-kind), PYTEST_ARGS (test, e2e-kind), QUICK=1 and N (bench), MINUTES (fuzz), IMAGE, BASE_IMAGE and EXTRA (image, image-check, image-push)"

.PHONY: setup
setup: $(READY) ## Make .venv with the locked dependencies (uv is fetched by pip if it is missing)
	@:

$(READY): pyproject.toml uv.lock | $(UV)
	@echo "Installing the locked dependencies into .venv"
	@$(UV) sync --frozen --quiet
	@touch $@

# A folder of its own: systems such as Debian forbid pip to install for everyone.
$(OWN_UV):
	@echo "Fetching uv into $(CACHE)/uv"
	@python=$(PYTHON); \
	$$python -m pip --version >/dev/null 2>&1 \
		|| { $$python -m venv "$(CACHE)/pip" && python="$(CACHE)/pip/bin/python"; } \
		|| { echo "$$python has neither pip nor venv: install one of them, or uv" >&2; exit 1; }; \
	$$python -m pip install --quiet --disable-pip-version-check --upgrade --target "$(CACHE)/uv" uv
	@touch $@

.PHONY: controlplane
controlplane: $(READY) ## Build etcd, kube-apiserver, kube-controller-manager and kubectl (once per machine, about 7 min)
	@$(BIN)/python -m harness.controlplane build

.PHONY: demo
demo: $(READY) ## Watch records being created, stored, shown and cleared; ARGS=--keep leaves it running
	@$(BIN)/python -m examples.demo $(ARGS)

.PHONY: dev
dev: $(READY) ## Run control plane, PostgreSQL and the operator in the foreground until Ctrl-C
	@$(BIN)/python -m examples.demo.dev $(ARGS)

# Three workers: conftest.py says which tests are whose. PYTEST_ARGS="-n 0" runs all in one process.
.PHONY: test
test: lint ## Run lint and the tests, on a control plane of their own; PYTEST_ARGS="-k name" chooses
	$(BIN)/pytest -n 3 $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(READY) ## Run the long tests (fault injection, comparison with the API server), which `make test` leaves out
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: $(READY) ## Send the API requests that are made from its OpenAPI document; MINUTES= for how long (10)
	DATASTORAGE_TEST_FUZZ_MINUTES="$(or $(MINUTES),10)" $(BIN)/pytest -m fuzz e2e/test_fuzz.py $(PYTEST_ARGS)

.PHONY: lint
lint: $(READY) ## Check style, types, import rules, generated files, the manifests and the Dockerfile
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/datastorage crds --check
	$(BIN)/datastorage reference --check
	$(BIN)/python -m harness.chart --check
	$(BIN)/python -m harness.rules --check
	$(BIN)/python -m harness.dashboard --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m harness.manifestlint

.PHONY: format
format: $(READY) ## Format the code and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: crds
crds: $(READY) ## Write crds/ from the models
	$(BIN)/datastorage crds

.PHONY: rules
rules: $(READY) ## Write the rules of Prometheus into manifests/monitoring, and what pages say of them
	@$(BIN)/python -m harness.rules

.PHONY: docs
docs: $(READY) ## Write the API reference and the tables of settings, metrics and chart values into docs/reference
	@$(BIN)/datastorage reference
	@$(BIN)/python -m harness.chart --page

.PHONY: dashboard
dashboard: $(READY) ## Write the dashboard for Grafana into manifests/monitoring, and what its page says of the panels
	@$(BIN)/python -m harness.dashboard

# Matplotlib is in a group of its own, so that nothing else installs it.
.PHONY: dashboard-images
dashboard-images: $(READY) ## Draw the panels for their page, from an incident that is made for it (about 12 min)
	@$(UV) sync --frozen --quiet --group drawing
	@$(BIN)/python -m harness.dashboard.pictures $(ARGS)

.PHONY: chart
chart: $(READY) ## Write the Helm chart into dist/, the same bytes each time (needs neither Helm nor a network)
	@$(BIN)/python -m harness.chart $(ARGS)

.PHONY: bench
bench: $(READY) ## Measure throughput, latency, memory and API writes; QUICK=1 for a small run, N= for the number of objects
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(N),--objects $(N)) $(ARGS)

.PHONY: bench-search
bench-search: $(READY) ## Measure how well search finds what it should: nDCG and recall on the labelled set
	@$(BIN)/python -m benchmarks.search $(ARGS)

.PHONY: node-image
node-image: $(READY) ## Build the images for a kind cluster where no registry is reached (once per machine, about 10 min)
	@$(BIN)/python -m harness.nodeimage build

.PHONY: e2e-kind
e2e-kind: $(READY) ## Install on a kind cluster as users do, and run the tests there; ARGS=--help says what can be chosen
	@$(BIN)/python -m e2e.kind $(ARGS) -- $(PYTEST_ARGS)

.PHONY: image
image: ## Build the container image, the same each time for one commit; BASE_IMAGE= chooses what it is built on
	$(DOCKER) build $(IMAGE_FLAGS) --tag "$(IMAGE)" $(IMAGE_ARGS) .
	@$(PYTHON) -m harness.image.settle --docker "$(DOCKER)" --created "$(EPOCH)" "$(IMAGE)"

.PHONY: image-push
image-push: ## Build the image for PLATFORMS= (linux/amd64,linux/arm64) with docker buildx, and push it as IMAGE=
	$(DOCKER) buildx build $(IMAGE_FLAGS) --platform "$(PLATFORMS)" $(IMAGE_ARGS) --provenance=false \
		--output 'type=image,"name=$(IMAGE)",push=true,rewrite-timestamp=true' .

.PHONY: image-check
image-check: $(READY) ## Build the image of the commit twice, compare both, and try what it can do (needs Docker)
	DOCKER="$(DOCKER)" $(BIN)/pytest -m image tests/image $(PYTEST_ARGS)

.PHONY: sbom
sbom: ## Write the list of all parts of the image (CycloneDX) to dist/; build it before
	@mkdir -p dist
	@container="$$($(DOCKER) create "$(IMAGE)")" \
		&& $(DOCKER) cp "$$container:/var/lib/db/sbom/kubernaut-datastorage.cdx.json" dist/; \
		result=$$?; $(DOCKER) rm "$$container" >/dev/null; exit $$result
	@echo dist/kubernaut-datastorage.cdx.json

.PHONY: clean
clean: ## Remove .venv and all caches of the tools; built control planes stay in the cache folder
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "$(CACHE) keeps the control plane's programs; remove it to build them again"
