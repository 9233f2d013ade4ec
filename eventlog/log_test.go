package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// fixture is a log on a bucket, with one tenant.
type fixture struct {
	*Log
	opt    Options
	tenant event.Tenant
	day    event.Day
}

func newOptions(t *testing.T, b objstore.Bucket) Options {
	t.Helper()
	return Options{
		Bucket: b, URL: "mem:", Keys: crypto.MemoryRoot(event.DayOf(time.Now())), MayCreate: true,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func openFixture(t *testing.T, opt Options) *fixture {
	t.Helper()
	ctx := context.Background()
	l, err := Open(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	tenant, err := opt.Keys.TenantID(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.EnsureTenant(ctx, tenant); err != nil && !errors.Is(err, ErrReadOnly) && !errors.Is(err, ErrEnded) {
		t.Fatal(err)
	}
	return &fixture{Log: l, opt: opt, tenant: tenant, day: event.DayOf(l.Now()) + 30}
}

// message returns an acceptance with the given body.
func (f *fixture) message(t *testing.T, body []byte) event.Event {
	t.Helper()
	ev, err := f.tryMessage(context.Background(), body)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func (f *fixture) tryMessage(ctx context.Context, body []byte) (event.Event, error) {
	id := event.NewID()
	w, err := f.NewBody(ctx, id, f.tenant, f.day)
	if err != nil {
		return event.Event{}, err
	}
	defer w.Discard()
	if _, err := w.Write(body); err != nil {
		return event.Event{}, err
	}
	b, err := w.Finish()
	if err != nil {
		return event.Event{}, err
	}
	return event.Event{ID: id, Tenant: f.tenant, Expiry: f.day, Body: b, Fact: &event.MessageAccepted{
		Origin: event.OriginInbound, Size: int64(len(body)), Recipients: 1,
		Meta: &event.MessageMeta{From: "a@b", SHA256: sha256.Sum256(body), Index: []byte{0xa0}},
	}}, nil
}

// all returns every event of the tenant's partition.
func (f *fixture) all(t *testing.T) (rs []Recorded) {
	t.Helper()
	p := f.PartitionOf(f.tenant)
	if err := f.Refresh(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	for r, err := range f.Read(context.Background(), p, Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func (f *fixture) wantBody(t *testing.T, ref event.Ref, want []byte) {
	t.Helper()
	b, err := f.Body(context.Background(), ref)
	if err != nil {
		t.Fatalf("body of %v: %v", ref.ID, err)
	}
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("body of %v: %d bytes, error %v; want the %d that were written", ref.ID, len(got), err, len(want))
	}
}

func randomBytes(n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(n)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func TestWhatIsAppendedReadsBackEqual(t *testing.T) {
	bucket := mem.New()
	opt := newOptions(t, bucket)
	f := openFixture(t, opt)
	sizes := []int{0, 1, 1000, 64 << 10, 64<<10 + 1, 255 << 10, 300 << 10, 4 << 20, 9<<20 + 17}
	want := map[event.ID][]byte{}
	for _, n := range sizes {
		ev := f.message(t, randomBytes(n))
		if _, err := f.Append(context.Background(), ev); err != nil {
			t.Fatalf("append %d bytes: %v", n, err)
		}
		want[ev.ID] = randomBytes(n)
	}
	// A second process reads the same from the bucket and the keys alone.
	for _, g := range []*fixture{f, openFixture(t, opt)} {
		rs := g.all(t)
		if len(rs) != len(sizes) {
			t.Fatalf("%d events, want %d", len(rs), len(sizes))
		}
		for i, r := range rs {
			m, ok := r.Fact.(*event.MessageAccepted)
			if !ok || m.Size != int64(sizes[i]) || m.Meta == nil || m.Meta.From != "a@b" || !r.HasBody || r.Expiry != g.day {
				t.Errorf("event %d reads back as %+v", i, r)
			}
			g.wantBody(t, r.Ref, want[r.Ref.ID])
			if again, err := g.Event(context.Background(), r.Ref); err != nil || again.Ref != r.Ref {
				t.Errorf("event by reference: %+v, %v", again, err)
			}
		}
	}
}

func TestManyWritersGatherIntoFewSegments(t *testing.T) {
	f := openFixture(t, newOptions(t, mem.New()))
	const writers, each = 16, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	places := map[event.Position]bool{}
	for range writers {
		wg.Go(func() {
			for range each {
				ev, err := f.tryMessage(context.Background(), randomBytes(500))
				if err != nil {
					t.Error(err)
					return
				}
				pos, err := f.Append(context.Background(), ev)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				places[pos] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(places) != writers*each {
		t.Errorf("%d places for %d events", len(places), writers*each)
	}
	for _, r := range f.all(t) {
		delete(places, r.Ref.Position)
	}
	if len(places) != 0 {
		t.Errorf("%d events are not where Append said", len(places))
	}
}

func TestTwoNodesShareOneOrder(t *testing.T) {
	opt := newOptions(t, mem.New())
	a, b := openFixture(t, opt), openFixture(t, opt)
	var wg sync.WaitGroup
	const each = 50
	for _, f := range []*fixture{a, b} {
		for range 2 {
			wg.Go(func() {
				for range each {
					ev := event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: &event.MailboxCreated{Name: "x"}}
					if _, err := f.Append(context.Background(), ev); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	ra, rb := a.all(t), b.all(t)
	if len(ra) != 4*each || len(rb) != 4*each {
		t.Fatalf("%d and %d events, want %d", len(ra), len(rb), 4*each)
	}
	for i := range ra {
		if ra[i].Ref != rb[i].Ref {
			t.Fatalf("the nodes differ at %d", i)
		}
	}
}

func TestEventsOfOneAppendShareASegment(t *testing.T) {
	f := openFixture(t, newOptions(t, mem.New()))
	var evs []event.Event
	for range 5 {
		evs = append(evs, f.message(t, []byte("x")))
	}
	pos, err := f.Append(context.Background(), evs...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range f.all(t) {
		if r.Ref.ID != evs[i].ID || r.Ref.Position.Seq != pos.Seq || r.Ref.Position.Index != pos.Index+uint32(i) {
			t.Errorf("event %d is at %v, the first at %v", i, r.Ref.Position, pos)
		}
	}
}

func TestOpening(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	opt := newOptions(t, bucket)
	first := openFixture(t, opt)
	if _, err := first.Append(ctx, first.message(t, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	other := opt
	other.Keys = crypto.MemoryRoot(event.DayOf(time.Now()))
	if _, err := Open(ctx, other); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another root key: %v, want ErrWrongKey", err)
	}
	vanished := opt
	vanished.Bucket, vanished.MayCreate = mem.New(), false
	if _, err := Open(ctx, vanished); !errors.Is(err, ErrMissing) {
		t.Errorf("a vanished bucket: %v, want ErrMissing", err)
	}
	copied := opt
	copied.URL = "mem:copy"
	f := openFixture(t, copied)
	if !f.ReadOnly() || len(f.all(t)) != 1 {
		t.Error("a copy does not open read-only")
	}
	if _, err := f.Append(ctx, event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: &event.MailboxCreated{}}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("append to a copy: %v, want ErrReadOnly", err)
	}
	if from, err := Adopt(ctx, copied); err != nil || from != "mem:" {
		t.Errorf("adopt: %q, %v", from, err)
	}
	if openFixture(t, copied).ReadOnly() {
		t.Error("an adopted copy is still read-only")
	}
	broken := newOptions(t, mem.New())
	openFixture(t, broken)
	if err := broken.Bucket.Delete(ctx, formatKey); err != nil {
		t.Fatal(err)
	}
	put(t, broken.Bucket, segmentKey(0, 1), []byte("x"))
	if _, err := Open(ctx, broken); !errors.Is(err, ErrDamaged) {
		t.Errorf("segments without a format: %v, want ErrDamaged", err)
	}
}

func put(t *testing.T, b objstore.Bucket, key string, v []byte) {
	t.Helper()
	if _, err := b.Put(context.Background(), key, bytes.NewReader(v), int64(len(v)), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestRolledBackLogStopsReaders(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	p := f.PartitionOf(f.tenant)
	var cursors []Cursor
	for range 5 {
		if _, err := f.Append(ctx, f.message(t, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		h, err := f.readHeader(ctx, p, event.Seq(len(cursors)+1))
		if err != nil {
			t.Fatal(err)
		}
		cursors = append(cursors, Cursor{h.Seq, h.hash})
	}
	read := func(g *fixture, c Cursor) (n int, err error) {
		for _, err := range g.Read(ctx, p, c) {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	if n, err := read(f, cursors[2]); n != 2 || err != nil {
		t.Fatalf("after the third segment: %d events, %v", n, err)
	}
	if _, err := read(f, Cursor{3, Hash{1}}); !errors.Is(err, ErrRolledBack) {
		t.Errorf("another third segment: %v, want ErrRolledBack", err)
	}
	if _, err := read(f, Cursor{5, Hash{1}}); !errors.Is(err, ErrRolledBack) {
		t.Errorf("another last segment: %v, want ErrRolledBack", err)
	}
	if err := bucket.Delete(ctx, segmentKey(p, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(openFixture(t, f.opt), cursors[4]); !errors.Is(err, ErrRolledBack) {
		t.Errorf("a shorter log: %v, want ErrRolledBack", err)
	}
	if err := bucket.Delete(ctx, segmentKey(p, 2)); err != nil {
		t.Fatal(err)
	}
	g := openFixture(t, f.opt)
	if _, err := read(g, cursors[0]); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrRolledBack) {
		t.Errorf("a hole: %v, want ErrDamaged", err)
	}
}

// Whatever single byte of a segment flips, no reader takes the segment for what
// was written.
func TestFlippedBits(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	body := []byte("the body of the message")
	if _, err := f.Append(ctx, f.message(t, body)); err != nil {
		t.Fatal(err)
	}
	key := segmentKey(f.PartitionOf(f.tenant), 1)
	good, _, err := objstore.ReadAll(ctx, bucket, key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		put(t, bucket, key, bad)
		if err := readEverything(ctx, f.opt, f.tenant); !errors.Is(err, ErrDamaged) && !errors.Is(err, crypto.ErrNotOpened) && !errors.Is(err, crypto.ErrMalformed) {
			t.Fatalf("flip in byte %d of %d: %v", i, len(good), err)
		}
	}
	for n := range good {
		put(t, bucket, key, good[:n])
		if err := readEverything(ctx, f.opt, f.tenant); err == nil {
			t.Fatalf("cut after %d of %d bytes: read without an error", n, len(good))
		}
	}
	put(t, bucket, key, good)
	if err := readEverything(ctx, f.opt, f.tenant); err != nil {
		t.Fatalf("the good segment: %v", err)
	}
}

func readEverything(ctx context.Context, opt Options, tenant event.Tenant) error {
	l, err := Open(ctx, opt)
	if err != nil {
		return err
	}
	defer l.Close(ctx)
	for r, err := range l.Read(ctx, l.PartitionOf(tenant), Cursor{}) {
		if err != nil {
			return err
		}
		b, err := l.Body(ctx, r.Ref)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, b); err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkAppend(b *testing.B) {
	for _, sessions := range []int{1, 20} {
		b.Run(fmt.Sprintf("mem/sessions=%d", sessions), func(b *testing.B) {
			benchmarkAppend(b, mem.New(), sessions)
		})
	}
}
