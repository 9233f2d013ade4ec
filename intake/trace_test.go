package intake

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/event"
)

// received is the grammar of the line (RFC 5321 §4.4), as narrow as ours is.
var received = regexp.MustCompile(`^Received: from ((?:[A-Za-z0-9._-]+|\[[A-Za-z0-9.:-]+\]))(?: \(\[((?:IPv6:)?[0-9a-f.:]+)\]\))?\r\n` +
	`\tby mx\.acme\.example with (\w+) id ([0-9a-f]{32});\r\n` +
	`\t[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\r\n$`)

func TestReceivedLine(t *testing.T) {
	s := New(Config{Hostname: "mx.acme.example"})
	now := time.Date(2026, 11, 21, 12, 30, 0, 0, time.FixedZone("", 7200))
	for _, c := range []struct {
		peer             Peer
		utf8, submit     bool
		from, addr, with string
	}{
		{peer: Peer{Addr: "192.0.2.1", Helo: "a.example", ESMTP: true}, from: "a.example", addr: "192.0.2.1", with: "ESMTP"},
		{peer: Peer{Addr: "192.0.2.1", Helo: "a.example"}, from: "a.example", addr: "192.0.2.1", with: "SMTP"},
		{peer: Peer{Addr: "2001:db8::1", Helo: "[IPv6:2001:db8::1]", ESMTP: true, TLS: "TLS 1.3"}, from: "[IPv6:2001:db8::1]", addr: "IPv6:2001:db8::1", with: "ESMTPS"},
		{peer: Peer{Addr: "fe80::1%eth0", Helo: "a", ESMTP: true, TLS: "TLS 1.3"}, submit: true, from: "a", addr: "IPv6:fe80::1", with: "ESMTPSA"},
		{peer: Peer{Addr: "::ffff:192.0.2.9", Helo: "a", ESMTP: true}, submit: true, from: "a", addr: "192.0.2.9", with: "ESMTPA"},
		{peer: Peer{Addr: "192.0.2.1", Helo: "a", ESMTP: true, TLS: "x"}, utf8: true, submit: true, from: "a", addr: "192.0.2.1", with: "UTF8SMTPSA"},
		{peer: Peer{Addr: "192.0.2.1", Helo: "a_b-c", ESMTP: true}, utf8: true, from: "a_b-c", addr: "192.0.2.1", with: "UTF8SMTP"},
		{peer: Peer{Addr: "192.0.2.1", Helo: "[192.0.2.1]", ESMTP: true}, from: "[192.0.2.1]", addr: "192.0.2.1", with: "ESMTP"},
		{peer: Peer{Addr: "192.0.2.1", Helo: "[IPv6:192.0.2.1]", ESMTP: true}, from: "unknown", addr: "192.0.2.1", with: "ESMTP"},
		{peer: Peer{Addr: "192.0.2.1", Helo: "[IPv6:fe80::1%a]", ESMTP: true}, from: "unknown", addr: "192.0.2.1", with: "ESMTP"},
		{peer: Peer{Addr: "", Helo: "", ESMTP: true}, from: "unknown", with: "ESMTP"},
		{peer: Peer{Addr: "nonsense", Helo: "x;y", ESMTP: true}, from: "unknown", with: "ESMTP"},
	} {
		tx := &Tx{svc: s, peer: c.peer, env: Envelope{UTF8: c.utf8}, submit: c.submit}
		line := string(tx.trace(event.ID{1}, now))
		m := received.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("%+v: %q", c.peer, line)
			continue
		}
		if m[1] != c.from || m[2] != c.addr || m[3] != c.with || !strings.HasSuffix(line, "Sat, 21 Nov 2026 10:30:00 +0000\r\n") {
			t.Errorf("%+v: %q", c.peer, line)
		}
	}
}

func FuzzReceivedLine(f *testing.F) {
	for _, helo := range []string{"a.example", "[192.0.2.1]", "a\r\nSubject: x", "a)(b", "ä", "[]", "[a]b", "a for <x@y>", strings.Repeat("a", 2000)} {
		f.Add(helo, "192.0.2.1")
	}
	s := New(Config{Hostname: "mx.acme.example"})
	f.Fuzz(func(t *testing.T, helo, addr string) {
		tx := &Tx{svc: s, peer: Peer{Helo: helo, Addr: addr, ESMTP: true}}
		line := string(tx.trace(event.ID{1}, time.Now()))
		if !received.MatchString(line) {
			t.Fatalf("%q", line)
		}
		for l := range strings.SplitSeq(line, "\r\n") {
			if len(l) > 998 {
				t.Fatalf("line of %d characters", len(l))
			}
		}
	})
}
