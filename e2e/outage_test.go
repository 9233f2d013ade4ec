package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/e2e/outside"
)

// load sends numbered messages to alice, from several connections at once, until
// it is stopped. Every one has to be accepted.
type load struct {
	s    *scene
	kind string
	stop chan struct{}
	wg   sync.WaitGroup
	next atomic.Int64

	mu   sync.Mutex
	sent [][]byte
}

func (s *scene) startLoad(kind string) *load {
	l := &load{s: s, kind: kind, stop: make(chan struct{})}
	for range 3 {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				message := numbered(kind, int(l.next.Add(1)))
				if _, err := outside.SendOne(s.t.Context(), s.SMTP, "sender@remote.example", []string{"alice@acme.test"}, message); err != nil {
					s.t.Errorf("send under load: %v", err)
					return
				}
				l.mu.Lock()
				l.sent = append(l.sent, message)
				l.mu.Unlock()
			}
		})
	}
	return l
}

// end stops the load and returns what was sent.
func (l *load) end() [][]byte {
	close(l.stop)
	l.wg.Wait()
	return l.sent
}

// holds checks that a view has each of the messages once, below one Received
// field, byte for byte.
func (s *scene) holds(v outside.View, messages [][]byte) {
	s.t.Helper()
	have := map[string]int{}
	for uid, seen := range v.Messages {
		rest, ok := outside.CutReceived(seen.Body)
		if !ok {
			s.t.Errorf("UID %d has no Received field on top", uid)
		}
		have[digest(rest)]++
	}
	for _, m := range messages {
		if n := have[digest(outside.AsSent(m))]; n != 1 {
			s.t.Errorf("a message is in the mailbox %d times, want once: %.200q", n, m)
		}
	}
}

// TestOutage stops the primary under load. The domain is down within five
// seconds; then users log in, find everything, work with it, and write.
func TestOutage(t *testing.T) {
	s := open(t, setting{})
	if _, err := outside.DialIMAP(t.Context(), s.IMAP, "alice@acme.test", "correct horse"); err == nil {
		t.Error("alice is let in although the primary is up")
	}
	load := s.startLoad("outage")
	s.eventually(10*time.Second, func() error {
		if load.next.Load() < 50 {
			return fmt.Errorf("only %d messages sent", load.next.Load())
		}
		return nil
	})
	s.primary.Stop()
	took := s.awaitState("down", 5*time.Second)
	t.Logf("down %v after the primary stopped", took.Round(10*time.Millisecond))
	s.eventually(10*time.Second, func() error {
		if load.next.Load() < 400 {
			return fmt.Errorf("only %d messages sent", load.next.Load())
		}
		return nil
	})
	sent := load.end()

	if _, err := outside.DialIMAP(t.Context(), s.IMAP, "alice@acme.test", "wrong"); err == nil {
		t.Error("a wrong password is let in")
	}
	alice := s.login("alice@acme.test", "correct horse")
	s.holds(s.look(alice, "INBOX"), sent)
	s.worksInMailbox(alice)
	s.writesToBob(alice)
	s.must("log", "verify")
}

