package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/e2e/outside"
)

// TestHungPrimary: a primary that accepts connections and says nothing is down,
// and is up again when it talks.
func TestHungPrimary(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	s.primary.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Banner: {Hang: true}}})
	took := s.awaitState("down", 20*time.Second) // Three probes of two seconds, one a second.
	t.Logf("a hung banner is noticed after %v", took.Round(10*time.Millisecond))
	s.send("sender@remote.example", "alice@acme.test", numbered("hung", 1))
	s.primary.Script(smtptest.Script{})
	s.awaitState("up", 30*time.Second)
	s.awaitDrained(30 * time.Second)
	s.once([]byte("Subject: hung 1\r\n"))
}

// TestOneBadMessage: a message that the primary refuses for good bounces to its
// sender, and neither it nor an unknown recipient makes the site look down.
func TestOneBadMessage(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	s.primary.Script(smtptest.Script{Rcpt: func(to string) smtptest.Action {
		if to == "bob@acme.test" {
			return smtptest.Action{Reply: "550 5.1.1 no such user"}
		}
		return smtptest.Action{}
	}})
	s.send("sender@remote.example", "bob@acme.test", numbered("bad", 1))
	s.send("", "bob@acme.test", numbered("bounce of a bounce", 2))
	s.send("sender@remote.example", "alice@acme.test", numbered("good", 3))
	s.eventually(30*time.Second, func() error {
		if n := len(s.search("--state", "bounced")); n != 2 {
			return fmt.Errorf("%d messages bounced, want 2", n)
		}
		if n := len(s.world.Transactions()); n != 1 {
			return fmt.Errorf("%d notices sent, want 1: none for a null sender", n)
		}
		return nil
	})
	notice := s.world.Transactions()[0]
	body := string(notice.Body)
	if notice.From != "" || len(notice.Recipients) != 1 || notice.Recipients[0].To != "sender@remote.example" {
		t.Errorf("the notice went from <%s> to %v", notice.From, notice.Recipients)
	}
	for _, want := range []string{"multipart/report", "message/delivery-status", "Action: failed", "bob@acme.test", "5.1.1"} { // RFC 3464
		if !strings.Contains(body, want) {
			t.Errorf("the notice does not say %q", want)
		}
	}
	if state, _, err := s.Domain(t.Context(), "acme.test"); state != "up" || err != nil {
		t.Errorf("after a refused recipient the site is %s, %v", state, err)
	}
	s.once([]byte("Subject: good 3\r\n"))
}

// TestFailover: an administrator overrides the detector, both ways.
func TestFailover(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	letIn := func() error {
		m, err := outside.DialIMAP(t.Context(), s.IMAP, "alice@acme.test", "correct horse")
		if err == nil {
			m.Close()
		}
		return err
	}
	s.must("failover", "on", "acme.test")
	s.send("sender@remote.example", "alice@acme.test", numbered("override", 1))
	if err := letIn(); err != nil {
		t.Errorf("with failover on alice is refused: %v", err)
	}
	time.Sleep(3 * time.Second) // Long enough for a delivery that should not happen.
	if n := len(s.primary.Transactions()); n != 0 {
		t.Errorf("with failover on the primary got %d messages", n)
	}
	s.must("failover", "off", "acme.test")
	s.awaitDrained(30 * time.Second)
	s.once([]byte("Subject: override 1\r\n"))
	if err := letIn(); err == nil {
		t.Error("with failover off alice is let in")
	}
	s.primary.Stop()
	s.must("failover", "auto", "acme.test")
	s.awaitState("down", 10*time.Second)
	if err := letIn(); err != nil {
		t.Errorf("with the primary down alice is refused: %v", err)
	}
}

// TestIdle: what one client does another sees in IDLE at once, and so it does
// new mail.
func TestIdle(t *testing.T) {
	t.Parallel()
	s := open(t, setting{continuity: "always"})
	s.send("sender@remote.example", "alice@acme.test", numbered("idle", 1))
	watcher, worker := s.login("alice@acme.test", "correct horse"), s.login("alice@acme.test", "correct horse")
	s.do(watcher, "SELECT INBOX")
	s.do(worker, "SELECT INBOX")
	const atOnce = 2 * time.Second
	sees := func(what string, act func()) {
		t.Helper()
		if err := watcher.Idle(atOnce, act, func(l outside.Line) bool { return strings.Contains(l.Text, what) }); err != nil {
			t.Errorf("%s in IDLE: %v", what, err)
		}
	}
	sees("2 EXISTS", func() { s.send("sender@remote.example", "alice@acme.test", numbered("idle", 2)) })
	sees(`\Flagged`, func() { s.do(worker, `STORE 1 +FLAGS (\Flagged)`) })
	sees("1 EXPUNGE", func() {
		s.do(worker, `STORE 1 +FLAGS (\Deleted)`)
		s.do(worker, "EXPUNGE")
	})
	view := s.look(worker, "INBOX")
	if len(view.Messages) != 1 {
		t.Errorf("INBOX has %d messages, want 1", len(view.Messages))
	}
}

// TestSecondCustomer: a transaction has recipients of one customer only; the
// others are to be sent in another.
func TestSecondCustomer(t *testing.T) {
	t.Parallel()
	s := prepare(t, setting{})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	acme := outside.Acme(s.primary.Addr(), s.world.Addr())
	other := outside.Domain{Name: "zenith.test", Primary: []string{s.primary.Addr()}, Users: []outside.User{{Address: "carol@zenith.test", Password: "third password"}}}
	sister := outside.Domain{Name: "acme-west.test", Tenant: "acme", Primary: []string{s.primary.Addr()}, Users: []outside.User{{Address: "dave@acme-west.test", Password: "fourth password"}}}
	if _, err := s.Apply(t.Context(), acme, other, sister); err != nil {
		t.Fatal(err)
	}
	conn, err := outside.DialSMTP(t.Context(), s.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range []struct {
		command string
		code    int // 0 when it has to be accepted, 5 for any 5xx
	}{
		{"MAIL FROM:<sender@remote.example>", 0},
		{"RCPT TO:<alice@acme.test>", 0},
		{"RCPT TO:<dave@acme-west.test>", 0},
		{"RCPT TO:<carol@zenith.test>", 452},
		{"RCPT TO:<eve@elsewhere.test>", 5},
	} {
		if _, err := conn.Command(c.command, '2'); (c.code == 0) != (err == nil) || outside.Code(err) != c.code && (c.code != 5 || outside.Code(err)/100 != 5) {
			t.Errorf("%s: %v, want code %d", c.command, err, c.code)
		}
	}
	if _, err := conn.Command("RSET", '2'); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Send("sender@remote.example", []string{"carol@zenith.test"}, numbered("second customer", 1)); err != nil {
		t.Error(err)
	}
	rows := s.search("--rcpt", "carol@zenith.test")
	if len(rows) != 1 || !slices.Equal(rows[0].Rcpt, []string{"carol@zenith.test"}) {
		t.Errorf("rows %+v, want carol's message", rows)
	}
}
