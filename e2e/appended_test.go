package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// appended returns the ids of what a user's client has put into mailboxes and is
// still found, by subject, and wants each to be exported as it was put there.
func (a *aging) appended(texts map[string][]byte) map[string]string {
	a.t.Helper()
	ids := map[string]string{}
	for _, row := range a.search("--state", "appended") {
		ids[row.Subject] = row.ID
		dir := a.t.TempDir()
		a.must("export", row.ID, "-o", dir)
		if text := readFile(a.t, filepath.Join(dir, row.ID+".eml")); string(text) != string(texts[row.Subject]) {
			a.t.Errorf("the message %q reads %q", row.Subject, text)
		}
	}
	return ids
}

// refused wants a command to fail, and to say why.
func (a *aging) refused(why string, args ...string) {
	a.t.Helper()
	out, err := a.Run(a.t.Context(), nil, args...)
	if err != nil || out.Code == 0 || !strings.Contains(out.Stderr, why) {
		a.t.Errorf("%v: exit %d, %v: %q, want a refusal that says %q", args, out.Code, err, out.Stderr, why)
	}
}

// TestWhatUsersAppendIsHeld: drafts and copies that a client puts into mailboxes
// outlive their day under a hold, whatever the user does and whoever wants them
// erased, and can be erased afterwards.
func TestWhatUsersAppendIsHeld(t *testing.T) {
	t.Parallel()
	a := newAging(t, false)
	texts := map[string][]byte{"draft 1": numbered("draft", 1), "copy 2": numbered("copy", 2)}
	alice, bob := a.login("alice@acme.test", "correct horse"), a.login("bob@acme.test", "battery staple")
	for _, err := range []error{
		alice.Append("Drafts", `(\Draft)`, texts["draft 1"]), alice.Append("Sent", `(\Seen)`, texts["copy 2"]),
		bob.Append("Sent", `(\Seen)`, []byte("From: bob@acme.test\r\nSubject: bob's own\r\n\r\n")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a.must("hold", "add", "case-1", "--reason", "a trial", "--user", "alice@acme.test")
	a.do(alice, "SELECT Drafts")
	a.do(alice, `STORE 1 +FLAGS (\Deleted)`)
	a.do(alice, "EXPUNGE")
	ids := a.search("--state", "appended", "--rcpt", "alice@acme.test")
	if len(ids) != 2 {
		t.Fatalf("%d messages of alice's are found", len(ids))
	}
	for _, scope := range [][]string{
		{"--user", "alice@acme.test"}, {"--domain", "acme.test"}, {"--tenant", "acme"}, {"--message-id", "draft.1@remote.example"}, {ids[0].ID}, {ids[1].ID},
	} {
		a.refused("by hold case-1", append(append([]string{"erase"}, scope...), "--reason", "R", "--yes")...)
	}

	a.pass(49 * time.Hour)
	check := func() {
		t.Helper()
		if found := a.appended(texts); len(found) != 2 || found["draft 1"] == "" || found["copy 2"] == "" {
			t.Errorf("found is %v", found)
		}
	}
	check()
	if n := len(a.search()); n != 0 {
		t.Errorf("a search that does not ask for it finds %d messages", n)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(a.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
	a.refused("put into a mailbox", "redeliver", ids[0].ID)

	a.must("hold", "release", "case-1", "--reason", "settled")
	cert := filepath.Join(t.TempDir(), "certificate")
	if out := a.must("erase", "--message-id", "draft.1@remote.example", "--reason", "by order", "-o", cert); !strings.Contains(out, "1 message erased") {
		t.Errorf("erase says %q", out)
	}
	key := strings.TrimSpace(a.must("keys", "public"))
	if out, err := exec.CommandContext(t.Context(), a.Binary, "log", "check", cert, "--key", key).CombinedOutput(); err != nil {
		t.Errorf("the certificate: %v\n%s", err, out)
	}
	if out := a.must("erase", "--user", "alice@acme.test", "--reason", "left", "--dry-run"); !strings.Contains(out, "alice@acme.test (appended)") {
		t.Errorf("a dry run says %q", out)
	}
	if out := a.must("erase", "--user", "alice@acme.test", "--reason", "left"); !strings.Contains(out, "1 message erased") {
		t.Errorf("erase says %q", out)
	}
	if found := a.appended(texts); len(found) != 0 {
		t.Errorf("found is %v", found)
	}
	a.must("log", "verify")
}
