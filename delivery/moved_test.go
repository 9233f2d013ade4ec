package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/health"
	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/eventlog"
)

// move gives the domain to another tenant on a running node, as an apply with
// --prune and a second apply do, and returns the first.
func (w *world) move(n *node, next event.Tenant) (first event.Tenant) {
	w.t.Helper()
	w.check(n.log.EnsureTenant(context.Background(), next))
	w.mu.Lock()
	site := w.sites[0]
	w.sites = nil
	w.mu.Unlock()
	n.svc.Reload()
	synctest.Wait()
	first, w.tenant = w.tenant, next
	site.Tenant = next
	w.mu.Lock()
	w.sites = []Site{site}
	w.mu.Unlock()
	return first
}

func (w *world) another(name string) event.Tenant {
	w.t.Helper()
	id, err := w.keys.TenantID(context.Background(), name)
	w.check(err)
	return id
}

// condemn is what stands in the log when a tenant has ended.
func (n *node) condemn(t event.Tenant) (by event.Ref) {
	n.w.t.Helper()
	f := &event.TenantCondemned{At: n.log.Millis(), Who: "root", Reason: "left", Name: "acme", Tenant: t}
	for _, of := range []event.Tenant{t, event.SystemTenant} {
		by.ID = event.NewID()
		var err error
		by.Position, err = n.log.Append(context.Background(), event.Event{ID: by.ID, Tenant: of, Fact: f})
		n.w.check(err)
	}
	return by
}

// TestADomainMovesToAnotherTenant: what became of the mail of each tenant stands in
// its own log, so that nothing is forgotten with the end of the other.
func TestADomainMovesToAnotherTenant(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		ctx := context.Background()
		n.accept("sender@far.test", text("first"), "alice@"+domain)
		n.drained(5 * time.Second)
		first := w.move(n, w.another("bravo"))
		n.svc.Reload()
		synctest.Wait()
		n.accept("sender@far.test", text("second"), "alice@"+domain)
		n.drained(5 * time.Second)
		owner := map[event.ID]event.Tenant{}
		for _, r := range n.facts() {
			switch f := r.Fact.(type) {
			case *event.MessageAccepted:
				owner[r.Ref.ID] = r.Tenant
			case *event.DeliverySettled:
				if of := owner[f.Outcomes[0].Unit.Source]; r.Tenant != of {
					t.Errorf("an outcome of tenant %v stands in the log of %v", of, r.Tenant)
				}
			}
		}
		by := n.condemn(first)
		if _, err := n.log.DestroyTenant(ctx, first, by); err != nil {
			t.Fatal(err)
		}
		w.check(n.runner.WaitFor(ctx, foldName, by.Position))
		live, err := n.runner.Hash(ctx, foldName)
		w.check(err)
		n.stop()
		again := w.open()
		defer again.stop()
		w.check(again.runner.CaughtUp(ctx, foldName))
		if rebuilt, err := again.runner.Hash(ctx, foldName); err != nil || rebuilt != live {
			t.Errorf("a rebuild has another state (%v)", err)
		}
		again.deliver()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := subjects(w.mx(), "alice@"+domain); !slices.Equal(got, []string{"first", "second"}) {
			t.Errorf("the primary got %q", got)
		}
	})
}

// TestQueuedMailStaysWithItsTenant: mail that is due when its domain moves waits where
// it is, is not kept past its day, and goes on should the domain come back.
func TestQueuedMailStaysWithItsTenant(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		acme := w.tenant
		w.configure(n, func(s *Site) { s.Failover = "on" })
		synctest.Wait()
		l := n.accept("sender@far.test", text("first"), "alice@"+domain)
		w.move(n, w.another("bravo"))
		w.configure(n, func(s *Site) { s.Failover = "" })
		synctest.Wait()
		n.accept("sender@far.test", text("second"), "alice@"+domain)
		n.drained(time.Minute)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := subjects(w.mx(), "alice@"+domain); !slices.Equal(got, []string{"second"}) {
			t.Errorf("the primary of the second got %q", got)
		}
		if st, err := n.svc.Domain(context.Background(), acme, domain); err != nil || st.Queued != 1 {
			t.Errorf("of the first %d are queued (%v)", st.Queued, err)
		}
		for ref, err := range n.svc.Needed(context.Background(), acme, l.expiry(n), nil) {
			t.Errorf("%v is kept, which goes nowhere (%v)", ref, err)
		}
		w.move(n, acme)
		n.svc.Reload()
		n.drained(time.Minute)
		if got := subjects(w.mx(), "alice@"+domain); !slices.Equal(got, []string{"second", "first"}) {
			t.Errorf("after it came back the primary has got %q", got)
		}
		if o := n.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain {
			t.Errorf("the outcome is %+v", o)
		}
	})
}

