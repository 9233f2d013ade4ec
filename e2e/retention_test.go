package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/delivery/smtpc/smtptest"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	s3open "holdfast/objstore/open"
	"holdfast/sim/residue"
)

// TestClockForTests: it is refused unless the configuration allows it, moves the
// time at which mail is received, and says everywhere that it is on.
func TestClockForTests(t *testing.T) {
	s := open(t, setting{})
	s.Clock = 49 * time.Hour
	out, err := s.Run(t.Context(), nil, "status")
	if err != nil || out.Code != 1 || !strings.Contains(out.Stderr, "test_clock") {
		t.Errorf("moved without leave: exit %d, %v: %q, want 1 and what to do", out.Code, err, out.Stderr)
	}

	s = open(t, setting{clock: true})
	if strings.Contains(s.must("status"), "test clock") {
		t.Error("it is said to be on, and is not")
	}
	s.Clock = 49 * time.Hour
	s.restart()
	s.send("sender@remote.example", "alice@acme.test", numbered("later", 1))
	rows := s.search("--since", "1h")
	if len(rows) != 1 || time.Until(rows[0].Received) < 48*time.Hour {
		t.Errorf("received: %v", rows)
	}
	_, metrics := get(t, "http://"+s.Web+"/metrics")
	_, page := get(t, "http://"+s.Web+"/")
	for where, text := range map[string]string{
		"status": s.must("status"), "status --json": s.must("status", "--json"), "the status page": page, "the node's log": s.LastLog(),
	} {
		if !strings.Contains(text, "the test clock is on") {
			t.Errorf("%s does not say that the test clock is on", where)
		}
	}
	if !strings.Contains(metrics, "\nholdfast_test_clock_seconds 176400\n") {
		t.Error("/metrics does not say by how much the clock is moved")
	}
	s.must("log", "verify")
}

// TestADayEnds: mail of a domain that keeps a day is gone two days later, from
// search, mailboxes and bucket, and nothing opens it in a copy of the bucket from
// before. What is filed, due or under a hold stays, under the UIDs that it had.
func TestADayEnds(t *testing.T) {
	t.Parallel()
	for _, s3 := range []bool{false, true} {
		t.Run(map[bool]string{false: "in files", true: "on S3"}[s3], func(t *testing.T) {
			t.Parallel()
			newAging(t, s3).live()
		})
	}
}

// aging is a scene whose days pass.
type aging struct {
	*scene
	before map[string][]byte // a copy of the bucket from before the first day ended
	id     map[string]string // of the messages, by what they are for
	mark   map[string]string // in them
	uids   map[uint32]string // in alice's mailboxes at first, by mark
}

func newAging(t *testing.T, s3 bool) *aging {
	s := open(t, setting{clock: true, shadowDays: 1, continuity: "always", s3: s3})
	a := &aging{scene: s, id: map[string]string{}, mark: map[string]string{}}
	a.do(a.login("alice@acme.test", "correct horse"), "CREATE Cases")
	return a
}

// post sends a message with a mark of its own.
func (a *aging) post(what, to string, size int) {
	a.t.Helper()
	mark := residue.Mark(uint64(len(a.mark) + 1))
	a.mark[what] = mark
	text := strings.Repeat(mark+" is what this is about\r\n", size/32+1)
	reply := a.send(mark+"@remote.example", to, fmt.Appendf(nil, "From: %s@remote.example\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <%s@remote.example>\r\n\r\n%s", mark, to, mark, mark, text))
	a.id[what] = eventID.FindString(reply)
	if a.id[what] == "" {
		a.t.Fatalf("no id in %q", reply)
	}
}

var eventID = regexp.MustCompile(`[0-9a-f]{32}`)

