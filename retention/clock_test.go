package retention

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
)

// jump moves the clock that the service sees.
func (n *node) jump(d time.Duration) {
	before := n.svc.now
	n.svc.now = func() time.Time { return before().Add(d) }
	n.svc.clock.now = n.svc.now
}

// TestClockJumps: a clock that jumps ahead destroys nothing until it has run for a
// day, or somebody says that it is right.
func TestClockJumps(t *testing.T) {
	for name, confirm := range map[string]bool{"waits": false, "confirmed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newWorld(t).start()
				eachDay(t, n, 1)
				l := n.accept(10, nil)
				n.jump(20 * oneDay)
				for range 23 {
					if err := n.svc.work(n.ctx); err != nil {
						t.Fatal(err)
					}
					if n.svc.Work().Doubt <= 0 {
						t.Fatal("a clock is believed that jumped")
					}
					time.Sleep(time.Hour)
				}
				wantErr(t, "at once", n.svc.RunOnce(n.ctx), ErrDoubt)
				for _, c := range facts[*event.DayCondemned](n) {
					if c.Day >= event.DayOf(time.Now()) {
						t.Errorf("%v was condemned on %v", c.Day, event.DayOf(time.Now()))
					}
				}
				if confirm {
					if err := n.svc.ConfirmClock(n.ctx, "root"); err != nil {
						t.Fatal(err)
					}
				} else {
					time.Sleep(2 * time.Hour)
				}
				if err := n.svc.work(n.ctx); err != nil || n.svc.Work().Doubt != 0 {
					t.Fatalf("the clock is still in doubt: %v", err)
				}
				// The day is condemned, but the machine's other clock does not agree, so
				// that no key is forgotten.
				if !n.alive(l) {
					t.Error("keys were forgotten of a day that has not come")
				}
				if n.svc.Work().RatchetWaits == 0 {
					t.Error("the status does not tell that the ratchet waits")
				}
			})
		})
	}
}

// TestClockOfStore: a machine whose clock jumped a moment ago waits until the
// store was asked for the time again.
func TestClockOfStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		n.svc.cfg.StoreClock = true
		eachDay(t, n, 1)
		n.jump(5 * oneDay)
		if err := n.svc.work(n.ctx); err != nil {
			t.Fatal(err)
		}
		if n.svc.Work().Doubt != steadyFor {
			t.Error("a clock is believed that jumped a moment ago")
		}
	})
}

// TestClockOfStoreFarAhead: a store on the machine whose clock is wrong has the
// same clock. Weeks beyond the last day that ended it has to run for a day.
func TestClockOfStoreFarAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		n.svc.cfg.StoreClock = true
		l := n.accept(5, nil)
		eachDay(t, n, 1)
		n.jump(30 * oneDay)
		for range 23 {
			time.Sleep(time.Hour)
			if err := n.svc.work(n.ctx); err != nil {
				t.Fatal(err)
			}
			if n.svc.Work().Doubt == 0 || !n.alive(l) {
				t.Fatal("a clock that is weeks ahead is believed within a day")
			}
		}
		time.Sleep(2 * time.Hour)
		if err := n.svc.work(n.ctx); err != nil {
			t.Fatal(err)
		}
		if n.svc.Work().Doubt != 0 {
			t.Error("a clock that has run for a day is in doubt")
		}
	})
}

// silent is a bucket with a clock, which may be silent.
type silent struct {
	objstore.Bucket
	err error
	off time.Duration
}

// Now implements objstore.Clock.
func (s *silent) Now(context.Context) (time.Time, error) { return time.Now().Add(s.off), s.err }

// TestClockOfStoreIsAsked: before a day is condemned the store says which day it
// is. A node that has not asked it for hours knows nothing of its own clock.
func TestClockOfStoreIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := &silent{Bucket: w.bucket}
		w.bucket = store
		n := w.start()
		n.svc.cfg.StoreClock = true
		eachDay(t, n, 1)
		condemned := len(facts[*event.DayCondemned](n))
		time.Sleep(oneDay)
		store.err = errors.New("no answer")
		wantErr(t, "the store is silent", n.svc.work(n.ctx), store.err)
		store.err, store.off = nil, -2*oneDay
		wantErr(t, "the store's clock is another", n.svc.work(n.ctx), eventlog.ErrClock)
		if more := len(facts[*event.DayCondemned](n)) - condemned; more != 0 {
			t.Errorf("%d days were condemned by a clock that nobody has compared", more)
		}
		store.off = 0
		if err := n.svc.work(n.ctx); err != nil {
			t.Fatal(err)
		}
		if len(facts[*event.DayCondemned](n)) == condemned {
			t.Error("nothing was condemned by the right clock")
		}
	})
}

// TestMonthAway: after a month without running nothing expires for a day, and then
// all that is due does.
func TestMonthAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		l := n.accept(5, nil)
		filed := n.accept(5, func(l *letter) { l.filed = true })
		eachDay(t, n, 1)
		n.close()
		time.Sleep(30 * oneDay)
		n = w.start()
		n.run()
		time.Sleep(oneDay / 2)
		if !n.alive(l) {
			t.Fatal("a clock is believed that is a month ahead")
		}
		time.Sleep(oneDay)
		if n.alive(l) || !n.alive(filed) {
			t.Errorf("plain %v, filed %v", n.alive(l), n.alive(filed))
		}
		if err := n.svc.Work().Trouble; err != nil && !errors.Is(err, ErrDoubt) {
			t.Error(err)
		}
	})
}

// TestClockSeries: small jumps are one large one.
func TestClockSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shift := time.Duration(0)
		known := time.Now()
		c := newClock(func() time.Time { return time.Now().Add(shift) })
		for range 10 {
			shift += oneDay
			time.Sleep(3 * time.Hour)
			c.look()
		}
		if c.doubt(known, maxAhead) != trustAfter {
			t.Error("a clock is believed that jumps every few hours")
		}
		time.Sleep(trustAfter)
		if c.doubt(known, maxAhead) != 0 {
			t.Error("a clock is not believed that has run for a day")
		}
		shift -= time.Hour
		if c.doubt(known, maxAhead) != trustAfter {
			t.Error("a clock is believed that jumped back")
		}
	})
}
