package message

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dovecotImap is where Debian's dovecot-imapd has its IMAP server.
const dovecotImap = "/usr/lib/dovecot/imap"

// needDovecot makes sure that Dovecot is there.
func needDovecot(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(dovecotImap); err == nil {
		return
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test compares with Dovecot: install the Debian package dovecot-imapd")
	}
	for _, args := range [][]string{{"update", "-q"}, {"install", "-q", "-y", "--no-install-recommends", "dovecot-imapd"}} {
		cmd := exec.CommandContext(t.Context(), "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("apt-get %v: %v\n%s", args, err, out)
		}
	}
	if _, err := os.Stat(dovecotImap); err != nil {
		t.Fatal("dovecot-imapd is installed, but its IMAP server is not where it should be:", err)
	}
}

// dovecot is one IMAP session, already logged in, with Dovecot's own server
// over a pipe, on a maildir of the given messages. Nothing listens anywhere.
type dovecot struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
	tag int
}

func startDovecot(t *testing.T, messages [][]byte) *dovecot {
	t.Helper()
	needDovecot(t)
	// Dovecot serves no mail as root.
	uid, gid := os.Geteuid(), os.Getegid()
	attr := &syscall.SysProcAttr{}
	if uid == 0 {
		uid, gid = 65534, 65534
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	dir := makeMaildir(t, messages, uid, gid)
	// Not the test's context: that ends before the session does.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "doveadm", "-c", filepath.Join(dir, "dovecot.conf"), "exec", "imap")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "USER=test", "HOME=" + filepath.Join(dir, "home")}
	cmd.Dir = dir
	cmd.SysProcAttr = attr
	cmd.WaitDelay = 5 * time.Second
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("dovecot: %v\n%s\n%s", err, stderr, log)
		}
	})
	d := &dovecot{t: t, in: in, out: bufio.NewReader(out)}
	greeting, err := d.out.ReadString('\n')
	if err != nil || !strings.HasPrefix(greeting, "* PREAUTH") {
		t.Fatalf("greeting %q, %v", greeting, err)
	}
	d.command("SELECT INBOX")
	return d
}

// makeMaildir makes a directory with a maildir of the messages and a
// configuration of Dovecot for it, all of it owned by the given user.
func makeMaildir(t *testing.T, messages [][]byte, uid, gid int) string {
	t.Helper()
	// The directory is made by hand since those of t.TempDir may be closed to
	// the user that Dovecot runs as.
	dir, err := os.MkdirTemp("", "message-dovecot-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, sub := range []string{"mail/cur", "mail/new", "mail/tmp", "run", "home"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{"dovecot.conf": fmt.Appendf(nil,
		"mail_location = maildir:%s/mail\nprotocols = imap\nssl = no\nbase_dir = %s/run\n"+
			"state_dir = %s/run\nlog_path = %s/log\nfirst_valid_uid = 1\nfirst_valid_gid = 1\n"+
			"last_valid_uid = 0\nmail_uid = %d\nmail_gid = %d\nmail_fsync = never\n",
		dir, dir, dir, dir, uid, gid)}
	for i, m := range messages {
		files[fmt.Sprintf("mail/cur/%d.M1P1.test:2,", 1700000000+i)] = m
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err = filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// command sends a command and returns the values of its FETCH answers by
// message number.
func (d *dovecot) command(command string) map[int]map[string]any {
	d.t.Helper()
	d.tag++
	tag := fmt.Sprintf("t%d", d.tag)
	if _, err := fmt.Fprintf(d.in, "%s %s\r\n", tag, command); err != nil {
		d.t.Fatal(err)
	}
	fetched := make(map[int]map[string]any)
	for {
		line := d.readTree()
		switch {
		case len(line) > 1 && line[0] == atom(tag):
			if line[1] != atom("OK") {
				d.t.Fatalf("%s: %v", command, line)
			}
			return fetched
		case len(line) == 4 && line[2] == atom("FETCH"):
			number, err := strconv.Atoi(string(line[1].(atom)))
			if err != nil {
				d.t.Fatal(err)
			}
			values := line[3].([]any)
			if fetched[number] == nil {
				fetched[number] = make(map[string]any)
			}
			for i := 0; i+1 < len(values); i += 2 {
				fetched[number][string(values[i].(atom))] = values[i+1]
			}
		}
	}
}

// atom is an IMAP atom; strings are of type string and lists of type []any.
type atom string

// readTree reads one response line with its literals.
func (d *dovecot) readTree() []any {
	d.t.Helper()
	stack := [][]any{nil}
	add := func(v any) { stack[len(stack)-1] = append(stack[len(stack)-1], v) }
	for {
		c := d.readByte()
		switch c {
		case ' ', '\r':
		case '\n':
			if len(stack) != 1 {
				d.t.Fatal("unbalanced answer")
			}
			return stack[0]
		case '(':
			stack = append(stack, nil)
		case ')':
			list := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			add(list)
		case '"':
			var s []byte
			for c = d.readByte(); c != '"'; c = d.readByte() {
				if c == '\\' {
					c = d.readByte()
				}
				s = append(s, c)
			}
			add(string(s))
		case '{':
			size, err := d.out.ReadString('}')
			if err != nil {
				d.t.Fatal(err)
			}
			n, err := strconv.Atoi(strings.TrimSuffix(size, "}"))
			if err != nil {
				d.t.Fatal(err)
			}
			b := make([]byte, n+2) // with its CRLF in front
			if _, err := io.ReadFull(d.out, b); err != nil {
				d.t.Fatal(err)
			}
			add(string(b[2:]))
		default:
			s := []byte{c}
			depth := 0
			for {
				next, err := d.out.Peek(1)
				if err != nil {
					d.t.Fatal(err)
				}
				if next[0] == '[' {
					depth++
				} else if next[0] == ']' {
					depth--
				}
				if depth <= 0 && strings.IndexByte(" ()\r\n", next[0]) >= 0 {
					break
				}
				s = append(s, d.readByte())
			}
			if string(s) == "NIL" {
				add(nil)
			} else {
				add(atom(s))
			}
		}
	}
}

func (d *dovecot) readByte() byte {
	d.t.Helper()
	c, err := d.out.ReadByte()
	if err != nil {
		d.t.Fatalf("read from dovecot: %v", err)
	}
	return c
}
