package continuity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/projection"
)

// world is a bucket with its keys, on which nodes run.
type world struct {
	t      testing.TB
	bucket objstore.Bucket
	keys   crypto.KeyService
	tenant event.Tenant
}

func newWorld(t testing.TB, b objstore.Bucket) *world {
	w := &world{t: t, bucket: b, keys: crypto.MemoryRoot(event.DayOf(time.Now()))}
	var err error
	if w.tenant, err = w.keys.TenantID(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	return w
}

// node is one process: a log, a runner, and the mailboxes.
type node struct {
	*world
	log    *eventlog.Log
	runner *projection.Runner
	svc    *Service
	store  projection.Store
	days   event.Day // after which mail expires
	close  func()
}

// start starts a node with an empty local database, and returns it when it has
// folded the log. It ends with the test, or with close.
func (w *world) start(poll time.Duration) *node {
	w.t.Helper()
	return w.startOn(projection.NewMemStore(), poll)
}

func (w *world) startOn(store projection.Store, poll time.Duration) *node {
	w.t.Helper()
	n := w.begin(store, poll)
	if err := n.runner.CaughtUp(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) begin(store projection.Store, poll time.Duration) *node {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{world: w, store: store, days: 30}
	var err error
	n.log, err = eventlog.Open(ctx, eventlog.Options{Bucket: w.bucket, URL: "mem:", Keys: w.keys, MayCreate: true, Partitions: 1, Poll: poll})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := n.log.EnsureTenant(ctx, w.tenant); err != nil {
		w.t.Fatal(err)
	}
	if n.runner, err = projection.Open(projection.Options{Store: n.store, Source: n.log}); err != nil {
		w.t.Fatal(err)
	}
	if n.svc, err = New(n.log, n.runner, slog.New(slog.DiscardHandler)); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); n.runner.Run(ctx) }()
	n.close = func() {
		cancel()
		<-done
		short, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		n.log.Close(short)
		n.close = func() {}
	}
	w.t.Cleanup(func() { n.close() })
	return n
}

// ensure makes an account.
func (n *node) ensure(a event.Account) {
	n.t.Helper()
	n.append(event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: &event.UserSet{Account: a, Address: "user@acme.example"}})
}

const (
	testLimit   = 1 << 20
	testAddress = "alice@acme.test"
)

func (n *node) user(a event.Account) *User {
	return n.svc.User(n.tenant, a, testAddress, func() event.Day { return n.days }, testLimit)
}

// mail returns the acceptance of a message, ready to be appended.
func (n *node) mail(text, trace string, allot ...event.Allotment) event.Event {
	n.t.Helper()
	ctx := context.Background()
	ev := event.Event{ID: event.NewID(), Tenant: n.tenant, Expiry: event.DayOf(n.log.Now()) + n.days}
	w, err := n.log.NewMail(ctx, ev.ID, n.tenant, ev.Expiry, []byte(trace))
	if err != nil {
		n.t.Fatal(err)
	}
	defer w.Discard()
	if _, err := io.WriteString(w, text); err != nil {
		n.t.Fatal(err)
	}
	m, err := w.Finish()
	if err != nil {
		n.t.Fatal(err)
	}
	ev.Body = m.Body
	ev.Fact = &event.MessageAccepted{
		Origin: event.OriginInbound, At: n.log.Millis(), Size: m.Size, Shown: m.Shown, Recipients: 1, Allotments: allot,
		Meta: &event.MessageMeta{From: "sender@elsewhere.example", Recipients: []event.Recipient{{Path: "alice@acme.example", Domain: "acme.example"}},
			Trace: []byte(trace), SHA256: m.SHA256, Index: m.Raw},
	}
	return ev
}

func (n *node) append(ev event.Event) event.Position {
	n.t.Helper()
	pos, err := n.log.Append(context.Background(), ev)
	if err != nil {
		n.t.Fatal(err)
	}
	return pos
}

// deliver puts a message into an account's INBOX.
func (n *node) deliver(a event.Account, text string) event.ID {
	n.t.Helper()
	ev := n.mail(text, "", event.Allotment{Account: a, Place: event.PlaceInbox})
	n.append(ev)
	return ev.ID
}

// settle waits until the node shows all that is in the log.
func (n *node) settle() {
	n.t.Helper()
	if err := n.log.Refresh(context.Background(), 0); err != nil {
		n.t.Fatal(err)
	}
	if err := n.svc.fresh(context.Background(), n.tenant, time.Minute); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) hash() [32]byte {
	n.t.Helper()
	n.settle()
	h, err := n.runner.Hash(context.Background(), foldName)
	if err != nil {
		n.t.Fatal(err)
	}
	return h
}

// in runs a test in a bubble, on one node.
func in(t *testing.T, test func(t *testing.T, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t, newMem()).start(0)
		n.ensure(alice)
		test(t, n)
	})
}

func mustAppend(t *testing.T, u *User, name, text string, flags ...string) event.UID {
	t.Helper()
	_, uid, err := u.Append(t.Context(), name, int64(len(text)), strings.NewReader(text), flags, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return uid
}

func mustSelect(t *testing.T, u *User, name string) *Selected {
	t.Helper()
	s, err := u.Select(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// list describes the messages of a mailbox, one a line.
func list(t *testing.T, u *User, name string) string {
	t.Helper()
	s, err := u.Select(t.Context(), name)
	if err != nil {
		return err.Error()
	}
	defer s.Close()
	return describe(s.Snapshot())
}

func describe(msgs []Message) string {
	var b strings.Builder
	for _, m := range msgs {
		fmt.Fprintf(&b, "%d %d %v %d %x\n", m.UID, m.ModSeq, m.Flags, m.Size, m.Email[:4])
	}
	return b.String()
}

// readAll returns the bytes of a message.
func readAll(t *testing.T, s *Selected, m Message) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != m.Size {
		t.Fatalf("%d bytes, but the size is %d", len(b), m.Size)
	}
	return b
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// parseTombstone undoes tombstone.
func parseTombstone(b []byte) (uids []event.UID) {
	r := bytes.NewReader(b)
	end := event.UID(0)
	for r.Len() > 0 {
		gap, n := uvarint(r), uvarint(r)
		for i := range n {
			uids = append(uids, end+event.UID(gap+i))
		}
		end += event.UID(gap + n)
	}
	return uids
}
