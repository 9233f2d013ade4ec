package continuity

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

func TestAppendErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := fault.Wrap(mem.New())
		n := newWorld(t, faulty).start(0)
		u, ctx := n.user(alice), t.Context()
		n.deliver(alice, "Subject: x\r\n\r\n")
		tail := n.log.TailAtLeast(0)
		try := func(name string, size int64, r io.Reader) error {
			_, _, err := u.Append(ctx, name, size, r, nil, time.Time{})
			return err
		}
		wantErr(t, "too big", try("INBOX", testLimit+1, nil), ErrTooBig)
		wantErr(t, "no mailbox", try("none", 3, strings.NewReader("abc")), ErrNoMailbox)
		wantErr(t, "short", try("INBOX", 4, strings.NewReader("abc")), io.ErrUnexpectedEOF)
		wantErr(t, "short, with blobs out", try("INBOX", testLimit, strings.NewReader(strings.Repeat("a", testLimit-1))), io.ErrUnexpectedEOF)
		broken := errors.New("line went dead")
		err := try("INBOX", 4, io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)))
		wantErr(t, "failing reader", err, broken)
		if errors.Is(err, ErrUnavailable) {
			t.Errorf("a broken line is blamed on storage: %v", err)
		}
		if got := n.log.TailAtLeast(0); got != tail {
			t.Errorf("something was appended: segment %d, was %d", got, tail)
		}
		for _, kind := range []fault.Kind{fault.FailBefore, fault.Hang, fault.Full} {
			h := faulty.Inject(fault.Rule{Op: fault.Put, Kind: kind, Times: -1})
			begin := time.Now()
			wantErr(t, "storage down", try("INBOX", 3, strings.NewReader("abc")), ErrUnavailable)
			if took := time.Since(begin); took > 31*time.Second {
				t.Errorf("fault %d: the client waited %v", kind, took)
			}
			h.Remove()
		}
		time.Sleep(time.Minute) // what was out is settled, and taken back
		if got := list(t, u, "INBOX"); strings.Count(got, "\n") != 1 {
			t.Errorf("INBOX has %s", got)
		}
		if err := try("INBOX", 3, strings.NewReader("abc")); err != nil {
			t.Errorf("after all that: %v", err)
		}
	})
}

func TestReadingGoesOnWhileStorageIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := fault.Wrap(mem.New())
		w := newWorld(t, faulty)
		n, other := w.start(time.Second), w.start(time.Second)
		u, ctx := n.user(alice), t.Context()
		n.deliver(alice, "Subject: x\r\n\r\n")
		other.settle()
		// The other node appends what this one has heard of but cannot read.
		other.deliver(alice, "Subject: "+strings.Repeat("y", 1000)+"\r\n\r\n")
		faulty.Inject(fault.Rule{Op: fault.Any, Kind: fault.Hang, Times: -1})
		s := mustSelect(t, u, "INBOX")
		if len(s.Snapshot()) != 1 {
			t.Error("the mailbox is not as it was")
		}
		if _, err := u.List(ctx); err != nil {
			t.Errorf("list: %v", err)
		}
		if _, err := u.Status(ctx, "INBOX"); err != nil {
			t.Errorf("status: %v", err)
		}
		if cs := s.Changes(); len(cs) != 0 {
			t.Errorf("changes: %+v", cs)
		}
		begin := time.Now()
		for act, err := range map[string]error{
			"create":    u.Create(ctx, "new", ""),
			"delete":    u.Delete(ctx, "Trash"),
			"rename":    u.Rename(ctx, "Trash", "Bin"),
			"subscribe": u.Subscribe(ctx, "x", true),
			"store":     s.Store(ctx, all(), event.FlagsAdd, []string{`\Seen`}, 0, nil),
		} {
			wantErr(t, act, err, ErrUnavailable)
		}
		_, err := s.Expunge(ctx, all(), nil)
		wantErr(t, "expunge", err, ErrUnavailable)
		_, err = s.Copy(ctx, all(), "Archive")
		wantErr(t, "copy", err, ErrUnavailable)
		if took := time.Since(begin); took > 7*31*time.Second {
			t.Errorf("seven commands took %v", took)
		}
	})
}

func TestChangesShowWhatWasAnswered(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		n.deliver(alice, "Subject: x\r\n\r\n")
		s := mustSelect(t, n.user(alice), "INBOX")
		for i := range 50 {
			n.deliver(alice, "Subject: x\r\n\r\n") // as a sender that has heard 250
			if cs := s.Changes(); len(cs) != 1 || cs[0].Message.UID != event.UID(i+2) {
				t.Fatalf("after message %d: %+v", i+2, cs)
			}
		}
	})
}
