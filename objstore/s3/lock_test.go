package s3

import (
	"errors"
	"strings"
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/s3/versitygwtest"
)

// modes are those of Object Lock.
func modes() []versitygwtest.Mode {
	return []versitygwtest.Mode{versitygwtest.Compliance, versitygwtest.Governance}
}

// A store that refuses to delete a locked object says ErrLocked, and still has it;
// one with versions hides it, and still has its bytes.
func TestLockedObject(t *testing.T) {
	ctx := t.Context()
	for _, mode := range modes() {
		t.Run(string(mode), func(t *testing.T) {
			server := versitygwtest.StartServer(t)
			if err := server.MakeLocked(ctx, "holdfast", mode, 3); err != nil {
				t.Fatal(err)
			}
			b := openTest(t, server, "p")
			if _, err := b.Put(ctx, "blob/1", strings.NewReader("text"), 4, objstore.PutOptions{IfAbsent: true}); err != nil {
				t.Fatal(err)
			}
			err := b.Delete(ctx, "blob/1")
			got, _, gone := objstore.ReadAll(ctx, b, "blob/1", 10)
			if server.Versioned() {
				versions, deleted, err2 := server.Versions(ctx, "holdfast", "p/")
				if err != nil || !errors.Is(gone, objstore.ErrNotExist) || versions != 1 || deleted != 1 || err2 != nil {
					t.Errorf("delete: %v; %q, %v; %d versions, %d deleted, %v", err, got, gone, versions, deleted, err2)
				}
			} else if !errors.Is(err, objstore.ErrLocked) || gone != nil || string(got) != "text" {
				t.Errorf("delete: %v; %q, %v", err, got, gone)
			}
			if err := b.Delete(ctx, "blob/2"); err != nil {
				t.Errorf("delete what is not there: %v", err)
			}
		})
	}
}

func TestHistory(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		start  func(testing.TB) *versitygwtest.Server
		locked bool
	}{
		"plain":                 {versitygwtest.StartServer, false},
		"locked":                {versitygwtest.StartServer, true},
		"plain, with versions":  {versitygwtest.StartVersioned, false},
		"locked, with versions": {versitygwtest.StartVersioned, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := c.start(t)
			if c.locked {
				if err := server.MakeLocked(ctx, "holdfast", versitygwtest.Governance, 3); err != nil {
					t.Fatal(err)
				}
			}
			want := objstore.History{Versioned: c.locked && server.Versioned(), Locked: c.locked}
			if got, err := openTest(t, server, "p").History(ctx); err != nil || got != want {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
		})
	}
}

// With versions a locked bucket can be used as any other.
func TestConditionsInALockedBucket(t *testing.T) {
	server := versitygwtest.StartVersioned(t)
	if err := server.MakeLocked(t.Context(), "holdfast", versitygwtest.Compliance, 3); err != nil {
		t.Fatal(err)
	}
	if err := objstore.ProbeConditional(t.Context(), openTest(t, server, "p")); err != nil {
		t.Error(err)
	}
}
