# The everyday commands. Each is one line that can also be typed; nothing needs to be installed but Go.

TOOL := go tool -modfile=.ci/go.mod
FUZZTIME := 20s
FUZZCOMMANDS := 2000
MUTATE := op grad plan cam
GREMLINS := github.com/go-gremlins/gremlins/cmd/gremlins@v0.6.0

.PHONY: all build test test-long test-gpu race fuzz mutate bench fmt lint generate ci demo

all: build test

build: ## the program, in bin/
	CGO_ENABLED=0 go build -trimpath -o bin/voxcam ./cmd/voxcam

test:
	go test ./...

test-long: ## also the largest combinations on a simulated GPU
	VOXCAM_LONG=1 go test -timeout 2h ./...

test-gpu: ## the CUDA backend on the GPU of this machine
	VOXCAM_GPU=1 go test ./internal/backend/cuda/... ./internal/explain ./internal/executor

race: ## needs a C compiler, because the race detector does
	CGO_ENABLED=1 go test -race ./...

fuzz: ## every decoder for FUZZTIME each, then FUZZCOMMANDS whole commands with damaged files
	@grep -rHoE '^func Fuzz[A-Za-z0-9]+' --include='*_test.go' cmd internal | sed -E 's|/[^/]*:func | |' | sort -u | \
	while read -r folder target; do \
		echo "== $$folder $$target"; \
		go test "./$$folder" -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x </dev/null || exit 1; \
	done
	VOXCAM_FUZZ_COMMANDS=$(FUZZCOMMANDS) go test -count=1 -timeout 0 ./cmd/voxcam -run '^TestDamagedFiles$$'

mutate: ## small faults in packages MUTATE, one at a time, that their own tests must notice; takes hours
	@for package in $(MUTATE); do \
		echo "== internal/$$package"; \
		go run $(GREMLINS) unleash "./internal/$$package" --test-cpu 1 --timeout-coefficient 10 --output-statuses lc \
			--invert-logical --invert-loopctrl --invert-assignments || exit 1; \
	done

bench: ## what the packages measure of themselves; docs/benchmarks.md has the comparisons
	go test -run '^$$' -bench . -benchmem ./...

fmt:
	gofmt -w .

lint:
	go vet ./...
	$(TOOL) staticcheck ./...

generate: ## assembly, kernels and the reference of the commands; what comes out is committed
	go generate ./...

ci: ## what a change must pass
	.ci/run

demo: build
	bin/voxcam demo
