package continuity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

type readSeekNopCloser struct{ io.ReadSeeker }

func (readSeekNopCloser) Close() error { return nil }

func TestShownReadsAsOne(t *testing.T) {
	const trace, body = "Received: 1\r\n", "Subject: 2\r\n\r\n3"
	for _, c := range []struct{ trace, body string }{{trace, body}, {"", body}, {trace, ""}, {"", ""}} {
		whole := []byte(c.trace + c.body)
		open := func() *shown {
			return newShown([]byte(c.trace), readSeekNopCloser{strings.NewReader(c.body)}, int64(len(whole)))
		}
		if err := iotest.TestReader(open(), whole); err != nil {
			t.Error(err)
		}
		// From every position to every position, in one go and in two.
		r := open()
		for from := range len(whole) + 1 {
			for to := from; to <= len(whole); to++ {
				if _, err := r.Seek(int64(from), io.SeekStart); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, to-from)
				if n, err := io.ReadFull(r, got); err != nil || n != len(got) || !bytes.Equal(got, whole[from:to]) {
					t.Fatalf("%d to %d: %q, %v", from, to, got, err)
				}
				rest, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(rest, whole[to:]) {
					t.Fatalf("behind %d: %q, %v", to, rest, err)
				}
			}
		}
		for _, s := range []struct {
			off    int64
			whence int
		}{{-1, io.SeekStart}, {-int64(len(whole)) - 1, io.SeekEnd}, {-int64(len(whole)) - 1, io.SeekCurrent}, {0, 7}} {
			if _, err := r.Seek(s.off, s.whence); !errors.Is(err, errSeek) {
				t.Errorf("seek %v: %v", s, err)
			}
		}
		if off, err := r.Seek(3, io.SeekEnd); err != nil || off != int64(len(whole))+3 {
			t.Errorf("seek beyond the end: %d, %v", off, err)
		}
		if n, err := r.Read(make([]byte, 9)); n != 0 || err != io.EOF {
			t.Errorf("read beyond the end: %d, %v", n, err)
		}
		if n, err := open().Read(nil); n != 0 || err != nil && len(whole) > 0 {
			t.Errorf("read of nothing: %d, %v", n, err)
		}
	}
}

func TestMessagesReadBackAsShown(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		const trace = "Received: from x\r\n\tby y; now\r\n"
		big := "Subject: big\r\n\r\n" + strings.Repeat("0123456789abcde\n", 40_000)
		n.append(n.mail(big, trace, event.Allotment{Account: alice, Place: event.PlaceInbox}))
		mustAppend(t, u, "INBOX", big)
		s := mustSelect(t, u, "INBOX")
		for i, m := range s.Snapshot() {
			want := big
			if i == 0 {
				want = trace + big
			}
			if got := readAll(t, s, m); string(got) != want {
				t.Errorf("message %d: %d bytes, want %d", i, len(got), len(want))
			}
			ix, err := s.Index(ctx, m)
			if err != nil || ix.Size != int64(len(want)) || ix.Envelope.Subject != "big" {
				t.Errorf("message %d: index %+v, %v", i, ix, err)
			}
		}
		if _, err := s.Open(ctx, Message{Ref: event.Ref{Position: event.Position{Seq: 99999}}}); err == nil {
			t.Error("a message that is nowhere was opened")
		}
		ev := event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: &event.MailboxSubscribed{Account: alice, Name: "x"}}
		pos := n.append(ev)
		_, err := s.Index(ctx, Message{Ref: event.Ref{Position: pos, ID: ev.ID}})
		wantErr(t, "an event that is no message", err, ErrNoMessage)
	})
}

