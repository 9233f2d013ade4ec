package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/e2e/outside"
)

// TestSearch finds messages by each selector of the contract.
func TestSearch(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	mail := []struct{ key, envelope, header, to, subject string }{
		{"one", "billing@shop.example", "Shop <billing@shop.example>", "alice@acme.test", "Invoice for March"},
		{"two", "bounce-77@lists.example", "Carol <carol@partner.example>", "bob@acme.test", "Meeting about the march budget"},
		{"three", "carol@partner.example", "Carol <carol@partner.example>", "sales@acme.test", "=?utf-8?Q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?="},
		{"four", "", "Mailer <mailer-daemon@x.example>", "alice@acme.test", "Undelivered"},
	}
	at := map[string]time.Time{}
	for _, m := range mail {
		at[m.key] = time.Now()
		s.send(m.envelope, m.to, fmt.Appendf(nil, "From: %s\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <%s@search.example>\r\n\r\ntext\r\n", m.header, m.to, m.subject, m.key))
		time.Sleep(1100 * time.Millisecond) // Times are selected by the second.
	}
	s.awaitDrained(30 * time.Second)
	stamp := func(key string) string { return at[key].UTC().Format(time.RFC3339) }
	tests := []struct {
		selectors []string
		want      string // keys, newest first
	}{
		{nil, "four three two one"},
		{[]string{"--rcpt", "alice@acme.test"}, "four one"},
		{[]string{"--rcpt", "ALICE@Acme.Test"}, "four one"},
		{[]string{"--rcpt", "sales@acme.test"}, "three"},
		{[]string{"--rcpt", "nobody@acme.test"}, ""},
		{[]string{"--from", "carol@partner.example"}, "three two"},
		{[]string{"--from", "bounce-77@lists.example"}, "two"},
		{[]string{"--subject", "march"}, "two one"},
		{[]string{"--subject", "march invoice"}, "one"},
		{[]string{"--subject", "Grüße"}, "three"},
		{[]string{"--message-id", "<two@search.example>"}, "two"},
		{[]string{"--message-id", "two@search.example"}, "two"},
		{[]string{"--state", "delivered"}, "four three two one"},
		{[]string{"--state", "due"}, ""},
		{[]string{"--since", stamp("three")}, "four three"},
		{[]string{"--until", stamp("three")}, "two one"},
		{[]string{"--since", stamp("two"), "--until", stamp("four")}, "three two"},
		{[]string{"--since", "1h"}, "four three two one"},
		{[]string{"--until", "1h"}, ""},
		{[]string{"--from", "carol@partner.example", "--subject", "march"}, "two"},
		{[]string{"--limit", "2"}, "four three"},
	}
	for _, tt := range tests {
		if got := keys(s.search(tt.selectors...)); got != tt.want {
			t.Errorf("search %v: %q, want %q", tt.selectors, got, tt.want)
		}
	}
	first := s.search("--limit", "2")
	if len(first) == 2 {
		if got := keys(s.search("--limit", "2", "--after", first[1].ID)); got != "two one" {
			t.Errorf("the second page is %q", got)
		}
	}
	if row := s.search("--message-id", "<one@search.example>"); len(row) != 1 || row[0].From != "billing@shop.example" ||
		!slices.Equal(row[0].Rcpt, []string{"alice@acme.test"}) || !slices.Equal(row[0].State, []string{"delivered"}) || row[0].Size == 0 {
		t.Errorf("the row of the first message is %+v", row)
	}
	for _, wrong := range [][]string{{"--state", "nonsense"}, {"--since", "yesterday-ish"}, {"--no-such-flag"}} {
		out, err := s.Run(t.Context(), nil, append([]string{"shadow", "search"}, wrong...)...)
		if err != nil || out.Code != 2 {
			t.Errorf("search %v: exit %d, %v; want 2", wrong, out.Code, err)
		}
	}
}

// keys names the rows by their subjects.
func keys(rows []found) string {
	var out []string
	for _, r := range rows {
		switch {
		case strings.HasPrefix(r.Subject, "Invoice"):
			out = append(out, "one")
		case strings.HasPrefix(r.Subject, "Meeting"):
			out = append(out, "two")
		case r.Subject == "Grüße aus Köln":
			out = append(out, "three")
		case r.Subject == "Undelivered":
			out = append(out, "four")
		default:
			out = append(out, "?"+r.Subject)
		}
	}
	return strings.Join(out, " ")
}

