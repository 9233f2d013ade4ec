//go:build interop

package interop

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/event"
	"holdfast/imapgw"
	"holdfast/imapgw/imapgwtest"
)

// need makes sure that a program is there.
func need(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-qq", "-y", "--no-install-recommends", pkg}} {
		cmd := exec.Command("apt-get", append([]string{"-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("apt-get %v: %v\n%s", args, err, out)
		}
	}
}

type server struct {
	backend    *imapgwtest.Backend
	alice      *imapgwtest.Account
	host, port string
	mails      [][]byte // in INBOX, by UID - 1
}

// serve starts a server with the hard messages in alice's INBOX.
func serve(t *testing.T) *server {
	t.Helper()
	s := &server{backend: imapgwtest.New()}
	s.alice = s.backend.AddAccount("alice", "secret")
	files, err := filepath.Glob("../../message/testdata/*/*.eml")
	if err != nil || len(files) < 50 {
		t.Fatalf("corpus: %d files, %v", len(files), err)
	}
	at := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s.mails = append(s.mails, data)
		s.alice.Deliver(data, at)
		at = at.Add(time.Minute)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := imapgw.New(imapgw.Config{AllowPlaintextAuth: true}, s.backend)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	s.host, s.port, err = net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs a client and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "TERM=xterm", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestImaplib(t *testing.T) {
	need(t, "python3", "python3")
	s := serve(t)
	dir := t.TempDir()
	for i, m := range s.mails {
		write(t, filepath.Join(dir, fmt.Sprint(i+1)), string(m))
	}
	t.Log(run(t, "python3", "testdata/client.py", s.host, s.port, dir))
	// What it says it did has to be true.
	if flags := s.alice.Flags("INBOX", 1); !slices.Contains(flags, `\Flagged`) || !slices.Contains(flags, "Work") {
		t.Errorf("flags of message 1: %v", flags)
	}
	if uids := s.alice.UIDs("Archive"); len(uids) != 2 {
		t.Errorf("Archive has %v", uids)
	}
	if slices.Contains(s.alice.UIDs("INBOX"), 3) {
		t.Error("message 3 was not moved")
	}
}

func TestCurl(t *testing.T) {
	need(t, "curl", "curl")
	s := serve(t)
	base := "imap://" + net.JoinHostPort(s.host, s.port)
	curl := func(args ...string) string {
		return run(t, "curl", append([]string{"-sS", "--fail", "--user", "alice:secret"}, args...)...)
	}
	if out := curl(base + "/"); !strings.Contains(out, `(\HasNoChildren) "/" INBOX`) || !strings.Contains(out, `\Sent) "/" "Sent"`) {
		t.Errorf("list: %s", out)
	}
	for i, m := range s.mails {
		if i%7 != 0 {
			continue
		}
		file := filepath.Join(t.TempDir(), "out")
		curl("-o", file, fmt.Sprintf("%s/INBOX;UID=%d", base, i+1))
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(m) {
			t.Errorf("message %d: %d bytes, want %d", i+1, len(got), len(m))
		}
	}
	mail := filepath.Join(t.TempDir(), "mail")
	write(t, mail, "Subject: from curl\r\n\r\nNeedle in it.\r\n")
	curl("-T", mail, base+"/Drafts")
	if uids := s.alice.UIDs("Drafts"); len(uids) != 1 {
		t.Fatalf("Drafts has %v", uids)
	}
	if out := curl(base + "/Drafts?TEXT%20needle"); strings.TrimSpace(out) != "* SEARCH 1" {
		t.Errorf("search: %q", out)
	}
	curl(base+"/Drafts", "-X", `STORE 1 +FLAGS \Deleted`)
	curl(base+"/Drafts", "-X", "EXPUNGE")
	if uids := s.alice.UIDs("Drafts"); len(uids) != 0 {
		t.Errorf("Drafts has %v", uids)
	}
	curl(base+"/INBOX", "-X", "MOVE 2 Archive")
	if uids := s.alice.UIDs("Archive"); len(uids) != 1 {
		t.Errorf("Archive has %v", uids)
	}
}

// digests counts the messages in a maildir by the hash of what mbsync got, but
// for its own X-TUID lines. It stores LF for CRLF.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[digest(data)] = f
	}
	return out
}

// distinct returns the first message, from i on, that no other equals.
func (s *server) distinct(i int) int {
	for ; ; i++ {
		same := 0
		for _, m := range s.mails {
			if digest(m) == digest(s.mails[i]) {
				same++
			}
		}
		if same == 1 {
			return i
		}
	}
}

func digest(data []byte) string {
	var kept []string
	for _, l := range strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n") {
		if !strings.HasPrefix(l, "X-TUID: ") {
			kept = append(kept, l)
		}
	}
	sum := sha256.Sum256([]byte(strings.Join(kept, "\n")))
	return hex.EncodeToString(sum[:])
}