// A node that is still reading the log would make clients forget their mail.
func TestNothingIsServedBeforeTheLogIsFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := fault.Wrap(mem.New())
		w := newWorld(t, faulty)
		n := w.start(0)
		for range 3 {
			n.deliver(alice, "Subject: x\r\n\r\n")
		}
		n.close()
		h := faulty.Inject(fault.Rule{Op: fault.Get, KeyPrefix: "log/00/00000000000000000002", Kind: fault.Hang, Times: -1})
		late := w.begin(projection.NewMemStore(), 0)
		u := late.user(alice)
		_, err := u.Status(t.Context(), "INBOX")
		wantErr(t, "status", err, ErrUnavailable)
		_, err = u.List(t.Context())
		wantErr(t, "list", err, ErrUnavailable)
		_, err = u.Select(t.Context(), "INBOX")
		wantErr(t, "select", err, ErrUnavailable)
		h.Remove()
		time.Sleep(time.Minute)
		if m, err := u.Status(t.Context(), "INBOX"); err != nil || m.Messages != 3 {
			t.Errorf("later: %+v, %v", m, err)
		}
	})
}

// fullStore is a store whose disk is full, or is not.
type fullStore struct {
	projection.Store
	full atomic.Bool
}

func (s *fullStore) Commit(ops []projection.Op) error {
	if s.full.Load() {
		return projection.ErrNoSpace
	}
	return s.Store.Commit(ops)
}

// A client that is told NO appends again: the first try must not come up later.
func TestLocalDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fullStore{Store: projection.NewMemStore()}
		n := newWorld(t, newMem()).startOn(store, 0)
		n.ensure(alice)
		u := n.user(alice)
		s := mustSelect(t, u, "INBOX")
		store.full.Store(true)
		for i := range 3 {
			begin := time.Now()
			_, _, err := u.Append(t.Context(), "INBOX", 4, strings.NewReader("a:b\n"), nil, time.Time{})
			wantErr(t, "append", err, ErrUnavailable)
			if took := time.Since(begin); took > 41*time.Second || i > 0 && took > 6*time.Second {
				t.Errorf("try %d took %v", i, took)
			}
		}
		wantErr(t, "store", s.Store(t.Context(), all(), event.FlagsAdd, []string{`\Seen`}, 0, nil), ErrUnavailable)
		n.deliver(alice, "Subject: x\r\n\r\n") // mail is accepted all the same
		if _, err := u.Status(t.Context(), "INBOX"); err != nil {
			t.Errorf("status: %v", err)
		}
		store.full.Store(false)
		time.Sleep(time.Minute)
		if m, err := u.Status(t.Context(), "INBOX"); err != nil || m.Messages != 1 || m.UIDNext != 3 {
			t.Errorf("later: %+v, %v", m, err)
		}
		mustAppend(t, u, "INBOX", "a:b\n")
	})
}

// The local database holds nothing that was derived from mail: not its text, not
// its addresses, not its Message-IDs, not their hashes without a key.
func TestNothingOfTheMailIsKept(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		const secret = "xyzzy-secret"
		text := "From: " + secret + "@acme.example\r\nMessage-ID: <" + secret + "@x>\r\nSubject: " + secret + "\r\nX: " + secret + "\r\n\r\n" + secret + "\r\n"
		n.append(n.mail(text, "Received: from "+secret+"\r\n", event.Allotment{Account: alice, Place: event.PlaceInbox}))
		n.append(n.sent(alice, "<"+secret+"@x>", text))
		u := n.user(alice)
		mustAppend(t, u, "Sent", text)
		s := mustSelect(t, u, "INBOX")
		if _, err := s.Move(t.Context(), all(), "Archive"); err != nil {
			t.Fatal(err)
		}
		rows := 0
		err := n.runner.View(t.Context(), foldName, func(v projection.View) error {
			for it, err := range v.Scan(nil, nil, false) {
				if err != nil {
					return err
				}
				rows++
				for _, bad := range []string{"xyzzy", "secret", "acme", "example", "elsewhere"} {
					if bytes.Contains(it.Key, []byte(bad)) || bytes.Contains(it.Value, []byte(bad)) {
						t.Errorf("a row of kind %c holds %q", it.Key[0], bad)
					}
				}
			}
			return nil
		})
		if err != nil || rows < 10 {
			t.Errorf("%d rows, %v", rows, err)
		}
	})
}

