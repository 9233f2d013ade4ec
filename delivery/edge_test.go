package delivery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/objstore"
)

// Each message is seen when it comes, not when somebody looks around.
func TestNoWakeUpIsLost(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		for i := range 100 {
			n.accept("s@far.test", text(fmt.Sprintf("alice %d", i)), "alice@"+domain)
			if i%3 == 0 {
				time.Sleep(time.Duration(i) * 7 * time.Millisecond)
			}
			if took := n.drained(time.Second); took > 100*time.Millisecond {
				t.Fatalf("message %d took %v", i, took)
			}
		}
		inOrder(t, w.mx(), "alice", 100)
	})
}

// A queue that exceeds the window is loaded piece by piece, whatever of it was
// deferred meanwhile.
func TestQueueLargerThanTheWindow(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.configure(n, func(s *Site) { s.Failover = "on" })
		const messages = 3 * maxWindow / maxGroup
		for i := range messages {
			var rcpts []string
			for u := range maxGroup {
				rcpts = append(rcpts, fmt.Sprintf("u%d@%s", u, domain))
			}
			n.accept("s@far.test", text(fmt.Sprint(i)), rcpts...)
		}
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "452 4.5.3 too many", Times: 250}))
		w.configure(n, func(s *Site) { s.Failover = "auto" })
		n.drained(10 * time.Minute)
		for u := range maxGroup {
			got := subjects(w.mx(), fmt.Sprintf("u%d@%s", u, domain))
			if len(got) != messages {
				t.Fatalf("u%d got %d", u, len(got))
			}
			for i, s := range got {
				if s != fmt.Sprint(i) {
					t.Fatalf("u%d got %v", u, got)
				}
			}
		}
	})
}

// A message whose body is damaged stays due and holds up nobody.
func TestDamagedMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days = 2
		n := w.open()
		bad := n.accept("s@far.test", text("alice 0"), "alice@"+domain)
		n.stop()
		key := fmt.Sprintf("log/%02x/%020d", bad.ref.Position.Partition, bad.ref.Position.Seq)
		raw, _, err := objstore.ReadAll(context.Background(), w.bucket, key, 1<<20)
		w.check(err)
		raw[len(raw)-20] ^= 1 // bodies stand last
		_, err = w.bucket.Put(context.Background(), key, bytes.NewReader(raw), int64(len(raw)), objstore.PutOptions{})
		w.check(err)
		n = w.start()
		defer n.stop()
		n.mailTo("bob", 20)
		n.accept("s@far.test", text("alice 1"), "alice@"+domain)
		w.await("all others", 10*time.Second, func() bool { return n.status().Queued == 1 })
		inOrder(t, w.mx(), "bob", 20)
		if got := subjects(w.mx(), "alice@"+domain); len(got) != 1 {
			t.Errorf("alice got %v", got)
		}
		w.configure(n, func(s *Site) { s.Policy.ProbeEvery, s.Primary = time.Hour, nil })
		n.drained(49 * time.Hour)
		if o := n.last(bad, 0); o.Result != event.ResultExpired {
			t.Errorf("outcome %+v", o)
		}
		w.await("bounce", time.Minute, func() bool { return len(w.servers["out"].Transactions()) == 1 })
	})
}

// After a hung final dot the trial is made with another message.
func TestTrialTakesAnotherMessage(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.configure(n, func(s *Site) { s.DotTimeout = 10 * time.Second })
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Hang: true}))
		for i := range 2 {
			n.accept("s@far.test", text(fmt.Sprint("hung ", i)), fmt.Sprintf("u%d@%s", i, domain))
		}
		n.becomes(event.HealthDown, 2*time.Minute)
		w.mx().Forget()
		n.accept("s@far.test", text("fresh"), "alice@"+domain)
		w.await("a trial", 10*time.Minute, func() bool { return len(w.mx().Transactions()) > 0 })
		if got := subjectOf(w.mx().Transactions()[0].Body); got != "fresh" {
			t.Errorf("the trial was %q", got)
		}
	})
}

