package delivery

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/objstore/fault"
)

func TestPrimaryDownAndBack(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		n.mailTo("alice", 3)
		n.drained(5 * time.Second)
		w.mx().Stop()
		if took := n.becomes(event.HealthDown, 5*time.Second); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		for i := 3; i < 60; i++ {
			n.accept("s@far.test", text(fmt.Sprintf("alice %d", i)), "alice@"+domain, "bob@"+domain)
		}
		conns := w.mx().Conns()
		time.Sleep(time.Hour)
		if st := n.status(); st.Queued != 114 || st.State != event.HealthDown || w.mx().Conns() != conns {
			t.Errorf("%+v", st)
		}
		w.mx().Resume()
		n.drained(30 * time.Second)
		n.becomes(event.HealthUp, 5*time.Second)
		inOrder(t, w.mx(), "alice", 60)
		var states []string
		for _, r := range n.facts() {
			switch f := r.Fact.(type) {
			case *event.HealthChanged:
				states = append(states, f.To.String())
				if len(f.Evidence) == 0 {
					t.Errorf("change to %v without evidence", f.To)
				}
			case *event.DeliverySettled:
				for _, o := range f.Outcomes {
					if o.Result != event.ResultDelivered || o.Uncertain {
						t.Errorf("outcome %+v", o)
					}
				}
			}
		}
		if got := strings.Join(states, " "); got != "suspect down recovering up" {
			t.Errorf("states %s", got)
		}
	})
}

// Under load the connections break at every phase; order and count are kept.
func TestPrimaryDiesUnderLoad(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		var feeding sync.WaitGroup
		feeding.Go(func() {
			for i := range 200 {
				for _, u := range []string{"alice", "bob", "carol"} {
					n.accept("s@far.test", text(fmt.Sprintf("%s %d", u, i)), u+"@"+domain)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		for range 3 {
			time.Sleep(2500 * time.Millisecond)
			w.mx().Stop()
			time.Sleep(4 * time.Second)
			w.mx().Resume()
		}
		feeding.Wait()
		n.drained(3 * time.Minute)
		for _, u := range []string{"alice", "bob", "carol"} {
			inOrder(t, w.mx(), u, 200)
		}
	})
}

func TestHungBanner(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		time.Sleep(1900 * time.Millisecond) // just before a probe, or just after one
		w.mx().Script(at(smtptest.Banner, smtptest.Action{Hang: true}))
		n.becomes(event.HealthDown, 5*time.Second)
		n.mailTo("alice", 3)
		time.Sleep(time.Minute)
		w.mx().Script(smtptest.Script{})
		n.drained(30 * time.Second)
		inOrder(t, w.mx(), "alice", 3)
	})
}

// A primary that takes messages and never answers the final dot looks up to a
// probe.
func TestHungDot(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.configure(n, func(s *Site) { s.DotTimeout = 10 * time.Second })
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Hang: true, Lose: true}))
		var ls []letter
		for i := range 6 {
			ls = append(ls, n.accept("s@far.test", text(fmt.Sprint(i)), fmt.Sprintf("u%d@%s", i, domain)))
		}
		n.becomes(event.HealthDown, 2*time.Minute)
		sawLost := false
		for i, l := range ls {
			for _, o := range n.outcomes(event.Unit{Source: l.id}) {
				sawLost = true
				if o.Result != event.ResultLost || !o.Uncertain {
					t.Errorf("message %d: %+v", i, o)
				}
			}
		}
		if !sawLost || !n.svc.sites[domain].health().NeedsDelivery {
			t.Error("not a matter of deliveries")
		}
		time.Sleep(10 * time.Minute)
		if st := n.status().State; st == event.HealthUp || st == event.HealthSuspect {
			t.Errorf("state %v though nothing was delivered", st)
		}
		w.mx().Script(smtptest.Script{})
		n.drained(40 * time.Minute)
		n.becomes(event.HealthUp, time.Minute)
		for i, l := range ls {
			if o := n.last(l, 0); o.Result != event.ResultDelivered {
				t.Errorf("message %d: %+v", i, o)
			}
		}
	})
}

