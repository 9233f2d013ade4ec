package projection

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// fill appends n segments of a few events each, over all partitions.
func fill(l *memLog, n int) {
	for i := range n {
		var evs []event.Event
		for j := range 1 + i%7 {
			evs = append(evs, note(fmt.Sprintf("topic%d", (i+j)%5), i))
		}
		l.append(event.Partition(i%len(l.parts)), evs...)
	}
}

func waitAll(t testing.TB, r *Runner, l *memLog, name string) {
	t.Helper()
	for p := range l.parts {
		pos := event.Position{Partition: event.Partition(p), Seq: l.TailAtLeast(event.Partition(p))}
		if err := r.WaitFor(t.Context(), name, pos); err != nil {
			t.Fatal(err)
		}
	}
}

// A state that several partitions feed must not depend on their order, so the
// tests of identical state use one partition.
func TestRebuildGivesTheIdenticalState(t *testing.T) {
	l := newMemLog(1)
	l.sealer = newSealer(t)
	dir := t.TempDir()
	y := &tally{name: "tally", version: 1, keep: 3, sealed: true}
	fill(l, 10)
	db := openBadgerT(t, filepath.Join(dir, "a"))
	r, stop := start(t, db, l, y)
	if err := r.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Live, the batches are small; in a rebuild they are large.
	for range 50 {
		fill(l, 1)
		waitAll(t, r, l, "tally")
	}
	fill(l, 300)
	waitAll(t, r, l, "tally")
	want := hash(t, r, "tally")
	stop()
	db.Close()

	for name, st := range map[string]Store{"badger": openBadgerT(t, filepath.Join(dir, "b")), "mem": NewMemStore()} {
		r, stop := start(t, st, l, y)
		if err := r.CaughtUp(t.Context(), "tally"); err != nil {
			t.Fatal(err)
		}
		if got := hash(t, r, "tally"); got != want {
			t.Errorf("%s: rebuilt state differs", name)
		}
		stop()
		st.Close()
	}
}

// TestKilledRunnerGoesOn copies the database's directory while it is written
// to, as a killed process would leave it, and goes on from the copy.
func TestKilledRunnerGoesOn(t *testing.T) {
	l := newMemLog(1)
	l.sealer = newSealer(t)
	dir := t.TempDir()
	y := &tally{name: "tally", version: 1, keep: 3, sealed: true}
	db := openBadgerT(t, filepath.Join(dir, "a"))
	r, stop := start(t, db, l, y)
	var copies []string
	for i := range 3 {
		for range 20 {
			fill(l, 3)
			waitAll(t, r, l, "tally")
		}
		copies = append(copies, filepath.Join(dir, fmt.Sprint("copy", i)))
		if err := os.CopyFS(copies[i], os.DirFS(filepath.Join(dir, "a"))); err != nil {
			t.Fatal(err)
		}
	}
	want := hash(t, r, "tally")
	seq := r.Status()[0].Partitions[0].Cursor.Seq
	stop()
	db.Close()
	for _, c := range copies {
		db := openBadgerT(t, c)
		r, stop := start(t, db, l, y)
		if at := r.Status()[0].Partitions[0].Cursor.Seq; at == 0 || at > seq {
			t.Errorf("%s begins at segment %d of %d", filepath.Base(c), at, seq)
		}
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if hash(t, r, "tally") != want {
			t.Errorf("%s: state differs", filepath.Base(c))
		}
		stop()
		db.Close()
	}
}

func TestPoisonStopsOnlyItsProjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(1)
		st := NewMemStore()
		sick, well := &tally{name: "sick", version: 1, keep: 9}, &counter{name: "well"}
		l.append(0, note("a", 1))
		l.append(0, note("a", 2), note("b", 1))
		at := l.append(0, note("a", 3), note("poison", 1), note("a", 4))
		l.append(0, note("a", 5))
		r, stop := start(t, st, l, sick, well)
		defer stop()
		if err := r.CaughtUp(t.Context(), "well"); err != nil {
			t.Fatal(err)
		}
		if err := r.CaughtUp(t.Context(), "sick"); !errors.Is(err, ErrStopped) || !errors.Is(err, errPoisoned) {
			t.Errorf("CaughtUp: %v", err)
		}
		if err := r.WaitFor(t.Context(), "sick", at); !errors.Is(err, ErrStopped) {
			t.Errorf("WaitFor: %v", err)
		}
		if err := r.WaitFor(t.Context(), "sick", event.Position{Seq: 2}); err != nil {
			t.Errorf("WaitFor what was folded: %v", err)
		}
		appended := false
		_, err := r.Do(t.Context(), "sick", event.NewID(), func(context.Context) (event.Position, error) {
			appended = true
			return event.Position{}, nil
		})
		if !errors.Is(err, ErrStopped) || appended {
			t.Errorf("Do: %v, appended: %v", err, appended)
		}
		s := r.Status()
		at.Index = 1
		if !errors.Is(s[0].Stopped, errPoisoned) || s[0].StoppedAt != at || s[0].Partitions[0].Lag != 2 {
			t.Errorf("status of the stopped: %+v", s[0])
		}
		if s[1].Stopped != nil || s[1].Partitions[0].Cursor.Seq != 4 {
			t.Errorf("status of the other: %+v", s[1])
		}
		// Of the segment with the poison nothing is kept, of those before it all.
		if got := counts(t, r, "sick"); len(got) != 2 || got["a"] != 2 || got["b"] != 1 {
			t.Errorf("state: %v", got)
		}
		if got := hash(t, r, "well"); got == ([32]byte{}) {
			t.Error("no state")
		}
		stop()
		if s := r.Status(); !errors.Is(s[0].Stopped, errPoisoned) || s[1].Stopped != nil {
			t.Errorf("status after the end: %v, %v", s[0].Stopped, s[1].Stopped)
		}
	})
}

