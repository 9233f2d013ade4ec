// Package e2e tests Holdfast as an outsider: it builds the binary, runs it with
// the contract's configuration, and talks to it only by its commands and its
// protocols. A pretend primary and Debian's mail clients are the other parties.
//
//	make e2e         every scenario, minutes
//	make e2e-long    more mail, more kills, all of it on S3 too
//
// HOLDFAST_CORPUS names a directory of .eml files that are sent too, and
// HOLDFAST_BINARY a binary to test instead of one built here.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/e2e/outside"
	"holdfast/objstore/s3/versitygwtest"
)

// long says whether the long forms were asked for.
func long() bool { return os.Getenv("HOLDFAST_E2E_LONG") != "" }

// pick chooses between the short and the long form of a number.
func pick(short, longer int) int {
	if long() {
		return longer
	}
	return short
}

const binaryVariable = "HOLDFAST_BINARY"

// TestMain builds the binary once for all tests.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(binaryVariable) == "" {
		dir, err := os.MkdirTemp("", "holdfast-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary := filepath.Join(dir, "holdfast")
		if out, err := exec.Command("go", "build", "-o", binary, "../cmd/holdfast").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build holdfast: %v\n%s", err, out)
			return 1
		}
		os.Setenv(binaryVariable, binary)
	}
	return m.Run()
}

// scene is a node with acme.test on it, its pretend primary and its smart host.
type scene struct {
	*outside.Node
	t       *testing.T
	primary *smtptest.Server
	world   *smtptest.Server      // the smart host
	gateway *versitygwtest.Server // nil on an fs bucket
	tmp     string                // the node's temporary directory
}

// setting says how a scene differs from the contract's files.
type setting struct {
	s3         bool
	continuity string
	users      []outside.User // instead of alice and bob
	bucket     string         // directory of the fs bucket, instead of one in the node's
	clock      bool           // the test clock is allowed
	shadowDays int            // 30 when 0
}

// open sets a scene and starts the node. All of it ends with the test; a failed
// test shows what the node said.
func open(t *testing.T, set setting) *scene {
	t.Helper()
	s := prepare(t, set)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	domain := outside.Acme(s.primary.Addr(), s.world.Addr())
	domain.Continuity, domain.ShadowDays = set.continuity, set.shadowDays
	if set.users != nil {
		domain.Users = set.users
	}
	if _, err := s.Apply(t.Context(), domain); err != nil {
		t.Fatal(err)
	}
	s.awaitState("up", 15*time.Second)
	return s
}

// prepare sets a scene whose node does not run yet.
func prepare(t *testing.T, set setting) *scene {
	t.Helper()
	// The admin socket is a path of at most 108 bytes, which t.TempDir may exceed.
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, tmp: filepath.Join(dir, "tmp")}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(s.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	opt := outside.Options{Env: []string{"TMPDIR=" + s.tmp}, TestClock: set.clock}
	if set.bucket != "" {
		opt.Store = "file:" + set.bucket
	}
	if set.s3 {
		s.gateway = versitygwtest.StartServer(t)
		opt.Store = s.gateway.URL("holdfast", "")
		for key, value := range s.gateway.Env() {
			opt.Env = append(opt.Env, key+"="+value)
		}
	}
	if s.Node, err = outside.NewNode(os.Getenv(binaryVariable), dir, opt); err != nil {
		t.Fatal(err)
	}
	s.primary = smtptest.Start(t, smtptest.Options{})
	s.world = smtptest.Start(t, smtptest.Options{Hostname: "world.test"})
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the node said:\n%s", tail(s.Log(), 8000))
		}
	})
	return s
}

// bucketDir is where the bucket's objects are files.
func (s *scene) bucketDir() string {
	if s.gateway != nil {
		return s.gateway.Dir()
	}
	return filepath.Join(s.Dir, "bucket")
}

// restart stops the node, which must leave in good order, and starts it again.
func (s *scene) restart() {
	s.t.Helper()
	if err := s.Stop(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// must runs a command of the binary that has to succeed.
func (s *scene) must(args ...string) string {
	s.t.Helper()
	out, err := s.Must(s.t.Context(), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// send sends one message that has to be accepted, and returns the 250.
func (s *scene) send(from, to string, message []byte) string {
	s.t.Helper()
	reply, err := outside.SendOne(s.t.Context(), s.SMTP, from, []string{to}, message)
	if err != nil {
		s.t.Fatalf("send: %v", err)
	}
	return reply
}

// login opens a user's mailboxes, which has to work.
func (s *scene) login(user, password string) *outside.Mailbox {
	s.t.Helper()
	m, err := outside.DialIMAP(s.t.Context(), s.IMAP, user, password)
	if err != nil {
		s.t.Fatalf("log in: %v", err)
	}
	s.t.Cleanup(func() { m.Close() })
	return m
}

// do runs an IMAP command that has to succeed.
func (s *scene) do(m *outside.Mailbox, command string) []outside.Line {
	s.t.Helper()
	lines, err := m.Do(command)
	if err != nil {
		s.t.Fatal(err)
	}
	return lines
}

// look reads a whole mailbox.
func (s *scene) look(m *outside.Mailbox, mailbox string) outside.View {
	s.t.Helper()
	v, err := m.Look(mailbox, true)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// awaitState waits until acme.test is in the state and returns how long it took.
func (s *scene) awaitState(want string, within time.Duration) time.Duration {
	s.t.Helper()
	start := time.Now()
	s.eventually(within, func() error {
		state, _, err := s.Domain(s.t.Context(), "acme.test")
		if err == nil && state != want {
			err = fmt.Errorf("acme.test is %s, want %s", state, want)
		}
		return err
	})
	return time.Since(start)
}

// awaitDrained waits until nothing is due to the primary.
func (s *scene) awaitDrained(within time.Duration) {
	s.t.Helper()
	s.eventually(within, func() error {
		_, queued, err := s.Domain(s.t.Context(), "acme.test")
		if err == nil && queued != 0 {
			err = fmt.Errorf("%d are still queued", queued)
		}
		return err
	})
}

// eventually waits until the check passes and fails with its last error if it
// does not in time.
func (s *scene) eventually(within time.Duration, check func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), within)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("after %v: %v", within, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail is the end of a long text.
func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
