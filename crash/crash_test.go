package crash

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/failpoint"
)

const binaryVar = "HOLDFAST_CRASH_BINARY"

// TestMain is the judge when it is called as one; otherwise it builds the program
// to be killed once for all tests.
func TestMain(m *testing.M) {
	if file := os.Getenv(JudgeVar); file != "" {
		os.Exit(Sit(context.Background(), file))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(binaryVar) == "" {
		dir, err := os.MkdirTemp("", "holdfast-crash-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary := filepath.Join(dir, "holdfast")
		if out, err := exec.Command("go", "build", "-tags", "failpoint", "-o", binary, "../cmd/holdfast").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build holdfast: %v\n%s", err, out)
			return 1
		}
		os.Setenv(binaryVar, binary)
	}
	return m.Run()
}

// worldDir makes a directory for a world, in memory where the machine has such a
// file system: what is lost is decided by the journal, not by the disk.
func worldDir() (string, error) {
	base := ""
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		base = "/dev/shm"
	}
	return os.MkdirTemp(base, "hfcrash")
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number", name, v)
	}
	return n
}

// perWorld is how many kills a bucket lives through.
const perWorld = 13

// maxFailures ends a run early: more of them would say the same.
const maxFailures = 5

// options are those of a world on which nothing special is tried.
func options(t *testing.T, tally *Tally) Options {
	judge, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Binary: os.Getenv(binaryVar), Kills: perWorld, Judge: []string{judge}, Tally: tally, Logf: t.Logf}
}

// runWorld runs one world in a directory of its own.
func runWorld(ctx context.Context, opt Options) error {
	dir, err := worldDir()
	if err != nil {
		return err
	}
	opt.Dir = dir
	err = Run(ctx, opt)
	if os.Getenv("HOLDFAST_CRASH_KEEP") == "" || err == nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return fmt.Errorf("world is in %s: %w", dir, err)
}

// replay is how a world is written for HOLDFAST_CRASH_SEED.
func replay(o Options) string { return fmt.Sprintf("%d:%d:%t:%t", o.Seed, o.Turn, o.S3, o.Days) }

// weeks are how many weeks pass in a world with days, weekKills how many kills that
// is, with the one in which it begins.
const (
	weeks     = 3
	weekKills = weeks*5 + 1
)

// TestDays lives HOLDFAST_CRASH_WORLDS worlds in which days pass. In six or more,
// every failpoint of the work of the night and of erasure has to kill. Without the
// variable it is one world of one week and a half.
func TestDays(t *testing.T) {
	t.Parallel()
	if os.Getenv("HOLDFAST_CRASH_SEED") != "" {
		return // of TestKills
	}
	tally, begin, seed := NewTally(), time.Now(), uint64(time.Now().UnixNano())
	live := func(n uint64, kills int, points []failpoint.Point) {
		opt := options(t, tally)
		opt.Seed, opt.Turn, opt.Days, opt.S3, opt.Kills, opt.Points = seed+n, int(n)*weeks, true, n%4 == 3, kills, points
		if err := runWorld(t.Context(), opt); err != nil {
			t.Errorf("world HOLDFAST_CRASH_SEED=%s:\n%v", replay(opt), err)
		}
	}
	worlds := setting(t, "HOLDFAST_CRASH_WORLDS", 1)
	sampleDays(t, tally, seed)
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for n := half; n < worlds && worlds > 1 && !t.Failed(); n += 2 {
				live(uint64(n), weekKills, nil)
			}
		})
	}
	wg.Wait()
	const all = 6
	for n := range uint64(8) { // what takes luck gets some more of it
		if left := tally.Survived(failpoint.Slow()); worlds >= all && len(left) > 0 && !t.Failed() {
			live(1e6+n*4, weekKills, left)
		}
	}
	t.Log(tally.table(time.Since(begin), failpoint.Slow()))
	if left := tally.Survived(failpoint.Slow()); worlds >= all && len(left) > 0 && !t.Failed() {
		t.Errorf("failpoints that killed nobody: %v", left)
	}
}