func (l letter) expiry(n *node) event.Day { return event.DayOf(n.log.Now()) + n.w.days }

// TestADomainMovesWhileADotHangs: a domain that goes and comes back at once takes up
// nothing that is under way.
func TestADomainMovesWhileADotHangs(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		acme := w.tenant
		n.accept("sender@far.test", text("warm"), "bob@"+domain)
		n.drained(5 * time.Second)
		w.mx().Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Dot: {Delay: 3 * time.Second}}})
		l := n.accept("sender@far.test", text("first"), "alice@"+domain)
		time.Sleep(time.Second)
		w.move(n, w.another("bravo"))
		n.svc.Reload()
		synctest.Wait()
		w.move(n, acme)
		n.svc.Reload()
		n.drained(time.Minute)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := subjects(w.mx(), "alice@"+domain); !slices.Equal(got, []string{"first"}) {
			t.Errorf("the primary got %q", got)
		}
		if o := n.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain {
			t.Errorf("the outcome is %+v", o)
		}
	})
}

// TestALaterTenantGetsItsMail: where a tenant has ended, the next one that has the
// domain is delivered to, on a node that runs on and on one that starts anew.
func TestALaterTenantGetsItsMail(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			bubble(t, func(w *world, n *node) {
				n.accept("sender@far.test", text("first"), "alice@"+domain)
				n.drained(5 * time.Second)
				first := w.move(n, w.another("acme\x002"))
				n.condemn(first)
				if restart {
					n.stop()
					n = w.start()
					defer n.stop()
				} else {
					n.svc.Reload()
				}
				synctest.Wait()
				n.accept("sender@far.test", text("second"), "alice@"+domain)
				n.drained(time.Minute)
				if got := subjects(w.mx(), "alice@"+domain); !slices.Equal(got, []string{"first", "second"}) {
					t.Errorf("the primary got %q", got)
				}
			})
		})
	}
}

// TestAnotherTenantSaysNothing: facts of one tenant do not touch another's units.
func TestAnotherTenantSaysNothing(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		ctx := context.Background()
		w.configure(n, func(s *Site) { s.Failover = "on" })
		synctest.Wait()
		l := n.accept("sender@far.test", text("first"), "alice@"+domain)
		u := event.Unit{Source: l.id}
		other := w.another("bravo")
		w.check(n.log.EnsureTenant(ctx, other))
		var last event.Position
		for _, f := range []event.Fact{
			&event.DeliveryIntended{At: n.log.Millis(), Epoch: 7, Units: []event.Unit{u}},
			&event.DeliverySettled{At: n.log.Millis(), Outcomes: []event.Outcome{{Unit: u, Result: event.ResultDelivered}}},
		} {
			var err error
			last, err = n.log.Append(ctx, event.Event{ID: event.NewID(), Tenant: other, Fact: f})
			w.check(err)
		}
		w.check(n.runner.WaitFor(ctx, foldName, last))
		if q := n.status().Queued; q != 1 {
			t.Errorf("%d are queued", q)
		}
		w.configure(n, func(s *Site) { s.Failover = "" })
		n.drained(time.Minute)
		if o := n.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain {
			t.Errorf("the outcome is %+v", o)
		}
	})
}

// TestTheEndOfATenantIsFinal: nobody goes on trying to record something of a tenant
// that has ended.
func TestTheEndOfATenantIsFinal(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		n.condemn(w.tenant)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		h := &holder{svc: n.svc, tenant: w.tenant}
		s := newScribe(n.svc, h)
		var wg sync.WaitGroup
		wg.Go(func() { s.run(ctx) })
		e := &entry{}
		e.add(event.Outcome{Result: event.ResultDelivered}, "250 ok")
		if s.record(ctx, e) {
			t.Error("an outcome was recorded")
		}
		s.close()
		wg.Wait()
		if _, ok := retry(ctx, w.logger, func() (event.Position, error) {
			return n.log.Append(ctx, e.event(n.log, w.tenant))
		}); ok {
			t.Error("an outcome with a bounce was recorded")
		}
		st := newSite(n.svc, h, w.sites[0])
		st.queue(healthChanged(domain, health.Up, health.Status{State: health.Down}, time.Now()))
		st.appendChanges(ctx)
		if ctx.Err() != nil {
			t.Error("it was tried until the node stopped")
		}
		w.await("the lease is given up", time.Minute, func() bool {
			n.svc.mu.Lock()
			defer n.svc.mu.Unlock()
			return n.svc.holders[w.tenant].epoch() == 0
		})
		if _, err := n.log.Append(ctx, e.event(n.log, w.tenant)); !errors.Is(err, eventlog.ErrEnded) {
			t.Errorf("the log says %v", err)
		}
	})
}
