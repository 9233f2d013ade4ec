package crypto

import (
	"fmt"
)

// RevealedKeys are the keys of one event alone, made known on purpose so that a
// third party can read that event in a proof. From them follow the keys of all
// its parts, and of no other event. They are written down as they are: whoever
// makes them means to give that event away.
type RevealedKeys struct {
	redacted
	leaf  *secret // of the mail-derived parts; nil where there are none
	state *secret // key of the state part alone
}

// RevealedKeysSize is the length of [RevealedKeys.Bytes], and RevealedStateSize
// where there is no leaf.
const (
	RevealedKeysSize  = 64
	RevealedStateSize = 32
)

// Reveal returns the keys of one event: its leaf, and the key of its state part.
func (t *TenantKeys) Reveal(leaf Leaf, state Binding) RevealedKeys {
	t.mustOwn(state)
	if leaf.key == nil {
		panic("internal error: the zero leaf reveals nothing")
	}
	k, _ := t.stateKeys(state)
	return RevealedKeys{leaf: secretOf(leaf.key.bytes()), state: secretOf(k[:32])}
}

// RevealState returns the key of an event's state part, for an event that has no
// other part, or none that is to be revealed.
func (t *TenantKeys) RevealState(state Binding) RevealedKeys {
	t.mustOwn(state)
	k, _ := t.stateKeys(state)
	return RevealedKeys{state: secretOf(k[:32])}
}

// Bytes returns the keys in the clear: the leaf's secret, if there is one, then
// the key of the state part.
func (k RevealedKeys) Bytes() []byte {
	if k.leaf == nil {
		return append(make([]byte, 0, RevealedStateSize), k.state.bytes()...)
	}
	return append(append(make([]byte, 0, RevealedKeysSize), k.leaf.bytes()...), k.state.bytes()...)
}

// ParseRevealedKeys reads what Bytes wrote.
func ParseRevealedKeys(b []byte) (RevealedKeys, error) {
	if len(b) == RevealedStateSize {
		return RevealedKeys{state: secretOf(b)}, nil
	}
	if len(b) != RevealedKeysSize {
		return RevealedKeys{}, fmt.Errorf("revealed keys of %d bytes: %w", len(b), ErrMalformed)
	}
	return RevealedKeys{leaf: secretOf(b[:32]), state: secretOf(b[32:])}, nil
}

// HasLeaf reports whether a leaf is among the keys.
func (k RevealedKeys) HasLeaf() bool { return k.leaf != nil }

// Leaf returns the leaf, which opens what was sealed under it; there must be one.
// Its index is not known.
func (k RevealedKeys) Leaf() Leaf { return Leaf{key: k.leaf} }

// OpenState opens a state part. The commitment cannot be checked: it follows
// from the tenant's secret, which is not revealed. [ErrNotOpened] if the part
// was not sealed with this key and binding.
func (k RevealedKeys) OpenState(b Binding, sealed []byte) ([]byte, error) {
	if len(sealed) < nonceSize+tagSize {
		return nil, fmt.Errorf("open state of event %v, %d bytes: %w", b.Event, len(sealed), ErrNotOpened)
	}
	ad := labelled("holdfast state v1", b.bytes())
	plain, err := newAEAD(k.state.bytes()).Open(nil, sealed[:nonceSize], sealed[nonceSize:], ad)
	if err != nil {
		return nil, fmt.Errorf("open state of event %v, %d bytes: %w", b.Event, len(sealed), ErrNotOpened)
	}
	return plain, nil
}
