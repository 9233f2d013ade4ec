package s3

import (
	"errors"
	"strings"
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/s3/versitygwtest"
)

// A store that refuses to delete a locked object says ErrLocked, and still has it.
func TestLockedObject(t *testing.T) {
	ctx := t.Context()
	server := versitygwtest.StartServer(t)
	if err := server.MakeLocked(ctx, "holdfast", 3); err != nil {
		t.Fatal(err)
	}
	b := openTest(t, server, "p")
	if _, err := b.Put(ctx, "blob/1", strings.NewReader("text"), 4, objstore.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, "blob/1"); !errors.Is(err, objstore.ErrLocked) {
		t.Errorf("delete: %v", err)
	}
	if got, _, err := objstore.ReadAll(ctx, b, "blob/1", 10); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
	if err := b.Delete(ctx, "blob/2"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
}

func TestHistory(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		start  func(testing.TB) *versitygwtest.Server
		locked bool
		want   objstore.History
	}{
		"plain":                 {versitygwtest.StartServer, false, objstore.History{}},
		"locked":                {versitygwtest.StartServer, true, objstore.History{Locked: true}},
		"plain, with versions":  {versitygwtest.StartVersioned, false, objstore.History{}},
		"locked, with versions": {versitygwtest.StartVersioned, true, objstore.History{Versioned: true, Locked: true}},
	} {
		t.Run(name, func(t *testing.T) {
			server := c.start(t)
			if c.locked {
				if err := server.MakeLocked(ctx, "holdfast", 3); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := openTest(t, server, "p").History(ctx); err != nil || got != c.want {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

// With versions a locked bucket can be used as any other.
func TestConditionsInALockedBucket(t *testing.T) {
	server := versitygwtest.StartVersioned(t)
	if err := server.MakeLocked(t.Context(), "holdfast", 3); err != nil {
		t.Fatal(err)
	}
	if err := objstore.ProbeConditional(t.Context(), openTest(t, server, "p")); err != nil {
		t.Error(err)
	}
}
