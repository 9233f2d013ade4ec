package retention

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// TestHolds: a hold keeps what it selects, old and new, until it is released.
func TestHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		n.run()
		old := n.accept(1, func(l *letter) { l.held = "x" })
		other := n.accept(1, func(l *letter) { l.held = "y" })
		if v := place(t, n, "x"); v != (Verdict{Messages: 1}) {
			t.Errorf("verdict: %+v", v)
		}
		later := n.accept(1, func(l *letter) { l.held = "x" })
		_, err := n.svc.PlaceHold(n.ctx, n.tenant, &event.HoldPlaced{Name: "x"})
		wantErr(t, "the same name", err, ErrHoldExists)

		time.Sleep(40 * oneDay)
		if !n.alive(old) || !n.alive(later) || n.alive(other) {
			t.Errorf("old %v, later %v, other %v", n.alive(old), n.alive(later), n.alive(other))
		}
		hs, err := n.svc.Holds(n.ctx)
		if err != nil || len(hs) != 1 || hs[0].Messages != 2 || hs[0].Tenant != n.tenant || hs[0].Placed.Reason != "r" {
			t.Errorf("holds: %+v, %v", hs, err)
		}
		if err := n.svc.ReleaseHold(n.ctx, n.tenant, &event.HoldReleased{Name: "x"}); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "released twice", n.svc.ReleaseHold(n.ctx, n.tenant, &event.HoldReleased{Name: "x"}), ErrNoHold)
		time.Sleep(40 * oneDay)
		if n.alive(old) || n.alive(later) {
			t.Error("what was held has not expired")
		}
	})
}

// TestHoldTooLate: what was condemned before a hold was placed is not kept by it,
// also when another day is condemned after.
func TestHoldTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		eachDay(t, n, 1)
		one := n.accept(1, func(l *letter) { l.held = "x" })
		two := n.accept(2, func(l *letter) { l.held = "both" })
		first := n.accept(1, func(l *letter) { l.held = "both" })
		stuck := n.accept(1, func(l *letter) { l.filed = true })
		eachDay(t, n, 1)
		// The day of the first is condemned, but it cannot expire yet.
		w.onKeep = func(_ context.Context, ref event.Ref) error {
			if ref.ID == stuck.message {
				return context.DeadlineExceeded
			}
			return nil
		}
		time.Sleep(oneDay)
		if err := n.svc.work(n.ctx); err == nil {
			t.Fatal("the day has expired")
		}
		v, err := n.svc.PlaceHold(n.ctx, n.tenant, &event.HoldPlaced{Name: "x", Match: event.HoldMatch{Subject: "x"}})
		wantErr(t, "too late", err, ErrCondemned)
		if v != (Verdict{Messages: 1, Condemned: 1}) {
			t.Errorf("verdict: %+v", v)
		}
		if v := place(t, n, "both"); v != (Verdict{Messages: 2, Condemned: 1}) {
			t.Errorf("verdict: %+v", v)
		}
		time.Sleep(oneDay)
		w.onKeep = nil
		if err := n.svc.work(n.ctx); err != nil {
			t.Fatal(err)
		}
		if n.alive(one) || n.alive(first) || !n.alive(two) || !n.alive(stuck) {
			t.Errorf("one %v, first %v, two %v, stuck %v", n.alive(one), n.alive(first), n.alive(two), n.alive(stuck))
		}
	})
}

