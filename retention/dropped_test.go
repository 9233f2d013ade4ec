package retention

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/projection"
)

// manyRows gives the fold more rows of the tenant than it drops with one commit.
func (n *node) manyRows(t *testing.T) {
	t.Helper()
	for i := range 6 {
		o := &event.Erased{At: n.log.Millis(), Order: event.NewID()}
		for j := range 1000 {
			o.Items = append(o.Items, event.ErasedItem{Message: event.ID{byte(i), byte(j >> 8), byte(j)}})
		}
		if _, err := n.svc.append(n.ctx, n.tenant, o); err != nil {
			t.Fatal(err)
		}
	}
}

// rowsOf counts what the fold has of the tenant.
func (n *node) rowsOf(t *testing.T) (rows int) {
	t.Helper()
	err := n.runner.View(n.ctx, foldName, func(v projection.View) error {
		for _, tag := range []byte{keyErased, keyCertified, keyTenant} {
			for _, err := range v.Scan(tenantPrefix(tag, n.tenant), nil, false) {
				if err != nil {
					return err
				}
				rows++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// A node that has many rows of the tenant is off while they become few, and the
// tenant ends: one event is enough for it, too.
func TestANodeThatWasOffDropsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		n.manyRows(t)
		st := projection.NewMemStore()
		off := w.startOn(st)
		off.close()
		if off.rowsOf(t) < 6000 {
			t.Fatal("it has too few rows")
		}
		n.accept(1, nil)
		time.Sleep(6 * 24 * time.Hour)
		if err := n.svc.RunOnce(n.ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := n.svc.EndTenant(n.ctx, n.tenant, "root", "left", "acme"); err != nil {
			t.Fatal(err)
		}
		if got := facts[*event.TenantCondemned](n); len(got) != 1 {
			t.Errorf("%d facts let the folds drop it", len(got))
		}
		off = w.startOn(st)
		if rows := off.rowsOf(t); rows > 0 {
			t.Errorf("%d rows are left", rows)
		}
		off.wantEnded(t)
		same(t, n, off)
		if _, err := off.runner.TakeBase(off.ctx, foldName); err != nil {
			t.Errorf("a Base: %v", err)
		}
	})
}

// A Base has more rows of the tenant than there are when it ends. The second fold,
// which starts from it, drops them, too, and so does a new node.
func TestABaseHasMoreOfTheTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		n.accept(1, nil)
		time.Sleep(26 * time.Hour)
		if err := n.svc.RunOnce(n.ctx); err != nil {
			t.Fatal(err)
		}
		n.manyRows(t)
		if err := n.svc.RunOnce(n.ctx); err != nil { // a Base with them
			t.Fatal(err)
		}
		// The rows go, and no Base is taken meanwhile: the worker stands still.
		time.Sleep(6 * 24 * time.Hour)
		day := event.DayOf(n.log.Now()) - 1
		for _, f := range []event.Fact{&event.DayCondemned{At: n.log.Millis(), Day: day}, &event.DayExpired{At: n.log.Millis(), Day: day}} {
			if _, err := n.svc.append(n.ctx, n.tenant, f); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.svc.sweepFolds(n.ctx, n.tenant); err != nil {
			t.Fatal(err)
		}
		if _, err := n.svc.EndTenant(n.ctx, n.tenant, "root", "left", "acme"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := n.svc.RunOnce(n.ctx); err != nil {
				t.Error(err)
			}
			time.Sleep(24 * time.Hour)
		}
		if d := n.runner.Status()[0].Disagreed; d > 0 {
			t.Errorf("two folds disagreed %d times", d)
		}
		again := w.start() // from a Base
		if rows := again.rowsOf(t); rows > 0 {
			t.Errorf("%d rows are left", rows)
		}
		same(t, n, again)
	})
}

// Domains come back after the end was ordered: it waits until they are gone.
func TestTheEndWaitsForDomains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		names := []string{"acme.test"}
		n.svc.cfg.Domains = func(event.Tenant) []string { return names }
		if _, err := n.svc.EndTenant(n.ctx, n.tenant, "root", "left", "acme"); !errors.Is(err, ErrDomains) {
			t.Errorf("with a domain: %v", err)
		}
		if is, err := n.svc.Ending(n.ctx, n.tenant); is || err != nil {
			t.Errorf("ordered: %v, %v", is, err)
		}
		order := &event.TenantEndOrdered{At: n.log.Millis(), Who: "root", Reason: "left", Name: "acme"}
		if _, ok, err := n.svc.do(n.ctx, n.tenant, order); !ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
		if is, err := n.svc.Ending(n.ctx, n.tenant); !is || err != nil {
			t.Errorf("ordered: %v, %v", is, err)
		}
		if err := n.svc.RunOnce(n.ctx); !errors.Is(err, ErrDomains) {
			t.Errorf("ordered, with a domain: %v", err)
		}
		if n.log.Ended(n.tenant) || len(facts[*event.TenantCondemned](n)) > 0 {
			t.Error("it ended")
		}
		names = nil
		if err := n.svc.RunOnce(n.ctx); err != nil {
			t.Fatal(err)
		}
		n.wantEnded(t)
	})
}