// TestKills kills HOLDFAST_CRASH_KILLS times, 200 unless it says otherwise, about
// every fifth time on S3, and asserts that every failpoint was reached.
func TestKills(t *testing.T) {
	t.Parallel()
	kills := setting(t, "HOLDFAST_CRASH_KILLS", 200)
	parallel := setting(t, "HOLDFAST_CRASH_PARALLEL", 2)
	tally := NewTally()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("HOLDFAST_CRASH_SEED"); v != "" {
		replayWorld(t, v, tally)
		return
	}
	t.Logf("seeds from %d", seed)
	begin := time.Now()
	worlds := make(chan Options)
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for opt := range worlds {
				if err := runWorld(t.Context(), opt); err != nil {
					t.Errorf("world HOLDFAST_CRASH_SEED=%s:\n%v", replay(opt), err)
					failed.Add(1)
				}
			}
		})
	}
	for n := 0; n*perWorld < kills && failed.Load() < maxFailures; n++ {
		opt := options(t, tally)
		opt.Seed, opt.Turn, opt.S3 = seed+uint64(n), n*perWorld, n%5 == 3
		worlds <- opt
		if n%50 == 49 {
			t.Logf("so far %s", tally.table(time.Since(begin), failpoint.Brief()))
		}
	}
	// What is reached by luck gets some more of it.
	for n := range uint64(6) {
		if opt := options(t, tally); len(tally.Unreached(failpoint.Brief())) > 0 && !t.Failed() {
			opt.Seed, opt.S3, opt.Points = seed+1e6+n, n%2 == 0, tally.Unreached(failpoint.Brief())
			worlds <- opt
		}
	}
	close(worlds)
	wg.Wait()
	t.Log(tally.table(time.Since(begin), failpoint.Brief()))
	if missed := tally.Unreached(failpoint.Brief()); len(missed) > 0 && !t.Failed() {
		t.Errorf("failpoints that nothing reached: %v", missed)
	}
	if tally.Names == 0 {
		t.Error("power failures took nothing: they are not felt")
	}
}

// sampleDays lives a short world whose days pass, and changes what was seen there.
func sampleDays(t *testing.T, tally *Tally, seed uint64) {
	dir, err := worldDir()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	opt := options(t, tally)
	opt.Dir, opt.Seed, opt.Turn, opt.Days, opt.Kills = dir, seed, int(seed%20), true, weekKills/2
	if err := Run(t.Context(), opt); err != nil {
		t.Errorf("world HOLDFAST_CRASH_SEED=%s:\n%v", replay(opt), err)
		return
	}
	falsifyDays(t, dir)
}

func replayWorld(t *testing.T, v string, tally *Tally) {
	opt := options(t, tally)
	parts := strings.Split(v, ":")
	if len(parts) != 4 {
		t.Fatalf("HOLDFAST_CRASH_SEED=%s, want SEED:TURN:S3:DAYS", v)
	}
	var err1, err2, err3, err4 error
	opt.Seed, err1 = strconv.ParseUint(parts[0], 10, 64)
	opt.Turn, err2 = strconv.Atoi(parts[1])
	opt.S3, err3 = strconv.ParseBool(parts[2])
	if opt.Days, err4 = strconv.ParseBool(parts[3]); opt.Days {
		opt.Kills = weekKills
	}
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	if err := runWorld(t.Context(), opt); err != nil {
		t.Error(err)
	}
}

func (t *Tally) table(took time.Duration, points []failpoint.Point) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d kills in %v, %.0f a minute; power failures took %d names, and bytes of %d files; %d more might have gone\n",
		t.Total, took.Round(time.Second), float64(t.Total)/took.Minutes(), t.Names, t.Files, t.Pending-t.Names-t.Files)
	for _, at := range slices.Sorted(maps.Keys(t.Kills)) {
		fmt.Fprintf(&b, "%6d  %s\n", t.Kills[at], at)
	}
	for _, p := range points {
		if t.Kills[string(p)] == 0 {
			fmt.Fprintf(&b, "%6d  %s (reached in %d runs)\n", 0, p, t.Seen[string(p)])
		}
	}
	return b.String()
}
