# The checks themselves live in .ci/run, so that they cannot differ from CI's.
.DEFAULT_GOAL := help
.PHONY: help test test-all race lint bench cover fuzz examples outputs dist ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## run the tests of the root module
	go test ./...

test-all: ## run the tests of every module in go.work, as its code is here
	@go work edit -json | sed -n 's/.*"DiskPath": "\(.*\)".*/\1/p' | xargs -I{} sh -c 'echo "== {}"; go -C {} test ./... || exit 1'

race: ## run the tests under the race detector (needs a C compiler)
	.ci/run race

lint: ## gofmt, go vet, staticcheck, go fix, and the rules on go.mod and imports
	.ci/run lint

bench: ## run the benchmarks, ours and those beside other libraries
	go test -run '^$$' -bench . -benchmem ./...
	@if ls bench/*.go >/dev/null 2>&1; then cd bench && go test -run '^$$' -bench . -benchmem ./...; fi

cover: ## coverage of the root and internal/, with the threshold that CI holds
	.ci/run cover

fuzz: ## a short run of every fuzz target
	.ci/run fuzz

examples: ## run every example once
	.ci/run examples

outputs: ## run the examples and put what they print into the documents (takes two minutes)
	go run ./examples/internal/outputs examples/README.md

dist: ## llmq for each system, in dist/, with checksums: after its tag (docs/release.md)
	rm -rf dist && mkdir dist
	for os in linux darwin windows; do for arch in amd64 arm64; do \
		GOWORK=off CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go -C cmd/llmq build -trimpath -o "$(CURDIR)/dist/llmq_$${os}_$$arch$$([ $$os = windows ] && echo .exe)" . || exit 1; \
	done; done
	cd dist && sha256sum llmq_* >SHA256SUMS

ci: ## everything that has to pass before a change lands
	.ci/run
