package retention

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

const oneDay = 24 * time.Hour

// eachDay lets days pass, and does the work of each.
func eachDay(t *testing.T, n *node, days int) {
	t.Helper()
	for range days {
		time.Sleep(time.Until(event.DayOf(n.log.Now()).Start().Add(oneDay + 2*time.Minute)))
		if err := n.svc.work(n.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestADayEnds: after each day what was only kept for that day is gone, and what
// is needed lives on, for as long as it is needed.
func TestADayEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		n.run()
		plain := n.accept(1, nil)
		filed := n.accept(1, func(l *letter) { l.filed = true })
		due := n.accept(1, func(l *letter) { l.due = true })
		later := n.accept(3, nil)
		began := event.DayOf(n.log.Now())

		time.Sleep(oneDay + 2*time.Minute) // the message's last day has begun
		for _, l := range []*letter{plain, filed, due, later} {
			if !n.alive(l) {
				t.Errorf("a message that expires on %v is gone on %v", l.expiry, event.DayOf(n.log.Now()))
			}
		}
		time.Sleep(oneDay)
		if n.alive(plain) {
			t.Error("a message is still readable after its day")
		}
		if !n.alive(filed) || filed.expiry != began+2+keepDays {
			t.Errorf("a filed message expires on %v", filed.expiry)
		}
		if !n.alive(due) || due.expiry != began+2+keepDueDays {
			t.Errorf("a due message expires on %v", due.expiry)
		}
		n.mu.Lock()
		due.due = false
		n.mu.Unlock()
		time.Sleep(4 * oneDay)
		if n.alive(due) || n.alive(later) {
			t.Error("what is needed no more has not expired")
		}
		time.Sleep(35 * oneDay)
		if !n.alive(filed) {
			t.Error("a filed message is gone")
		}
		if got := len(facts[*event.RatchetMoved](n)); got < 35 {
			t.Errorf("the ratchet moved %d times", got)
		}
		in, err := n.svc.Installation(n.ctx)
		if err != nil || in.Days != in.Objects || in.Days < 35 || in.Ratchet != event.DayOf(n.log.Now()) {
			t.Errorf("installation: %+v, %v", in, err)
		}
	})
}

// TestAFreshNodeDoesNothing: a new log has nothing that could expire.
func TestAFreshNodeDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		time.Sleep(3 * time.Minute)
		n.run()
		time.Sleep(5 * time.Minute)
		if len(facts[*event.DayCondemned](n)) > 0 {
			t.Error("a day was condemned in a log that is younger than it")
		}
		objects := 0
		for range n.bucket.List(n.ctx, "lease/", "") {
			objects++
		}
		if objects > 0 {
			t.Error("a lease was taken for nothing")
		}
	})
}

// TestResumes: a worker dies before each of the things that it makes durable; the
// next one finishes, and nothing that is needed is lost.
func TestResumes(t *testing.T) {
	for dies := 1; ; dies++ {
		over := false
		t.Run(fmt.Sprint(dies), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				killer := &killer{Bucket: w.bucket}
				w.bucket = killer
				n := w.start()
				filed := n.accept(1, func(l *letter) { l.filed = true })
				held := n.accept(1, func(l *letter) { l.held = "x" })
				plain := n.accept(1, nil)
				place(t, n, "x")
				eachDay(t, n, 1)
				time.Sleep(oneDay)
				killer.arm(dies, n.stop)
				n.svc.work(n.ctx)
				over = !killer.fired()
				killer.arm(0, nil)
				n.close()

				n = w.start()
				n.run()
				time.Sleep(2 * again)
				if !n.alive(filed) || !n.alive(held) || n.alive(plain) {
					t.Errorf("filed %v, held %v, plain %v", n.alive(filed), n.alive(held), n.alive(plain))
				}
				if in, err := n.svc.Installation(n.ctx); err != nil || in.Days < 1 || in.Ratchet != event.DayOf(n.log.Now()) {
					t.Errorf("installation: %+v, %v", in, err)
				}
				if due, err := n.unfinished(); due || err != nil {
					t.Errorf("there is still something to do: %v", err)
				}
			})
		})
		if t.Failed() {
			return
		}
		if over {
			if dies < 6 {
				t.Errorf("the work makes only %d things durable", dies-1)
			}
			return
		}
	}
}

// TestTwoWorkers: two nodes work at once, as if there were no lease.
func TestTwoWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start(), w.start()
		var filed []*letter
		for range 20 {
			filed = append(filed, a.accept(1, func(l *letter) { l.filed = true }))
		}
		plain := a.accept(1, nil)
		eachDay(t, a, 1)
		time.Sleep(oneDay)
		done := make(chan error, 2)
		for _, n := range []*node{a, b} {
			go func() { done <- n.svc.work(n.ctx) }()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		for _, l := range filed {
			if !a.alive(l) {
				t.Fatal("a filed message is gone")
			}
		}
		if a.alive(plain) {
			t.Error("a message is still readable after its day")
		}
		same(t, a, b)
	})
}

// TestPausedWorker: a worker stands still in the middle for longer than its lease;
// another one finishes, two days pass, and then it goes on.
func TestPausedWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		filed := a.accept(1, func(l *letter) { l.filed = true })
		plain := a.accept(1, nil)
		paused, goOn := make(chan struct{}), make(chan struct{})
		first := true
		w.onKeep = func(context.Context, event.Ref) error {
			if first {
				first = false
				close(paused)
				<-goOn
			}
			return nil
		}
		eachDay(t, a, 1)
		time.Sleep(oneDay)
		done := make(chan struct{})
		go func() { defer close(done); a.svc.work(a.ctx) }() // its lease is lost
		<-paused
		w.mu.Lock()
		w.onKeep = nil
		w.mu.Unlock()
		b := w.start()
		b.run()
		time.Sleep(2 * oneDay)
		if !b.alive(filed) || b.alive(plain) {
			t.Errorf("filed %v, plain %v", b.alive(filed), b.alive(plain))
		}
		close(goOn)
		<-done
		time.Sleep(2 * oneDay)
		if !b.alive(filed) {
			t.Error("a filed message is gone")
		}
		same(t, a, b)
	})
}