// Three messages for one full mailbox are no broken site.
func TestFullMailboxIsNoOutage(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		w.mx().Script(smtptest.Script{Rcpt: func(to string) smtptest.Action {
			if to == "full@"+domain {
				return smtptest.Action{Reply: "452 4.2.2 mailbox full"}
			}
			return smtptest.Action{}
		}})
		for i := range 8 {
			n.accept("s@far.test", text(fmt.Sprint(i)), "full@"+domain)
			time.Sleep(2 * time.Minute)
		}
		for _, r := range n.facts() {
			if f, ok := r.Fact.(*event.HealthChanged); ok {
				t.Errorf("state %v", f.To)
			}
		}
	})
}

// A large body, read in parts from the bucket, goes out whole.
func TestLargeBody(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		var b bytes.Buffer
		b.WriteString("Subject: large\r\n\r\n")
		for i := 0; b.Len() < 9<<20; i++ {
			fmt.Fprintf(&b, "line %d of a large message, %x\r\n", i, i*i)
		}
		l := n.accept("s@far.test", b.String(), "alice@"+domain)
		n.drained(time.Minute)
		got := w.mx().Transactions()
		want, _ := io.ReadAll(io.MultiReader(bytes.NewReader(l.trace), bytes.NewReader(l.body)))
		if len(got) != 1 || !bytes.Equal(got[0].Body, want) {
			t.Errorf("%d messages arrived, or an altered one", len(got))
		}
	})
}

// A restart does not let later messages overtake one that waits a short while.
func TestOrderIsKeptOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		w.mx().Script(at(smtptest.Rcpt, smtptest.Action{Reply: "451 4.3.0 later", Times: 2}))
		n.mailTo("alice", 1)
		time.Sleep(10 * time.Second) // the second attempt was made
		n.stop()
		n = w.start()
		defer n.stop()
		n.accept("s@far.test", text("alice 1"), "alice@"+domain)
		n.drained(time.Minute)
		inOrder(t, w.mx(), "alice", 2)
	})
}

// A node that stops keeps its lease until nothing is under way: another node
// finds no open intent.
func TestLeaseOutlivesWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.poll = 200 * time.Millisecond
		a := w.start()
		time.Sleep(time.Second)
		b := w.start()
		defer b.stop()
		w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 9 * time.Second}))
		l := a.accept("s@far.test", text("x"), "alice@"+domain)
		time.Sleep(time.Second)
		a.stop()
		time.Sleep(time.Minute)
		if got := len(w.mx().Transactions()); got != 1 {
			t.Errorf("primary got %d", got)
		}
		if o := b.last(l, 0); o.Result != event.ResultDelivered || o.Uncertain {
			t.Errorf("outcome %+v", o)
		}
	})
}

// When the primary is another server, connections to the old one are not used.
func TestPrimaryIsMoved(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		n.mailTo("alice", 2)
		n.drained(5 * time.Second)
		w.configure(n, func(s *Site) { s.Primary = []string{"smtp://out:25?tls=none"} })
		n.mailTo("bob", 2)
		n.drained(5 * time.Second)
		inOrder(t, w.mx(), "alice", 2)
		inOrder(t, w.servers["out"], "bob", 2)
	})
}

// A primary that must have TLS and has none is down, and stays so: what a probe
// sees is what a delivery would.
func TestRequiredTLSIsMissing(t *testing.T) {
	bubble(t, func(w *world, n *node) {
		n.mailTo("alice", 1)
		n.drained(5 * time.Second)
		w.configure(n, func(s *Site) { s.Primary = []string{"smtp://mx:25?tls=required"} })
		for i := range 5 {
			n.accept("s@far.test", text(fmt.Sprintf("alice %d", i+1)), "alice@"+domain)
			time.Sleep(5 * time.Minute)
		}
		states := ""
		for _, r := range n.facts() {
			if f, ok := r.Fact.(*event.HealthChanged); ok {
				states += f.To.String() + " "
				if last := f.Evidence[len(f.Evidence)-1]; last.Phase != "tls" {
					t.Errorf("evidence for %v: %+v", f.To, last)
				}
			}
		}
		if states != "suspect down " {
			t.Errorf("states %q", states)
		}
		w.configure(n, func(s *Site) { s.Primary = []string{"smtp://mx:25?tls=none"} })
		n.drained(time.Minute)
		inOrder(t, w.mx(), "alice", 6)
	})
}
