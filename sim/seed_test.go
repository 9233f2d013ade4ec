package sim

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "the seed of TestSeed")
	seedsFlag   = flag.Uint64("seeds", 1, "how many seeds TestSeed runs")
	traceFlag   = flag.String("dump", "", "file for the trace of TestSeed")
	verboseFlag = flag.Bool("may", false, "the trace tells at each step what might have been released")
	drawsFlag   = flag.Bool("draws", false, "TestSeed reports goroutines that draw random bytes in one step")
	twiceFlag   = flag.Bool("twice", false, "TestSeed runs each seed twice and compares the traces")
)

func run(t *testing.T, seed uint64) (res Result) {
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		synctest.Test(t, func(t *testing.T) {
			var log *slog.Logger
			if os.Getenv("SIM_LOG") != "" {
				log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			}
			var d *draws
			res = Run(seed, PlanOf(seed), log, func(w *World) {
				w.Verbose = *verboseFlag
				if *drawsFlag {
					d = watchDraws(w.bus)
				}
			})
			if d != nil {
				for what, n := range d.found {
					t.Logf("%d times in one step:\n%s", n, what)
				}
			}
		})
	})
	return res
}

// TestSeed runs the worlds of some seeds: go test ./sim -run TestSeed -seed N -v
func TestSeed(t *testing.T) {
	for seed := *seedFlag; seed < *seedFlag+*seedsFlag; seed++ {
		start := time.Now()
		res := run(t, seed)
		d := time.Since(start)
		t.Logf("seed %d: %d steps, %v of the world, %v, %.0f steps/s\n%s", seed, res.Steps, res.Took, d, float64(res.Steps)/d.Seconds(), res.Note)
		for label, n := range res.Twins {
			t.Logf("not unique, %d times: %s", n, label)
		}
		if *traceFlag != "" {
			os.WriteFile(*traceFlag, []byte(strings.Join(res.Trace, "\n")), 0o600)
		}
		if res.Report != "" {
			t.Errorf("seed %d:\n%s", seed, res.Report)
		}
		if *twiceFlag {
			compare(t, res.Trace, run(t, seed).Trace)
		}
	}
}
