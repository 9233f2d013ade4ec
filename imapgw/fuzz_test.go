package imapgw_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/imapgw"
)

// alarms notes the errors that are logged: the library reports panics there and
// goes on.
type alarms struct {
	mu   sync.Mutex
	text []string
}

func (a *alarms) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (a *alarms) WithAttrs([]slog.Attr) slog.Handler           { return a }
func (a *alarms) WithGroup(string) slog.Handler                { return a }
func (a *alarms) Handle(_ context.Context, r slog.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.Attrs(func(at slog.Attr) bool {
		a.text = append(a.text, at.Value.String())
		return true
	})
	return nil
}

// FuzzCommands sends anything to a session with a selected mailbox. Nothing may
// panic, and the session must answer or end.
func FuzzCommands(f *testing.F) {
	for _, s := range []string{
		"a FETCH 1:* (FLAGS BODY[1.2.MIME]<3.9> BINARY[1] BINARY.SIZE[2] ENVELOPE BODYSTRUCTURE RFC822)\r\n",
		"a UID FETCH *:1 BODY.PEEK[HEADER.FIELDS.NOT (Subject X)]\r\na FETCH $ (BODY[])\r\n",
		"a SEARCH RETURN (SAVE MIN) OR NOT TEXT x UID 1:* SENTON 1-Jan-2026 HEADER X \"\"\r\n",
		"a STORE 1 +FLAGS.SILENT (\\Seen k)\r\na EXPUNGE\r\na CLOSE\r\na EXPUNGE\r\n",
		"a MOVE 1 Trash\r\na COPY 1:* Trash\r\na UID EXPUNGE 1\r\n",
		"a LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (% *) RETURN (STATUS (MESSAGES SIZE APPENDLIMIT))\r\na LSUB \"\" \"\"\r\n",
		"a APPEND INBOX (\\Seen) {3+}\r\nabc\r\na APPEND INBOX UTF8 (~{3+}\r\nabc)\r\n",
		"a IDLE\r\nDONE\r\na NOOP\r\na STATUS INBOX (DELETED-STORAGE)\r\na SELECT x\r\na FETCH 1 FLAGS\r\n",
		"a CREATE a/b/ (USE (\\Sent))\r\na RENAME INBOX b\r\na DELETE a\r\na UNSELECT\r\n",
		"a SEARCH {9999+}\r\n", "a FETCH 1 (BODY[]<99999999999.1>)\r\n", "a SEARCH 0 $ *\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, commands string) {
		heard := &alarms{}
		fx := start(t, func(c *imapgw.Config) {
			c.Logger = slog.New(heard)
			c.MaxMessageSize = 1 << 16
		})
		fx.alice.Deliver([]byte("Subject: one\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nA: b\r\n\r\nc\r\n--b--\r\n"), time.Now())
		fx.alice.Deliver([]byte("Content-Transfer-Encoding: base64\r\n\r\nAAAA"), time.Now())
		c := fx.login(t)
		c.ok("SELECT INBOX")
		go func() { _, _ = io.WriteString(c.c, commands+"\r\nzz LOGOUT\r\n"); _ = c.c.(*net.TCPConn).CloseWrite() }()
		_ = c.c.SetReadDeadline(time.Now().Add(patience))
		out, err := io.ReadAll(c.br)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("no end; the last words were %q", out[max(0, len(out)-100):])
		}
		heard.mu.Lock()
		defer heard.mu.Unlock()
		for _, a := range heard.text {
			if strings.Contains(a, "panic") {
				t.Errorf("%s", a)
			}
		}
		if bytes.Contains(out, []byte("SERVERBUG")) && strings.Contains(string(out), "internal error") {
			t.Errorf("%s", out)
		}
	})
}
