package delivery

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
)

func at(p smtptest.Phase, a smtptest.Action) smtptest.Script {
	return smtptest.Script{At: map[smtptest.Phase]smtptest.Action{p: a}}
}

func TestPlainDelivery(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		l := n.accept("sender@far.test", text("hello"), "alice@"+domain)
		n.drained(5 * time.Second)
		got := w.mx().Transactions()
		if len(got) != 1 || got[0].From != "sender@far.test" || got[0].Recipients[0].To != "alice@"+domain {
			t.Fatalf("got %+v", got)
		}
		if want := string(l.trace) + string(l.body); string(got[0].Body) != want {
			t.Errorf("body is %q, want %q", got[0].Body, want)
		}
		if o := n.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain || o.Normalised || o.Code != 250 {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestBareLineEndsAreSaid(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		l := n.accept("s@far.test", "Subject: x\r\n\r\na\nb\r\n", "alice@"+domain)
		n.drained(5 * time.Second)
		if o := n.last(l, 0); o.Result != event.ResultDelivered || !o.Normalised {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestRecipientsShareATransaction(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		rcpts := []string{"alice@" + domain, "Sales@" + domain, "\"a b\"@" + domain} // aliases go as they were addressed
		l := n.accept("s@far.test", text("one"), rcpts...)
		n.drained(5 * time.Second)
		got := w.mx().Transactions()
		if len(got) != 1 || len(got[0].Recipients) != 3 {
			t.Fatalf("got %+v", got)
		}
		for i, r := range got[0].Recipients {
			if r.To != rcpts[i] || n.last(l, i).Result != event.ResultDelivered {
				t.Errorf("recipient %d: %q, %+v", i, r.To, n.last(l, i))
			}
		}
	})
}

func TestManyRecipients(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		var rcpts []string
		for i := range 250 {
			rcpts = append(rcpts, fmt.Sprintf("u%d@%s", i, domain))
		}
		n.accept("s@far.test", text("all"), rcpts...)
		n.drained(10 * time.Second)
		seen := map[string]int{}
		for _, tx := range w.mx().Transactions() {
			if len(tx.Recipients) > maxGroup {
				t.Errorf("%d recipients in one transaction", len(tx.Recipients))
			}
			for _, r := range tx.Recipients {
				seen[r.To]++
			}
		}
		for _, r := range rcpts {
			if seen[r] != 1 {
				t.Errorf("%s got %d", r, seen[r])
			}
		}
	})
}

func TestTemporaryRefusalIsRetriedWithBackoff(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "452 4.2.2 full", Times: 3}))
		l := n.accept("s@far.test", text("x"), "alice@"+domain)
		took := n.drained(3 * time.Minute)
		if took < 64*time.Second || took > 97*time.Second { // 5 s, 15 s and 60 s, each moved by up to a fifth
			t.Errorf("took %v", took)
		}
		var results []event.Result
		for _, o := range n.outcomes(event.Unit{Source: l.id}) {
			results = append(results, o.Result)
		}
		if fmt.Sprint(results) != "[deferred deferred deferred delivered]" {
			t.Errorf("results %v", results)
		}
		if st := n.status().State; st != event.HealthUp {
			t.Errorf("state %v", st)
		}
	})
}

// A message that is put off for a short while is not overtaken.
func TestOrderIsKeptOverShortTrouble(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "451 4.3.0 later", Times: 2}))
		n.mailTo("alice", 5)
		n.drained(2 * time.Minute)
		inOrder(t, w.mx(), "alice", 5)
	})
}

// A message that is put off for long does not hold up others.
func TestLongTroubleOfOneMessageHoldsUpNobody(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "451 4.2.0 later", Times: 4}))
		n.mailTo("alice", 3)
		w.await("two delivered", 3*time.Minute, func() bool { return len(w.mx().Transactions()) == 2 })
		n.drained(10 * time.Minute)
		if got := strings.Join(subjects(w.mx(), "alice@"+domain), ","); got != "alice 1,alice 2,alice 0" {
			t.Errorf("got %s", got)
		}
	})
}

func TestPermanentRefusalBounces(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(smtptest.Script{Rcpt: func(to string) smtptest.Action {
			if strings.HasPrefix(to, "bad") {
				return smtptest.Action{Reply: "550 5.1.1 no such user"}
			}
			return smtptest.Action{}
		}})
		l := n.accept("sender@far.test", text("x"), "alice@"+domain, "bad@"+domain, "bob@"+domain)
		quiet := n.accept("", text("y"), "bad@"+domain)
		n.drained(5 * time.Second)
		for i, want := range []event.Result{event.ResultDelivered, event.ResultBounced, event.ResultDelivered} {
			if o := n.last(l, i); o.Result != want {
				t.Errorf("recipient %d: %+v", i, o)
			}
		}
		if o := n.last(quiet, 0); o.Result != event.ResultBounced {
			t.Errorf("null sender: %+v", o)
		}
		w.await("bounce", 5*time.Second, func() bool { return n.status().Out == 0 })
		got := w.servers["out"].Transactions()
		if len(got) != 1 || got[0].From != "" || got[0].Recipients[0].To != "sender@far.test" {
			t.Fatalf("bounces: %+v", got)
		}
		if b := string(got[0].Body); !strings.Contains(b, "bad@"+domain) || !strings.Contains(b, "550 5.1.1") || strings.Contains(b, "alice@") {
			t.Errorf("bounce says %s", b)
		}
		if len(w.mx().Transactions()) != 1 {
			t.Errorf("primary got %d", len(w.mx().Transactions()))
		}
		if st := n.status().State; st != event.HealthUp {
			t.Errorf("state %v", st)
		}
	})
}

