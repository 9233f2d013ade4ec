package eventlog

import (
	"context"
	"testing"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/objstore/open"
	"holdfast/objstore/s3/versitygwtest"
	"holdfast/objstore/split"
)

// Under S3 Object Lock the bytes stay, and nobody can read them: as long as the
// keys are in a bucket where what is rewritten is gone.
func TestObjectLock(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func(testing.TB) *versitygwtest.Server
		mode  versitygwtest.Mode
	}{
		{"with versions, compliance", versitygwtest.StartVersioned, versitygwtest.Compliance},
		{"with versions, governance", versitygwtest.StartVersioned, versitygwtest.Governance},
		{"without versions, compliance", versitygwtest.StartServer, versitygwtest.Compliance},
		{"without versions, governance", versitygwtest.StartServer, versitygwtest.Governance},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			server := c.start(t)
			if err := server.MakeLocked(ctx, "mail", c.mode, 40); err != nil {
				t.Fatal(err)
			}
			f := openFixture(t, newOptions(t, split.New(openServed(t, server, "mail"), "key/", openServed(t, server, "keys"))))
			erased, expired := f.accept(t, randomBytes(5<<20)), f.accept(t, randomBytes(5<<20))
			small := f.accept(t, randomBytes(50))
			versions, _, err := server.Versions(ctx, "mail", "")
			if err != nil {
				t.Fatal(err)
			}
			done, err := f.Erase(ctx, []event.Ref{erased})
			if err != nil || done[0].Objects+done[0].Locked != 2 {
				t.Fatalf("%+v, %v", done, err)
			}
			openFixture(t, f.opt).wantGone(t, erased)
			f.wantBody(t, expired, randomBytes(5<<20))
			if now, old, err := server.Versions(ctx, "keys", ""); err != nil || now != 3 || old != 0 { // a page, two tenants
				t.Errorf("%d versions of keys, %d deleted, %v", now, old, err)
			}
			if err := f.root().AdvanceTo(f.day + 1); err != nil {
				t.Fatal(err)
			}
			f.Forget(f.day + 1)
			got, err := f.RemoveDays(ctx, f.day+1)
			if err != nil {
				t.Fatal(err)
			}
			if !server.Versioned() && (done[0].Locked != 2 || got.Locked != 4 || got.Objects != 1) ||
				server.Versioned() && (done[0].Objects != 2 || got.Objects != 3 || got.Locked != 0) {
				t.Errorf("erased %+v, removed %+v", done[0], got)
			}
			// Nothing of the mail has left the store, and nothing of it opens.
			if after, _, err := server.Versions(ctx, "mail", ""); err != nil || after < versions {
				t.Errorf("%d versions, were %d, %v", after, versions, err)
			}
			g := openFixture(t, f.opt)
			g.wantGone(t, erased, expired, small)
			g.wantNoFindings(t)
		})
	}
}

// Why the keys do not belong there: the page of before the erasure stays.
func TestKeysUnderObjectLock(t *testing.T) {
	ctx := t.Context()
	server := versitygwtest.StartVersioned(t)
	if err := server.MakeLocked(ctx, "mail", versitygwtest.Compliance, 40); err != nil {
		t.Fatal(err)
	}
	b := openServed(t, server, "mail")
	f := openFixture(t, newOptions(t, b))
	ref := f.accept(t, randomBytes(50))
	if _, err := f.Erase(ctx, []event.Ref{ref}); err != nil {
		t.Fatal(err)
	}
	openFixture(t, f.opt).wantGone(t, ref)
	if n, _, err := server.Versions(ctx, "mail", "log-1/key/"+f.day.String()); err != nil || n != 2 {
		t.Errorf("%d versions of a rewritten page, %v", n, err)
	}
	if h, err := b.(objstore.Historian).History(ctx); err != nil || h != (objstore.History{Versioned: true, Locked: true}) {
		t.Errorf("the warning at start would not come: %+v, %v", h, err)
	}
}

// A log is not opened without its keys, nor with those of another one, and no
// others are made in their place.
func TestKeysOfAnotherLog(t *testing.T) {
	ctx := context.Background()
	buckets := map[string]objstore.Bucket{}
	bucket := func(name string) objstore.Bucket {
		if buckets[name] == nil {
			buckets[name] = mem.New()
		}
		return buckets[name]
	}
	opt := newOptions(t, split.New(bucket("mail-a"), "key/", bucket("keys-a")))
	f := openFixture(t, opt)
	ref := f.accept(t, randomBytes(50))
	other := opt
	other.Bucket = split.New(bucket("mail-b"), "key/", bucket("keys-b"))
	openFixture(t, other)
	for name, keys := range map[string]string{"none": "keys-c", "of another log": "keys-b", "where the mail is": "mail-a"} {
		wrong := opt
		wrong.Bucket = split.New(bucket("mail-a"), "key/", bucket(keys))
		if l, err := Open(ctx, wrong); err == nil {
			l.Close(ctx)
			t.Errorf("%s: opened", name)
		}
	}
	if n := len(stored(t, bucket("keys-c"), "")); n != 0 {
		t.Errorf("%d keys were made", n)
	}
	openFixture(t, opt).wantBody(t, ref, randomBytes(50))
}

func openServed(t *testing.T, server *versitygwtest.Server, name string) objstore.Bucket {
	t.Helper()
	b, closer, err := open.Open(t.Context(), server.URL(name, "log-1"), server.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
	return b
}
