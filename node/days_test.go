package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/continuity"
	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/projection"
	"holdfast/shadow"
)

// dayWorld is one node on a bucket in memory, with a domain that keeps mail for a
// day and another one whose server is down.
type dayWorld struct {
	t      *testing.T
	bucket *mem.Bucket
	root   *crypto.Root
	store  projection.Store
	cfg    Config
	seams  Seams
	n      *Node
	stop   func()
	tenant event.Tenant
	alice  event.Account
}

const dayDomains = `
[[domain]]
name = "acme.test"
tenant = "acme"
primary = ["smtp://mx.acme.test:25"]
continuity = "always"
shadow_days = 1
[domain.health]
probe_every = "1h"

[[domain]]
name = "down.test"
tenant = "acme"
primary = ["smtp://mx.down.test:25"]
shadow_days = 1
[domain.health]
probe_every = "1h"

[[user]]
address = "alice@acme.test"
password = "correct horse battery"
`

func newDayWorld(t *testing.T) *dayWorld {
	w := &dayWorld{t: t, bucket: mem.New(), root: crypto.MemoryRoot(event.DayOf(time.Now())), store: projection.NewMemStore()}
	w.start()
	t.Cleanup(func() { w.stop() })
	f, err := parseDomains(dayDomains)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(ApplyRequest{File: f})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	w.n.AdminHandler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/apply", bytes.NewReader(body)))
	if rec.Code != http.StatusOK {
		t.Fatal(rec.Body)
	}
	u, ok := w.n.directory.User("alice@acme.test")
	if !ok {
		t.Fatal("alice is not listed")
	}
	w.tenant, w.alice = u.Tenant, u.Account
	return w
}

func (w *dayWorld) start() {
	w.t.Helper()
	<-w.begin()
}

// begin starts a node and returns what is closed when it is ready.
func (w *dayWorld) begin() <-chan struct{} {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	none := errors.New("nobody is there")
	w.cfg = Config{
		DataDir: "/nowhere", Hostname: "mx.acme.test", Roles: []string{RoleDeliver},
		Store: StoreConfig{URL: "mem:", Partitions: 1}, Keys: KeysConfig{URL: "file:/nowhere/root.key"},
	}
	w.seams = Seams{
		Bucket: w.bucket, Keys: w.root, Store: w.store,
		Listen: func(context.Context, string, string) (net.Listener, error) { return nil, none },
		Dial:   func(context.Context, string, string) (net.Conn, error) { return nil, none },
	}
	n, err := New(ctx, w.cfg, w.seams, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	w.n = n
	ready, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); n.Run(ctx, func() { close(ready) }) }()
	w.stop = func() { cancel(); <-done; w.stop = func() {} }
	return ready
}

