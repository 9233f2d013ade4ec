package delivery

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
)

func (n *node) fact(f event.Fact) {
	n.w.t.Helper()
	_, err := n.log.Append(context.Background(), event.Event{ID: event.NewID(), Tenant: n.w.tenant, Fact: f})
	n.w.check(err)
}

// needed returns what is needed until a day, as the directory says.
func (n *node) needed(until event.Day) (refs []event.Ref) {
	n.w.t.Helper()
	for ref, err := range n.svc.Needed(context.Background(), n.w.tenant, until, nil) {
		n.w.check(err)
		refs = append(refs, ref)
	}
	return refs
}

// endDay lets a day end: what is needed is kept for two more.
func (n *node) endDay(day event.Day) (kept int) {
	n.w.t.Helper()
	n.fact(&event.DayCondemned{Day: day})
	for _, ref := range n.needed(day) {
		_, err := n.log.Keep(context.Background(), ref, day+2, event.KeptDue)
		n.w.check(err)
		kept++
	}
	if left := n.needed(day); len(left) > 0 {
		n.w.t.Fatalf("still needed: %v", left)
	}
	n.fact(&event.DayExpired{Day: day})
	n.w.check(n.w.keys.AdvanceTo(day + 1))
	return kept
}

// TestDueMailOutlivesItsDays: an outage that is longer than the mail lives loses
// nothing, in whatever way a node knows of it.
func TestDueMailOutlivesItsDays(t *testing.T) {
	for _, who := range []string{"the node that delivers", "another node", "a node that starts afterwards"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.days = 1
				n := w.start()
				defer func() { n.stop() }()
				ends := n
				if who == "another node" {
					// Nothing that it does itself lets it read on.
					w.configure(n, func(s *Site) { s.Failover = "on" })
					w.poll = 1000 * time.Hour // n learns of nothing by itself
					n.stop()
					n = w.start()
					w.poll = 0
					ends = w.open()
					defer ends.stop()
				} else {
					w.mx().Stop()
				}
				var letters []letter
				for i := range 3 {
					letters = append(letters, n.accept("s@far.test", text(fmt.Sprint(i))+strings.Repeat("x\r\n", i*150_000), "alice@"+domain, "bob@"+domain))
				}
				if who != "another node" {
					n.becomes(event.HealthDown, time.Minute)
				}
				w.configure(n, func(s *Site) { s.Policy.ProbeEvery = time.Hour })
				w.check(ends.log.Refresh(context.Background(), 0))
				first := event.DayOf(n.log.Now())
				days := event.Day(8)
				if testing.Short() {
					days = 4
				}
				for day := first + 1; day < first+days; day++ {
					time.Sleep(24 * time.Hour)
					if got, want := ends.endDay(day), 3*int((day-first)%2); got != want {
						t.Fatalf("%d messages were kept on day %d, want %d", got, day-first, want)
					}
					n.log.Forget(day + 1) // the ratchet has moved, for all that n knows
				}
				if who == "a node that starts afterwards" {
					n.stop()
					n = w.start()
				}
				w.mx().Resume()
				w.configure(n, func(s *Site) { s.Policy.ProbeEvery, s.Failover = time.Second, "auto" })
				n.drained(time.Hour)
				for _, l := range letters {
					for i := range 2 {
						if o := n.last(l, i); o.Result != event.ResultDelivered || o.Uncertain {
							t.Errorf("outcome %+v", o)
						}
					}
				}
				for _, tx := range w.mx().Transactions() {
					if i := len(tx.Recipients); i != 2 || !strings.HasSuffix(string(tx.Body), string(letters[subjectOf(tx.Body)[0]-'0'].body)) {
						t.Errorf("%d recipients, %d bytes", i, len(tx.Body))
					}
				}
				if got := total(n.balanced(), false); got != (Numbers{Accepted: 6, Delivered: 6}) {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// TestWhatIsNotKeptExpires: mail that leads nowhere ends with its day, on all
// lines, although nobody delivers for its domain.
func TestWhatIsNotKeptExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days = 1
		n := w.open()
		defer func() { n.stop() }()
		rcpt := func(path, domain, via string) event.Recipient {
			return event.Recipient{Path: path, Domain: domain, Outside: via != "", Via: via}
		}
		l, err := n.offerRcpts("s@far.test", text("a"), []event.Recipient{
			rcpt("x@removed.test", "removed.test", ""), rcpt("y@removed.test", "removed.test", ""), rcpt("z@far.test", "far.test", "removed.test"),
		})
		w.check(err)
		stays := n.accept("s@far.test", text("b"), "alice@"+domain)
		day := event.DayOf(n.log.Now()) + 1
		n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{{Unit: event.Unit{Source: l.id, N: 1}, Result: event.ResultHeld}}})
		// One is on its way when the day ends, and arrives.
		n.fact(&event.DeliveryIntended{Epoch: 1, Units: []event.Unit{{Source: l.id}}})
		if got := n.needed(day - 1); len(got) != 0 {
			t.Errorf("needed a day before: %v", got)
		}
		if kept := n.endDay(day); kept != 1 {
			t.Errorf("%d kept", kept)
		}
		if got := total(n.balanced(), false); got != (Numbers{Accepted: 4, Expired: 3, Due: 1}) {
			t.Errorf("%+v", got)
		}
		n.fact(&event.DeliverySettled{Outcomes: []event.Outcome{{Unit: event.Unit{Source: l.id}, Result: event.ResultDelivered, Epoch: 1}}})
		if got := total(n.balanced(), false); got != (Numbers{Accepted: 4, Expired: 2, Delivered: 1, Uncertain: 1, Due: 1}) {
			t.Errorf("%+v", got)
		}
		// Nothing that is over can be ordered, what was kept can.
		n.deliver()
		n.drained(time.Minute)
		got, err := n.svc.Redeliver(context.Background(), Order{Tenant: w.tenant, Who: "root", To: "carol@" + domain, Until: day + 9, Items: []event.Redelivery{
			{Message: l.ref, Domain: domain, Expiry: day}, {Message: stays.ref, Domain: domain, Expiry: day},
		}}, time.Minute)
		w.check(err)
		for _, r := range got {
			if r.Outcome == nil || r.Outcome.Result != event.ResultExpired || r.Already {
				t.Errorf("receipt %+v", r)
			}
		}
		if got := total(n.balanced(), true); got != (Numbers{}) {
			t.Errorf("%+v", got)
		}
	})
}

// TestErasedWhileItIsSent: the sheet says what became of it.
func TestErasedWhileItIsSent(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 20 * time.Second, Times: 1}))
		sent := n.accept("s@far.test", text("a"), "alice@"+domain)
		time.Sleep(time.Second)
		waits := n.accept("s@far.test", text("b"), "alice@"+domain)
		time.Sleep(time.Second)
		erase := func() {
			n.fact(&event.Erased{Order: event.NewID(), Items: []event.ErasedItem{{Message: sent.id, Place: sent.ref}, {Message: waits.id, Place: waits.ref}}})
		}
		erase()
		erase()
		if got := total(n.balanced(), false); got != (Numbers{Accepted: 2, Erased: 2}) {
			t.Errorf("%+v", got)
		}
		n.accept("s@far.test", text("c"), "alice@"+domain)
		time.Sleep(time.Minute)
		if got := total(n.balanced(), false); got != (Numbers{Accepted: 3, Erased: 1, Delivered: 2, Uncertain: 1}) {
			t.Errorf("%+v", got)
		}
		if got := subjects(w.mx(), "alice@"+domain); len(got) != 2 || n.units() != 0 {
			t.Errorf("alice got %v, %d units are left", got, n.units())
		}
	})
}