func (a *aging) live() {
	t := a.t
	a.post("plain", "alice@acme.test", 100)
	a.post("large", "alice@acme.test", 700_000)
	a.post("filed", "alice@acme.test", 300_000)
	a.post("flagged", "alice@acme.test", 100)
	a.post("erased", "alice@acme.test", 300_000)
	a.post("on hold", "bob@acme.test", 300_000)
	a.post("bob's", "bob@acme.test", 100)
	a.awaitDrained(30 * time.Second)
	a.file()
	a.must("hold", "add", "case-1", "--reason", "a trial", a.id["on hold"])
	a.primary.Stop()
	a.awaitState("down", 15*time.Second)
	a.post("due", "alice@acme.test", 300_000)
	a.uids = a.inboxes()
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	a.before = a.objects("")
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.erase()

	a.pass(49 * time.Hour)
	a.gone("plain", "large", "bob's", "erased")
	a.stays("filed", "flagged", "on hold", "due")
	if n := a.status().Tenants[0].UnderHold; n != 1 {
		t.Errorf("%d messages are held, want 1", n)
	}
	if err := a.primary.Start(); err != nil {
		t.Fatal(err)
	}
	a.awaitDrained(60 * time.Second)
	if n := a.got("due"); n != 1 {
		t.Errorf("the primary has the message that was due %d times", n)
	}
	a.residue("plain", "large", "bob's")

	// A node that has lost everything but the bucket and the key.
	a.must("log", "verify")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(a.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.gone("plain", "large", "bob's", "erased")
	a.stays("filed", "flagged", "on hold")

	// What is kept is kept for thirty days, and then looked at again.
	a.must("hold", "release", "case-1", "--reason", "settled")
	a.pass(49*time.Hour + 32*24*time.Hour)
	a.gone("plain", "large", "bob's", "erased", "due", "on hold")
	a.stays("filed", "flagged")
	a.residue("plain", "large", "bob's", "due", "on hold")
	a.must("log", "verify")
}

// file puts one message into a folder and a flag on another.
func (a *aging) file() {
	a.t.Helper()
	alice := a.login("alice@acme.test", "correct horse")
	for uid, seen := range a.look(alice, "INBOX").Messages {
		switch {
		case bytes.Contains(seen.Body, []byte(a.mark["filed"])):
			a.do(alice, fmt.Sprintf("UID MOVE %d Cases", uid))
		case bytes.Contains(seen.Body, []byte(a.mark["flagged"])):
			a.do(alice, fmt.Sprintf(`UID STORE %d +FLAGS (\Flagged)`, uid))
		}
	}
}

// inboxes returns what alice has, by UID; those in Cases are counted from a
// thousand on.
func (a *aging) inboxes() map[uint32]string {
	a.t.Helper()
	alice := a.login("alice@acme.test", "correct horse")
	defer alice.Close()
	out := map[uint32]string{}
	for i, mailbox := range []string{"INBOX", "Cases"} {
		for uid, seen := range a.look(alice, mailbox).Messages {
			for what, mark := range a.mark {
				if bytes.Contains(seen.Body, []byte("Subject: "+mark+"\r\n")) {
					out[uint32(i)*1000+uid] = what
				}
			}
		}
	}
	return out
}

// erase erases one message and checks its certificate.
func (a *aging) erase() {
	a.t.Helper()
	t := a.t
	cert := filepath.Join(t.TempDir(), "certificate")
	a.must("erase", a.id["erased"], "--reason", "by order", "-o", cert)
	key := strings.TrimSpace(a.must("keys", "public"))
	out, err := exec.CommandContext(t.Context(), a.Binary, "log", "check", cert, "--key", key).CombinedOutput()
	if err != nil || !strings.Contains(string(out), a.id["erased"]) || !strings.Contains(string(out), "by order") {
		t.Errorf("the certificate: %v\n%s", err, out)
	}
	a.gone("erased")
	a.stays("plain", "large", "filed", "flagged", "on hold", "bob's", "due")
	a.must("log", "verify")
	a.purged()
}

// purged kills the node, which has just erased something, waits until that has left
// the files of its database after it has started again, and checks that no copy of
// these has it: not of a node that runs, nor of one that was killed.
func (a *aging) purged() {
	a.t.Helper()
	a.Kill()
	if err := a.Start(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	var s struct {
		UnpurgedSince *time.Time `json:"unpurged_since"`
	}
	a.eventually(30*time.Second, func() error {
		s.UnpurgedSince = nil
		if err := json.Unmarshal([]byte(a.must("status", "--json")), &s); err != nil {
			return err
		}
		if s.UnpurgedSince != nil {
			return fmt.Errorf("erased mail is in the database's files since %v", s.UnpurgedSince)
		}
		return nil
	})
	a.residue()
	a.Kill()
	a.residue()
	if err := a.Start(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.residue()
}

// pass lets time pass while the node is down, and waits until the work of the
// days that have passed is done.
func (a *aging) pass(by time.Duration) {
	a.t.Helper()
	a.Clock = by
	a.restart()
	today := time.Now().Add(by).UTC().Add(-2 * time.Minute).Format(time.DateOnly)
	a.eventually(30*time.Second, func() error {
		r := a.status()
		if r.ReadableFrom < today {
			return fmt.Errorf("readable is what expires on %s, want %s: %s", r.ReadableFrom, today, r.Trouble)
		}
		if left := a.oldDays(today); len(left) > 0 {
			return fmt.Errorf("the bucket still has %v", left)
		}
		return nil
	})
}

// oldDays are the objects of days before today.
func (a *aging) oldDays(today string) (left []string) {
	a.t.Helper()
	for _, kind := range []string{"blob/", "key/"} {
		for key := range a.objects(kind) {
			if day, ok := strings.CutPrefix(key, kind+"2"); ok && "2"+day[:len("026-01-02")] < today {
				left = append(left, key)
			}
		}
	}
	return left
}

// keeping is the part of status --json that is about retention.
type keeping struct {
	ReadableFrom string `json:"readable_from"`
	Trouble      string
	Tenants      []struct {
		Messages, Erased int
		UnderHold        int `json:"under_hold"`
	}
}

func (a *aging) status() keeping {
	a.t.Helper()
	var s struct{ Retention keeping }
	if err := json.Unmarshal([]byte(a.must("status", "--json")), &s); err != nil {
		a.t.Fatal(err)
	}
	return s.Retention
}

// gone checks that messages are nowhere to be found.
func (a *aging) gone(what ...string) {
	a.t.Helper()
	rows, have := a.search(), a.inboxes()
	for _, w := range what {
		if slices.ContainsFunc(rows, func(f found) bool { return f.ID == a.id[w] || f.Subject == a.mark[w] }) {
			a.t.Errorf("the message %q is still found", w)
		}
		for uid, other := range have {
			if other == w {
				a.t.Errorf("the message %q still has UID %d", w, uid)
			}
		}
		out, err := a.Run(a.t.Context(), nil, "export", a.id[w], "-o", a.t.TempDir())
		if err != nil || out.Code != 1 {
			a.t.Errorf("export of the message %q: exit %d, %v: %s", w, out.Code, err, out.Stderr)
		}
	}
}

// stays checks that messages are found, and those of alice that she has filed
// under the UIDs that they had.
func (a *aging) stays(what ...string) {
	a.t.Helper()
	rows, have := a.search(), a.inboxes()
	for _, w := range what {
		if !slices.ContainsFunc(rows, func(f found) bool { return f.ID == a.id[w] && f.Subject == a.mark[w] }) {
			a.t.Errorf("the message %q is not found", w)
		}
		dir := a.t.TempDir()
		a.must("export", a.id[w], "-o", dir)
		if text := readFile(a.t, filepath.Join(dir, a.id[w]+".eml")); !bytes.Contains(text, []byte(a.mark[w])) {
			a.t.Errorf("the message %q reads %.100q", w, text)
		}
	}
	for uid, was := range a.uids {
		if (was == "filed" || was == "flagged") && have[uid] != was {
			a.t.Errorf("UID %d was the message %q and is now %q", uid, was, have[uid])
		}
	}
	for uid, is := range have {
		if a.uids[uid] != is {
			a.t.Errorf("UID %d is the message %q and was %q", uid, is, a.uids[uid])
		}
	}
}

// got is how often the primary has a message.
func (a *aging) got(what string) (n int) {
	for _, tx := range a.primary.Transactions() {
		if bytes.Contains(tx.Body, []byte(a.mark[what])) {
			n++
		}
	}
	return n
}

// residue looks for messages that have expired, and for the one that was erased,
// with the root key as it is now: in the copy of the bucket from before, in the
// bucket as it is, and in the files of the node's database.
func (a *aging) residue(what ...string) {
	a.t.Helper()
	t, ctx := a.t, a.t.Context()
	hoard, err := residue.NewHoard(ctx, mem.New())
	if err != nil {
		t.Fatal(err)
	}
	for _, objects := range []map[string][]byte{a.before, a.objects("")} {
		for key, text := range objects {
			key = strings.ReplaceAll(key, "~", "own-") // the store's own files are no objects
			if _, err := hoard.Put(ctx, key, bytes.NewReader(text), int64(len(text)), objstore.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	root, err := crypto.LoadRoot(filepath.Join(a.Dir, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	thief, err := residue.NewThief(hoard, root)
	if err != nil {
		t.Fatal(err)
	}
	expired := map[string]bool{}
	for _, w := range what {
		expired[a.mark[w]] = true
	}
	r, err := thief.Search(ctx, residue.Question{Over: root.Day(), Fate: func(mark string) residue.Fate {
		switch {
		case expired[mark]:
			return residue.Expired
		case mark != a.mark["erased"]:
			return residue.Kept
		case len(expired) > 0:
			return residue.Expired // its day is over, too
		}
		return residue.Erased
	}, Dirs: map[string]string{"the node": filepath.Join(a.DataDir(), "db")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Found {
		t.Errorf("residue: %v", f)
	}
	if !r.Opened[a.mark["filed"]] || r.Values == 0 {
		t.Errorf("the thief does not even open what is kept: %v, and %d values of %d files", r.Opened[a.mark["filed"]], r.Values, r.Dug)
	}
}

// objects returns what the bucket has under a prefix: files, or what the S3 server
// gives to whoever has its keys.
func (a *aging) objects(prefix string) map[string][]byte {
	a.t.Helper()
	all := map[string][]byte{}
	if a.gateway == nil {
		a.files(filepath.Join(a.Dir, "bucket"), prefix, all)
		return all
	}
	ctx := a.t.Context()
	b, closer, err := s3open.Open(ctx, a.gateway.URL("holdfast", ""), a.gateway.Getenv)
	if err != nil {
		a.t.Fatal(err)
	}
	defer closer.Close()
	for info, err := range b.List(ctx, prefix, "") {
		if err != nil {
			a.t.Fatal(err)
		}
		text, _, err := objstore.ReadAll(ctx, b, info.Key, 1<<30)
		if errors.Is(err, objstore.ErrNotExist) {
			continue // it went while we looked
		}
		if err != nil {
			a.t.Fatal(err)
		}
		all[info.Key] = text
	}
	return all
}

// files reads the files of a directory whose names begin with a prefix.
func (a *aging) files(dir, prefix string, into map[string][]byte) {
	a.t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, prefix), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		into[filepath.ToSlash(key)] = text
		return err
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// TestHeldMailOutlivesItsDay: what the queue holds for an administrator is there
// when its day has ended, and can be delivered then.
func TestHeldMailOutlivesItsDay(t *testing.T) {
	t.Parallel()
	a := newAging(t, false)
	a.primary.Stop()
	a.awaitState("down", 15*time.Second)
	const n = 30
	for i := range n {
		a.send("sender@remote.example", "alice@acme.test", numbered("refused", i))
	}
	a.primary.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Rcpt: {Reply: "550 5.1.1 no such user"}}})
	if err := a.primary.Start(); err != nil {
		t.Fatal(err)
	}
	held := func() []found { return a.search("--state", "held", "--limit", "1000") }
	a.eventually(time.Minute, func() error {
		if len(held()) == 0 {
			return errors.New("nothing is held yet")
		}
		return nil
	})
	a.awaitDrained(time.Minute)
	before := held()
	t.Logf("%d of %d messages are held", len(before), n)
	a.pass(49 * time.Hour)
	if after := held(); len(after) != len(before) {
		t.Errorf("%d messages were held, and are %d after their day", len(before), len(after))
	}
	a.primary.Script(smtptest.Script{})
	a.primary.Forget()
	a.must("redeliver", "--state", "held")
	a.eventually(time.Minute, func() error {
		if got := len(a.primary.Transactions()); got != len(before) {
			return fmt.Errorf("the primary has %d of %d messages that were held", got, len(before))
		}
		return nil
	})
	a.must("log", "verify")
}

// TestAUserIsErased: all mail to and from a user, and what the user has put into
// mailboxes, and nothing else.
func TestAUserIsErased(t *testing.T) {
	t.Parallel()
	a := newAging(t, false)
	a.post("hers", "alice@acme.test", 100)
	a.post("his", "bob@acme.test", 300_000)
	a.awaitDrained(30 * time.Second)
	bob := a.login("bob@acme.test", "battery staple")
	if err := bob.Append("Drafts", `(\Draft)`, numbered("draft", 1)); err != nil {
		t.Fatal(err)
	}
	if v := a.look(bob, "Drafts"); len(v.Messages) != 1 {
		t.Fatalf("bob has %d drafts", len(v.Messages))
	}
	out := a.must("erase", "--user", "bob@acme.test", "--reason", "left")
	if !strings.Contains(out, "2 messages erased") {
		t.Errorf("erase says %q", out)
	}
	a.restart()
	bob = a.login("bob@acme.test", "battery staple")
	for _, mailbox := range []string{"INBOX", "Drafts"} {
		if v := a.look(bob, mailbox); len(v.Messages) != 0 {
			t.Errorf("%s still has %d messages", mailbox, len(v.Messages))
		}
	}
	a.uids = a.inboxes()
	a.gone("his")
	a.stays("hers")
	if n := a.status().Tenants[0].Erased; n != 2 {
		t.Errorf("%d messages are counted as erased, want 2", n)
	}
	a.must("log", "verify")
}