// One message that hangs the primary's filter says nothing about the site, and
// holds up no other.
func TestOneBadMessage(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.configure(n, func(s *Site) { s.DotTimeout = 10 * time.Second })
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Hang: true, Lose: true, Times: 1}))
		bad := n.accept("s@far.test", text("bad"), "eve@"+domain)
		time.Sleep(100 * time.Millisecond)
		n.mailTo("alice", 5)
		n.drained(time.Minute)
		inOrder(t, w.mx(), "alice", 5)
		if o := n.last(bad, 0); o.Result != event.ResultDelivered || !o.Uncertain {
			t.Errorf("outcome %+v", o)
		}
		if st := n.status().State; st != event.HealthUp {
			t.Errorf("state %v", st)
		}
	})
}

func TestLostAnswer(t *testing.T) {
	for _, recorded := range []bool{true, false} {
		t.Run(fmt.Sprint("recorded ", recorded), func(t *testing.T) {
			bubble(t, func(w *world, n *node) {
				w.mx().Script(at(smtptest.Dot, smtptest.Action{Drop: true, Lose: !recorded, Times: 1}))
				l := n.accept("s@far.test", text("x"), "alice@"+domain)
				n.drained(time.Minute)
				want := 1
				if recorded {
					want = 2
				}
				if got := len(w.mx().Transactions()); got != want {
					t.Errorf("primary got %d, want %d", got, want)
				}
				os := n.outcomes(event.Unit{Source: l.id})
				if len(os) != 2 || os[0].Result != event.ResultLost || os[1].Result != event.ResultDelivered || !os[1].Uncertain {
					t.Errorf("outcomes %+v", os)
				}
			})
		})
	}
}

func TestMassRefusalAfterAnOutageIsHeld(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Stop()
		n.becomes(event.HealthDown, 5*time.Second)
		var ls []letter
		for i := range 20 {
			ls = append(ls, n.accept("s@far.test", text(fmt.Sprint(i)), fmt.Sprintf("u%d@%s", i, domain)))
		}
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "550 5.7.1 relaying denied"}))
		w.mx().Resume()
		w.await("all held", 5*time.Minute, func() bool { return n.status().Held == 20 })
		if got := len(w.servers["out"].Transactions()); got != 0 {
			t.Errorf("%d bounces", got)
		}
		if st := n.status(); st.Queued != 0 {
			t.Errorf("%+v", st)
		}
		// An administrator has looked and orders them again.
		w.mx().Script(smtptest.Script{})
		var items []event.Redelivery
		for _, l := range ls {
			items = append(items, event.Redelivery{Message: l.ref, Domain: domain})
		}
		got, err := n.svc.Redeliver(context.Background(), Order{Tenant: w.tenant, Items: items, Until: event.DayOf(n.log.Now()) + 10}, 25*time.Second)
		w.check(err)
		for _, r := range got {
			if r.Outcome == nil || r.Outcome.Result != event.ResultDelivered {
				t.Errorf("receipt %+v", r)
			}
		}
		if st := n.status(); st.Held != 0 || st.Queued != 0 || len(w.mx().Transactions()) != 20 {
			t.Errorf("%+v, %d delivered", st, len(w.mx().Transactions()))
		}
	})
}

// Held mail, too, comes to an end on its day, once there is nowhere to go.
func TestHeldMailExpires(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.days = 2
		w.mx().Stop()
		n.becomes(event.HealthDown, 5*time.Second)
		for i := range 8 {
			n.accept("s@far.test", text(fmt.Sprint(i)), fmt.Sprintf("u%d@%s", i, domain))
		}
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "550 5.7.1 relaying denied"}))
		w.mx().Resume()
		w.await("all held", 5*time.Minute, func() bool { return n.status().Held == 8 })
		w.configure(n, func(s *Site) { s.Policy.ProbeEvery = time.Hour }) // a day of seconds is long
		time.Sleep(24 * time.Hour)
		if st := n.status(); st.Held != 8 {
			t.Fatalf("%+v", st)
		}
		time.Sleep(48 * time.Hour)
		if st := n.status(); st.Held != 8 {
			t.Fatalf("%+v", st)
		}
		w.configure(n, func(s *Site) { s.Primary = nil })
		w.await("expired", time.Minute, func() bool { return n.status().Held == 0 })
		w.await("bounces", time.Minute, func() bool { return len(w.servers["out"].Transactions()) == 8 })
	})
}

