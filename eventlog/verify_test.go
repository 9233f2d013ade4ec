package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// archive is a log with a bit of everything, closed.
type archive struct {
	bucket *mem.Bucket
	opt    Options
	f      *fixture
	p      event.Partition
	ids    []event.ID
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	ctx := context.Background()
	a := &archive{bucket: mem.New()}
	a.opt = newOptions(t, a.bucket)
	a.opt.Partitions = 1
	a.f = openFixture(t, a.opt)
	a.p = a.f.PartitionOf(a.f.tenant)
	add := func(evs ...event.Event) event.Position {
		pos, err := a.f.Append(ctx, evs...)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range evs {
			a.ids = append(a.ids, ev.ID)
		}
		return pos
	}
	first := a.f.message(t, []byte("small"))
	at := add(first, a.f.message(t, randomBytes(2000)))
	add(a.f.message(t, randomBytes(300<<10)), a.f.message(t, randomBytes(4<<20+70_000)))
	a.checkpoint(t)
	fact := func(f event.Fact) event.Event { return event.Event{ID: event.NewID(), Tenant: a.f.tenant, Fact: f} }
	add(fact(&event.DeliveryIntended{Units: []event.Unit{{Source: first.ID}}}))
	add(fact(&event.RedeliveryOrdered{Items: []event.Redelivery{{Message: event.Ref{Position: at, ID: first.ID}}}}),
		fact(&event.CursorMoved{Group: "g", Topic: "t", To: at}), fact(&event.Repudiated{Message: first.ID}))
	add(event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: &event.KeysBackedUp{At: 1}})
	a.checkpoint(t)
	if _, err := a.f.Acquire(ctx, "deliver", time.Minute, false); err != nil {
		t.Fatal(err)
	}
	if err := a.f.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return a
}

