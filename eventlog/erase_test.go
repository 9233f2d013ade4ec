package eventlog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// wantGone checks that nothing of a message can be read.
func (f *fixture) wantGone(t *testing.T, refs ...event.Ref) {
	t.Helper()
	for _, ref := range refs {
		if _, err := f.Body(context.Background(), ref); !errors.Is(err, crypto.ErrExpired) {
			t.Errorf("body of %v: %v", ref, err)
		}
		r, err := f.Event(context.Background(), ref)
		if err != nil {
			t.Errorf("event %v: %v", ref, err)
		} else if m, ok := r.Fact.(*event.MessageAccepted); !ok || m.Meta != nil {
			t.Errorf("event %v still says %+v", ref, r.Fact)
		}
	}
}

func (f *fixture) wantNoFindings(t *testing.T) {
	t.Helper()
	_, err := f.Verify(context.Background(), func(x Finding) { t.Errorf("found: %v", x) })
	if err != nil {
		t.Error(err)
	}
}

func TestErase(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	small, large, other := randomBytes(700), randomBytes(5<<20), randomBytes(800)
	a, b, c := f.accept(t, small), f.accept(t, large), f.accept(t, other)
	kept, err := f.Keep(ctx, b, f.day+3, event.KeptHold)
	if err != nil {
		t.Fatal(err)
	}
	reader := openFixture(t, f.opt) // another node, which has all in its caches
	for _, ref := range []event.Ref{a, b, c, kept} {
		if r, err := reader.Event(ctx, ref); err != nil || r.Fact.(*event.MessageAccepted).Meta == nil {
			t.Fatal(err)
		}
	}
	done, err := f.Erase(ctx, []event.Ref{a, kept})
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != 2 || done[0].Message != a.ID || done[0].Size != 700 || len(done[0].Digests) != 2 || done[0].Objects != 0 ||
		done[1].Message != b.ID || done[1].Ref != kept || done[1].Size != 5<<20 || done[1].Objects != 4 || done[1].Tenant != f.tenant {
		t.Errorf("%+v", done)
	}
	if left := stored(t, bucket, "blob/"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	f.wantGone(t, a, b, kept)
	f.wantBody(t, c, other)
	// The other node forgets when it is told.
	reader.Forgotten(f.tenant, []event.Ref{a, kept})
	reader.Forgotten(f.tenant, []event.Ref{b})
	reader.wantGone(t, a, b, kept)
	reader.wantBody(t, c, other)
	fresh := openFixture(t, f.opt)
	fresh.wantGone(t, a, b, kept)
	fresh.wantBody(t, c, other)
	// Again, by another node: the same is told, and nothing more is done.
	pages := map[string]string{}
	for _, key := range stored(t, bucket, "key/") {
		pages[key] = string((&archive{bucket: bucket}).get(t, key))
	}
	again, err := fresh.Erase(ctx, []event.Ref{a, kept})
	if err != nil || len(again) != 2 || again[1].Objects != 0 || !slices.Equal(again[1].Digests, done[1].Digests) {
		t.Errorf("%+v, %v", again, err)
	}
	for key, v := range pages {
		if string((&archive{bucket: bucket}).get(t, key)) != v {
			t.Errorf("%s was rewritten for nothing", key)
		}
	}
	// What is sealed under the page afterwards is read.
	d := f.accept(t, small)
	f.wantBody(t, d, small)
	fresh.wantBody(t, d, small)
	fresh.wantNoFindings(t)
}

// An old copy of the key page that somebody puts back is named by a verification,
// once an event says what was erased.
func TestErasedKeyIsBack(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	ref, other := f.accept(t, randomBytes(700)), f.accept(t, randomBytes(800))
	i := slices.IndexFunc(stored(t, bucket, "key/"), func(k string) bool { return !strings.HasPrefix(k, tenantPrefix) })
	page := stored(t, bucket, "key/")[i]
	at := &archive{bucket: bucket}
	first := at.get(t, page)
	if _, err := f.Erase(ctx, []event.Ref{ref}); err != nil {
		t.Fatal(err)
	}
	second := at.get(t, page)
	if _, err := f.Erase(ctx, []event.Ref{other}); err != nil {
		t.Fatal(err)
	}
	third := at.get(t, page)
	for _, r := range []event.Ref{ref, other} {
		fact := &event.Erased{Who: "root", Items: []event.ErasedItem{{Message: r.ID, Place: r}}}
		if _, err := f.Append(ctx, event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: fact}); err != nil {
			t.Fatal(err)
		}
	}
	f.wantNoFindings(t)
	for n, old := range [][]byte{first, second} {
		put(t, bucket, page, old)
		var found []Finding
		if _, err := openFixture(t, f.opt).Verify(ctx, func(x Finding) { found = append(found, x) }); err != nil {
			t.Fatal(err)
		}
		if len(found) != 2-n || found[0].What != DamagedKeyPage || found[0].Key != page {
			t.Errorf("form %d: %v", n, found)
		}
	}
	put(t, bucket, page, third)
	f.wantNoFindings(t)
}

