package sim

import (
	"bufio"
	"flag"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 1, "the first seed of TestSeed")
	seedsFlag = flag.Uint64("seeds", 1, "how many seeds TestSeed runs")
	firstFlag = flag.Uint64("first", 1, "the first seed of TestSeeds")
	countFlag = flag.Uint64("worlds", 20, "how many seeds TestSeeds runs")
	equalFlag = flag.Uint64("equal", 6, "how many seeds TestTraces runs twice")
	spanFlag  = flag.Duration("span", time.Second, "how long TestLong runs")
	dumpFlag  = flag.String("dump", "", "file for the trace of TestSeed")
	mayFlag   = flag.Bool("may", false, "the trace tells at each step what might have been released")
	drawsFlag = flag.Bool("draws", false, "TestSeed reports goroutines that draw random bytes in one step")
	twiceFlag = flag.Bool("twice", false, "TestSeed runs each seed twice and compares the traces")
	logFlag   = flag.Bool("logs", false, "what the nodes log goes to standard error")
)

// run lives through the world of a seed.
func run(t *testing.T, seed uint64) (res Result) {
	t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		synctest.Test(t, func(t *testing.T) {
			var log *slog.Logger
			if *logFlag {
				log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			}
			var d *draws
			res = Run(seed, PlanOf(seed), log, func(w *World) {
				w.Verbose = *mayFlag
				if *drawsFlag {
					d = watchDraws(w.bus)
				}
			})
			if d != nil {
				d.report(t)
			}
		})
	})
	return res
}

// try runs a seed and reports what is wrong with it.
func try(t *testing.T, seed uint64) Result {
	t.Helper()
	start := time.Now()
	res := run(t, seed)
	took := time.Since(start)
	t.Logf("seed %d: %d steps, %.0f/s, %v of the world; %s", seed, res.Steps, float64(res.Steps)/took.Seconds(), res.Took.Round(time.Second), strings.TrimSpace(res.Note))
	for _, label := range slices.Sorted(maps.Keys(res.Twins)) {
		t.Errorf("seed %d: %q was parked twice at a time, %d times", seed, label, res.Twins[label])
	}
	if res.Report != "" {
		t.Errorf("seed %d failed; again: go test ./sim -run 'TestSeed$' -seed %d -v\n%s", seed, seed, res.Report)
	}
	return res
}

// TestSeed runs the worlds of some seeds, for whoever looks into one of them.
func TestSeed(t *testing.T) {
	for seed := *seedFlag; seed < *seedFlag+*seedsFlag; seed++ {
		res := try(t, seed)
		if *dumpFlag != "" {
			if err := os.WriteFile(*dumpFlag, []byte(strings.Join(res.Trace, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if *twiceFlag {
			compare(t, seed, res.Trace, run(t, seed).Trace)
		}
	}
}

// TestSeeds runs a fixed set of worlds, and those that once showed a bug.
func TestSeeds(t *testing.T) {
	steps := 0
	for seed := *firstFlag; seed < *firstFlag+*countFlag; seed++ {
		steps += try(t, seed).Steps
	}
	for _, seed := range kept(t) {
		steps += try(t, seed).Steps
	}
	t.Logf("%d steps", steps)
}

// kept returns the seeds that once showed a bug.
func kept(t *testing.T) (seeds []uint64) {
	f, err := os.Open("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		number, _, _ := strings.Cut(s.Text(), " ")
		if number == "" || number == "#" {
			continue
		}
		seed, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, seed)
	}
	return seeds
}

// TestTraces runs some worlds twice: a seed gives the same trace, byte for byte.
func TestTraces(t *testing.T) {
	for i := range *equalFlag {
		seed := 1_000_000 + i
		compare(t, seed, run(t, seed).Trace, run(t, seed).Trace)
	}
}

// TestLong runs worlds of random seeds for as long as it is told to.
func TestLong(t *testing.T) {
	worlds, steps := 0, 0
	for end := time.Now().Add(*spanFlag); time.Now().Before(end) && !t.Failed(); worlds++ {
		steps += try(t, uint64(rand.Uint32())).Steps
	}
	t.Logf("%d worlds, %d steps", worlds, steps)
}

// compare reports where two traces part.
func compare(t *testing.T, seed uint64, a, b []string) {
	t.Helper()
	const before, after = 14, 4
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == len(a) && i == len(b) {
		return
	}
	some := func(l []string, from, to int) string {
		return strings.Join(l[min(max(from, 0), len(l)):min(to, len(l))], "\n")
	}
	t.Errorf("seed %d does not repeat: the traces part at line %d of %d and %d\n%s\n--- once\n%s\n--- and once\n%s",
		seed, i, len(a), len(b), some(a, i-before, i), some(a, i, i+after), some(b, i, i+after))
}
