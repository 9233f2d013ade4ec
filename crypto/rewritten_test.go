package crypto

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/event"
)

func TestRewrittenPage(t *testing.T) {
	ctx := t.Context()
	root := MemoryRoot(19000)
	installation, err := root.InstallationKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	node, err := NewNodeKey(ctx, root, event.ClassesOf(event.ClassRetention))
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewNodeKey(ctx, root, event.ClassesOf(event.ClassAcceptance))
	if err != nil {
		t.Fatal(err)
	}
	b := PageBinding{Log: event.NewLogID(), Tenant: event.Tenant{1}, Day: 19000, Page: event.NewPage(), Writer: event.NewWriter()}
	sealed := []byte("a sealed page, as far as the envelope is concerned")
	good, err := node.RewritePage(b, 3, sealed)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRewritten(b, good)
	if err != nil || r.Generation != 3 || !bytes.Equal(r.Sealed, sealed) || r.Verify(installation) != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := other.RewritePage(b, 1, sealed); !errors.Is(err, ErrSignature) {
		t.Errorf("a node that may not: %v", err)
	}
	if _, err := node.RewritePage(b, 0, sealed); !errors.Is(err, ErrSignature) {
		t.Errorf("no generation: %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if r, err := ParseRewritten(b, bad); err == nil && r.Verify(installation) == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
	for n := range good {
		if r, err := ParseRewritten(b, good[:n]); err == nil && r.Verify(installation) == nil {
			t.Errorf("%d bytes suffice", n)
		}
	}
	for name, change := range map[string]func(*PageBinding){
		"log": func(b *PageBinding) { b.Log[0]++ }, "tenant": func(b *PageBinding) { b.Tenant[0]++ },
		"day": func(b *PageBinding) { b.Day++ }, "page": func(b *PageBinding) { b.Page[0]++ },
		"writer": func(b *PageBinding) { b.Writer[0]++ },
	} {
		o := b
		change(&o)
		if r, err := ParseRewritten(o, good); err != nil || !errors.Is(r.Verify(installation), ErrSignature) {
			t.Errorf("it stands for another %s", name)
		}
	}
	// A signature of a node that may not sign retention is worth nothing, were it
	// to make one.
	forged := &NodeKey{key: other.key, cert: node.cert}
	bad, err := forged.RewritePage(b, 3, sealed)
	if err != nil {
		t.Fatal(err)
	}
	copy(bad[len(rewrittenMagic):], other.cert[:])
	if r, err := ParseRewritten(b, bad); err != nil || !errors.Is(r.Verify(installation), ErrSignature) {
		t.Errorf("a node that may not rewrite pages was believed: %v", err)
	}
	stranger, err := NewNodeKey(ctx, MemoryRoot(19000), event.AllClasses)
	if err != nil {
		t.Fatal(err)
	}
	if bad, err = stranger.RewritePage(b, 3, sealed); err != nil {
		t.Fatal(err)
	}
	if r, err := ParseRewritten(b, bad); err != nil || !errors.Is(r.Verify(installation), ErrSignature) {
		t.Errorf("a stranger was believed: %v", err)
	}
}