// Nodes that erase at the same time do not undo each other's work.
func TestErasuresAtTheSameTime(t *testing.T) {
	ctx := context.Background()
	f := openFixture(t, newOptions(t, mem.New()))
	nodes := []*fixture{f, openFixture(t, f.opt), openFixture(t, f.opt)}
	var refs []event.Ref
	for n := range 30 {
		refs = append(refs, f.accept(t, randomBytes(100+n)))
	}
	var wg sync.WaitGroup
	for n, node := range nodes {
		wg.Go(func() {
			for i := n; i < 24; i += len(nodes) {
				if _, err := node.Erase(ctx, refs[i:i+1]); err != nil {
					t.Errorf("erase %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	fresh := openFixture(t, f.opt)
	fresh.wantGone(t, refs[:24]...)
	for n, ref := range refs[24:] {
		fresh.wantBody(t, ref, randomBytes(124+n))
	}
	fresh.wantNoFindings(t)
}

// Whatever fails in the middle, and wherever, the next call of whoever it is goes
// on from there. It is the same as when the process dies there.
func TestEraseIsContinued(t *testing.T) {
	kinds := map[fault.Op][]fault.Kind{
		fault.Put:    {fault.FailBefore, fault.FailAfter, fault.LateLanding},
		fault.Get:    {fault.FailBefore, fault.TornRead},
		fault.Delete: {fault.FailBefore, fault.FailAfter, fault.LateLanding},
	}
	struck := 0
	for op, list := range kinds {
		for _, kind := range list {
			for nth := 1; ; nth++ {
				r := fault.Rule{Op: op, Kind: kind, Nth: nth, Delay: time.Minute}
				hit := false
				synctest.Test(t, func(t *testing.T) { hit = eraseThrough(t, r) })
				if !hit {
					break
				}
				struck++
			}
		}
	}
	if struck < 20 {
		t.Errorf("%d faults struck", struck)
	}
}

// eraseThrough reports whether the fault struck.
func eraseThrough(t *testing.T, r fault.Rule) bool {
	ctx := context.Background()
	f, b := faulty(t)
	f.bodies.inline, f.bodies.part = 6<<10, 7<<10 // so that small bodies have parts
	var refs []event.Ref
	for _, day := range []event.Day{0, 1} {
		f.day += day
		refs = append(refs, f.accept(t, randomBytes(10<<10)), f.accept(t, randomBytes(50)))
	}
	other := f.accept(t, randomBytes(51))
	rule := b.Inject(r)
	_, err := f.Erase(ctx, refs)
	rule.Remove()
	hit := rule.Struck() > 0
	if err == nil {
		openFixture(t, f.opt).wantGone(t, refs...)
	}
	next := openFixture(t, f.opt)
	if _, err := next.Erase(ctx, refs); err != nil {
		t.Errorf("%+v: again: %v", r, err)
	}
	time.Sleep(2 * time.Minute) // for what lands late
	fresh := openFixture(t, f.opt)
	fresh.wantGone(t, refs...)
	fresh.wantBody(t, other, randomBytes(51))
	if left := stored(t, b, "blob/"); len(left) > 0 {
		t.Errorf("%+v: left: %v", r, left)
	}
	fresh.wantNoFindings(t)
	return hit
}

func TestWhatCannotBeErased(t *testing.T) {
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	f := openFixture(t, opt)
	pos, err := f.Append(ctx, event.Event{ID: event.ID{1}, Tenant: f.tenant, Fact: &event.MailboxCreated{Name: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	ref := f.accept(t, randomBytes(100))
	if _, err := f.Erase(ctx, []event.Ref{ref, {Position: pos, ID: event.ID{1}}}); err == nil {
		t.Error("a mailbox was erased")
	}
	f.wantBody(t, ref, randomBytes(100)) // all or nothing is looked up before
	opt.Classes = event.ClassesOf(event.ClassAcceptance)
	if _, err := openFixture(t, opt).Erase(ctx, []event.Ref{ref}); !errors.Is(err, crypto.ErrSignature) {
		t.Errorf("a node that may not: %v", err)
	}
	f.wantBody(t, ref, randomBytes(100))
	openFixture(t, opt).wantBody(t, ref, randomBytes(100))
	opt.URL, opt.Classes = "mem:elsewhere", 0
	if _, err := openFixture(t, opt).Erase(ctx, []event.Ref{ref}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("in a copy: %v", err)
	}
	f.wantBody(t, ref, randomBytes(100))
	// What has expired is erased already.
	if err := f.root().AdvanceTo(f.day + 1); err != nil {
		t.Fatal(err)
	}
	f.Forget(f.day + 1)
	if done, err := f.Erase(ctx, []event.Ref{ref}); err != nil || len(done) != 1 || len(done[0].Digests) != 2 {
		t.Errorf("%+v, %v", done, err)
	}
}
