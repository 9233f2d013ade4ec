package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// The keys may lie in a bucket of their own; without it there is no log.
func TestKeysApart(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.Roles = []string{RoleDeliver}
	cfg.Keys.URL = "file:" + filepath.Join(dir, "root.key")
	cfg.Store.URL, cfg.Store.KeysURL = "file:"+filepath.Join(dir, "mail"), "file:"+filepath.Join(dir, "keys")
	open := func() error {
		n, err := New(t.Context(), cfg, Seams{Store: projection.NewMemStore()}, slog.New(slog.DiscardHandler))
		if err == nil {
			err = n.log.Prepare(t.Context(), [16]byte{15: 1}, 30000)
			n.close(context.Background())
		}
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"keys/key/tenant": true, "keys/key/2052-02-20": true, "keys/format": false, "mail/format": true, "mail/key": false,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	right := cfg.Store.KeysURL
	// A log without events has nothing to lose; so there is one.
	n, err := New(t.Context(), cfg, Seams{Store: projection.NewMemStore()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.audit(t.Context(), "test", "", 0); err != nil {
		t.Fatal(err)
	}
	n.close(context.Background())
	for _, wrong := range []string{"", "file:" + filepath.Join(dir, "elsewhere")} {
		if cfg.Store.KeysURL = wrong; !errors.Is(open(), eventlog.ErrKeysMissing) {
			t.Errorf("with keys_url %q it opens: %v", wrong, open())
		}
	}
	if cfg.Store.KeysURL = right; open() != nil {
		t.Errorf("with the right one: %v", open())
	}
}

// remembering is a bucket that keeps what is overwritten.
type remembering struct {
	objstore.Bucket
	kept objstore.History
	err  error
}

func (b *remembering) History(context.Context) (objstore.History, error) { return b.kept, b.err }

func TestWarningOfEarlierVersions(t *testing.T) {
	for _, c := range []struct {
		bucket objstore.Bucket
		want   string
	}{
		{mem.New(), ""},
		{&remembering{mem.New(), objstore.History{}, nil}, ""},
		{&remembering{mem.New(), objstore.History{Versioned: true}, nil}, "is versioned"},
		{&remembering{mem.New(), objstore.History{Versioned: true, Locked: true}, nil}, "under Object Lock"},
		{&remembering{mem.New(), objstore.History{}, errors.New("denied")}, "denied"},
	} {
		var out bytes.Buffer
		n := &Node{bucket: c.bucket, logger: slog.New(slog.NewTextHandler(&out, nil))}
		n.warnOfHistory(t.Context())
		if got := out.String(); !strings.Contains(got, c.want) || (got != "") != (c.want != "") {
			t.Errorf("%+v: %q, want %q", c.bucket, got, c.want)
		}
	}
}