// checkpoint writes a checkpoint at the tail.
func (a *archive) checkpoint(t *testing.T) *Checkpoint {
	t.Helper()
	c, err := a.f.Checkpoint(context.Background(), a.p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify opens the bucket as a command line would, and verifies.
func (a *archive) verify(t *testing.T, since ...*Checkpoint) ([]Finding, Summary) {
	t.Helper()
	opt := a.opt
	opt.Inspect = true
	l, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(context.Background())
	var fs []Finding
	var progress Summary
	sum, err := l.VerifyWith(context.Background(), VerifyOptions{
		Report: func(f Finding) { fs = append(fs, f) }, Progress: func(s Summary) { progress = s }, Since: since,
	})
	if err != nil {
		t.Fatal(err)
	}
	if progress.Segments != sum.Segments || progress.Bytes != sum.Bytes {
		t.Errorf("the last progress was %+v, the summary is %+v", progress, sum)
	}
	if !l.ReadOnly() || sum.Findings != uint64(len(fs)) {
		t.Errorf("read-only %t, %d findings counted, %d reported", l.ReadOnly(), sum.Findings, len(fs))
	}
	for _, f := range fs {
		if f.Err != nil && !errors.Is(f.Err, ErrDamaged) || f.Key == "" || f.What == "" || f.String() == "" {
			t.Errorf("a finding that names nothing: %+v", f)
		}
	}
	return fs, sum
}

func (a *archive) get(t *testing.T, key string) []byte {
	t.Helper()
	b, _, err := objstore.ReadAll(context.Background(), a.bucket, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (a *archive) keys(t *testing.T, prefix string) (keys []string) {
	t.Helper()
	for info, err := range a.bucket.List(context.Background(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func (a *archive) remove(t *testing.T, key string) {
	t.Helper()
	if err := a.bucket.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
}

func TestCleanLogHasNoFindings(t *testing.T) {
	a := newArchive(t)
	put(t, a.bucket, blobKey(a.f.day, event.NewID(), 0), []byte("of nobody"))
	put(t, a.bucket, pageKey(pageEntry{Page: event.NewPage(), Tenant: a.f.tenant, Day: a.f.day}), []byte("of nobody"))
	fs, sum := a.verify(t)
	if len(fs) != 0 {
		t.Errorf("findings in a clean log: %v", fs)
	}
	want := Summary{Segments: 5, Events: 9, Bodies: 4, Blobs: 3, Bytes: sum.Bytes, Pages: 2, Tenants: 2, Checkpoints: 2, OrphanBlobs: 1, OrphanPages: 1}
	if sum != want || sum.Bytes < 4<<20 {
		t.Errorf("the summary is %+v, want %+v", sum, want)
	}
}

// Verify runs while the log grows.
func TestVerifyOfALiveLog(t *testing.T) {
	f := openFixture(t, newOptions(t, mem.New()))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if ev, err := f.tryMessage(context.Background(), randomBytes(3000)); err != nil {
				t.Error(err)
			} else if _, err := f.Append(context.Background(), ev); err != nil {
				t.Error(err)
			}
		}
	}()
	if err := f.Wait(context.Background(), f.PartitionOf(f.tenant), 20); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := f.Verify(context.Background(), func(f Finding) { t.Errorf("found: %v", f) }); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-done
}

// One flipped bit in any object is found, and named.
func TestVerifyNamesAnyFlippedBit(t *testing.T) {
	a := newArchive(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, key := range slices.Concat(a.keys(t, "log/"), a.keys(t, "key/"), a.keys(t, "blob/"), a.keys(t, "checkpoint/"), a.keys(t, "lease/")) {
		good := a.get(t, key)
		tries := 25
		if len(good) > 1<<20 {
			tries = 5
		}
		for try := range tries {
			at := rng.IntN(len(good))
			switch try {
			case 0:
				at = 0
			case 1:
				at = len(good) - 1
			case 2:
				at = len(good) / 2
			}
			bad := bytes.Clone(good)
			bad[at] ^= 1 << rng.IntN(8)
			put(t, a.bucket, key, bad)
			fs, _ := a.verify(t)
			if !slices.ContainsFunc(fs, func(f Finding) bool { return f.Key == key }) {
				t.Errorf("a flip in byte %d of the %d of %s: %v", at, len(good), key, fs)
			}
		}
		put(t, a.bucket, key, good)
	}
}

// want is what must be among the findings.
type want struct {
	key   string
	what  string
	index int
}

func TestVerifyNamesDamage(t *testing.T) {
	type change = func(t *testing.T, a *archive) want
	seg := func(a *archive, s event.Seq) string { return segmentKey(a.p, s) }
	tests := map[string]change{
		"a segment removed": func(t *testing.T, a *archive) want {
			a.remove(t, seg(a, 3))
			return want{seg(a, 3), MissingSegment, -1}
		},
		"a segment cut short": func(t *testing.T, a *archive) want {
			b := a.get(t, seg(a, 1))
			put(t, a.bucket, seg(a, 1), b[:len(b)-10])
			return want{seg(a, 1), DamagedLength, -1}
		},
		"a segment cut to nothing": func(t *testing.T, a *archive) want {
			put(t, a.bucket, seg(a, 5), nil)
			return want{seg(a, 5), DamagedHeader, -1}
		},
		"a segment with more at its end": func(t *testing.T, a *archive) want {
			put(t, a.bucket, seg(a, 2), append(a.get(t, seg(a, 2)), 0))
			return want{seg(a, 2), DamagedLength, -1}
		},
		"two segments swapped": func(t *testing.T, a *archive) want {
			x, y := a.get(t, seg(a, 3)), a.get(t, seg(a, 4))
			put(t, a.bucket, seg(a, 3), y)
			put(t, a.bucket, seg(a, 4), x)
			return want{seg(a, 4), DamagedHeader, -1}
		},
		"a segment replayed": func(t *testing.T, a *archive) want {
			put(t, a.bucket, seg(a, 6), a.get(t, seg(a, 5)))
			return want{seg(a, 6), DamagedHeader, -1}
		},
		"a body part removed": func(t *testing.T, a *archive) want {
			key := blobKey(a.f.day, a.ids[3], 1)
			a.remove(t, key)
			return want{key, DamagedBody, 1}
		},
		"a body part cut short": func(t *testing.T, a *archive) want {
			key := blobKey(a.f.day, a.ids[2], 0)
			put(t, a.bucket, key, a.get(t, key)[:1000])
			return want{key, DamagedBody, 0}
		},
		"body parts swapped": func(t *testing.T, a *archive) want {
			x, y := blobKey(a.f.day, a.ids[3], 0), blobKey(a.f.day, a.ids[3], 1)
			bx, by := a.get(t, x), a.get(t, y)
			put(t, a.bucket, x, by)
			put(t, a.bucket, y, bx)
			return want{x, DamagedBody, 1}
		},
		"a body part of another message": func(t *testing.T, a *archive) want {
			key := blobKey(a.f.day, a.ids[2], 0)
			put(t, a.bucket, key, a.get(t, blobKey(a.f.day, a.ids[3], 0)))
			return want{key, DamagedBody, 0}
		},
		"a key page removed": func(t *testing.T, a *archive) want {
			key := a.keys(t, "key/2")[0]
			a.remove(t, key)
			return want{key, DamagedKeyPage, -1}
		},
		"a tenant's key removed": func(t *testing.T, a *archive) want {
			a.remove(t, tenantKey(a.f.tenant))
			return want{tenantKey(a.f.tenant), DamagedTenantKey, 0}
		},
		"a tenant's key that is another's": func(t *testing.T, a *archive) want {
			put(t, a.bucket, tenantKey(a.f.tenant), a.get(t, tenantKey(event.SystemTenant)))
			return want{tenantKey(a.f.tenant), DamagedTenantKey, 0}
		},
		"strangers": func(t *testing.T, a *archive) want {
			put(t, a.bucket, "log/zz/1", []byte("x"))
			put(t, a.bucket, "log/00/readme", []byte("x"))
			return want{"log/zz/1", UnknownObject, -1}
		},
		"an event of another tenant": func(t *testing.T, a *archive) want {
			a.forge(t, 6, func(h *header) { h.Events[0].Tenant = event.SystemTenant }, nil)
			return want{seg(a, 6), DamagedState, 0}
		},
		"a segment that follows another": func(t *testing.T, a *archive) want {
			a.forge(t, 6, func(h *header) { h.Prev[3] ^= 1 }, nil)
			return want{seg(a, 6), DamagedChain, -1}
		},
		"a reference to nothing": func(t *testing.T, a *archive) want {
			a.forge(t, 6, nil, &event.Repudiated{Message: event.NewID()})
			return want{seg(a, 6), DamagedReference, 0}
		},
		"a reference to a place where nothing is": func(t *testing.T, a *archive) want {
			a.forge(t, 6, nil, &event.CursorMoved{To: event.Position{Partition: a.p, Seq: 2, Index: 7}})
			return want{seg(a, 6), DamagedReference, 0}
		},
		"a reference to a place where another event is": func(t *testing.T, a *archive) want {
			ref := event.Ref{Position: event.Position{Partition: a.p, Seq: 2, Index: 1}, ID: a.ids[0]}
			a.forge(t, 6, nil, &event.RedeliveryOrdered{Items: []event.Redelivery{{Message: ref}}})
			return want{seg(a, 6), DamagedReference, 0}
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			a := newArchive(t)
			w := damage(t, a)
			fs, _ := a.verify(t)
			if !slices.ContainsFunc(fs, func(f Finding) bool { return f.Key == w.key && f.What == w.what && f.Index == w.index }) {
				t.Errorf("want %+v among %d findings", w, len(fs))
				for _, f := range fs {
					t.Log(f)
				}
			}
			if len(fs) > 6 {
				t.Errorf("%d findings for one damage", len(fs))
			}
		})
	}
}

// forge puts a segment as a certified node could that means harm.
func (a *archive) forge(t *testing.T, s event.Seq, change func(*header), fact event.Fact) {
	t.Helper()
	a.forgeSigned(t, s, change, fact, nil)
}

func (a *archive) forgeSigned(t *testing.T, s event.Seq, change func(*header), fact event.Fact, node *crypto.NodeKey) {
	t.Helper()
	l, err := Open(context.Background(), a.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(context.Background())
	if node != nil {
		l.node = node
	}
	if fact == nil {
		fact = &event.MailboxCreated{Name: "x"}
	}
	ev, err := l.seal(context.Background(), event.Event{ID: event.NewID(), Tenant: a.f.tenant, Fact: fact})
	if err != nil {
		t.Fatal(err)
	}
	b := l.partitions[a.p].buildNext([]*item{{events: []sealedEvent{ev}}})
	if b.header.Seq != s {
		t.Fatalf("the next segment is %d, want %d", b.header.Seq, s)
	}
	if change != nil {
		change(b.header)
	}
	put(t, a.bucket, segmentKey(a.p, s), append(encodeHeader(b.header, l.node.Sign), ev.front[0]...))
}

// A node key that the installation did not certify, or not for such events, can
// write what it likes: nobody believes it.
func TestUncertifiedNodes(t *testing.T) {
	ctx := context.Background()
	other, err := crypto.NewNodeKey(ctx, crypto.MemoryRoot(event.DayOf(time.Now())), event.AllClasses)
	if err != nil {
		t.Fatal(err)
	}
	a := newArchive(t)
	lesser, err := crypto.NewNodeKey(ctx, a.opt.Keys, event.ClassesOf(event.ClassAcceptance))
	if err != nil {
		t.Fatal(err)
	}
	for name, node := range map[string]*crypto.NodeKey{"another installation's": other, "one for acceptances only": lesser} {
		a.forgeSigned(t, 6, nil, nil, node)
		fs, _ := a.verify(t)
		if len(fs) != 1 || fs[0].What != DamagedHeader || fs[0].Seq != 6 {
			t.Errorf("a segment of a node key that is %s: %v", name, fs)
		}
		if _, err := Open(ctx, a.opt); !errors.Is(err, ErrDamaged) {
			t.Errorf("opening such a log: %v", err)
		}
		a.remove(t, segmentKey(a.p, 6))
	}
}

// A store that fails now and then is no damage; one that does not answer ends
// the verification with an error.
func TestVerifyOnAFailingStore(t *testing.T) {
	a := newArchive(t)
	b := fault.Wrap(a.bucket)
	defer b.Close()
	opt := a.opt
	opt.Bucket, opt.Inspect = b, true
	l, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(context.Background())
	b.Inject(fault.Rule{Op: fault.Get, Kind: fault.TornRead, Nth: 3, Times: 2})
	if sum, err := l.Verify(context.Background(), func(f Finding) { t.Errorf("found: %v", f) }); err != nil || sum.Segments != 5 {
		t.Errorf("%+v, %v", sum, err)
	}
	b.Inject(fault.Rule{Op: fault.Get, KeyPrefix: "log/", Kind: fault.FailBefore, Times: -1})
	if _, err := l.Verify(context.Background(), func(f Finding) { t.Errorf("found: %v", f) }); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("a store that fails: %v", err)
	}
}

// Mail whose day has gone verifies by its digests, also when its objects went
// with it.
func TestVerifyAfterExpiry(t *testing.T) {
	a := newArchive(t)
	root, ok := a.opt.Keys.(interface{ AdvanceTo(event.Day) error })
	if !ok {
		t.Fatalf("%T cannot advance", a.opt.Keys)
	}
	if err := root.AdvanceTo(a.f.day + 1); err != nil {
		t.Fatal(err)
	}
	for _, remove := range []bool{false, true} {
		if remove {
			for _, key := range slices.Concat(a.keys(t, "blob/"), a.keys(t, "key/2")) {
				a.remove(t, key)
			}
		}
		if fs, sum := a.verify(t); len(fs) != 0 || sum.Expired != 4 || sum.Bodies != 0 {
			t.Errorf("with objects removed %t: %v, %+v", remove, fs, sum)
		}
	}
}

func TestFindingsSayNothingOfMail(t *testing.T) {
	a := newArchive(t)
	for _, key := range a.keys(t, "log/") {
		b := a.get(t, key)
		b[len(b)-1] ^= 1
		put(t, a.bucket, key, b)
	}
	fs, _ := a.verify(t)
	if len(fs) == 0 {
		t.Fatal("nothing was found")
	}
	for _, f := range fs {
		if s := fmt.Sprint(f, f.Err); strings.Contains(s, "@") || strings.Contains(s, "small") {
			t.Errorf("a finding quotes mail: %s", s)
		}
	}
}
