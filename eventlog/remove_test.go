package eventlog

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

func TestRemoveDays(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	first := f.day
	var refs []event.Ref
	for range 3 {
		refs = append(refs, f.accept(t, randomBytes(5<<20)), f.accept(t, randomBytes(60)))
		f.day++
	}
	strangers := []string{
		"blob/2020-1-1/x", "blob/2020-02-31/x", "blob/2020-01-01", "blob/x/y", "key/2020-01-01", "key/0/x",
	}
	for _, key := range strangers {
		put(t, bucket, key, []byte("not ours"))
	}
	all := stored(t, bucket, "")
	for _, to := range []event.Day{first, first + 1} { // not far enough
		if err := f.root().AdvanceTo(to); err != nil {
			t.Fatal(err)
		}
		got, err := f.RemoveDays(ctx, first+2)
		if !errors.Is(err, ErrNotOver) || got != (Removed{}) || len(stored(t, bucket, "")) != len(all) {
			t.Fatalf("removed %+v, %v", got, err)
		}
	}
	if err := f.root().AdvanceTo(first + 2); err != nil {
		t.Fatal(err)
	}
	f.Forget(first + 2)
	got, err := f.RemoveDays(ctx, first+2)
	if err != nil || got.Objects != 2*2+2 || got.Bytes < 2*5<<20 || got.Locked != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := f.RemoveDays(ctx, first+2); err != nil || got != (Removed{}) {
		t.Errorf("again: %+v, %v", got, err)
	}
	if len(stored(t, bucket, "")) != len(all)-6 {
		t.Errorf("left: %v", stored(t, bucket, ""))
	}
	f.wantGone(t, refs[:4]...)
	f.wantBody(t, refs[4], randomBytes(5<<20))
	f.wantBody(t, refs[5], randomBytes(60))
	for _, key := range strangers {
		if err := bucket.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	f.wantNoFindings(t)
}

// locked is a bucket that does not let go of some objects.
type locked struct {
	objstore.Bucket
	prefix string
}

func (b *locked) Delete(ctx context.Context, key string) error {
	if strings.HasPrefix(key, b.prefix) {
		return errors.Join(errors.New("until next year"), objstore.ErrLocked)
	}
	return b.Bucket.Delete(ctx, key)
}

func TestLockedObjectsAreCounted(t *testing.T) {
	ctx := context.Background()
	f := openFixture(t, newOptions(t, &locked{mem.New(), "blob/"}))
	ref := f.accept(t, randomBytes(5<<20))
	done, err := f.Erase(ctx, []event.Ref{ref})
	if err != nil || done[0].Objects != 0 || done[0].Locked != 2 {
		t.Errorf("%+v, %v", done, err)
	}
	f.wantGone(t, ref)
	if err := f.root().AdvanceTo(f.day + 1); err != nil {
		t.Fatal(err)
	}
	f.Forget(f.day + 1)
	for range 2 {
		got, err := f.RemoveDays(ctx, f.day+1)
		if err != nil || got.Locked != 2 || got.Objects > 1 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	f.wantGone(t, ref)
	f.wantNoFindings(t)
}

func TestRemovingIsContinued(t *testing.T) {
	ctx := context.Background()
	for nth := 1; nth <= 4; nth++ {
		f, b := faulty(t)
		f.accept(t, randomBytes(9<<20))
		if err := f.root().AdvanceTo(f.day + 1); err != nil {
			t.Fatal(err)
		}
		rule := b.Inject(fault.Rule{Op: fault.Delete, Kind: fault.FailAfter, Nth: nth})
		got, err := f.RemoveDays(ctx, f.day+1)
		if err == nil || int(got.Objects) != nth-1 {
			t.Errorf("delete %d fails: %+v, %v", nth, got, err)
		}
		rule.Remove()
		if _, err := f.RemoveDays(ctx, f.day+1); err != nil {
			t.Error(err)
		}
		if left := stored(t, b, ""); len(left) != 4 { // format, a segment, two tenants
			t.Errorf("left: %v", left)
		}
	}
}

// A node that has not moved its own ratchet reads what others have removed as
// expired as soon as the log says so, and as damaged before.
func TestRemovedBeforeTheOwnRatchetMoved(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	opt := newOptions(t, bucket)
	f := openFixture(t, opt)
	ref := f.accept(t, randomBytes(5<<20))
	small := f.accept(t, randomBytes(50))
	remove := func(prefix string) {
		for _, key := range stored(t, bucket, prefix) {
			if err := bucket.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	body, err := f.Body(ctx, ref) // open, and not read yet
	if err != nil {
		t.Fatal(err)
	}
	remove("blob/")
	remove("key/" + f.day.String() + "/")
	g := openFixture(t, opt)
	if _, err := f.Body(ctx, ref); !errors.Is(err, ErrDamaged) {
		t.Errorf("blobs are missing: %v", err)
	}
	if _, err := g.Event(ctx, small); !errors.Is(err, ErrDamaged) {
		t.Errorf("a page is missing: %v", err)
	}
	fact := &event.DayExpired{At: event.Millis(time.Now().UnixMilli()), Day: f.day}
	if _, err := f.Append(ctx, event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: fact}); err != nil {
		t.Fatal(err)
	}
	if _, err := body.Read(make([]byte, 10)); !errors.Is(err, crypto.ErrExpired) {
		t.Errorf("an open body: %v", err)
	}
	if _, err := f.Body(ctx, ref); !errors.Is(err, crypto.ErrExpired) {
		t.Errorf("blobs are missing: %v", err)
	}
	if err := g.Refresh(ctx, g.PartitionOf(g.tenant)); err != nil {
		t.Fatal(err)
	}
	g.wantGone(t, ref, small)
}