// Several users with several sessions on two nodes at once: no model says what
// comes out, but all must agree on it.
func TestNodesAgreeUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newMem())
		nodes := []*node{w.start(50 * time.Millisecond), w.start(50 * time.Millisecond)}
		for _, a := range []event.Account{alice, bob} {
			nodes[0].ensure(a)
		}
		for _, n := range nodes {
			n.settle()
		}
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				c := client{t: t, n: nodes[i%2], a: []event.Account{alice, bob}[i/2%2], r: rand.New(rand.NewPCG(7, uint64(i)))}
				for range 25 {
					c.act()
				}
				c.finish(nodes)
			})
		}
		wg.Wait()
		if nodes[0].hash() != nodes[1].hash() {
			t.Error("the nodes differ")
		}
		if w.start(0).hash() != nodes[0].hash() {
			t.Error("a rebuild differs")
		}
	})
}

type client struct {
	t    *testing.T
	n    *node
	a    event.Account
	r    *rand.Rand
	sel  *Selected
	view []Message
}

// may is for errors that others cause.
func (c *client) may(err error) {
	if err != nil && !errors.Is(err, ErrNoMailbox) && !errors.Is(err, ErrExists) {
		c.t.Error(err)
	}
}

func (c *client) act() {
	ctx, u := context.Background(), c.n.user(c.a)
	name := []string{"INBOX", "Archive", "Trash", "x"}[c.r.IntN(4)]
	uids := []event.UIDRange{{First: event.UID(1 + c.r.IntN(10)), Last: event.UID(5 + c.r.IntN(40))}}
	switch k := c.r.IntN(10); {
	case c.sel == nil || k == 0:
		if c.sel != nil {
			c.sel.Close()
			c.sel = nil
		}
		sel, err := u.Select(ctx, name)
		if c.may(err); err == nil {
			c.sel, c.view = sel, sel.Snapshot()
		}
	case k < 3:
		c.n.deliver(c.a, "Subject: x\r\n\r\n")
	case k == 3:
		_, _, err := u.Append(ctx, name, 4, strings.NewReader("a:b\n"), []string{fmt.Sprint("k", c.r.IntN(5))}, time.Time{})
		c.may(err)
	case k == 4:
		_, err := c.sel.Move(ctx, uids, name)
		c.may(err)
	case k == 5:
		_, err := c.sel.Expunge(ctx, uids, c)
		c.may(err)
	case k == 6:
		c.may(u.Create(ctx, "x", ""))
	case k == 7 && c.r.IntN(4) == 0:
		c.may(u.Delete(ctx, "x"))
	default:
		c.may(c.sel.Store(ctx, uids, event.FlagsAdd, []string{`\Deleted`, fmt.Sprint("k", c.r.IntN(5))}, 0, c))
	}
	c.look()
}

func (c *client) look() {
	if c.sel == nil {
		return
	}
	changes := c.sel.Changes()
	if slices.ContainsFunc(changes, func(ch Change) bool { return ch.Kind == ChangeDropped }) {
		c.sel.Close()
		c.sel = nil
		return
	}
	c.view = apply(c.view, changes)
}

// finish compares what the client has come to see with what a fresh look shows,
// on both nodes, once all is quiet.
func (c *client) finish(nodes []*node) {
	time.Sleep(time.Minute) // of the bubble: the others are done then
	if c.look(); c.sel == nil {
		return
	}
	defer c.sel.Close()
	for _, n := range nodes {
		n.settle()
		boxes, err := n.user(c.a).List(context.Background())
		if err != nil {
			c.t.Error(err)
		}
		i := slices.IndexFunc(boxes, func(b Mailbox) bool { return b.ID == c.sel.Mailbox().ID })
		s, err := n.user(c.a).Select(context.Background(), boxes[i].Name)
		if err != nil {
			c.t.Error(err)
			return
		}
		msgs := s.Snapshot()
		s.Close()
		recount(c.t, boxes[i], msgs)
		if got, want := describe(c.view), describe(msgs); got != want {
			c.t.Errorf("a session sees\n%swant\n%s", got, want)
		}
	}
}