// crowd limits the connections of a primary.
type crowd struct {
	mu   sync.Mutex
	now  int
	most int
	peak int
	full *smtptest.Server // says 421 to everybody
}

type counted struct {
	net.Conn
	once sync.Once
	c    *crowd
}

func (c *counted) Close() error {
	c.once.Do(func() {
		c.c.mu.Lock()
		c.c.now--
		c.c.mu.Unlock()
	})
	return c.Conn.Close()
}

func TestPrimaryThatTakesFewConnections(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		c := &crowd{most: 4, full: smtptest.New(smtptest.Options{})}
		c.full.Script(at(smtptest.Banner, smtptest.Action{Reply: "421 4.7.0 too many connections"}))
		defer c.full.Stop()
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 30 * time.Millisecond}))
		n.mu.Lock()
		n.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.now >= c.most {
				return c.full.Dial(ctx, network, addr)
			}
			nc, err := w.mx().Dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			c.now++
			c.peak = max(c.peak, c.now)
			return &counted{Conn: nc, c: c}, nil
		}
		n.mu.Unlock()
		for u := range 30 {
			n.mailTo(fmt.Sprintf("u%d", u), 10)
		}
		took := n.drained(time.Minute)
		for u := range 30 {
			inOrder(t, w.mx(), fmt.Sprintf("u%d", u), 10)
		}
		c.mu.Lock()
		if c.peak != 4 || took > 20*time.Second {
			t.Errorf("took %v on at most %d connections", took, c.peak)
		}
		c.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if st := n.status().State; st != event.HealthUp {
			t.Errorf("state %v", st)
		}
		for _, r := range n.facts() {
			if f, ok := r.Fact.(*event.HealthChanged); ok && f.To == event.HealthDown {
				t.Error("taken for down")
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.now != 0 {
			t.Errorf("%d connections are still open", c.now)
		}
	})
}

func TestStoreHangsDuringTheIntent(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(at(smtptest.Data, smtptest.Action{Delay: 2 * time.Second}))
		l := n.accept("s@far.test", text("x"), "alice@"+domain)
		time.Sleep(time.Second)
		hang := n.bucket.Inject(fault.Rule{Op: fault.Put, Kind: fault.Hang, Times: -1})
		time.Sleep(5 * time.Minute)
		if got := w.mx().Transactions(); len(got) != 0 {
			t.Fatal("a final dot was sent without an intent")
		}
		hang.Remove()
		n.drained(2 * time.Minute)
		if o := n.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain || len(w.mx().Transactions()) != 1 {
			t.Errorf("outcome %+v, %d delivered", o, len(w.mx().Transactions()))
		}
	})
}

func TestStoreHangsBeforeTheOutcome(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 2 * time.Second}))
		l := n.accept("s@far.test", text("x"), "alice@"+domain)
		time.Sleep(time.Second) // the dot is out
		hang := n.bucket.Inject(fault.Rule{Op: fault.Put, Kind: fault.Hang, Times: -1})
		time.Sleep(10 * time.Minute)
		if len(w.mx().Transactions()) != 1 || n.last(l, 0).Result != 0 {
			t.Fatal("not where it should be")
		}
		hang.Remove()
		n.drained(2 * time.Minute)
		if o := n.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain || len(w.mx().Transactions()) != 1 {
			t.Errorf("outcome %+v, %d delivered", o, len(w.mx().Transactions()))
		}
	})
}

func TestRestartBetweenIntentAndOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 2 * time.Second}))
		l := n.accept("s@far.test", text("x"), "alice@"+domain)
		time.Sleep(time.Second)
		n.vanish()
		n = w.start()
		defer n.stop()
		n.drained(time.Minute)
		if o := n.last(l, 0); o.Result != event.ResultDelivered || !o.Uncertain {
			t.Errorf("outcome %+v", o)
		}
		if got := len(w.mx().Transactions()); got != 2 {
			t.Errorf("primary got %d", got)
		}
	})
}

