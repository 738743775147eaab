# usher: one Go module, no cgo. `make` says what there is.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help build run test prove check bench bench-growth fuzz

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

build: ## bin/usher and bin/usher-verify
	CGO_ENABLED=0 go build -trimpath -o bin/usher ./cmd/usher
	CGO_ENABLED=0 go build -trimpath -o bin/usher-verify ./cmd/usher-verify

run: build ## a server with a demo company, and what to try on it
	bin/usher demo

test: ## every test
	go test ./...
	cd internal/powercut && go test ./...
	cd internal/oracles && go test -count=1 -v ./... # they build what they test; -v says what is skipped
	cd internal/oidctest && go test ./...

prove: ## the proofs in full: never one unit over, never one lost (10 minutes; SEED=n repeats)
	@internal/prove/prove.sh

check: ## formatting, vet, staticcheck, no paths of one developer's machine
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted (gofmt -w):"; echo "$$files"; exit 1; fi
	@if git grep -nIE '(^|[^0-9A-Za-z"])/(work|root|home|Users)/|"/(work|root|home)/'; then echo "these paths exist on one developer's machine only"; exit 1; fi
	go vet ./...
	@if go run $(STATICCHECK) -version >/dev/null 2>&1; then \
		echo "go run $(STATICCHECK) ./..."; go run $(STATICCHECK) ./...; \
	else \
		echo "SKIPPED: $(STATICCHECK) cannot be fetched or built here"; \
	fi

bench: ## every benchmark against its target, in about 8 minutes
	go test -run '^$$' -bench 'B[0-9]|At$$' -benchmem -timeout 30m ./internal/engine ./internal/calendar ./internal/api ./internal/bench | go run ./internal/bench
	cd internal/oracles && go test -run '^$$' -bench Side ./access

bench-growth: ## the curves of docs/benchmarks.md
	go test -run '^$$' -bench Growth -timeout 30m ./internal/bench | go run ./internal/bench -growth docs/benchmarks-growth

fuzz: ## 20 s for each fuzz target
	@set -e; grep -rn --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file line name; do \
		name=$${name#func }; echo "$$(dirname $$file) $$name"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime 20s "$$(dirname $$file)"; \
	done