func TestExpiry(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.days = 2
		w.mx().Stop()
		l := n.accept("sender@far.test", text("x"), "alice@"+domain)
		n.becomes(event.HealthDown, 5*time.Second)
		w.configure(n, func(s *Site) { s.Policy.ProbeEvery = time.Hour }) // a day of seconds is long
		time.Sleep(24 * time.Hour)
		if st := n.status(); st.Queued != 1 {
			t.Fatalf("queued %d before the day", st.Queued)
		}
		time.Sleep(48 * time.Hour)
		if st := n.status(); st.Queued != 1 {
			t.Fatalf("queued %d, although there is somewhere to go", st.Queued)
		}
		w.configure(n, func(s *Site) { s.Primary = nil })
		n.drained(time.Minute)
		if o := n.last(l, 0); o.Result != event.ResultExpired {
			t.Errorf("outcome %+v", o)
		}
		w.await("bounce", time.Minute, func() bool { return len(w.servers["out"].Transactions()) == 1 })
	})
}

func TestFailoverSwitch(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.configure(n, func(s *Site) { s.Failover = "on" })
		n.mailTo("alice", 3)
		time.Sleep(time.Minute)
		if len(w.mx().Transactions()) != 0 || n.status().Queued != 3 {
			t.Fatal("delivered although it is held")
		}
		w.configure(n, func(s *Site) { s.Failover = "auto" })
		n.drained(5 * time.Second)
		inOrder(t, w.mx(), "alice", 3)

		// The banner probes see is broken, deliveries work: off delivers all the same.
		w.mx().Stop()
		n.becomes(event.HealthDown, 5*time.Second)
		n.mailTo("bob", 2)
		w.configure(n, func(s *Site) {
			s.Failover = "off"
			s.Primary = []string{"smtp://out:25"}
			s.Policy.ProbeEvery = time.Hour
		})
		n.drained(5 * time.Second)
		inOrder(t, w.servers["out"], "bob", 2)
	})
}

func TestRemovedDomainIsLeftAlone(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mu.Lock()
		w.sites = nil
		w.mu.Unlock()
		n.svc.Reload()
		time.Sleep(5 * time.Second)
		before := w.mx().Conns()
		n.mailTo("alice", 1)
		time.Sleep(time.Minute)
		if w.mx().Conns() != before || len(w.mx().Transactions()) != 0 {
			t.Error("a removed domain's server was asked")
		}
	})
}

func TestRedelivery(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		ctx := context.Background()
		l := n.accept("sender@far.test", text("x"), "alice@"+domain, "bob@"+domain)
		n.drained(5 * time.Second)
		item := event.Redelivery{Message: l.ref, N: 1, Domain: domain}
		order := Order{Tenant: w.tenant, Who: "admin", Items: []event.Redelivery{item}, Until: event.DayOf(n.log.Now()) + 10}
		got, err := n.svc.Redeliver(ctx, order, 25*time.Second)
		w.check(err)
		if len(got) != 1 || got[0].Outcome == nil || got[0].Outcome.Result != event.ResultDelivered || got[0].Already {
			t.Errorf("receipts %+v", got)
		}
		if s := subjects(w.mx(), "bob@"+domain); len(s) != 2 {
			t.Errorf("bob got %d", len(s))
		}
		order.To = "carol@" + domain
		got, err = n.svc.Redeliver(ctx, order, 25*time.Second)
		w.check(err)
		if got[0].Outcome == nil || got[0].Outcome.Result != event.ResultDelivered || len(subjects(w.mx(), "carol@"+domain)) != 1 {
			t.Errorf("receipts %+v", got)
		}

		// While the primary is down an order waits, and a second one is the same.
		w.mx().Stop()
		n.becomes(event.HealthDown, 5*time.Second)
		m := n.accept("sender@far.test", text("y"), "alice@"+domain)
		order = Order{Tenant: w.tenant, Who: "admin", Items: []event.Redelivery{{Message: m.ref, Domain: domain}, item}, Until: order.Until}
		got, err = n.svc.Redeliver(ctx, order, 5*time.Second)
		w.check(err)
		if !got[0].Already || got[0].Outcome != nil || got[1].Outcome != nil || got[1].Already {
			t.Errorf("receipts %+v", got)
		}
		w.mx().Resume()
		n.drained(30 * time.Second)
		if s := subjects(w.mx(), "alice@"+domain); len(s) != 2 {
			t.Errorf("alice got %v", s)
		}
	})
}

// A redelivery that is refused is no news to the sender.
func TestRefusedRedeliveryIsNotBounced(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		l := n.accept("sender@far.test", text("x"), "alice@"+domain)
		n.drained(5 * time.Second)
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "550 5.1.1 no"}))
		got, err := n.svc.Redeliver(context.Background(), Order{
			Tenant: w.tenant, Items: []event.Redelivery{{Message: l.ref, Domain: domain}}, Until: event.DayOf(n.log.Now()) + 10,
		}, 25*time.Second)
		w.check(err)
		if got[0].Outcome == nil || got[0].Outcome.Result != event.ResultBounced {
			t.Errorf("receipts %+v", got)
		}
		time.Sleep(time.Minute)
		if len(w.servers["out"].Transactions()) != 0 {
			t.Error("a bounce went out")
		}
	})
}
