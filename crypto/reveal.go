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

// RevealedKeysSize is the length of [RevealedKeys.Bytes].
const RevealedKeysSize = 64

// Reveal returns the keys of one event: its leaf, and the key of its state part.
func (t *TenantKeys) Reveal(leaf Leaf, state Binding) RevealedKeys {
	t.mustOwn(state)
	if leaf.key == nil {
		panic("internal error: the zero leaf reveals nothing")
	}
	k, _ := t.stateKeys(state)
	return RevealedKeys{leaf: secretOf(leaf.key.bytes()), state: secretOf(k[:32])}
}

// Bytes returns the keys in the clear: the leaf's secret, then the key of the
// state part.
func (k RevealedKeys) Bytes() []byte {
	return append(append(make([]byte, 0, RevealedKeysSize), k.leaf.bytes()...), k.state.bytes()...)
}

// ParseRevealedKeys reads what Bytes wrote.
func ParseRevealedKeys(b []byte) (RevealedKeys, error) {
	if len(b) != RevealedKeysSize {
		return RevealedKeys{}, fmt.Errorf("revealed keys of %d bytes: %w", len(b), ErrMalformed)
	}
	return RevealedKeys{leaf: secretOf(b[:32]), state: secretOf(b[32:])}, nil
}

// Leaf returns the leaf, which opens what was sealed under it. Its index is not
// known.
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
