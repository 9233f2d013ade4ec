package crypto

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/event"
)

// Revealed keys open their event's parts, written down or not, and nothing else.
func TestRevealedKeysOpenOneEvent(t *testing.T) {
	w, c := newWorld(t), NewCodec()
	sealer, _, err := NewPage(w.day(t, today).Public(), testPageBinding(today))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := sealer.Next()
	if err != nil {
		t.Fatal(err)
	}
	next, err := sealer.Next()
	if err != nil {
		t.Fatal(err)
	}
	state, meta := testBinding(1), testBinding(1)
	state.Role, meta.Role = event.RoleState, event.RoleMeta
	sealedState, _ := w.tenant.SealState(state, []byte("state"))
	sealedMeta, commit := c.SealSmall(leaf, meta, []byte("meta"))

	keys, err := ParseRevealedKeys(w.tenant.Reveal(leaf, state).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keys.OpenState(state, sealedState); err != nil || !bytes.Equal(got, []byte("state")) {
		t.Errorf("state: %q, %v", got, err)
	}
	if got, err := c.OpenSmall(keys.Leaf(), meta, commit, sealedMeta, 100); err != nil || !bytes.Equal(got, []byte("meta")) {
		t.Errorf("metadata: %q, %v", got, err)
	}

	other := state
	other.Event = testID[event.ID](9)
	sealedOther, _ := w.tenant.SealState(other, []byte("other"))
	for name, open := range map[string]func() ([]byte, error){
		"another event's state": func() ([]byte, error) { return keys.OpenState(other, sealedOther) },
		"as another event's":    func() ([]byte, error) { return keys.OpenState(other, sealedState) },
		"nothing":               func() ([]byte, error) { return keys.OpenState(state, nil) },
		"the next leaf's": func() ([]byte, error) {
			sealed, commit := c.SealSmall(next, meta, []byte("x"))
			return c.OpenSmall(keys.Leaf(), meta, commit, sealed, 100)
		},
	} {
		if got, err := open(); !errors.Is(err, ErrNotOpened) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, n := range []int{0, 63, 65} {
		if _, err := ParseRevealedKeys(make([]byte, n)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// What a node signs as a text is no header's signature, and cannot be made one.
func TestSignedTextsAreNoHeaders(t *testing.T) {
	w := newWorld(t)
	node, err := NewNodeKey(t.Context(), w.root, event.AllClasses)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("holdfast header v1\nsome text\n")
	if !verify(node.Certificate().Node(), text, node.SignText(text)) {
		t.Error("the signature is not of the text")
	}
	if err := node.Certificate().VerifyHeader(text, node.SignText(text)); !errors.Is(err, ErrSignature) {
		t.Errorf("as a header: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("it signed the message of a header")
		}
	}()
	node.SignText(headerMessage([]byte("header")))
}
