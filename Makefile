# Everything a contributor or CI runs. `make help` lists it.

SHELL := /bin/bash
GOLANGCI_LINT_VERSION := v2.15.0
CONTROLLER_GEN_VERSION := v0.23.0
BIN := $(CURDIR)/bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/holdfast-csi/holdfast/driver.Version=$(VERSION) -X main.version=$(VERSION)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the static binaries into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

.PHONY: plugin
plugin: ## Build kubectl-holdfast for people's machines into dist/
	for on in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do \
	  CGO_ENABLED=0 GOOS=$${on%-*} GOARCH=$${on#*-} go build -trimpath -ldflags '$(LDFLAGS)' -o dist/kubectl-holdfast-$$on ./cmd/kubectl-holdfast || exit 1; \
	done

.PHONY: demo
demo: ## Show a replicated volume on three simulated SPDK nodes; needs neither root nor SPDK
	@CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/holdfast
	@$(BIN)/holdfast demo

.PHONY: test
test: ## Run all tests that need no root and no VM
	go test -race -short -count=1 -timeout 20m ./...

.PHONY: chart
chart: ## Test the Helm chart, the manifests and the examples in deploy/
	cd test/chart && go test -count=1 ./...

.PHONY: manifests
manifests: ## Copy the CRDs into the chart and render deploy/manifests and the golden files from it
	mkdir -p deploy/chart/holdfast/crds && cp deploy/crds/*.yaml deploy/chart/holdfast/crds/
	cd test/chart && go test -count=1 -run 'Golden|Manifests' . -update

.PHONY: healing
healing: ## Run what `make test` leaves out: failover and healing with every step failing, 50 deleted replicas and 20 killed raid hosts in simulated time
	go test -count=1 -timeout 30m ./test/healing ./node ./driver ./test/stack

.PHONY: random
random: ## Run 10,000 random steps in simulated time
	go test -count=1 -timeout 20m ./test/random -seeds=40 -steps=250

.PHONY: contract
contract: ## Run the contract suite; with SPDK_RPC_SOCK=a.sock,b.sock,c.sock against real SPDK targets
	go test -race -count=1 -v ./test/contract/...

.PHONY: e2e
e2e: ## Run the node service on a real kernel in a VM (installs what it needs when run as root on Debian)
	go run ./test/vm/prepare
	go test -count=1 -p 1 -timeout 40m -tags e2e ./test/vm/... ./test/e2e/... ./test/faults

.PHONY: faults
faults: ## Run the whole fault matrix and its loops, hours; the table is dist/faults.md (FAULTS_CELLS=regexp chooses cells; test/faults/targets brings real SPDK targets)
	go run ./test/vm/prepare
	FAULTS=full FAULTS_REPORT=$(CURDIR)/dist/faults.md go test -count=1 -v -timeout 8h -tags e2e $(if $(FAULTS_CELLS),-run TestMatrix) ./test/faults

.PHONY: image
image: ## Build and try the container image from what this machine's package sources have
	test/image/build

.PHONY: bench
bench: ## Measure; docs/performance.md has the figures
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./test/bench/...

.PHONY: kube-binaries
kube-binaries: ## Build etcd, kube-apiserver and kubectl, and get the CRDs of snapshots, from their Go modules into .cache/kubernetes (once, a quarter of an hour)
	test/kubernetes/binaries/build etcd kube-apiserver kubectl

.PHONY: kubernetes
kubernetes: ## Test against a real API server and etcd (make kube-binaries first)
	go test -race -count=1 -timeout 20m -v ./test/kubernetes

.PHONY: e2e-kubernetes
e2e-kubernetes: ## Run the driver, installed by its chart, in a real cluster with a worker in a VM, and 1,000 claims at once (root on Debian; builds Kubernetes once, half an hour)
	go run ./test/vm/prepare
	command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap
	go run ./test/kubernetes/prepare
	test/kubernetes/binaries/build
	cd test/chart && go build -o /dev/null ./render # the tests run it in a namespace without a network
	go test -count=1 -v -p 1 -timeout 3h -tags e2e $(if $(RUN),-run '$(RUN)') ./test/kubernetes/claims ./test/kubernetes/e2e

.PHONY: generate
generate: $(BIN)/controller-gen-$(CONTROLLER_GEN_VERSION) ## Generate the CRDs, the copying of their Go types, and the manifests
	$(BIN)/controller-gen-$(CONTROLLER_GEN_VERSION) object paths=./spdk/volume/stores/kube/v1alpha1
	$(BIN)/controller-gen-$(CONTROLLER_GEN_VERSION) crd paths=./spdk/volume/stores/kube/v1alpha1 output:crd:dir=deploy/crds
	$(MAKE) manifests

$(BIN)/controller-gen-$(CONTROLLER_GEN_VERSION):
	GOBIN=$(BIN) GOFLAGS= go install sigs.k8s.io/controller-tools/cmd/controller-gen@$(CONTROLLER_GEN_VERSION)
	mv $(BIN)/controller-gen $@

.PHONY: lint
lint: $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION) ## Run the linters
	$(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION) run --timeout 15m ./...

$(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION):
	GOBIN=$(BIN) GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(BIN)/golangci-lint $@

.PHONY: verify
verify: lint generate ## Lint, vet, formatting, tidiness of go.mod, and that what is generated is up to date
	@git diff --exit-code -- deploy test/chart/testdata spdk/volume/stores/kube/v1alpha1 || { echo 'commit what make generate has made'; exit 1; }
	go vet ./...
	go vet -tags e2e ./test/...
	cd test/chart && go vet ./... && $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION) run --timeout 15m ./...
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these'; exit 1; }
	go mod tidy -diff

.PHONY: clean
clean: ## Remove what the targets made
	rm -rf $(BIN) dist
