package projection

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// purged is a store in memory that notes when it is purged. Its faults: a purge
// takes as long as said, and fails while err is set.
type purged struct {
	Store
	takes time.Duration

	mu  sync.Mutex
	err error
	at  []time.Time
}

func (p *purged) Purge(ctx context.Context) error {
	p.mu.Lock()
	p.at = append(p.at, time.Now())
	p.mu.Unlock()
	sleep(ctx, p.takes)
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(ctx.Err(), p.err)
}

func (p *purged) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// when returns when it was purged.
func (p *purged) when() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.at)
}

// eraser wants a purge for the topic "erase".
type eraser struct{ tally }

func (e *eraser) Apply(t Txn, r eventlog.Recorded) error {
	if r.Fact.(*event.Posted).Topic == "erase" {
		t.Purge()
	}
	return e.tally.Apply(t, r)
}

func newEraser(version int) *eraser { return &eraser{tally{name: "eraser", version: version, keep: 1}} }

// unpurged returns whether there is something to purge, once everything rests.
func unpurged(t *testing.T, r *Runner) (bool, error) {
	t.Helper()
	synctest.Wait()
	since, trouble := r.Unpurged()
	return !since.IsZero(), trouble
}

// TestPurgesWhatWasErased: soon after the commit and not within it, once for
// several, and not all the time.
func TestPurgesWhatWasErased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(2)
		st := &purged{Store: NewMemStore(), takes: 5 * time.Second}
		r, stop := start(t, st, l, newEraser(1), &tally{name: "tally", version: 1})
		defer stop()
		fill(l, 10)
		time.Sleep(time.Minute)
		if was, _ := unpurged(t, r); was || len(st.when()) > 0 {
			t.Fatal("purged for nothing")
		}
		erase := func(p event.Partition) {
			l.append(p, note("erase", 1))
			synctest.Wait()
			if is, err := unpurged(t, r); !is || err != nil {
				t.Fatalf("to be purged: %v, %v", is, err)
			}
		}
		begun := time.Now()
		erase(0)
		time.Sleep(time.Second)
		erase(1)
		erase(0)
		time.Sleep(2 * time.Second) // it purges
		erase(1)
		time.Sleep(5 * time.Second)
		if is, _ := unpurged(t, r); !is {
			t.Error("what was deleted during a purge counts as purged")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		want := []time.Time{begun.Add(purgeAfter), begun.Add(purgeAfter + (1+purgeRest)*st.takes)}
		if !slices.EqualFunc(st.when(), want, time.Time.Equal) {
			t.Errorf("purged at %v, want %v", st.when(), want)
		}
		if is, _ := unpurged(t, r); is {
			t.Error("still to be purged")
		}
	})
}

// TestPurgeIsNotForgotten: not by a process that ends before or during it, nor
// when it fails, which is known.
func TestPurgeIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(1)
		st := &purged{Store: NewMemStore(), takes: 5 * time.Second}
		_, stop := start(t, st, l, newEraser(1))
		l.append(0, note("erase", 1), note("more", 2))
		synctest.Wait()
		stop() // before it
		r, stop := start(t, st, l, newEraser(1))
		time.Sleep(4 * time.Second)
		stop() // during it
		if is, _ := unpurged(t, r); !is || len(st.when()) != 1 {
			t.Fatalf("to be purged: %v, after %d purges", is, len(st.when()))
		}
		st.fail(ErrNoSpace)
		r, stop = start(t, st, l, newEraser(1))
		time.Sleep(10 * time.Second)
		if is, err := unpurged(t, r); !is || !errors.Is(err, ErrNoSpace) {
			t.Errorf("after a failure: %v, %v", is, err)
		}
		st.fail(nil)
		time.Sleep(5 * time.Minute)
		if is, err := unpurged(t, r); is || err != nil {
			t.Errorf("in the end: %v, %v", is, err)
		}
		stop()

		// A version that was replaced was not purged of what was erased meanwhile.
		n := len(st.when())
		r, stop = start(t, st, l, newEraser(2))
		defer stop()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if left := slotsLeft(t, st); left != 1 || len(st.when()) == n {
			t.Errorf("%d versions are left, and %d purges were made", left, len(st.when())-n)
		}
		if is, err := unpurged(t, r); is || err != nil {
			t.Errorf("after another version: %v, %v", is, err)
		}
	})
}