// TestErase: what is erased is certified with all its copies, and what is held is
// not erased.
func TestErase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		n.run()
		time.Sleep(2 * time.Minute)
		filed := n.accept(1, func(l *letter) { l.filed = true })
		held := n.accept(1, func(l *letter) { l.held = "x" })
		place(t, n, "x")
		time.Sleep(34 * oneDay)
		_, err := n.svc.Erase(n.ctx, n.tenant, "root", "r", []event.Ref{filed.place, held.place})
		wantErr(t, "held", err, ErrHeld)
		if !strings.Contains(err.Error(), "x") {
			t.Errorf("the hold is not named: %v", err)
		}
		ref, err := n.svc.Erase(n.ctx, n.tenant, "root", "r", []event.Ref{filed.place, filed.place})
		if err != nil {
			t.Fatal(err)
		}
		rec, err := n.log.Event(n.ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		cert := rec.Fact.(*event.Erased)
		for _, id := range []event.ID{ref.ID, cert.Order} {
			if got, err := n.svc.Certificate(n.ctx, id); got != ref || err != nil {
				t.Errorf("the certificate of %v is at %v, %v; want %v", id, got, err, ref)
			}
		}
		_, err = n.svc.Certificate(n.ctx, filed.message)
		wantErr(t, "a message is no certificate", err, ErrNotFound)
		if cert.Who != "root" || len(cert.Items) != 1 {
			t.Fatalf("certificate: %+v", cert)
		}
		for _, it := range cert.Items {
			if it.Message != filed.message || it.Size != 10 || len(it.Accounts) != 1 || len(it.Digests) != 1 {
				t.Errorf("item: %+v", it)
			}
		}
		as, err := n.svc.Accounts(n.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range as {
			if a.Tenant == n.tenant && (a.Erased != 1 || a.ErasedBytes != 10 || a.Holds != 1 || a.Orders != 0 || a.Past != 1 || a.Messages != 1 || a.Held != 1) {
				t.Errorf("account: %+v", a)
			}
			if a.Tenant == n.tenant && (len(a.Domains) != 1 || a.Domains[0].Messages != 1 || a.Domains[0].Held != 1) {
				t.Errorf("domains: %+v", a.Domains)
			}
		}
		_, err = n.svc.Erase(n.ctx, n.tenant, "root", "r", []event.Ref{ref})
		wantErr(t, "not a message", err, ErrNotFound)
	})
}

// TestStray: a copy that lands while its message is erased is erased as well, and
// an order whose worker died is carried out.
func TestStray(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		l := n.accept(3, nil)
		first := l.place
		order := &event.ErasureOrdered{At: n.log.Millis(), Who: "root", Reason: "r", Items: []event.Ref{first}}
		if _, ok, err := n.svc.do(n.ctx, n.tenant, order); !ok || err != nil {
			t.Fatal(ok, err)
		}
		n.run()
		time.Sleep(2 * again)
		if n.alive(l) || len(facts[*event.Erased](n)) != 1 {
			t.Fatal("the order was not carried out")
		}
		// As by a worker that had read the message before.
		if _, err := n.Keep(n.ctx, first, l.expiry+10, event.KeptFiled); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * again)
		if got := facts[*event.Erased](n); len(got) != 2 || got[1].Items[0].Message != l.message || got[1].Order != got[0].Order {
			t.Errorf("the copy was not erased: %+v", got)
		}
		// Of the order it is the first that counts, and each has its own id.
		certs := certificates(n)
		if len(certs) != 2 {
			t.Fatalf("%d certificates", len(certs))
		}
		for i, ref := range certs {
			if got, err := n.svc.Certificate(n.ctx, ref.ID); got != ref || err != nil {
				t.Errorf("certificate %d is at %v, %v; want %v", i, got, err, ref)
			}
		}
		if got, err := n.svc.Certificate(n.ctx, facts[*event.Erased](n)[0].Order); got != certs[0] || err != nil {
			t.Errorf("that of the order is at %v, %v; want %v", got, err, certs[0])
		}
		if due, err := n.unfinished(); due || err != nil {
			t.Errorf("there is still something to do: %v", err)
		}
	})
}

// TestOrderAndHold: an order that was made before a hold changed is refused.
func TestOrderAndHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		l := n.accept(3, nil)
		order := &event.ErasureOrdered{At: n.log.Millis(), Items: []event.Ref{l.place}}
		place(t, n, "x")
		if _, ok, err := n.svc.do(n.ctx, n.tenant, order); ok || err != nil {
			t.Errorf("an order of before the hold took effect: %v", err)
		}
		order.Holds = 1
		if _, ok, err := n.svc.do(n.ctx, n.tenant, order); !ok || err != nil {
			t.Errorf("an order was refused: %v", err)
		}
	})
}

// TestStuckNoMore: a message that could not be read and is not needed any more, as
// its hold was released or it was erased while others were copied, holds its day up
// no more.
func TestStuckNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		eachDay(t, n, 1)
		bad := n.accept(1, func(l *letter) { l.held = "x" })
		good := n.accept(1, func(l *letter) { l.held = "x" })
		place(t, n, "x")
		w.onKeep = func(_ context.Context, ref event.Ref) error {
			if ref.ID != bad.message {
				return nil
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			bad.gone = true
			return eventlog.ErrDamaged
		}
		time.Sleep(2 * oneDay)
		if err := n.svc.work(n.ctx); err != nil || n.alive(bad) || !n.alive(good) {
			t.Errorf("%v; bad %v, good %v", err, n.alive(bad), n.alive(good))
		}
		if st := n.svc.Work(); len(st.Stuck) != 0 || len(facts[*event.DayExpired](n)) == 0 {
			t.Errorf("status: %+v", st)
		}
	})
}
