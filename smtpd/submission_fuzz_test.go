package smtpd

import (
	"encoding/base64"
	"io"
	"regexp"
	"strings"
	"testing"
)

// FuzzSubmission sends anything to the port of users. Nobody's message is kept
// before a right password was given, nor for somebody else than who gave it; the
// server answers in well-formed lines, and acknowledges what it keeps.
func FuzzSubmission(f *testing.F) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	plain := b64("\x00alice\x00secret")
	mail := "MAIL FROM:<alice@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nA: b\r\n\r\nx\r\n.\r\n"
	for _, s := range []string{
		mail, "AUTH PLAIN " + plain + "\r\n" + mail, "AUTH PLAIN\r\n" + plain + "\r\n" + mail,
		"AUTH PLAIN " + b64("\x00alice\x00wrong") + "\r\n" + mail, "AUTH LOGIN\r\n" + b64("alice") + "\r\n" + b64("secret") + "\r\n" + mail + mail,
		"AUTH LOGIN " + b64("alice") + "\r\n*\r\n" + mail, "AUTH PLAIN =\r\nAUTH PLAIN ====\r\nAUTH PLAIN " + strings.Repeat("A", 13000) + "\r\n",
		"MAIL FROM:<a@b>\r\nAUTH PLAIN " + plain + "\r\n" + mail, "AUTH PLAIN " + plain + "\r\nAUTH PLAIN " + plain + "\r\nEHLO y\r\n" + mail,
		"AUTH PLAIN " + b64("bob\x00alice\x00secret") + "\r\n" + mail, "AUTH PLAIN " + b64("\x00closed\x00secret") + "\r\n" + mail,
		"AUTH PLAIN " + plain + "\r\nMAIL FROM:<a@b> AUTH=<> SIZE=3\r\nRCPT TO:<c@example.org>\r\nBDAT 3 LAST\r\nabcQUIT\r\n",
		"RSET\r\nHELO x\r\nAUTH PLAIN " + plain + "\r\n" + mail,
	} {
		f.Add([]byte(s))
	}
	line := regexp.MustCompile(`^[2-5][0-9][0-9][ -][ -~]*\r\n$`)
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) > 1<<16 {
			return
		}
		m := &memory{}
		limits := DefaultLimits()
		limits.ErrorsSoft, limits.ErrorsHard = -1, -1
		s, err := New(Config{Hostname: "mx.example", Mode: Submission, AllowPlaintextAuth: true, MaxMessageSize: modelMax, Limits: limits}, m)
		if err != nil {
			t.Fatal(err)
		}
		client, server := newSimPair("192.0.2.1:1", "192.0.2.25:587")
		client.Write(append([]byte("EHLO x\r\n"), stream...))
		client.CloseWrite()
		newSession(s, server, func() {}).run(t.Context())
		out, _ := io.ReadAll(client)
		said := string(out)
		users := map[Login]bool{}
		for _, l := range m.logins {
			if parts := strings.Split(l, "|"); len(parts) == 3 && parts[2] == "secret" {
				users[parts[1]] = true
			}
		}
		for _, k := range m.all() {
			if k.login == nil || !users[k.login] || !strings.Contains(said, "\r\n235 ") {
				t.Errorf("kept %q of %v, logins %q", k.body, k.login, m.logins)
			}
		}
		for l := range strings.Lines(said) {
			if !line.MatchString(l) {
				t.Errorf("malformed reply %q", l)
			}
		}
		if n := strings.Count(said, "Kept as "); n != len(m.all()) || m.open != 0 {
			t.Errorf("%d messages kept, %d acknowledged, %d transactions open", len(m.all()), n, m.open)
		}
	})
}
