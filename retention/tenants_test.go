package retention

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/projection"
)

// TestDaysEndSideBySide: a tenant whose mail takes long does not keep the days of
// others back, only the ratchet.
func TestDaysEndSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		n.accept(1, func(l *letter) { l.filed = true })
		release := make(chan struct{})
		w.onKeep = func(ctx context.Context, _ event.Ref) error {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return ctx.Err()
		}
		time.Sleep(2*oneDay + time.Hour)
		done := make(chan error)
		before := w.keys.Day()
		go func() { done <- n.svc.work(n.ctx) }()
		time.Sleep(time.Minute)
		if got := len(facts[*event.DayExpired](n)); got != 1 || w.keys.Day() != before {
			t.Errorf("while one tenant keeps its mail the day has expired for %d others, and the ratchet stands at %v, before at %v", got, w.keys.Day(), before)
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := len(facts[*event.DayExpired](n)); got != 2 || w.keys.Day() == before {
			t.Errorf("the day has expired for %d, the ratchet stands at %v", got, w.keys.Day())
		}
	})
}

// TestManyAreKept: messages that are kept share segments, and a process that
// goes on after another has ended keeps the rest of them.
func TestManyAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 1500
		w := newWorld(t)
		bucket := fault.Wrap(w.bucket)
		w.bucket = bucket
		n := w.start()
		for range many {
			n.accept(1, func(l *letter) { l.filed = true })
		}
		time.Sleep(2*oneDay + time.Hour)
		bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Delay, Delay: 30 * time.Millisecond, Times: -1})
		p := n.log.PartitionOf(n.tenant)
		tail := n.log.TailAtLeast(p)
		ctx, cancel := context.WithTimeout(n.ctx, 3*time.Second)
		defer cancel()
		if err := n.svc.work(ctx); err == nil {
			t.Fatal("it was not interrupted")
		}
		began := time.Now()
		first := len(facts[*event.Kept](n))
		n.close()
		n = w.start()
		if err := n.svc.work(n.ctx); err != nil {
			t.Fatal(err)
		}
		kept := len(facts[*event.Kept](n))
		if first < many/10 || first > many/10*9 || kept < many || kept > many+2*keepAtOnce {
			t.Errorf("%d were kept, then %d of %d", first, kept, many)
		}
		puts := int(n.log.TailAtLeast(p) - tail)
		if took := time.Since(began); puts > kept/keepAtOnce*3 || took > time.Minute {
			t.Errorf("%d segments, and %v for the last %d", puts, took, kept-first)
		}
	})
}

// TestCopiesGoInSteps: of many copies that expire on one day each event drops some.
func TestCopiesGoInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fold.atOnce = 3
		n := w.start()
		for range 10 {
			n.accept(1, func(l *letter) { l.filed = true })
		}
		work := func() {
			t.Helper()
			if err := n.svc.work(n.ctx); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2*oneDay + time.Hour)
		work()
		w.mu.Lock()
		for _, l := range w.mail {
			l.filed = false
		}
		w.mu.Unlock()
		if got := len(facts[*event.DaySwept](n)); got != 0 {
			t.Errorf("%d steps for a day without copies", got)
		}
		time.Sleep(40 * oneDay)
		work()
		if got := len(facts[*event.DaySwept](n)); got != 3 {
			t.Errorf("%d steps more, want 3", got)
		}
		err := n.runner.View(t.Context(), foldName, func(v projection.View) error {
			for _, kind := range []byte{keyCopy, keyCopyDay, keyMessage, keySweep} {
				for it, err := range v.Scan([]byte{kind}, nil, false) {
					if err != nil {
						return err
					}
					t.Errorf("%q is left", it.Key)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		same(t, n, w.start())
	})
}