// TestUnreadable: a needed message that cannot be read holds its day up for a
// week, and no longer.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		bad := n.accept(1, func(l *letter) { l.filed = true })
		good := n.accept(1, func(l *letter) { l.filed = true })
		w.onKeep = func(_ context.Context, ref event.Ref) error {
			if ref.ID == bad.message {
				return fmt.Errorf("part: %w", eventlog.ErrDamaged)
			}
			return nil
		}
		n.run()
		time.Sleep(5 * oneDay)
		if !n.alive(bad) || !n.alive(good) {
			t.Error("the day has expired")
		}
		if st := n.svc.Work(); !errors.Is(st.Trouble, errStuck) || len(st.Stuck) != 1 || st.Stuck[0].Messages[0] != bad.message.String() {
			t.Errorf("status: %+v", st)
		}
		time.Sleep(5 * oneDay)
		if n.alive(bad) || !n.alive(good) {
			t.Errorf("bad %v, good %v", n.alive(bad), n.alive(good))
		}
		if got := facts[*event.Audited](n); len(got) == 0 {
			t.Error("the log does not say what was lost")
		}
	})
}

// TestUnreadableAfterTrouble: the week counts for nothing in which nobody could
// look for a message: when its day has long been held up by something else, it is
// tried for a day all the same.
func TestUnreadableAfterTrouble(t *testing.T) {
	long := 20 * oneDay
	if testing.Short() {
		long = 9 * oneDay
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		filed := n.accept(1, func(l *letter) { l.filed = true })
		fail := errors.New("the store is away")
		w.onKeep = func(context.Context, event.Ref) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			return fail
		}
		set := func(err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			fail = err
		}
		n.run()
		time.Sleep(long)
		set(fmt.Errorf("a part was not brought back yet: %w", eventlog.ErrDamaged))
		time.Sleep(oneDay / 2)
		if !n.alive(filed) {
			t.Fatal("the day has expired with a message that nobody had looked for before")
		}
		set(nil)
		time.Sleep(oneDay / 2)
		if !n.alive(filed) || filed.expiry < event.DayOf(time.Now()) {
			t.Error("the message was brought back, and is gone")
		}
		set(fmt.Errorf("part: %w", eventlog.ErrDamaged))
		time.Sleep(45 * oneDay)
		if n.alive(filed) {
			t.Error("its day is held up for ever")
		}
	})
}

// TestTroublePasses: what fails for other reasons is tried until it works, however
// long that takes.
func TestTroublePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		filed := n.accept(1, func(l *letter) { l.filed = true })
		plain := n.accept(1, nil)
		away := errors.New("the store is away")
		w.onKeep = func(context.Context, event.Ref) error { return away }
		n.run()
		time.Sleep(20 * oneDay)
		if !n.alive(filed) || !n.alive(plain) {
			t.Error("the day has expired")
		}
		wantErr(t, "trouble", n.svc.Work().Trouble, away)
		w.mu.Lock()
		w.onKeep = nil
		w.mu.Unlock()
		time.Sleep(2 * again)
		if !n.alive(filed) || n.alive(plain) {
			t.Errorf("filed %v, plain %v", n.alive(filed), n.alive(plain))
		}
		if err := n.svc.Work().Trouble; err != nil {
			t.Error(err)
		}
	})
}

// TestNewTenant: a tenant that is made while the work goes on is not passed over.
func TestNewTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		n.accept(1, func(l *letter) { l.filed = true })
		eachDay(t, n, 1)
		w.onKeep = func(ctx context.Context, _ event.Ref) error {
			other, err := w.keys.TenantID(ctx, "other")
			if err != nil {
				return err
			}
			return n.log.EnsureTenant(ctx, other)
		}
		time.Sleep(oneDay)
		before := w.keys.Day()
		if err := n.svc.work(n.ctx); err != nil {
			t.Fatal(err)
		}
		if w.keys.Day() != before {
			t.Error("the ratchet moved although a tenant's day has not expired")
		}
		if err := n.svc.work(n.ctx); err != nil || w.keys.Day() != before+1 {
			t.Errorf("the ratchet stands at %v, %v", w.keys.Day(), err)
		}
	})
}

// TestAFoldThatClings: a fold that needs a message for ever where it was is a
// defect, and no reason to write the message again and again.
func TestAFoldThatClings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		l := n.accept(1, func(l *letter) { l.filed = true })
		place := l.place
		n.svc.cfg.Filed = func(_ context.Context, of event.Tenant, _ event.Day) iter.Seq2[event.Ref, error] {
			return func(yield func(event.Ref, error) bool) {
				if of == n.tenant {
					yield(place, nil)
				}
			}
		}
		time.Sleep(2 * oneDay)
		wantErr(t, "a fold clings to a message", n.svc.work(n.ctx), errClings)
		if kept := len(facts[*event.Kept](n)); kept != 1 {
			t.Errorf("the message was written %d times", kept)
		}
		if row, err := n.svc.tenantRow(n.ctx, n.tenant); err != nil || row.Expired >= l.expiry {
			t.Errorf("its day has expired: %+v, %v", row, err)
		}
	})
}
