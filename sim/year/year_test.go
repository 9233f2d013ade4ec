package year

import (
	"flag"
	"os"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	seed  = flag.Uint64("seed", 1, "of TestYear")
	days  = flag.Int("days", 52, "how many days to live through")
	daily = flag.Int("daily", 20, "messages a day")
	awake = flag.Int("awake", 20, "every how many days the nodes run all day")
	stop  = flag.String("stop", "", "a file: once it exists, the next day is the last")
)

// TestYear lives through some months, and finds nothing.
func TestYear(t *testing.T) {
	began := time.Now()
	plan := Plan{Seed: *seed, Days: *days, Daily: *daily, Deep: 10, Awake: *awake}
	plan.Last = func() bool {
		_, err := os.Stat(*stop)
		return *stop != "" && err == nil
	}
	w := live(t, plan)
	if n := w.Rebuild.Spent.Get; n > 200 {
		t.Errorf("a node that begins with nothing asks for %d objects", n)
	}
	if len(w.Figures) > 40 && (w.Naps == 0 || w.Ended == 0) {
		t.Errorf("%d nights with a worker that stood still, and %d events that copied keys opened until their day, want some", w.Naps, w.Ended)
	}
	t.Logf("%d days in %v; %d naps, %d erased events until their day, %d pieces of Bases", len(w.Figures), time.Since(began).Round(time.Millisecond), w.Naps, w.Ended, w.Last.Pieces)
}

func live(t *testing.T, plan Plan) (w *World) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, plan.Seed)
	if testing.Verbose() {
		plan.Tell = func(s string) { t.Log(s) }
	}
	synctest.Test(t, func(t *testing.T) {
		var err error
		if w, err = New(plan); err != nil {
			t.Fatal(err)
		}
		if err := w.Live(); err != nil {
			t.Error(err)
		}
		for _, f := range w.Found {
			t.Error(f)
		}
	})
	return w
}
