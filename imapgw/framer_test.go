package imapgw_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/imapgw"
)

// A message whose lines are commands. None of them may ever be obeyed.
const evil = "Subject: x\r\nevil CREATE pwned\r\nevil LOGOUT\r\n"

// converse sends everything at once and returns what the server said until it
// closed the connection.
func converse(t testing.TB, c *client, text string) string {
	t.Helper()
	go func() { _, _ = io.WriteString(c.c, text); _ = c.c.(*net.TCPConn).CloseWrite() }()
	_ = c.c.SetReadDeadline(time.Now().Add(patience))
	out, err := io.ReadAll(c.br)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("no end; the last words were %q", out[max(0, len(out)-100):])
	}
	return string(out)
}

func TestMailIsNeverTakenForCommands(t *testing.T) {
	literal := fmt.Sprintf("{%d+}\r\n%s", len(evil), evil)
	for name, tc := range map[string]struct{ send, want string }{
		"well formed":            {"a APPEND INBOX " + literal + "\r\n", "a OK"},
		"bad flag":               {"a APPEND INBOX (\\) " + literal + "\r\n", "a BAD"},
		"bad date":               {"a APPEND INBOX \"yesterday\" " + literal + "\r\n", "a NO"},
		"bad extension":          {"a APPEND INBOX UTF9 " + literal + "\r\n", "a BAD"},
		"no mailbox":             {"a APPEND nowhere " + literal + "\r\n", "a NO [TRYCREATE]"},
		"bad name":               {"a APPEND && " + literal + "\r\n", "a NO"},
		"too large":              {fmt.Sprintf("a APPEND INBOX {%d+}\r\n%s\r\n", 70000, evil+strings.Repeat("x", 70000-len(evil))), "a NO [TOOBIG]"},
		"unknown command":        {"a FROB " + literal + "\r\n", "a BAD"},
		"no arguments":           {"a NOOP " + literal + "\r\n", "a BAD"},
		"two literals":           {"a APPEND INBOX (\\) {3+}\r\nabc " + literal + "\r\n", "a BAD"},
		"nothing in it":          {"a NOOP {0+}\r\nevil CREATE pwned\r\n", "a BAD"},
		"in a search, too large": {fmt.Sprintf("a SEARCH BODY {%d+}\r\n%s\r\n", 5000, evil+strings.Repeat("x", 5000-len(evil))), "a "},
		"tag in another case":    {"A APPEND INBOX (\\) " + literal + "\r\n", "A BAD"},
		"a space behind":         {"a APPEND INBOX (\\) " + strings.TrimSuffix(literal[:strings.Index(literal, "\r")], "") + " \r\n" + evil + "\r\n", "a BAD"},
		"instead of DONE":        {"i IDLE\r\na APPEND INBOX " + literal + "\r\n", "i BAD"},
		"a long mailbox name":    {fmt.Sprintf("a APPEND {%d+}\r\n%s\r\n", 4200, evil+strings.Repeat("x", 4200-len(evil))), "a NO [TOOBIG]"},
		"asked for":              {"a APPEND INBOX (\\) {3}\r\n", "a BAD"},
	} {
		t.Run(name, func(t *testing.T) {
			fx := start(t, func(c *imapgw.Config) { c.MaxMessageSize = 1 << 16 })
			c := fx.login(t)
			out := converse(t, c, tc.send+"b NOOP\r\nc LIST \"\" *\r\nz LOGOUT\r\n")
			if !strings.Contains("\r\n"+out, "\r\n"+tc.want) || !strings.Contains(out, "\r\nb OK") || !strings.Contains(out, "\r\nz OK") {
				t.Errorf("answered %q, want %s, and b and z done", out, tc.want)
			}
			if strings.Contains(out, "evil") || strings.Contains(out, "pwned") {
				t.Errorf("the message was obeyed: %q", out)
			}
		})
	}
}