// TestRedeliver delivers a selection again, after a rehearsal that delivers
// nothing, to the same recipients and to another.
func TestRedeliver(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	for i := range 3 {
		s.send("sender@remote.example", "alice@acme.test", numbered("lost", i))
	}
	s.send("sender@remote.example", "bob@acme.test", numbered("other", 9))
	s.awaitDrained(30 * time.Second)
	s.primary.Forget()

	if out := s.must("redeliver", "--subject", "lost", "--dry-run"); !strings.Contains(out, "3") {
		t.Errorf("the rehearsal says %q, want that it would be 3", out)
	}
	if out := s.must("redeliver", "--subject", "nothing like that"); !strings.Contains(out, "0") {
		t.Errorf("redelivering nothing says %q, want 0", out)
	}
	if n := len(s.primary.Transactions()); n != 0 {
		t.Errorf("%d messages arrived by a rehearsal", n)
	}

	s.must("redeliver", "--subject", "lost")
	s.arrived("alice@acme.test", "lost", 3)
	id := s.search("--message-id", "<lost.1@remote.example>")[0].ID
	s.must("redeliver", id)
	s.arrived("alice@acme.test", "lost", 1)
	s.must("redeliver", "--rcpt", "alice@acme.test", "--to", "bob@acme.test")
	s.arrived("bob@acme.test", "lost", 3)
	if rows := s.search("--subject", "lost"); len(rows) != 3 {
		t.Errorf("search lists %d rows after redelivery, want the same 3 messages", len(rows))
	}
	s.must("log", "verify")

	// A redelivery while the primary is down waits and says so.
	s.primary.Stop()
	s.awaitState("down", 10*time.Second)
	if out := s.must("redeliver", id); !strings.Contains(out, "queued") {
		t.Errorf("redelivery while the primary is down says %q, want that it is queued", out)
	}
	if err := s.primary.Start(); err != nil {
		t.Fatal(err)
	}
	s.awaitDrained(time.Minute)
	s.arrived("alice@acme.test", "lost", 1)
}

// arrived waits until n messages of a kind are at the primary for a recipient,
// checks that they are the right ones, and forgets them.
func (s *scene) arrived(to, kind string, n int) {
	s.t.Helper()
	s.eventually(20*time.Second, func() error {
		if got := len(s.primary.Transactions()); got < n {
			return fmt.Errorf("%d of %d messages arrived", got, n)
		}
		return nil
	})
	all := s.primary.Transactions()
	if len(all) != n {
		s.t.Errorf("%d messages arrived, want %d", len(all), n)
	}
	for _, tx := range all {
		rest, _ := outside.CutReceived(tx.Body)
		if want := numbered(kind, numberOf(s.t, tx.Body)); digest(rest) != digest(want) {
			s.t.Errorf("redelivered is %.200q, want %.200q", rest, want)
		}
		if len(tx.Recipients) != 1 || tx.Recipients[0].To != to {
			s.t.Errorf("redelivered to %v, want %s", tx.Recipients, to)
		}
	}
	s.primary.Forget()
}

// TestKeysAndExport: the root key goes out and comes back under a passphrase,
// never over another, and export works while the node is down.
func TestKeysAndExport(t *testing.T) {
	t.Parallel()
	s := open(t, setting{})
	message := numbered("kept", 1)
	s.send("sender@remote.example", "alice@acme.test", message)
	s.awaitDrained(30 * time.Second)
	dir := t.TempDir()
	backup := filepath.Join(dir, "root.backup")
	pass := []string{"HOLDFAST_PASSPHRASE=a long enough passphrase"}
	run := func(wantCode int, env []string, args ...string) {
		t.Helper()
		out, err := s.Run(t.Context(), env, args...)
		if err != nil || out.Code != wantCode {
			t.Errorf("holdfast %v: exit %d, %v: %s%s; want exit %d", args, out.Code, err, out.Stdout, out.Stderr, wantCode)
		}
	}
	run(0, pass, "keys", "backup", backup)
	run(1, pass, "keys", "backup", backup)
	run(1, pass, "keys", "restore", backup)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(s.Dir, "root.key")
	move(t, key, key+".lost")
	out, err := s.Run(t.Context(), nil, "export", "--since", "1h", "-o", filepath.Join(dir, "without"))
	if err != nil || out.Code == 0 {
		t.Errorf("export without the key: exit %d, %v", out.Code, err)
	}
	run(1, []string{"HOLDFAST_PASSPHRASE=not the passphrase"}, "keys", "restore", backup)
	run(0, pass, "keys", "restore", backup)
	run(0, nil, "export", "--since", "1h", "-o", filepath.Join(dir, "with"))
	files, err := filepath.Glob(filepath.Join(dir, "with", "*.eml"))
	if err != nil || len(files) != 1 || digest(readFile(t, files[0])) != digest(message) {
		t.Errorf("exported %v, %v; want the one message", files, err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Error(err)
	}
}