// accept puts a message into the log as a server does.
func (w *dayWorld) accept(domain, subject string, size int) event.Ref {
	w.t.Helper()
	ctx := context.Background()
	text := []byte("From: x@far.test\r\nTo: alice@" + domain + "\r\nSubject: " + subject + "\r\n\r\n")
	for i := 0; len(text) < size; i++ { // what does not shrink
		sum := sha256.Sum256(fmt.Append(nil, subject, i))
		text = fmt.Appendf(text, "%x\r\n", sum)
	}
	ev := event.Event{ID: event.NewID(), Tenant: w.tenant, Expiry: event.DayOf(w.n.log.Now()) + 1}
	mail, err := w.n.log.NewMail(ctx, ev.ID, w.tenant, ev.Expiry, []byte("Received: x\r\n"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer mail.Discard()
	if _, err := mail.Write(text); err != nil {
		w.t.Fatal(err)
	}
	m, err := mail.Finish()
	if err != nil {
		w.t.Fatal(err)
	}
	rcpt := event.Recipient{Path: "alice@" + domain, Domain: domain}
	f := &event.MessageAccepted{
		Origin: event.OriginInbound, At: w.n.log.Millis(), Size: m.Size, Shown: m.Shown, Recipients: 1,
		Meta: &event.MessageMeta{From: "x@far.test", Recipients: []event.Recipient{rcpt}, Trace: []byte("Received: x\r\n"), SHA256: m.SHA256, Index: m.Raw},
	}
	if domain == "acme.test" {
		f.Meta.Recipients[0].Domain = "gone.test" // whose server takes nothing any more
		f.Meta.Recipients[0].Account = w.alice
		f.Allotments = []event.Allotment{{Account: w.alice, Place: event.PlaceInbox}}
	}
	f.Routes = event.RoutesOf(f.Meta.Recipients)
	ev.Fact, ev.Body = f, m.Body
	pos, err := w.n.log.Append(ctx, ev)
	if err != nil {
		w.t.Fatal(err)
	}
	return event.Ref{Position: pos, ID: ev.ID}
}

func (w *dayWorld) user() *continuity.User {
	return w.n.continuity.User(w.tenant, w.alice, "alice@acme.test", func() event.Day { return 1 }, 1<<20)
}

// file moves a message of alice's INBOX to a mailbox.
func (w *dayWorld) file(id event.ID, box string) {
	w.t.Helper()
	ctx := context.Background()
	if err := w.user().Create(ctx, box, ""); err != nil && !errors.Is(err, continuity.ErrExists) {
		w.t.Fatal(err)
	}
	s, err := w.user().Select(ctx, "INBOX")
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	for _, m := range s.Snapshot() {
		if m.Email == id {
			if _, err := s.Move(ctx, []event.UIDRange{{First: m.UID, Last: m.UID}}, box); err != nil {
				w.t.Fatal(err)
			}
			return
		}
	}
	w.t.Fatal("the message is not in INBOX")
}

// boxes lists what is in a mailbox, and reads it.
func (w *dayWorld) box(name string) (out []string) {
	w.t.Helper()
	ctx := context.Background()
	s, err := w.user().Select(ctx, name)
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	for _, m := range s.Snapshot() {
		r, err := s.Open(ctx, m)
		if err != nil {
			w.t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		_, subject, _ := strings.Cut(string(text), "Subject: ")
		subject, _, _ = strings.Cut(subject, "\r\n")
		out = append(out, fmt.Sprintf("%d %s", m.UID, subject))
	}
	return out
}

// found lists the subjects in the index, and reads each message.
func (w *dayWorld) found() map[string]bool {
	w.t.Helper()
	out := map[string]bool{}
	for row, err := range w.n.shadow.Search(context.Background(), shadow.Query{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		if err := opens(w.n.log, row.Ref); err != nil {
			w.t.Errorf("%s: %v", row.Subject, err)
		}
		out[row.Subject] = true
	}
	return out
}

func opens(l *eventlog.Log, ref event.Ref) error {
	b, err := l.Body(context.Background(), ref)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = io.Copy(io.Discard, b)
	return err
}

// copied returns a copy of the bucket as it is.
func (w *dayWorld) copied() *mem.Bucket {
	w.t.Helper()
	ctx := context.Background()
	to := mem.New()
	for info, err := range w.bucket.List(ctx, "", "") {
		if err != nil {
			w.t.Fatal(err)
		}
		b, _, err := objstore.ReadAll(ctx, w.bucket, info.Key, 1<<30)
		if err == nil {
			_, err = to.Put(ctx, info.Key, bytes.NewReader(b), int64(len(b)), objstore.PutOptions{})
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return to
}

// TestDaysEnd: mail is gone a day later from the index, the mailboxes, the bucket
// and from every copy of it; what is filed, due or held stays.
func TestDaysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(23*time.Hour + 30*time.Minute) // late in the day: less to live through
		w := newDayWorld(t)
		const large = 400 << 10
		plain := []event.Ref{w.accept("acme.test", "plain", 100), w.accept("acme.test", "plain large", large)}
		kept := []event.Ref{
			w.accept("acme.test", "filed", 100), w.accept("acme.test", "filed large", large),
			w.accept("down.test", "due", 100), w.accept("acme.test", "in litigation", 100),
		}
		for _, ref := range kept[:2] {
			w.file(ref.ID, "Keep")
		}
		if _, err := w.n.retention.PlaceHold(t.Context(), w.tenant, &event.HoldPlaced{
			At: w.n.log.Millis(), Who: "root", Name: "case", Reason: "r", Match: event.HoldMatch{Subject: "litigation"},
		}); err != nil {
			t.Fatal(err)
		}
		before := w.box("Keep")
		early := w.copied()

		time.Sleep(24 * time.Hour) // 30 minutes before the end of their day
		for _, ref := range append(plain, kept...) {
			if err := opens(w.n.log, ref); err != nil {
				t.Errorf("on its last day: %v", err)
			}
		}
		late := w.copied()
		time.Sleep(time.Hour)
		if err := w.n.retention.Work().Trouble; err != nil {
			t.Fatal(err)
		}
		for _, ref := range plain {
			if err := opens(w.n.log, ref); !errors.Is(err, crypto.ErrExpired) {
				t.Errorf("after its last day: %v", err)
			}
		}
		w.check(before)
		for name, copied := range map[string]*mem.Bucket{"early": early, "late": late} {
			l, err := eventlog.Open(t.Context(), eventlog.Options{Bucket: copied, URL: "mem:", Keys: w.root, Inspect: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, ref := range append(plain, kept...) {
				if err := opens(l, ref); !errors.Is(err, crypto.ErrExpired) {
					t.Errorf("in the %s copy of the bucket: %v", name, err)
				}
			}
			l.Close(t.Context())
		}

		// A node with nothing begins anew, and another day passes.
		w.stop()
		w.store = projection.NewMemStore()
		w.start()
		w.check(before)
		time.Sleep(24 * time.Hour)
		w.check(before)
		if err := w.n.retention.Work().Trouble; err != nil {
			t.Error(err)
		}
		in, err := w.n.retention.Installation(t.Context())
		if err != nil || in.Days < 2 || in.Objects == 0 || in.Ratchet != event.DayOf(w.n.log.Now()) {
			t.Errorf("installation: %+v, %v", in, err)
		}
	})
}

// check wants exactly the needed mail in the index, the mailboxes and the bucket.
func (w *dayWorld) check(keep []string) {
	w.t.Helper()
	if got := w.found(); len(got) != 4 || !got["filed"] || !got["filed large"] || !got["due"] || !got["in litigation"] {
		w.t.Errorf("in the index: %v", got)
	}
	if got := w.box("INBOX"); len(got) != 0 {
		w.t.Errorf("in INBOX: %v", got)
	}
	if got := w.box("Keep"); fmt.Sprint(got) != fmt.Sprint(keep) {
		w.t.Errorf("filed: %v, before %v", got, keep)
	}
	for _, prefix := range []string{"blob/", "key/"} {
		for info, err := range w.bucket.List(context.Background(), prefix, "") {
			if err != nil {
				w.t.Fatal(err)
			}
			if d, err := event.ParseDay(strings.Split(info.Key, "/")[1]); err == nil && d < event.DayOf(w.n.log.Now()) {
				w.t.Errorf("%s is still there", info.Key)
			}
		}
	}
}

// TestErasedIsGone: an erased message opens in no copy of the bucket that is made
// from then on; it is in no mailbox, not in the index, and in no Base.
func TestErasedIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDayWorld(t)
		time.Sleep(10 * time.Minute)
		wrong := []event.Ref{w.accept("acme.test", "wrong", 100), w.accept("acme.test", "wrong large", 400<<10)}
		right := w.accept("acme.test", "right", 100)
		w.file(wrong[0].ID, "Keep")
		if err := w.n.TakeBases(t.Context()); err != nil {
			t.Fatal(err)
		}
		cert, err := w.n.retention.Erase(t.Context(), w.tenant, "root", "r", wrong)
		if err != nil {
			t.Fatal(err)
		}
		if rec, err := w.n.log.Event(t.Context(), cert); err != nil || len(rec.Fact.(*event.Erased).Items) != 2 {
			t.Errorf("certificate: %v, %v", rec.Fact, err)
		}
		for _, ref := range wrong {
			if err := opens(w.n.log, ref); err == nil {
				t.Error("an erased message opens")
			}
		}
		if err := opens(w.n.log, right); err != nil {
			t.Error(err)
		}
		if got := w.found(); len(got) != 1 || !got["right"] {
			t.Errorf("in the index: %v", got)
		}
		if got := fmt.Sprint(w.box("INBOX"), w.box("Keep")); got != "[3 right] []" {
			t.Errorf("in the mailboxes: %v", got)
		}
		l, err := eventlog.Open(t.Context(), eventlog.Options{Bucket: w.copied(), URL: "mem:", Keys: w.root, Inspect: true})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(t.Context())
		for _, ref := range wrong {
			if err := opens(l, ref); err == nil {
				t.Error("an erased message opens in a copy of the bucket")
			}
		}
		w.onlyNewBases(cert)
	})
}

// onlyNewBases waits until the worker has taken Bases, and wants none that was
// taken before an erasure.
func (w *dayWorld) onlyNewBases(erased event.Ref) {
	w.t.Helper()
	ctx := context.Background()
	time.Sleep(2 * time.Minute)
	for _, p := range w.n.runner.Status() {
		bases, err := w.n.log.Bases(ctx, p.Name)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(bases) == 0 {
			w.t.Errorf("no Base of %s was taken", p.Name)
		}
		for _, b := range bases {
			if b.Taken.Cursors[erased.Position.Partition].Seq < erased.Position.Seq {
				w.t.Errorf("a Base of %s is older than the erasure", p.Name)
			}
		}
	}
}