// counter folds anything: it counts.
type counter struct{ name string }

func (c *counter) Name() string { return c.name }
func (c *counter) Version() int { return 1 }
func (c *counter) Apply(t Txn, _ eventlog.Recorded) error {
	n, err := t.Get([]byte("n"))
	if err != nil {
		return err
	}
	t.Set([]byte("n"), append(slices.Clone(n), 1))
	return nil
}

func TestOperatingErrorsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(1)
		l.sealer, l.sealErr = newSealer(t), errors.New("key service does not answer")
		l.append(0, note("a", 1))
		r, stop := start(t, NewMemStore(), l, &tally{name: "tally", version: 1, keep: 9, sealed: true})
		defer stop()
		time.Sleep(time.Minute)
		if s := r.Status()[0]; s.Stopped != nil || s.Trouble == nil || s.Partitions[0].Cursor.Seq != 0 {
			t.Fatalf("status: %+v", s)
		}
		l.mu.Lock()
		l.sealErr = nil
		l.mu.Unlock()
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := r.Status()[0]; s.Trouble != nil {
			t.Errorf("trouble is left: %v", s.Trouble)
		}
		l.setErr(errors.New("bucket does not answer"))
		pos := l.append(0, note("a", 2))
		time.Sleep(time.Minute)
		if s := r.Status()[0]; s.Trouble == nil || s.Stopped != nil {
			t.Errorf("status: %+v", s)
		}
		l.setErr(nil)
		if err := r.WaitFor(t.Context(), "tally", pos); err != nil {
			t.Error(err)
		}
		if got := counts(t, r, "tally"); got["a"] != 2 {
			t.Errorf("state: %v", got)
		}
	})
}

func TestLogRolledBackStops(t *testing.T) {
	cases := map[string]func(l *memLog){
		"tail is gone":      func(l *memLog) { l.parts[0] = l.parts[0][:2] },
		"all is gone":       func(l *memLog) { l.parts[0] = nil },
		"segment is other":  func(l *memLog) { c := *l.parts[0][2]; c.Hash[0]++; l.parts[0][2] = &c },
		"another log":       func(l *memLog) { *l = *newMemLog(1); fill(l, 5) },
		"tail is rewritten": func(l *memLog) { l.parts[0] = l.parts[0][:2]; fill(l, 4) },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newMemLog(1)
				fill(l, 3)
				st := NewMemStore()
				y := &tally{name: "tally", version: 1, keep: 9}
				r, stop := start(t, st, l, y)
				if err := r.CaughtUp(t.Context()); err != nil {
					t.Fatal(err)
				}
				stop()
				damage(l)
				r, stop = start(t, st, l, y)
				defer stop()
				if err := r.CaughtUp(t.Context()); !errors.Is(err, eventlog.ErrRolledBack) || !errors.Is(err, ErrStopped) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestNewVersionIsBuiltBesideAndReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(2)
		fill(l, 20)
		st := NewMemStore()
		r, stop := start(t, st, l, &tally{name: "tally", version: 1, keep: 2})
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		old, oldHash := counts(t, r, "tally"), hash(t, r, "tally")
		stop()

		fill(l, 20)
		l.setErr(errors.New("bucket does not answer"))
		reads := true
		v2 := &tally{name: "tally", version: 2, keep: 4, ownReads: &reads}
		r, stop = start(t, st, l, v2)
		synctest.Wait()
		if got := counts(t, r, "tally"); fmt.Sprint(got) != fmt.Sprint(old) {
			t.Errorf("while rebuilding: %v, want the old %v", got, old)
		}
		reads = false
		if got := counts(t, r, "tally"); len(got) != 0 {
			t.Errorf("while rebuilding, unreadable: %v", got)
		}
		if s := r.Status()[0]; !s.Rebuilding || s.Version != 2 {
			t.Errorf("status: %+v", s)
		}
		// Interrupted in the middle, it goes on where it was.
		stop()
		l.setErr(nil)
		r, stop = start(t, st, l, v2)
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if hash(t, r, "tally") == oldHash || r.Status()[0].Rebuilding {
			t.Error("the new version did not replace the old one")
		}
		want := hash(t, r, "tally")
		stop()
		if n := slotsLeft(t, st); n != 1 {
			t.Errorf("data of %d versions is left, want 1", n)
		}
		r, stop = start(t, NewMemStore(), l, &tally{name: "tally", version: 2, keep: 4})
		defer stop()
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if hash(t, r, "tally") != want {
			t.Error("built beside and built alone differ")
		}
	})
}

