package crypto

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/event"
)

func TestEnded(t *testing.T) {
	ctx := t.Context()
	root := MemoryRoot(today)
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
	by := event.Ref{ID: event.NewID(), Position: event.Position{Partition: 3, Seq: 1 << 40, Index: 7}}
	word, err := node.EndTenant(testLog, testTenant, by)
	if err != nil || !IsEnded(word) {
		t.Fatal(err)
	}
	if _, err := other.EndTenant(testLog, testTenant, by); !errors.Is(err, ErrSignature) {
		t.Errorf("a node that may not: %v", err)
	}
	e, err := ParseEnded(testLog, testTenant, word)
	if err != nil || e.By != by || e.Verify(installation) != nil {
		t.Fatalf("%+v, %v", e, err)
	}
	if e, err = ParseEnded(testLog, event.Tenant{9}, word); err != nil || e.Verify(installation) == nil {
		t.Errorf("of another tenant: %v", err)
	}
	for i := range word {
		bad := bytes.Clone(word)
		bad[i] ^= 1
		if e, err := ParseEnded(testLog, testTenant, bad); err == nil && e.Verify(installation) == nil {
			t.Errorf("a flipped bit at %d is not seen", i)
		}
	}
	if _, err := ParseEnded(testLog, testTenant, word[1:]); !errors.Is(err, ErrMalformed) {
		t.Errorf("cut short: %v", err)
	}
}
