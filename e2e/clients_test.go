package e2e

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/bench/peers"
	"holdfast/e2e/outside"
)

// TestClients lets the programs people use work with a mailbox, one after the
// other, each with messages of its own.
func TestClients(t *testing.T) {
	s := open(t, setting{continuity: "always"})
	const n = 12
	for i := range n {
		s.send("sender@remote.example", "alice@acme.test", numbered("client", i))
	}
	host, port, err := net.SplitHostPort(s.IMAP)
	if err != nil {
		t.Fatal(err)
	}
	c := client{host: host, port: port, user: "alice@acme.test", password: "correct horse", messages: n}
	t.Run("curl", c.curl)
	t.Run("mutt", c.mutt)
	t.Run("mbsync", c.mbsync)
	t.Run("imaplib", c.imaplib)
}

// TestSenders lets other programs send to the node.
func TestSenders(t *testing.T) {
	s := open(t, setting{})
	host, port, err := net.SplitHostPort(s.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("swaks", func(t *testing.T) {
		program(t, "swaks", "--server", host, "--port", port, "--from", "s@remote.example", "--to", "alice@acme.test", "--pipeline", "--h-Subject", "from swaks", "--body", "hello")
		program(t, "swaks", "--server", host, "--port", port, "--from", "s@remote.example", "--to", "alice@acme.test", "-tls", "--h-Subject", "from swaks by TLS", "--body", "hello")
	})
	t.Run("smtplib", func(t *testing.T) {
		program(t, "python3", "-c", fmt.Sprintf("import smtplib\ns=smtplib.SMTP(%q,%s)\ns.sendmail('s@remote.example',['alice@acme.test','bob@acme.test'],'Subject: from smtplib\\r\\n\\r\\nhello\\r\\n.dot\\r\\n')\ns.quit()", host, port))
	})
	t.Run("curl", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "mail")
		writeFile(t, file, "Subject: from curl\r\n\r\nhello\r\n")
		program(t, "curl", "-sS", "smtp://"+s.SMTP, "--mail-from", "s@remote.example", "--mail-rcpt", "bob@acme.test", "-T", file)
	})
	whole := t // Postfix goes on while the others are looked at
	t.Run("Postfix", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "hfpostfix")
		if err != nil {
			t.Fatal(err)
		}
		whole.Cleanup(func() { os.RemoveAll(dir) })
		p, err := peers.StartPostfix(whole.Context(), dir, peers.Instance{Domain: "acme.test", RelayTo: s.SMTP, Log: true})
		if err != nil {
			t.Fatal(err)
		}
		whole.Cleanup(func() {
			if err := p.Stop(); err != nil {
				whole.Error(err)
			}
		})
		for i := range 20 {
			if _, err := outside.SendOne(t.Context(), p.Addr, "s@remote.example", []string{"alice@acme.test"}, numbered("from Postfix", i)); err != nil {
				t.Fatal(err)
			}
		}
	})
	want := map[string]int{"from swaks\r": 1, "from swaks by TLS": 1, "from smtplib": 1, "from curl": 1, "from Postfix": 20}
	s.eventually(time.Minute, func() error {
		for subject, n := range want {
			got := 0
			for _, tx := range s.primary.Transactions() {
				if strings.Contains(string(tx.Body), "Subject: "+subject) {
					got++
				}
			}
			if got != n {
				return fmt.Errorf("%d messages %q at the primary, want %d", got, subject, n)
			}
		}
		return nil
	})
}

// client is a mailbox and where it is.
type client struct {
	host, port     string
	user, password string
	messages       int // in INBOX, made by numbered
}

// curl reads one message.
func (c client) curl(t *testing.T) {
	out := program(t, "curl", "-sS", "--user", c.user+":"+c.password, fmt.Sprintf("imap://%s:%s/INBOX;MAILINDEX=1", c.host, c.port))
	if rest, ok := outside.CutReceived([]byte(out)); !ok || string(rest) != string(numbered("client", 0)) {
		t.Errorf("curl reads %q", out)
	}
	found := program(t, "curl", "-sS", "--user", c.user+":"+c.password, fmt.Sprintf("imap://%s:%s/INBOX?SUBJECT%%20%%22client%%203%%22", c.host, c.port))
	if len(strings.Fields(found)) != 3 { // "* SEARCH" and one number
		t.Errorf("curl searches and finds %q, want one message", found)
	}
}