func TestMbsync(t *testing.T) {
	need(t, "mbsync", "isync")
	s := serve(t)
	dir := t.TempDir()
	rc := filepath.Join(dir, "mbsyncrc")
	write(t, rc, fmt.Sprintf(`
IMAPAccount a
Host %s
Port %s
User alice
Pass secret
SSLType None
AuthMechs PLAIN

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
SyncState *
`, s.host, s.port, dir, dir))
	if err := os.Mkdir(filepath.Join(dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	sync := func() { run(t, "mbsync", "-c", rc, "-a") }
	sync()
	inbox := filepath.Join(dir, "mail", "INBOX")
	have := digests(t, inbox)
	for i, m := range s.mails {
		if strings.ContainsRune(strings.ReplaceAll(string(m), "\r\n", ""), '\r') {
			continue // a maildir of LF lines cannot tell
		}
		if have[digest(m)] == "" {
			t.Errorf("message %d did not arrive as it is", i+1)
		}
	}
	// One is flagged here, one deleted here, one made here; one flagged there, one
	// comes there.
	first, second := s.distinct(0), 0
	second = s.distinct(first + 1)
	flagged, deleted := have[digest(s.mails[first])], have[digest(s.mails[second])]
	cur := func(f, flags string) string {
		name, _, _ := strings.Cut(filepath.Base(f), ":")
		return filepath.Join(inbox, "cur", name+":2,"+flags)
	}
	for from, to := range map[string]string{flagged: cur(flagged, "FS"), deleted: cur(deleted, "T")} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "mail", "INBOX", "cur", "1.new.here:2,S"), "Subject: made here\n\nhello\n")
	s.alice.Deliver([]byte("Subject: came there\r\n\r\nhello\r\n"), time.Now())
	sync()
	if flags := s.alice.Flags("INBOX", event.UID(first+1)); !slices.Contains(flags, `\Flagged`) || !slices.Contains(flags, `\Seen`) {
		t.Errorf("flags of message %d: %v", first+1, flags)
	}
	uids := s.alice.UIDs("INBOX")
	if slices.Contains(uids, event.UID(second+1)) || len(uids) != len(s.mails)+1 {
		t.Errorf("INBOX has %d messages: %v", len(uids), uids)
	}
	if files, err := filepath.Glob(filepath.Join(inbox, "*", "*")); err != nil || len(files) != len(uids) {
		t.Errorf("the maildir has %d messages, the mailbox %d: %v", len(files), len(uids), err)
	}
	// Nothing is left to do.
	sync()
	if again := s.alice.UIDs("INBOX"); !slices.Equal(again, uids) {
		t.Errorf("a second run changed INBOX from %v to %v", uids, again)
	}
}

func TestMutt(t *testing.T) {
	need(t, "mutt", "mutt")
	need(t, "script", "bsdutils")
	s := serve(t)
	dir := t.TempDir()
	rc := filepath.Join(dir, "muttrc")
	last := len(s.mails)
	s.alice.Deliver([]byte("From: a@b.test\r\nSubject: find me\r\n\r\nA needle is in here.\r\n"), time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC))
	write(t, rc, fmt.Sprintf(`
set imap_user=alice imap_pass=secret ssl_starttls=no ssl_force_tls=no
set folder="imap://%s:%s/" spoolfile="imap://%s:%s/INBOX"
set header_cache="" message_cachedir="" move=no confirmappend=no confirmcreate=no delete=yes quit=yes
set wait_key=no imap_keepalive=10 sort=mailbox-order resolve=no timeout=2 mail_check=1 beep=no
set sendmail=/bin/true abort_unmodified=no
# Find a message by its body on the server, flag it, save a copy, read it, delete
# the first one, and leave.
push "<limit>=b needle<enter><flag-message><copy-message>=Archive<enter><display-message><exit><limit>all<enter><first-entry><delete-message><sync-mailbox><quit>"
`, s.host, s.port, s.host, s.port))
	run(t, "script", "-qec", "stty rows 40 cols 120; mutt -n -F "+rc, "/dev/null")
	target := s.alice.UIDs("INBOX")
	if slices.Contains(target, 1) {
		t.Error("message 1 was not deleted")
	}
	uid := target[len(target)-1]
	if int(uid) != last+1 {
		t.Fatalf("the last message has UID %d", uid)
	}
	if flags := s.alice.Flags("INBOX", uid); !slices.Contains(flags, `\Flagged`) || !slices.Contains(flags, `\Seen`) {
		t.Errorf("flags of the message found: %v", flags)
	}
	if uids := s.alice.UIDs("Archive"); len(uids) != 1 {
		t.Errorf("Archive has %v", uids)
	}
}

// decode undoes base64.
func decode(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatalf("not base64: %v", err)
	}
	return string(b)
}

// equalMail compares messages when line ends do not count, as for a program that
// keeps its own.
func equalMail(a, b string) bool {
	norm := func(s string) string {
		return strings.TrimRight(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s), "\n")
	}
	return norm(a) == norm(b)
}
