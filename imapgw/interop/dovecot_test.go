//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// speaker is a raw IMAP session, with us or with Dovecot.
type speaker struct {
	t *testing.T
	w io.Writer
	r *bufio.Reader
	n int
}

// ask sends a command and returns the untagged lines and how it ended.
func (s *speaker) ask(command string) (untagged []string, ended string) {
	s.t.Helper()
	s.n++
	tag := fmt.Sprintf("q%d ", s.n)
	if _, err := io.WriteString(s.w, tag+command+"\r\n"); err != nil {
		s.t.Fatal(err)
	}
	for {
		l, err := s.r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("%s: %v", command, err)
		}
		l = strings.TrimRight(l, "\r\n")
		if rest, ok := strings.CutPrefix(l, tag); ok {
			word, _, _ := strings.Cut(rest, " ")
			return untagged, word
		}
		untagged = append(untagged, l)
	}
}

// startDovecot runs Dovecot's imap on the messages, as the user nobody, with
// whom root's files are not shared.
func startDovecot(t *testing.T, mails [][]byte, dates []time.Time) *speaker {
	t.Helper()
	need(t, "doveadm", "dovecot-imapd")
	dir, err := os.MkdirTemp("", "imapgw-dovecot-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	uid, gid := os.Geteuid(), os.Getegid()
	attr := &syscall.SysProcAttr{}
	if uid == 0 {
		uid, gid = 65534, 65534
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	write(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(
		"mail_location = maildir:%s/mail\nprotocols = imap\nssl = no\nbase_dir = %s/run\nstate_dir = %s/run\nlog_path = %s/log\n"+
			"first_valid_uid = 1\nfirst_valid_gid = 1\nlast_valid_uid = 0\nmail_uid = %d\nmail_gid = %d\nmail_fsync = never\n",
		dir, dir, dir, dir, uid, gid))
	for _, sub := range []string{"mail/cur", "mail/new", "mail/tmp", "run", "home"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range mails {
		f := filepath.Join(dir, "mail/cur", fmt.Sprintf("%d.M1P1.test:2,", 1700000000+i))
		write(t, f, string(m))
		if err := os.Chtimes(f, dates[i], dates[i]); err != nil {
			t.Fatal(err)
		}
	}
	err = filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("doveadm", "-c", filepath.Join(dir, "dovecot.conf"), "exec", "imap")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "USER=test", "HOME=" + filepath.Join(dir, "home"), "TZ=UTC"}
	cmd.Dir, cmd.SysProcAttr = dir, attr
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
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
			t.Logf("Dovecot: %v\n%s", err, &stderr)
		}
	})
	s := &speaker{t: t, w: in, r: bufio.NewReader(out)}
	if greeting, err := s.r.ReadString('\n'); err != nil || !strings.HasPrefix(greeting, "* PREAUTH") {
		t.Fatalf("greeting %q, %v\n%s", greeting, err, &stderr)
	}
	return s
}

// Messages that are left out of a comparison, and why.
var (
	// oddDates are messages without a date that Dovecot knows as such: for it,
	// one that is missing, that it cannot read, or that is before 1970 or far
	// ahead, is 1970. Here a message without a date is neither before nor after
	// any other.
	oddDates = func(m []byte) bool {
		parsed, err := mail.ReadMessage(bytes.NewReader(m))
		if err != nil {
			return true
		}
		at, err := parsed.Header.Date()
		return err != nil || at.Year() < 1970 || at.Year() > 2100
	}
	// oddEncodings are messages with a part in a transfer encoding that nobody
	// knows. Dovecot does not look into it, we look at it as it is.
	oddEncodings = func(m []byte) bool {
		for _, l := range strings.Split(strings.ToLower(string(m)), "\n") {
			if v, ok := strings.CutPrefix(l, "content-transfer-encoding:"); ok {
				switch strings.TrimSpace(v) {
				case "7bit", "8bit", "binary", "base64", "quoted-printable":
				default:
					return true
				}
			}
		}
		return false
	}
	// twoSubjects are messages with two Subject fields, of which Dovecot looks in
	// both and we in the one that ENVELOPE shows.
	twoSubjects = func(m []byte) bool {
		header, _, _ := bytes.Cut(m, []byte("\r\n\r\n"))
		return bytes.Count(bytes.ToLower(header), []byte("\nsubject:")) > 1
	}
)