// mutt saves a copy of every message into a local mailbox and flags one.
func (c client) mutt(t *testing.T) {
	dir := t.TempDir()
	box := filepath.Join(dir, "saved")
	rc := filepath.Join(dir, "muttrc")
	writeFile(t, rc, fmt.Sprintf(`set folder="imap://%s:%s/" imap_user=%q imap_pass=%q spoolfile="+INBOX"
set ssl_starttls=no ssl_force_tls=no mbox_type=mbox copy=no confirmappend=no confirmcreate=no wait_key=no
set imap_condstore=yes imap_qresync=yes sort=mailbox-order delete=yes quit=yes
push "<tag-pattern>~A<enter><tag-prefix><copy-message>%s<enter><limit>all<enter><first-entry><flag-message><sync-mailbox><quit>"
`, c.host, c.port, c.user, c.password, box))
	inTerminal(t, fmt.Sprintf("mutt -n -F %s -f imap://%s:%s/INBOX", rc, c.host, c.port))
	if n := strings.Count(string(readFile(t, box)), "\nX-Number: "); n != c.messages {
		t.Errorf("mutt saved %d messages, want %d", n, c.messages)
	}
	m := c.dial(t)
	lines, err := m.Do(`UID SEARCH FLAGGED`)
	if err != nil || !strings.Contains(fmt.Sprint(lines), "* SEARCH") || len(strings.Fields(lines[0].Text)) < 3 {
		t.Errorf("after mutt flagged a message, SEARCH FLAGGED says %v, %v", lines, err)
	}
}

// mbsync makes a copy of the account, and carries a change back.
func (c client) mbsync(t *testing.T) {
	dir := t.TempDir()
	rc := filepath.Join(dir, "mbsyncrc")
	// Version 1.4 of Debian 12 says SSLType; later ones accept it too.
	writeFile(t, rc, fmt.Sprintf(`IMAPAccount a
Host %s
Port %s
User %q
Pass %q
SSLType None
AuthMechs LOGIN

IMAPStore far
Account a

MaildirStore near
Path %s/mail/
Inbox %s/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
Sync All
SyncState *
`, c.host, c.port, c.user, c.password, dir, dir))
	if err := os.Mkdir(filepath.Join(dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	program(t, "mbsync", "-c", rc, "-a")
	files, err := filepath.Glob(filepath.Join(dir, "mail", "INBOX", "*", "*"))
	if err != nil || len(files) != c.messages {
		t.Fatalf("mbsync fetched %d messages, %v; want %d", len(files), err, c.messages)
	}
	number := numberOf(t, crlf(readFile(t, files[0])))
	base, _, _ := strings.Cut(filepath.Base(files[0]), ":")
	move(t, files[0], filepath.Join(dir, "mail", "INBOX", "cur", base+":2,RS")) // Answered and seen.
	program(t, "mbsync", "-c", rc, "-a")
	m := c.dial(t)
	v, err := m.Look("INBOX", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, seen := range v.Messages {
		if numberOf(t, seen.Body) == number && !(strings.Contains(seen.Flags, `\Answered`) && strings.Contains(seen.Flags, `\Seen`)) {
			t.Errorf("after mbsync carried flags back they are %q", seen.Flags)
		}
	}
}

//go:embed testdata/imaplib.py
var imaplibScript string

// imaplib walks through what a program does with Python's library. The script
// exits with an error at the first thing that is not as it should be.
func (c client) imaplib(t *testing.T) {
	script := filepath.Join(t.TempDir(), "imaplib_walk.py")
	writeFile(t, script, imaplibScript)
	t.Log(program(t, "python3", script, c.host, c.port, c.user, c.password, fmt.Sprint(c.messages)))
}

// dial opens the mailbox with our own client and selects INBOX.
func (c client) dial(t *testing.T) *outside.Mailbox {
	t.Helper()
	m, err := outside.DialIMAP(t.Context(), net.JoinHostPort(c.host, c.port), c.user, c.password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if _, err := m.Do("SELECT INBOX"); err != nil {
		t.Fatal(err)
	}
	return m
}

// programWithin bounds every client's run.
const programWithin = time.Minute

// program runs a program that has to succeed and returns what it printed.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), programWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// inTerminal runs a command line that wants a terminal.
func inTerminal(t *testing.T, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), programWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "script", "-qec", line, "/dev/null")
	cmd.Env = append(os.Environ(), "TERM=xterm", "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%q", line, err, tail(string(out), 2000))
	}
}
