# Holdfast. `make help` lists the targets; `make check` is what CI runs.
#
# Tools are pinned in tools/go.mod, a module of its own, so that what a tool
# needs never becomes something the program needs.
#
# Not part of check: govulncheck. It asks the Go vulnerability database over the
# network, which build machines without internet access cannot reach. Run it by
# hand where the network allows, before every release: `make vulncheck`.

SHELL      := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The go command keeps its caches under HOME and refuses to work without one.
ifeq ($(strip $(HOME)),)
export HOME := $(CURDIR)/.tools/home
endif

GO         ?= go
TOOL       := $(GO) tool -modfile=tools/go.mod
FUZZTIME   ?= 30s
SIMTIME    ?= 10m
BENCHFLAGS ?=

# Packages whose tests start other programs or take long. They run one at a
# time, after the fast ones, so that nothing they time is disturbed. The
# simulation has a target of its own.
SLOW := /(e2e|crash|bench|interop|objstore/s3)(/|$$)
fast  = $$($(GO) list ./... | grep -vE '$(SLOW)|/sim(/year)?$$')
slow  = $$($(GO) list ./... | grep -E '$(SLOW)')

.PHONY: help demo test quick check build bench fuzz e2e e2e-long smtp-peers setup vulncheck fmt teeth crash crash-long sim sim-long year cost minio

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## the whole story on this machine: mail in, outage, IMAP, replay, receipts
	bin/holdfast demo

build: ## build bin/holdfast, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/holdfast ./cmd/holdfast

quick: ## vet and the unit tests, in under a minute
	$(GO) vet ./...
	$(GO) test -short $(fast)

test: setup build ## every test; installs what they need first (Debian, as root)
	$(GO) test $(fast)
	$(GO) test -tags interop -p 1 -timeout 15m $(slow)

check: setup ## what CI runs: format, vet, staticcheck, race detector, end to end, short fuzzing
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(MAKE) --no-print-directory build
	$(GO) test -race -short -timeout 20m $(fast) # the longest tests do less: the race detector is ten times slower
	$(GO) test -timeout 10m $(fast)
	$(GO) vet -tags failpoint ./...
	$(GO) test -tags failpoint -timeout 15m ./internal/disk/... ./objstore/fs
	$(GO) test -tags interop -p 1 -timeout 15m $(slow)
	$(MAKE) --no-print-directory sim
	$(MAKE) --no-print-directory teeth
	$(MAKE) --no-print-directory fuzz FUZZTIME=2s

e2e: setup build ## the end-to-end scenarios alone, as an outsider
	$(GO) test -count=1 -timeout 15m ./e2e/...

e2e-long: setup build ## the same in their long form: more kills, more mail, S3 too
	HOLDFAST_E2E_LONG=1 $(GO) test -count=1 -v -timeout 90m ./e2e/...

smtp-peers: setup ## hold the SMTP suite with Postfix, Exim and OpenSMTPD: docs/smtp-conformance.md
	bench/conform/fetch.sh
	$(GO) run ./bench/conform -o docs/smtp-conformance.md

crash: setup ## 300 kills at every durable step, with power failures, some over days; a judge looks at what is left
	$(GO) test -count=1 -timeout 15m -tags failpoint ./internal/disk/...
	HOLDFAST_CRASH_WORLDS=6 $(GO) test -count=1 -timeout 20m -v ./crash/...
	$(GO) test -count=1 ./retention -run 'Wakes|Races' -args -stride 1

KILLS ?= 10000
crash-long: setup ## the same with KILLS kills (make crash-long KILLS=10000)
	HOLDFAST_CRASH_KILLS=$(KILLS) $(GO) test -count=1 -timeout 48h -v -run TestKills ./crash

fuzz: ## every fuzz target in turn, each for FUZZTIME (make fuzz FUZZTIME=10m)
	GO="$(GO)" .ci/fuzz $(FUZZTIME)

sim: ## the simulation: a fixed set of worlds, each the same every time, and some weeks of one
	$(GO) test -count=1 -timeout 10m ./sim -run 'TestSeeds|TestTraces' -args -worlds 80 -equal 20
	$(GO) test -count=1 -timeout 10m ./sim/year

sim-long: ## random worlds for as long as asked: make sim-long SIMTIME=1h
	$(GO) test -count=1 -timeout 0 -v ./sim -run TestLong -args -span $(SIMTIME) | grep -vE '^ *(===|---)'

year: ## a year at 1,000 messages a day, and every step of a night's work gone wrong
	$(GO) test -count=1 -timeout 0 -v ./sim/year -run 'TestYear|Steps' -args -days 365 -daily 1000 -awake 40 -steps 0

cost: ## the requests of a day with 10,000 messages: docs/performance.md
	$(GO) test -count=1 -timeout 0 -v ./sim/year -run TestCost -args -cost 10000 -cost-days 3 -cost-poll 1s

# MinIO is built from a module of its own: that takes minutes and half a gigabyte,
# so nothing else asks for it.
minio: setup build ## what runs with versitygw in check, with MinIO: buckets, Object Lock, a day that ends
	cd tools/minio && nice -n 15 $(GO) build -trimpath -o ../../.tools/minio github.com/minio/minio
	HOLDFAST_TEST_MINIO=$(CURDIR)/.tools/minio $(GO) test -count=1 -p 1 -timeout 15m ./objstore/s3 ./objstore/open
	HOLDFAST_TEST_MINIO=$(CURDIR)/.tools/minio $(GO) test -count=1 -timeout 15m ./eventlog -run 'ObjectLock|KeysOfAnotherLog'
	HOLDFAST_TEST_MINIO=$(CURDIR)/.tools/minio $(GO) test -count=1 -timeout 15m ./e2e -run 'TestADayEnds/on_S3'

teeth: ## the simulation's judges notice a program that was broken on purpose, in each of its ways
	$(GO) test -tags sabotage ./sim/... -run Teeth

bench: setup build ## the speed table, beside Postfix and smtp-sink in the same run
	$(GO) run ./bench $(BENCHFLAGS)

vulncheck: ## known vulnerabilities in what we depend on (needs the internet)
	$(TOOL) govulncheck ./...

fmt: ## gofmt what is tracked
	gofmt -w $$(git ls-files '*.go')

setup: ## install what the tests start: Postfix, mail clients, Go modules
	@e2e/setup.sh