// worksInMailbox does what users do, and checks with a second connection and
// after a restart that it holds.
func (s *scene) worksInMailbox(alice *outside.Mailbox) {
	s.t.Helper()
	t := s.t
	inbox := s.look(alice, "INBOX")
	var uids []uint32
	for uid := range inbox.Messages {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	if len(uids) < 10 {
		t.Fatalf("INBOX has %d messages", len(uids))
	}
	s.do(alice, fmt.Sprintf(`UID STORE %d +FLAGS (\Seen \Flagged $Urgent)`, uids[0]))
	s.do(alice, fmt.Sprintf(`UID STORE %d +FLAGS (\Answered)`, uids[1]))
	s.do(alice, fmt.Sprintf(`UID STORE %d -FLAGS (\Answered)`, uids[1]))
	s.do(alice, fmt.Sprintf(`UID MOVE %d Archive`, uids[2]))
	s.do(alice, `CREATE "Projects/Heron"`)
	s.do(alice, fmt.Sprintf(`UID COPY %d "Projects/Heron"`, uids[3]))
	draft := []byte("From: alice@acme.test\r\nSubject: draft\r\n\r\nnot yet sent\r\n")
	if err := alice.Append("Drafts", `(\Draft \Seen)`, draft); err != nil {
		t.Fatal(err)
	}
	s.do(alice, fmt.Sprintf(`UID STORE %d +FLAGS (\Deleted)`, uids[4]))
	s.do(alice, fmt.Sprintf(`UID EXPUNGE %d`, uids[4]))

	check := func(m *outside.Mailbox) map[string]outside.View {
		t.Helper()
		views := map[string]outside.View{}
		for _, name := range []string{"INBOX", "Archive", "Drafts", "Projects/Heron"} {
			views[name] = s.look(m, name)
		}
		now := views["INBOX"]
		if got := now.Messages[uids[0]].Flags; got != `$Urgent \Flagged \Seen` {
			t.Errorf("flags of the first message are %q", got)
		}
		if got := now.Messages[uids[1]].Flags; got != "" {
			t.Errorf("flags of the second message are %q", got)
		}
		for _, gone := range []uint32{uids[2], uids[4]} {
			if _, still := now.Messages[gone]; still {
				t.Errorf("UID %d is still in INBOX", gone)
			}
		}
		if now.UIDValidity != inbox.UIDValidity || len(now.Messages) != len(uids)-2 {
			t.Errorf("INBOX has UIDVALIDITY %d and %d messages, want %d and %d", now.UIDValidity, len(now.Messages), inbox.UIDValidity, len(uids)-2)
		}
		for name, want := range map[string][]byte{"Archive": inbox.Messages[uids[2]].Body, "Projects/Heron": inbox.Messages[uids[3]].Body, "Drafts": draft} {
			if !only(views[name], want) {
				t.Errorf("%s does not hold exactly the message that was put there", name)
			}
		}
		return views
	}
	before := check(s.login("alice@acme.test", "correct horse"))
	s.restart()
	after := check(s.login("alice@acme.test", "correct horse"))
	s.sameViews(before, after)
}

// only says whether a view has one message, and that it is this one.
func only(v outside.View, body []byte) bool {
	for _, m := range v.Messages {
		return len(v.Messages) == 1 && bytes.Equal(m.Body, body)
	}
	return false
}

// sameViews checks that mailboxes look the same, UIDs and flags and all.
func (s *scene) sameViews(before, after map[string]outside.View) {
	s.t.Helper()
	for name, b := range before {
		a := after[name]
		if a.UIDValidity != b.UIDValidity || a.UIDNext != b.UIDNext || len(a.Messages) != len(b.Messages) {
			s.t.Errorf("%s: UIDVALIDITY %d UIDNEXT %d, %d messages; before: %d, %d, %d", name, a.UIDValidity, a.UIDNext, len(a.Messages), b.UIDValidity, b.UIDNext, len(b.Messages))
		}
		for uid, m := range b.Messages {
			n, ok := a.Messages[uid]
			if !ok || n.Flags != m.Flags || !bytes.Equal(n.Body, m.Body) {
				s.t.Errorf("%s: UID %d is not what it was: there %v, flags %q, before %q, same body %v", name, uid, ok, n.Flags, m.Flags, bytes.Equal(n.Body, m.Body))
			}
		}
	}
}

// writesToBob sends mail through submission: inside the domain it arrives at
// once, outside it goes to the smart host, and a copy is in Sent, once.
func (s *scene) writesToBob(*outside.Mailbox) {
	s.t.Helper()
	t := s.t
	conn, err := outside.DialSMTP(t.Context(), s.Submission)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Command("MAIL FROM:<alice@acme.test>", '2'); outside.Code(err) != 530 {
		t.Errorf("submission without AUTH: %v, want 530", err)
	}
	if err := conn.Login("alice@acme.test", "correct horse"); err != nil {
		t.Fatal(err)
	}
	// Date and Message-ID are missing, and get added.
	text := []byte("From: alice@acme.test\r\nTo: bob@acme.test\r\nSubject: written in the outage\r\n\r\nare you there?\r\n")
	if _, err := conn.Send("alice@acme.test", []string{"bob@acme.test", "friend@world.example"}, text); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Send("bob@acme.test", []string{"bob@acme.test"}, text); outside.Code(err)/100 != 5 {
		t.Errorf("alice sends as bob: %v, want a 5xx", err)
	}
	is := func(b []byte) bool {
		b = append([]byte("\n"), b...) // a field may stand in the first line
		return bytes.Contains(b, []byte("Subject: written in the outage\r\n")) && bytes.HasSuffix(b, []byte("\r\n\r\nare you there?\r\n")) &&
			bytes.Contains(bytes.ToLower(b), []byte("\nmessage-id: <")) && bytes.Contains(bytes.ToLower(b), []byte("\ndate: "))
	}
	count := func(v outside.View) (n int) {
		for _, m := range v.Messages {
			if is(m.Body) {
				n++
			}
		}
		return n
	}
	if n := count(s.look(s.login("bob@acme.test", "battery staple"), "INBOX")); n != 1 {
		t.Errorf("bob has it %d times, want once", n)
	}
	// The client adds its own copy to Sent, as many do.
	alice := s.login("alice@acme.test", "correct horse")
	sent := s.look(alice, "Sent")
	if n := count(sent); n != 1 {
		t.Errorf("alice has it in Sent %d times, want once", n)
	}
	// What a client keeps is what it sent, without what was added here.
	if err := alice.Append("Sent", `(\Seen)`, text); err != nil {
		t.Error(err)
	}
	is = func(b []byte) bool { return bytes.Contains(b, []byte("Subject: written in the outage\r\n")) }
	if n := count(s.look(alice, "Sent")); n != 1 {
		t.Errorf("after the client's own copy it is in Sent %d times, want once", n)
	}
	s.eventually(20*time.Second, func() error {
		if n := len(s.world.Transactions()); n != 1 {
			return fmt.Errorf("the smart host has %d messages, want 1", n)
		}
		return nil
	})
	if tx := s.world.Transactions()[0]; !is(tx.Body) || len(tx.Recipients) != 1 || tx.Recipients[0].To != "friend@world.example" {
		t.Errorf("the smart host got %d bytes for %v", len(tx.Body), tx.Recipients)
	}
}

// TestReturn lets a queue gather while the primary is down. When it is back, all
// of it arrives once and in order, at a primary that takes only so many
// messages a connection, with a receipt for each.
func TestReturn(t *testing.T) {
	s := open(t, setting{})
	s.primary.Stop()
	s.awaitState("down", 10*time.Second)
	n := pick(300, 3000)
	var sent []mailing
	for i := range n {
		to := []string{"alice@acme.test", "bob@acme.test", "sales@acme.test"}[i%3]
		message := numbered("queued", i)
		sent = append(sent, mailing{name: fmt.Sprint(i), to: []string{to}, bytes: message, reply: s.send("sender@remote.example", to, message)})
	}
	if _, queued, err := s.Domain(t.Context(), "acme.test"); queued != n || err != nil {
		t.Errorf("%d are queued, %v; want %d", queued, err, n)
	}
	s.primary.Script(smtptest.Script{MaxPerConn: 20, At: map[smtptest.Phase]smtptest.Action{smtptest.Dot: {Delay: 5 * time.Millisecond}}})
	if err := s.primary.Start(); err != nil {
		t.Fatal(err)
	}
	s.awaitDrained(3 * time.Minute)
	s.awaitState("up", 30*time.Second)
	s.checkPrimary(sent)
	s.checkReceipts(sent)
	s.checkOrder()
	if _, err := outside.DialIMAP(t.Context(), s.IMAP, "alice@acme.test", "correct horse"); err == nil {
		t.Error("alice is let in although the primary is up")
	}
}

// checkOrder: each recipient's messages arrived in the order they were sent in.
func (s *scene) checkOrder() {
	s.t.Helper()
	last := map[string]int{}
	for _, tx := range s.primary.Transactions() {
		var n int
		_, after, ok := strings.Cut(string(tx.Body), "X-Number: ")
		if _, err := fmt.Sscan(after, &n); !ok || err != nil {
			s.t.Fatalf("a message without its number: %v", err)
		}
		for _, r := range tx.Recipients {
			if before, ok := last[r.To]; ok && before > n {
				s.t.Errorf("message %d reached %s after message %d", n, r.To, before)
			}
			last[r.To] = n
		}
	}
}

// TestLostAnswer drops the connection after the final dot: the message is sent
// again, and its receipt says that it may have come twice.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	s.primary.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Dot: {Drop: true, Times: 1}}})
	s.send("sender@remote.example", "alice@acme.test", numbered("lost", 1))
	s.awaitDrained(time.Minute)
	if n := len(s.primary.Transactions()); n != 2 {
		t.Errorf("the primary got it %d times, want twice", n)
	}
	rows := s.search("--rcpt", "alice@acme.test")
	if len(rows) != 1 || !slices.Equal(rows[0].State, []string{"uncertain"}) {
		t.Errorf("receipts %+v, want one that is uncertain", rows)
	}
}

// TestMassRefusal: a primary that comes back empty and refuses everybody does
// not make the archive bounce a day's mail.
func TestMassRefusal(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	s.primary.Stop()
	s.awaitState("down", 10*time.Second)
	const n = 60
	for i := range n {
		s.send("sender@remote.example", "alice@acme.test", numbered("refused", i))
	}
	s.primary.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Rcpt: {Reply: "550 5.1.1 no such user"}}})
	if err := s.primary.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually(time.Minute, func() error {
		if held := len(s.search("--state", "held", "--limit", "1000")); held == 0 {
			return fmt.Errorf("nothing is held yet")
		}
		return nil
	})
	if bounced := len(s.search("--state", "bounced", "--limit", "1000")); bounced > n/4 {
		t.Errorf("%d of %d messages bounced", bounced, n)
	}
}
