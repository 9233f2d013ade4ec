package crypto

import "fmt"

// SealSnap seals a value under a tenant's state key as [TenantKeys.SealState]
// does, compressed if that makes it smaller. It is at most 29 bytes longer
// afterwards.
func (c *Codec) SealSnap(t *TenantKeys, b Binding, plaintext []byte) ([]byte, Commitment) {
	return t.SealState(b, c.pack(make([]byte, 0, 1+len(plaintext)), plaintext, minCompress))
}

// OpenSnap opens what SealSnap sealed. [ErrNotOpened] if it was not sealed with
// these keys, this binding and this commitment; [ErrTooLarge] if the plaintext is
// longer than maxPlain, which bounds what is allocated.
func (c *Codec) OpenSnap(t *TenantKeys, b Binding, want Commitment, sealed []byte, maxPlain int64) ([]byte, error) {
	packed, err := t.OpenState(b, want, sealed)
	if err != nil {
		return nil, err
	}
	plain, err := c.unpack(packed, maxPlain)
	if err != nil {
		return nil, fmt.Errorf("open piece %v, %d bytes: %w", b.Event, len(sealed), err)
	}
	return plain, nil
}
