# The checks themselves live in .ci/run, so that they cannot differ from CI's.
.DEFAULT_GOAL := help
.PHONY: help test race lint bench cover fuzz examples outputs ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## run the tests
	go test ./...

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

ci: ## everything that has to pass before a change lands
	.ci/run
