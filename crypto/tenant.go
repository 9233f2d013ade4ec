package crypto

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"holdfast/event"
)

// Binding says what a sealed value is. It goes into the derivation of its key
// and into its associated data, so that no value can stand in for another. A
// binding under one leaf, and one under a tenant's state secret, seals one
// value, ever.
type Binding struct {
	Log    event.LogID
	Tenant event.Tenant
	Event  event.ID
	Role   event.Role
	Part   uint32
}

const bindingSize = 16 + 16 + 16 + 1 + 4

func (b Binding) bytes() []byte {
	out := make([]byte, 0, bindingSize)
	out = append(out, b.Log[:]...)
	out = append(out, b.Tenant[:]...)
	out = append(out, b.Event[:]...)
	out = append(out, byte(b.Role))
	return binary.BigEndian.AppendUint32(out, b.Part)
}

// Commitment commits to the key of a sealed value. AES-GCM alone does not: one
// ciphertext can be made that opens under two keys. It is no secret and stands
// in the segment header.
type Commitment [32]byte

func (c Commitment) equal(b []byte) bool { return subtle.ConstantTimeCompare(c[:], b) == 1 }

// TenantKeys holds the secrets of one tenant in one log. All methods may be
// called by any goroutine.
type TenantKeys struct {
	redacted
	tenant event.Tenant
	log    event.LogID
	secret *secret // one of the two parents of the tenant's day pairs
	state  *secret // seals what outlives the mail
}

// Tenant returns whose keys these are.
func (t *TenantKeys) Tenant() event.Tenant { return t.tenant }

// Log returns the log for which the keys were minted.
func (t *TenantKeys) Log() event.LogID { return t.log }

// stateKeys returns the key, the commitment and the nonce key for a binding.
func (t *TenantKeys) stateKeys(b Binding) (k [96]byte, ad []byte) {
	const label = "holdfast state v1"
	bound := b.bytes()
	return [96]byte(expand(t.state, label, 96, bound)), labelled(label, bound)
}

// stateNonce makes the nonce from the plaintext, so that sealing two values
// under one binding by mistake reveals no more than whether they are equal.
func stateNonce(key, plaintext []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(plaintext)
	return m.Sum(nil)[:nonceSize]
}

// SealState seals a long-lived value, which is 28 bytes longer afterwards. It
// is deterministic: the same value under the same binding is sealed the same.
func (t *TenantKeys) SealState(b Binding, plaintext []byte) (sealed []byte, c Commitment) {
	t.mustOwn(b)
	k, ad := t.stateKeys(b)
	sealed = make([]byte, 0, nonceSize+len(plaintext)+tagSize)
	sealed = append(sealed, stateNonce(k[64:], plaintext)...)
	return newAEAD(k[:32]).Seal(sealed, sealed[:nonceSize], plaintext, ad), Commitment(k[32:64])
}

// OpenState opens what SealState sealed. [ErrNotOpened] if it was not sealed
// with these keys, this binding and this commitment.
func (t *TenantKeys) OpenState(b Binding, c Commitment, sealed []byte) ([]byte, error) {
	if b.Tenant != t.tenant || b.Log != t.log || len(sealed) < nonceSize+tagSize {
		return nil, fmt.Errorf("open state of event %v, %d bytes: %w", b.Event, len(sealed), ErrNotOpened)
	}
	k, ad := t.stateKeys(b)
	if !c.equal(k[32:64]) {
		return nil, fmt.Errorf("open state of event %v: commitment: %w", b.Event, ErrNotOpened)
	}
	plain, err := newAEAD(k[:32]).Open(nil, sealed[:nonceSize], sealed[nonceSize:], ad)
	if err != nil {
		return nil, fmt.Errorf("open state of event %v, %d bytes: %w", b.Event, len(sealed), ErrNotOpened)
	}
	return plain, nil
}

func (t *TenantKeys) mustOwn(b Binding) {
	if b.Tenant != t.tenant || b.Log != t.log {
		panic("internal error: sealing for another tenant or log")
	}
}

// Lookup returns a keyed hash of value, by which equal values are found again
// without being kept. It is the same for ever; for what must die with the mail
// use [LocalSealer.Lookup].
func (t *TenantKeys) Lookup(purpose string, value []byte) [16]byte {
	return lookup(t.state, purpose, value)
}

func lookup(s *secret, purpose string, value []byte) [16]byte {
	m := hmac.New(sha256.New, expand(s, "holdfast lookup v1", 32, []byte(purpose)))
	m.Write(value)
	var sum [32]byte
	return [16]byte(m.Sum(sum[:0])[:16])
}
