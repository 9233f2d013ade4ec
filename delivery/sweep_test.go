package delivery

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/projection"
)

// sweep ends what days have left that have expired, and returns in how many steps.
func (n *node) sweep() (steps int) {
	n.w.t.Helper()
	for {
		left, err := n.svc.Unswept(context.Background(), n.w.tenant)
		n.w.check(err)
		if !left {
			return steps
		}
		n.fact(&event.DaySwept{})
		steps++
	}
}

// sheet is balanced's, without the comparison with the facts.
func (n *node) sheet() Numbers {
	n.w.t.Helper()
	_, err := n.svc.Unswept(context.Background(), n.w.tenant) // it waits for the fold
	n.w.check(err)
	s, err := n.svc.Sheet(context.Background())
	n.w.check(err)
	if !s.Balanced() {
		n.w.t.Errorf("does not balance: %+v", s)
	}
	return total(s, false)
}

// TestExpireInSteps: of a day with much that is due each event ends a few units.
// What changes its place in the queue between them is ended, too, and what is of
// later days stays.
func TestExpireInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fold.atOnce, w.days = 3, 1
		n := w.open()
		defer func() { n.stop() }()
		day := event.DayOf(n.log.Now()) + 1
		var first letter
		for i := range 10 {
			l := n.accept("s@far.test", text(fmt.Sprint(i)), "alice@"+domain, "x@removed.test", "bob@"+domain)
			if i == 0 {
				first = l
			}
		}
		w.days = 2
		for range 5 {
			n.accept("s@far.test", text("later"), "alice@"+domain)
		}
		n.fact(&event.DayCondemned{Day: day})
		n.fact(&event.DayExpired{Day: day})
		if got := n.sheet(); got != (Numbers{Accepted: 35, Expired: 3, Due: 32}) {
			t.Errorf("after the first step %+v", got)
		}
		// The one that was ended is no more; the other gets into a queue that was looked
		// through before.
		n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{
			{Unit: event.Unit{Source: first.id}, Result: event.ResultDeferred, RetryAt: event.Millis(time.Now().Add(time.Hour).UnixMilli())},
		}})
		last := event.Unit{Source: w.accepted[9].id, N: 2}
		n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{
			{Unit: last, Result: event.ResultDeferred, RetryAt: event.Millis(time.Now().Add(time.Hour).UnixMilli())},
		}})
		before := n.sheet().Expired
		for {
			left, err := n.svc.Unswept(t.Context(), w.tenant)
			w.check(err)
			if !left {
				break
			}
			n.fact(&event.DaySwept{})
			now := n.sheet().Expired
			if now-before > 3 {
				t.Errorf("one step ended %d", now-before)
			}
			before = now
		}
		if got := n.sheet(); got != (Numbers{Accepted: 35, Expired: 30, Due: 5}) {
			t.Errorf("in the end %+v", got)
		}
		live, err := n.runner.Hash(t.Context(), foldName)
		w.check(err)
		n.fact(&event.DaySwept{}) // which has nothing to do
		again := w.open()
		defer again.stop()
		_, err = again.svc.Unswept(t.Context(), w.tenant)
		w.check(err)
		if rebuilt, err := again.runner.Hash(t.Context(), foldName); err != nil || rebuilt != live {
			t.Errorf("a rebuild is another state (%v)", err)
		}
	})
}

// TestBooksAreClosed: the ledger of a route does not grow with each day that it
// has mail, and says the same.
func TestBooksAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open()
		defer func() { n.stop() }()
		const days = 130
		var doubt event.Unit // its end is not certain until much later
		var stays event.Unit // is held for ever
		for i := range days {
			ref := n.mailWithout(domain)
			u := event.Unit{Source: ref.ID}
			switch i {
			case 3:
				doubt = u
				n.fact(&event.DeliveryIntended{Epoch: 1, Units: []event.Unit{u}})
				n.fact(&event.Erased{Order: event.NewID(), Items: []event.ErasedItem{{Message: ref.ID, Place: ref}}})
			case 5:
				stays = u
				n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{{Unit: u, Result: event.ResultHeld}}})
			default:
				n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{{Unit: u, Result: event.ResultDelivered}}})
			}
			time.Sleep(24 * time.Hour)
		}
		if got := n.sheet(); got != (Numbers{Accepted: days, Delivered: days - 2, Erased: 1, Held: 1}) {
			t.Errorf("%+v", got)
		}
		// One line for the days that are closed, one for the day that is not, 100 for
		// the others and one for the newest.
		if got := n.accounts(); got != accountsApart+3 {
			t.Errorf("%d accounts after %d days", got, days)
		}
		n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{{Unit: doubt, Result: event.ResultDelivered, Epoch: 1}}})
		n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{{Unit: stays, Result: event.ResultBounced}}})
		n.mailWithout(domain)
		if got := n.sheet(); got != (Numbers{Accepted: days + 1, Delivered: days - 1, Uncertain: 1, Bounced: 1, Due: 1}) {
			t.Errorf("%+v", got)
		}
		time.Sleep(24 * time.Hour)
		n.mailWithout(domain)
		if n.sheet(); n.accounts() != accountsApart+2 {
			t.Errorf("%d accounts in the end", n.accounts())
		}
	})
}

// mailWithout appends an acceptance for one recipient that says nothing else.
func (n *node) mailWithout(domain string) event.Ref {
	n.w.t.Helper()
	ev := event.Event{ID: event.NewID(), Tenant: n.w.tenant, Fact: &event.MessageAccepted{
		Origin: event.OriginInbound, Recipients: 1, Routes: []event.Route{{Domain: domain, N: 1}},
	}}
	pos, err := n.log.Append(context.Background(), ev)
	n.w.check(err)
	return event.Ref{Position: pos, ID: ev.ID}
}

func (n *node) accounts() (count int) {
	n.w.t.Helper()
	n.w.check(n.runner.View(context.Background(), foldName, func(v projection.View) error {
		for _, err := range v.Scan([]byte{keyAccount}, nil, false) {
			if err != nil {
				return err
			}
			count++
		}
		return nil
	}))
	return count
}