// slotsLeft counts the slots of which any key is left.
func slotsLeft(t *testing.T, st Store) int {
	t.Helper()
	snap, err := st.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	seen := map[string]bool{}
	for _, tag := range []byte{tagState, tagCursor, tagDrop} {
		for it, err := range snap.Scan([]byte{tag}, nil, false) {
			if err != nil {
				t.Fatal(err)
			}
			seen[string(it.Key[1:5])] = true
		}
	}
	return len(seen)
}

func TestOldProgramFindsItsVersionAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(1)
		fill(l, 5)
		st := NewMemStore()
		v1 := &tally{name: "tally", version: 1, keep: 2}
		r, stop := start(t, st, l, v1)
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := hash(t, r, "tally")
		stop()
		l.setErr(errors.New("bucket does not answer"))
		_, stop = start(t, st, l, &tally{name: "tally", version: 2, keep: 4})
		synctest.Wait()
		stop()
		l.setErr(nil)
		r, stop = start(t, st, l, v1)
		defer stop()
		if r.Status()[0].Rebuilding {
			t.Error("the old version is built again")
		}
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if hash(t, r, "tally") != want {
			t.Error("the old version changed")
		}
	})
}

func TestDoReturnsTheVerdictUnderConcurrency(t *testing.T) {
	l := newMemLog(2)
	st := openBadgerT(t, filepath.Join(t.TempDir(), "db"))
	defer st.Close()
	r, err := Open(Options{Store: st, Source: l})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	told := map[event.ID]any{}
	err = r.Add(&tally{name: "tally", version: 1, keep: 2}, func(es []Emission) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range es {
			told[e.Event.Ref.ID] = e.Value
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := runs(t, r)
	defer stop()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				topic := fmt.Sprint("t", i, ".")
				e := note(topic, j)
				got, err := r.Do(t.Context(), "tally", e.ID, func(context.Context) (event.Position, error) {
					return l.append(event.Partition(i%2), e), nil
				})
				want := fmt.Sprint(topic, j+1)
				if err != nil || len(got) != 1 || got[0] != want {
					t.Errorf("verdict %v %v, want %v", got, err, want)
					return
				}
				mu.Lock()
				if told[e.ID] != want {
					t.Errorf("observer was told %v before the waiter was released, want %v", told[e.ID], want)
				}
				mu.Unlock()
				if n := counts(t, r, "tally")[topic]; n != uint64(j+1) {
					t.Errorf("after the verdict the view has %d, want %d", n, j+1)
				}
			}
		})
	}
	wg.Wait()
	f := r.fold("tally")
	if len(f.interests) != 0 || len(f.waiters) != 0 {
		t.Errorf("%d interests and %d waiters are left", len(f.interests), len(f.waiters))
	}
}

func TestDoEndsWithAppendAndContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(1)
		r, stop := start(t, NewMemStore(), l, &tally{name: "tally", version: 1})
		failed := errors.New("storage does not answer")
		_, err := r.Do(t.Context(), "tally", event.NewID(), func(context.Context) (event.Position, error) {
			return event.Position{}, failed
		})
		if err != failed {
			t.Errorf("got %v, want append's error as it is", err)
		}
		never := func(context.Context) (event.Position, error) { return event.Position{Seq: 7}, nil }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Do(ctx, "tally", event.NewID(), never); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		ctx2, cancel2 := context.WithTimeout(t.Context(), time.Second)
		defer cancel2()
		if err := r.WaitFor(ctx2, "tally", event.Position{Seq: 7}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if _, err := r.Do(t.Context(), "other", event.NewID(), never); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v", err)
		}
		done := make(chan error)
		go func() {
			_, err := r.Do(context.Background(), "tally", event.NewID(), never)
			done <- err
		}()
		synctest.Wait()
		stop()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("after the runner ended: %v", err)
		}
		if err := r.WaitFor(t.Context(), "tally", event.Position{Seq: 7}); !errors.Is(err, ErrClosed) {
			t.Errorf("after the runner ended: %v", err)
		}
		f := r.fold("tally")
		if len(f.interests) != 0 || len(f.waiters) != 0 {
			t.Errorf("%d interests and %d waiters are left", len(f.interests), len(f.waiters))
		}
	})
}

func TestSealedValuesOpenInAView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(1)
		l.sealer = newSealer(t)
		e := note("subject", 1)
		l.append(0, e)
		r, stop := start(t, NewMemStore(), l, &tally{name: "tally", version: 1, keep: 1, sealed: true})
		defer stop()
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		key := append([]byte("text/"), e.ID[:]...)
		err := r.View(t.Context(), "tally", func(v View) error {
			sealed, err := v.Get(key)
			if err != nil {
				return err
			}
			text, err := v.OpenSealed(e.Tenant, e.Expiry, key, sealed)
			if err != nil || string(text) != "text of subject" {
				t.Errorf("got %q %v", text, err)
			}
			if _, err := v.OpenSealed(e.Tenant, e.Expiry, []byte("other key"), sealed); err == nil {
				t.Error("the value opened under another key")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
