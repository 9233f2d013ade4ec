package projection

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"holdfast/event"
	"holdfast/eventlog"
)

// rows keeps one row for each event of a tenant.
type rows struct{ name string }

func (r rows) Name() string { return r.name }
func (rows) Version() int   { return 1 }
func (rows) Apply(t Txn, r eventlog.Recorded) error {
	if r.Tenant != event.SystemTenant {
		t.Set(append(r.Tenant[:], r.Ref.ID[:]...), []byte{1})
	}
	return nil
}

// keeping is a rows that drops tenants.
type keeping struct{ rows }

func (keeping) DropTenant(_ Txn, t event.Tenant, d *Dropper) error {
	_, err := d.Under(t[:], nil)
	return err
}

var ends1 = event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: &event.TenantCondemned{Tenant: event.Tenant{1}}}

// left counts what a projection has of the tenant whose events fill makes.
func left(t *testing.T, r *Runner, name string) (n int) {
	t.Helper()
	err := r.View(t.Context(), name, func(v View) error {
		for _, err := range v.Scan([]byte{1}, nil, false) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// settled waits until a runner that runs is at the log's end, and returns the hash.
func settled(t *testing.T, r *Runner) [32]byte {
	t.Helper()
	if err := r.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	return hash(t, r, "rows")
}

// many appends more of the tenant than is dropped with one commit, in segments of
// 1000, and one event of another tenant.
func many(l *memLog, p event.Partition) {
	for range 3*dropAtOnce/1000 + 1 {
		evs := make([]event.Event, 1000)
		for i := range evs {
			evs[i] = note("x", i)
		}
		l.append(p, evs...)
	}
	other := note("x", 1)
	other.Tenant = event.Tenant{2}
	l.append(p, other)
}

// TestATenantIsDroppedWherever the process dies: it does not know by its log that
// the tenant ends, reads the tenant's events first, and comes to the state of one
// that has seen the end before them.
func TestATenantIsDroppedWherever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, first := newMemLog(2), newMemLog(2)
		l.append(0, ends1)
		many(l, 1)
		// Somebody who has folded all of it before it ends.
		first.parts[1] = l.parts[1]
		full := NewMemStore().(*memStore)
		r := open(t, full, first, nil, keeping{rows{"rows"}})
		stop := runs(t, r)
		settled(t, r)
		if left(t, r, "rows") < 3*dropAtOnce {
			t.Fatal("too few rows")
		}
		stop()

		want := [32]byte{}
		for at, done := 0, false; !done; at++ {
			st := &dying{&memStore{root: full.root, commit: full.commit}, at}
			r := open(t, st, l, nil, keeping{rows{"rows"}})
			stop := runs(t, r)
			synctest.Wait()
			stop()
			done = st.left >= 0 // it did not die
			// Nothing of the tenant is folded behind that, of whatever it was.
			l2 := newMemLog(2)
			l2.parts = [][]*eventlog.Segment{l.parts[0], l.parts[1]}
			if at > 1 {
				l2.append(1, note("late", 1))
			}
			r = open(t, st.Store, l2, nil, keeping{rows{"rows"}})
			stop = runs(t, r)
			got := settled(t, r)
			if n := left(t, r, "rows"); n > 0 {
				t.Errorf("died at commit %d: %d rows are left", at, n)
			}
			if want == [32]byte{} {
				want = got
			}
			if got != want {
				t.Errorf("died at commit %d: another state", at)
			}
			stop()
			if done && at < 4 {
				t.Errorf("all was dropped with %d commits", at)
			}
		}
		r = open(t, NewMemStore(), first, nil, keeping{rows{"rows"}})
		stop = runs(t, r)
		defer stop()
		settled(t, r)
		first.append(0, ends1)
		waitAll(t, r, first, "rows")
		if got := hash(t, r, "rows"); got != want {
			t.Error("who has seen the tenant's events comes to another state")
		}
	})
}

// TestNoBaseWhileATenantIsDropped: what is half dropped is no state of the log, and
// is not taken for two folds that disagree.
func TestNoBaseWhileATenantIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, st := newMemLog(2), &dying{NewMemStore(), 1 << 30}
		snaps := newMemSnaps()
		r := open(t, st, l, snaps, keeping{rows{"rows"}})
		stop := runs(t, r)
		many(l, 1)
		waitAll(t, r, l, "rows")
		settled(t, r)
		st.left = 2
		end := l.append(0, ends1)
		synctest.Wait()
		if _, err := r.TakeBase(t.Context(), "rows"); !errors.Is(err, ErrEnding) {
			t.Errorf("a Base of what is half dropped: %v", err)
		}
		st.left = 1 << 30
		if err := r.WaitFor(context.Background(), "rows", end); err != nil {
			t.Fatal(err)
		}
		if _, err := r.TakeBase(t.Context(), "rows"); err != nil || r.Status()[0].Disagreed > 0 {
			t.Errorf("a Base afterwards: %v", err)
		}
		stop()
	})
}
