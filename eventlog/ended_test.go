package eventlog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// endTenant ends the fixture's tenant as package retention does, and returns where
// the system says so.
func (f *fixture) endTenant(t *testing.T, bodies ...Blob) event.Ref {
	t.Helper()
	ctx := context.Background()
	fact := &event.TenantCondemned{At: f.Millis(), Who: "root", Reason: "left", Name: "acme", Tenant: f.tenant}
	if _, err := f.Append(ctx, event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: fact}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.DestroyTenant(ctx, f.tenant, event.Ref{}); !errors.Is(err, ErrNotOver) {
		t.Errorf("destroyed before the system says so: %v", err)
	}
	if _, err := f.RemoveBodies(ctx, f.tenant, bodies); err != nil {
		t.Error(err)
	}
	by := event.Ref{ID: event.NewID()}
	var err error
	if by.Position, err = f.Append(ctx, event.Event{ID: by.ID, Tenant: event.SystemTenant, Fact: fact}); err != nil {
		t.Fatal(err)
	}
	return by
}

func TestTenantEnds(t *testing.T) {
	ctx := context.Background()
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	other, err := f.opt.Keys.TenantID(ctx, "bravo")
	if err != nil || f.EnsureTenant(ctx, other) != nil {
		t.Fatal(err)
	}
	small, large := f.accept(t, randomBytes(700)), f.accept(t, randomBytes(5<<20))
	text := randomBytes(300)
	mine := f.tenant
	f.tenant = other
	kept := f.accept(t, text)
	f.tenant = mine
	if _, err := f.RemoveBodies(ctx, mine, nil); !errors.Is(err, ErrNotOver) {
		t.Errorf("bodies of a tenant that nobody ends: %v", err)
	}
	before := map[string]string{}
	for _, key := range stored(t, bucket, "key/") {
		before[key] = string((&archive{bucket: bucket}).get(t, key))
	}
	behind := openFixture(t, f.opt) // has all in its caches, and a message on its way
	if _, err := behind.Event(ctx, small); err != nil {
		t.Fatal(err)
	}
	late := behind.message(t, []byte("too late"))

	by := f.endTenant(t, Blob{Day: f.day, ID: large.ID})
	if left := stored(t, bucket, "blob/"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	r, err := f.DestroyTenant(ctx, mine, by)
	if err != nil || r.Objects == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := f.DestroyTenant(ctx, mine, by); err != nil || r.Objects != 0 {
		t.Errorf("again: %+v, %v", r, err)
	}
	for _, key := range stored(t, bucket, "key/") {
		if strings.Contains(key, mine.String()) && key != tenantKey(mine) {
			t.Errorf("left: %s", key)
		}
	}
	// The one that was behind refuses what it has not put, and learns.
	if _, err := behind.Append(ctx, late); !errors.Is(err, ErrCondemned) {
		t.Errorf("behind the end: %v", err)
	}
	fresh := openFixture(t, f.opt)
	for name, n := range map[string]*fixture{"the one that did it": f, "one that was there": behind, "a new one": fresh} {
		for p := range n.Partitions() {
			if err := n.Refresh(ctx, event.Partition(p)); err != nil {
				t.Fatal(err)
			}
			for r, err := range n.Read(ctx, event.Partition(p), Cursor{}) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if r.Tenant == mine {
					t.Errorf("%s reads %T", name, r.Fact)
				}
			}
		}
		if _, err := n.Event(ctx, small); !errors.Is(err, ErrEnded) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := n.Body(ctx, large); !errors.Is(err, crypto.ErrExpired) {
			t.Errorf("%s: %v", name, err)
		}
		if err := n.EnsureTenant(ctx, mine); !errors.Is(err, ErrEnded) || !n.Ended(mine) {
			t.Errorf("%s: keys again: %v", name, err)
		}
		if err := n.RequireTenant(ctx, mine); !errors.Is(err, ErrEnded) {
			t.Errorf("%s: %v", name, err)
		}
		n.wantBody(t, kept, text)
		n.wantNoFindings(t)
	}
	f.wantKeysFound(t, by, before)
}

// wantKeysFound checks that keys which come back of a tenant that has ended are
// found, opened by nobody who has read of the end, and removed again.
func (f *fixture) wantKeysFound(t *testing.T, by event.Ref, keys map[string]string) {
	t.Helper()
	ctx := context.Background()
	_, err := f.Append(ctx, event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: &event.TenantEnded{
		At: f.Millis(), Who: "root", Reason: "left", Name: "acme", Tenant: f.tenant, Order: by.ID,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for key, v := range keys {
		if err := f.bucket.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
		if err := f.putSame(ctx, key, []byte(v), objstore.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
	var found []string
	if _, err := f.Verify(ctx, func(x Finding) { found = append(found, x.What) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(found, DamagedTenantKey) {
		t.Errorf("the keys are back, found: %v", found)
	}
	if _, err := f.TenantKeys(ctx, f.tenant); !errors.Is(err, ErrEnded) {
		t.Errorf("keys of a tenant that has ended: %v", err)
	}
	if r, err := f.DestroyTenant(ctx, f.tenant, by); err != nil || r.Objects == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	f.wantNoFindings(t)
}