// A node that is told to stop waits for the answer to a final dot, and breaks
// off what has not come that far.
func TestStopAwaitsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 8 * time.Second}))
		l := n.accept("s@far.test", text("x"), "alice@"+domain)
		time.Sleep(time.Second)
		began := time.Now()
		n.stop()
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("took %v", took)
		}
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Hang: true}))
		n = w.start()
		if o := n.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain {
			t.Errorf("outcome %+v", o)
		}
		l = n.accept("s@far.test", text("y"), "alice@"+domain)
		time.Sleep(time.Second)
		began = time.Now()
		n.stop()
		if took := time.Since(began); took > 14*time.Second {
			t.Errorf("took %v", took)
		}
		w.mx().Script(at(smtptest.Data, smtptest.Action{Hang: true}))
		n = w.start()
		if o := n.last(l, 0); o.Result != event.ResultLost || !o.Uncertain {
			t.Errorf("outcome %+v", o)
		}
		m := n.accept("s@far.test", text("z"), "bob@"+domain)
		time.Sleep(5 * time.Second)
		began = time.Now()
		n.stop()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		w.mx().Script(smtptest.Script{})
		n = w.start()
		defer n.stop()
		n.drained(time.Minute)
		if o := n.last(m, 0); o.Result != event.ResultDelivered || o.Uncertain {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.poll = 200 * time.Millisecond
		a := w.start()
		time.Sleep(time.Second)
		b := w.start()
		defer b.stop()
		for i := range 20 {
			a.accept("s@far.test", text(fmt.Sprintf("alice %d", i)), "alice@"+domain)
			b.accept("s@far.test", text(fmt.Sprintf("bob %d", i)), "bob@"+domain)
		}
		b.drained(10 * time.Second) // it knows its own last message at once, a does not
		inOrder(t, w.mx(), "bob", 20)
		inOrder(t, w.mx(), "alice", 20)
		b.mu.Lock()
		if len(b.conns) != 0 {
			t.Error("the node without the lease was at the primary")
		}
		b.mu.Unlock()
		w.mx().Script(at(smtptest.Data, smtptest.Action{Hang: true})) // the next message stays before its dot
		l := a.accept("s@far.test", text("alice 20"), "alice@"+domain)
		time.Sleep(time.Second)
		a.vanish()
		w.mx().Script(smtptest.Script{})
		b.drained(leaseTerm + 2*leaseRenew)
		inOrder(t, w.mx(), "alice", 21)
		if o := b.last(l, 0); o.Uncertain || o.Result != event.ResultDelivered {
			t.Errorf("outcome %+v", o)
		}
		c := w.start()
		defer c.stop()
		b.stop() // gives the lease back
		c.mailTo("carol", 3)
		c.drained(2 * leaseRenew)
		inOrder(t, w.mx(), "carol", 3)
	})
}

// While one node's lease has run out because the store does not answer it,
// another delivers; no message is delivered twice without being marked.
func TestNodeThatLosesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.poll = 200 * time.Millisecond
		a := w.start()
		defer a.stop()
		time.Sleep(time.Second)
		b := w.start()
		defer b.stop()
		a.mailTo("alice", 5)
		a.drained(10 * time.Second)
		cut := a.bucket.Inject(fault.Rule{Kind: fault.Hang, Times: -1})
		b.mailTo("bob", 30)
		time.Sleep(time.Second)
		b.drained(leaseTerm + 2*leaseRenew)
		cut.Remove()
		b.mailTo("carol", 5)
		time.Sleep(time.Second) // the next look at the log
		b.drained(time.Minute)
		for user, count := range map[string]int{"alice": 5, "bob": 30, "carol": 5} {
			inOrder(t, w.mx(), user, count)
		}
	})
}

func TestRepudiatedWhileUnderWay(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(at(smtptest.Data, smtptest.Action{Delay: 3 * time.Second}))
		l := n.accept("s@far.test", text("x"), "alice@"+domain)
		time.Sleep(time.Second)
		_, err := n.log.Append(context.Background(), event.Event{ID: event.NewID(), Tenant: w.tenant, Fact: &event.Repudiated{Message: l.id}})
		w.check(err)
		time.Sleep(time.Minute)
		if got := len(w.mx().Transactions()); got != 0 || n.status().Queued != 0 {
			t.Errorf("primary got %d, %+v", got, n.status())
		}
	})
}