// searches are asked of both servers.
var searches = []struct {
	keys string
	but  func(mail []byte) bool
}{
	{keys: "ALL"}, {keys: "UNSEEN"}, {keys: "NOT SEEN"}, {keys: "1:10,20:*"}, {keys: "UID 5:7"}, {keys: "*"},
	{keys: "LARGER 2000"}, {keys: "SMALLER 500"}, {keys: "NOT LARGER 1000 SMALLER 5000"},
	{keys: "SINCE 1-Nov-2026"}, {keys: "BEFORE 2-Nov-2026"}, {keys: "ON 3-Nov-2026"}, {keys: "NOT ON 2-Nov-2026"},
	{keys: "SENTBEFORE 1-Jan-2006", but: oddDates}, {keys: "SENTSINCE 1-Jan-2007", but: oddDates}, {keys: "SENTON 10-May-2005", but: oddDates}, {keys: "NOT SENTSINCE 1-Jan-2005", but: oddDates},
	{keys: "FROM mikel"}, {keys: `FROM "test@"`}, {keys: "FROM @lindsaar.net"}, {keys: `FROM "Mikel Lindsaar"`}, {keys: `FROM ""`},
	{keys: "TO mikel"}, {keys: "CC a"}, {keys: `CC ""`}, {keys: "BCC x"}, {keys: `TO "undisclosed"`},
	{keys: "SUBJECT test", but: twoSubjects}, {keys: "SUBJECT re:"}, {keys: `SUBJECT ""`}, {keys: "SUBJECT attachment"}, {keys: `SUBJECT "まみむめも"`},
	{keys: "HEADER Message-ID @"}, {keys: `HEADER Message-ID ""`}, {keys: `HEADER X-Mailer ""`}, {keys: "HEADER X-Mailer apple"},
	{keys: `HEADER In-Reply-To ""`}, {keys: `HEADER Received ""`}, {keys: "HEADER Received localhost"}, {keys: "HEADER Content-Type mixed"},
	{keys: `HEADER Reply-To ""`}, {keys: `HEADER Sender ""`}, {keys: `HEADER References ""`}, {keys: "HEADER Date 2005"},
	{keys: "BODY test"}, {keys: "BODY the", but: oddEncodings}, {keys: "BODY plain"}, {keys: "BODY boundary"}, {keys: "BODY attachment"}, {keys: `BODY "hello world"`},
	{keys: "BODY base64"}, {keys: "BODY mikel"}, {keys: "BODY filename"}, {keys: `BODY "日本"`}, {keys: `BODY "é"`},
	{keys: "TEXT test"}, {keys: "TEXT lindsaar"}, {keys: "TEXT quoted-printable"}, {keys: `TEXT "x-mailer: apple"`}, {keys: "TEXT multipart"}, {keys: `TEXT "ü"`},
	{keys: "OR FROM mikel SUBJECT test", but: twoSubjects}, {keys: "NOT (FROM mikel SUBJECT test)", but: twoSubjects}, {keys: "OR (BODY the) NOT TEXT test"},
	{keys: "KEYWORD x"}, {keys: "UNKEYWORD x"}, {keys: "ANSWERED"}, {keys: "DELETED"}, {keys: "1:5 FROM mikel"},
}

// TestSearchLikeDovecot compares the results of searches in the hard messages.
func TestSearchLikeDovecot(t *testing.T) {
	s := serve(t)
	var dates []time.Time
	bob := s.backend.AddAccount("bob", "secret")
	var mails [][]byte
	for i, m := range s.mails {
		// Dovecot counts line ends as CRLF.
		m = []byte(strings.ReplaceAll(strings.ReplaceAll(string(m), "\r\n", "\n"), "\n", "\r\n"))
		at := time.Date(2026, 11, 1, i, 0, 0, 0, time.UTC)
		mails, dates = append(mails, m), append(dates, at)
		bob.Deliver(m, at)
	}
	theirs := startDovecot(t, mails, dates)
	c, err := net.Dial("tcp", net.JoinHostPort(s.host, s.port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	ours := &speaker{t: t, w: c, r: bufio.NewReader(c)}
	if _, err := ours.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ours.ask("LOGIN bob secret")
	for _, who := range []*speaker{ours, theirs} {
		if _, end := who.ask("SELECT INBOX"); end != "OK" {
			t.Fatal("SELECT failed")
		}
	}
	for _, q := range searches {
		a, endA := ours.ask("SEARCH CHARSET UTF-8 " + q.keys)
		b, endB := theirs.ask("SEARCH CHARSET UTF-8 " + q.keys)
		if x, y := found(a, mails, q.but), found(b, mails, q.but); x != y || endA != endB {
			t.Errorf("%s:\nours    %s %s\ndovecot %s %s", q.keys, endA, x, endB, y)
		}
	}
}

// found returns the numbers in a SEARCH response without those that are left
// out.
func found(lines []string, mails [][]byte, but func([]byte) bool) string {
	var kept []string
	for _, l := range lines {
		numbers, ok := strings.CutPrefix(l, "* SEARCH")
		if !ok {
			continue // Dovecot tells of a keyword when it is looked for
		}
		for _, f := range strings.Fields(numbers) {
			n, err := strconv.Atoi(f)
			if err != nil || n < 1 || n > len(mails) {
				return "nonsense: " + l
			}
			if but == nil || !but(mails[n-1]) {
				kept = append(kept, f)
			}
		}
	}
	return strings.Join(kept, " ")
}