// A command that cannot be told from what follows ends the connection.
func TestUnclearCommandsEndTheConnection(t *testing.T) {
	for name, send := range map[string]string{
		"plus for a tag":     "+ APPEND INBOX (\\) {4+}\r\nabcd\r\nevil CREATE pwned\r\n",
		"bare CR":            "a NOOP x\revil CREATE pwned\r\n",
		"endless line":       "a SEARCH SUBJECT \"" + strings.Repeat("x", 49<<10) + "\r\nevil CREATE pwned\r\n",
		"endless literal":    "a NOOP {99999999999+}\r\nevil CREATE pwned\r\n",
		"line upon line":     "a SEARCH" + strings.Repeat(" SUBJECT {1+}\r\nx", 4000) + "\r\nevil CREATE pwned\r\n",
		"impossible literal": "a NOOP {99999999999999999999999+}\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, nil).login(t)
			out := converse(t, c, send+"z LOGOUT\r\n")
			if strings.Contains(out, "evil OK") {
				t.Errorf("%q", out)
			}
			if !strings.Contains(out, "* BYE ") {
				t.Errorf("no BYE in %q", out)
			}
		})
	}
}

// FuzzLiteral sends a message as a literal of any command. Its lines are not
// obeyed, and the command behind it is.
func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"APPEND INBOX", "APPEND INBOX (\\Seen)", "APPEND INBOX (\\", "APPEND \"", "APPEND INBOX \" 1-Jan-2026 00:00:00 +0000\"", "LOGIN x", "IDLE", "SEARCH BODY", "APPEND INBOX UTF8 (~", "STARTTLS", "FETCH 1 BODY[HEADER.FIELDS ("} {
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, command string, twice bool) {
		if strings.ContainsAny(command, "\r\n\"") || len(command) > 1000 || strings.Contains(strings.ToUpper(command), "LOGOUT") || strings.Contains(command, "\x00") {
			return
		}
		fx := start(t, nil)
		text := fmt.Sprintf("a %s {%d+}\r\n%s\r\n", command, len(evil), evil)
		if twice {
			text += text
		}
		out := converse(t, fx.login(t), text+"DONE\r\nb LIST \"\" *\r\n")
		if strings.Contains(out, "evil ") || strings.Contains(out, "pwned") {
			t.Errorf("the message was obeyed: %q", out)
		}
	})
}

// Once a client has logged in without TLS, where that is allowed, it sees what
// the server can do, and no TLS comes any more.
func TestNoTLSAfterLogin(t *testing.T) {
	cfg, _ := withTLS(t)
	fx := start(t, func(c *imapgw.Config) { cfg(c); c.AllowPlaintextAuth = true })
	c := dial(t, fx.addr)
	if l := c.line(); !strings.Contains(l, "STARTTLS AUTH=PLAIN") {
		t.Errorf("greeting %q", l)
	}
	c.ok("LOGIN alice secret")
	if caps := c.ok("CAPABILITY"); !strings.Contains(caps[0], "IDLE") || !strings.Contains(caps[0], "UIDPLUS") || strings.Contains(caps[0], "STARTTLS") {
		t.Errorf("%q", caps)
	}
	if _, tagged := c.cmd("STARTTLS"); strings.HasPrefix(tagged, "OK") {
		t.Errorf("STARTTLS: %s", tagged)
	}
}

// What follows STARTTLS in the clear is not read as if it had come through TLS.
func TestNothingFollowsStartTLS(t *testing.T) {
	cfg, _ := withTLS(t)
	fx := start(t, cfg)
	c := dial(t, fx.addr)
	c.line()
	if out := converse(t, c, "a LOGIN {5+}\r\nalice {6+}\r\nsecret\r\nb AUTHENTICATE PLAIN\r\nc STARTTLS\r\nd LOGIN alice secret\r\n"); !strings.Contains(out, "a NO [PRIVACYREQUIRED]") ||
		!strings.Contains(out, "\r\nb NO [PRIVACYREQUIRED]") || !strings.Contains(out, "* BYE ") || strings.Contains(out, "\r\nd ") || strings.Contains(out, "c OK") {
		t.Errorf("%q", out)
	}
}
