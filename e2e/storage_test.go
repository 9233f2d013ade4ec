package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"holdfast/e2e/outside"
)

// answerWithin is how long a sender may wait for a 451: the node's own deadline
// of thirty seconds and something for a busy machine.
const answerWithin = 45 * time.Second

// TestStorageGone stops and hangs the S3 server. Senders get 451 in time, users
// still log in and read what is cached, and everything resumes by itself; what
// was refused is nowhere, even if its PUT landed after all.
func TestStorageGone(t *testing.T) {
	for _, how := range []string{"hung", "stopped"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel() // Most of it is waiting for a deadline.
			s := open(t, setting{s3: true, continuity: "always"})
			s.send("sender@remote.example", "alice@acme.test", numbered("before", 1))
			alice := s.login("alice@acme.test", "correct horse")
			view := s.look(alice, "INBOX")

			if how == "hung" {
				s.gateway.Freeze()
			} else {
				s.gateway.Kill()
			}
			s.refuses(numbered("during", 1))
			s.readsOn(alice, view)

			if how == "hung" {
				s.gateway.Thaw()
			} else if err := s.gateway.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.resumes(numbered("after", 1))
			s.awaitDrained(time.Minute)

			// The sender of the refused message comes back, as senders do.
			s.send("sender@remote.example", "alice@acme.test", numbered("during", 1))
			s.awaitDrained(time.Minute)
			s.once([]byte("Subject: during 1\r\n"))
			s.once([]byte("Subject: before 1\r\n"))
			s.once([]byte("Subject: after 1\r\n"))
			s.must("log", "verify")
		})
	}
}

// TestStorageAwayAtStart starts the node before its S3 server: it waits, says what
// for, and serves as soon as there is a store.
func TestStorageAwayAtStart(t *testing.T) {
	t.Parallel()
	s := open(t, setting{s3: true})
	s.send("sender@remote.example", "alice@acme.test", numbered("before", 1))
	s.awaitDrained(time.Minute)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.gateway.Kill()
	if err := s.Launch(); err != nil {
		t.Fatal(err)
	}
	s.eventually(30*time.Second, func() error {
		if n := strings.Count(s.Log(), "the store does not answer: until it does"); n < 2 {
			return fmt.Errorf("said %d times what it waits for", n)
		}
		return nil
	})
	if !s.Running() {
		t.Fatal("the node left")
	}
	if err := s.gateway.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.resumes(numbered("after", 1))
	s.awaitDrained(time.Minute)
	s.once([]byte("Subject: before 1\r\n"))
	s.once([]byte("Subject: after 1\r\n"))
	s.must("log", "verify")
}

// TestBucketFull fills the disk under the fs bucket.
func TestBucketFull(t *testing.T) {
	disk, err := os.MkdirTemp("", "hfdisk")
	if err != nil {
		t.Fatal(err)
	}
	mount(t, "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk)
	t.Cleanup(func() {
		mount(t, "umount", "-l", disk)
		os.Remove(disk)
	})
	s := open(t, setting{bucket: disk + "/bucket"})
	// Mostly attachments, which do not compress to nothing.
	var big []byte
	for _, m := range residueMail(60) {
		if big = append(big, m...); len(big) > 1<<20 {
			break
		}
	}
	var accepted int
	for i := range 100 {
		start := time.Now()
		message := append(fmt.Appendf(nil, "Subject: full %d\r\nX-Number: %d\r\n", i, i), big...)
		_, err := outside.SendOne(t.Context(), s.SMTP, "sender@remote.example", []string{"alice@acme.test"}, message)
		if err == nil {
			accepted++
			continue
		}
		if code := outside.Code(err); code != 451 && code != 452 || time.Since(start) > answerWithin {
			t.Fatalf("on a full bucket: %v after %v, want 451 or 452 within %v", err, time.Since(start), answerWithin)
		}
		break
	}
	if accepted == 0 || accepted == 100 {
		t.Fatalf("%d messages of 1 MB fitted into 16 MB", accepted)
	}
	mount(t, "mount", "-o", "remount,size=256m", disk)
	s.resumes(numbered("after", 1))
	s.awaitDrained(time.Minute)
	s.once([]byte("Subject: after 1\r\n"))
	if n := len(s.primary.Transactions()); n != accepted+1 {
		t.Errorf("the primary has %d messages, want %d", n, accepted+1)
	}
	s.must("log", "verify")
}

func mount(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s (this test needs root)", args, err, out)
	}
}

// refuses sends one message while storage is away and wants 451 in time.
func (s *scene) refuses(message []byte) {
	s.t.Helper()
	start := time.Now()
	_, err := outside.SendOne(s.t.Context(), s.SMTP, "sender@remote.example", []string{"alice@acme.test"}, message)
	took := time.Since(start)
	if code := outside.Code(err); code != 451 || took > answerWithin {
		s.t.Errorf("without storage: %v after %v, want 451 within %v", err, took, answerWithin)
	}
	s.t.Logf("451 after %v", took.Round(time.Millisecond))
}

// readsOn: readers go on with what is cached, writers hear NO, logins work.
func (s *scene) readsOn(alice *outside.Mailbox, before outside.View) {
	s.t.Helper()
	now, err := alice.Look("INBOX", false)
	if err != nil || len(now.Messages) != len(before.Messages) {
		s.t.Errorf("reading without storage: %d messages, %v; want %d", len(now.Messages), err, len(before.Messages))
	}
	for uid := range before.Messages {
		_, err := alice.Do(fmt.Sprintf(`UID STORE %d +FLAGS (\Seen)`, uid))
		no, ok := errors.AsType[*outside.NoError](err)
		if !ok || !strings.HasPrefix(no.Text, "NO [UNAVAILABLE]") {
			s.t.Errorf("STORE without storage: %v, want NO [UNAVAILABLE]", err)
		}
		break
	}
	bob, err := outside.DialIMAP(s.t.Context(), s.IMAP, "bob@acme.test", "battery staple")
	if err != nil {
		s.t.Errorf("log in without storage: %v", err)
		return
	}
	bob.Close()
}

// resumes sends until a message is accepted, as a sender's queue does.
func (s *scene) resumes(message []byte) {
	s.t.Helper()
	start := time.Now()
	s.eventually(90*time.Second, func() error {
		_, err := outside.SendOne(s.t.Context(), s.SMTP, "sender@remote.example", []string{"alice@acme.test"}, message)
		return err
	})
	s.t.Logf("accepting again %v after storage is back", time.Since(start).Round(time.Millisecond))
}

// once: exactly one message with this line reached the primary.
func (s *scene) once(line []byte) {
	s.t.Helper()
	n := 0
	for _, tx := range s.primary.Transactions() {
		if bytes.Contains(tx.Body, line) {
			n++
		}
	}
	if n != 1 {
		s.t.Errorf("%q reached the primary %d times, want once", line, n)
	}
}
