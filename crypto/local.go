package crypto

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// LocalSealer seals values of one tenant and expiry day in a local database,
// so that they die with the mail they are derived from. It is deterministic: a
// database built anew from the same log is the same, bit for bit. What it gives
// away is that two values of one context are equal. All methods may be called
// by any goroutine.
type LocalSealer struct {
	redacted
	sec   *localSecrets
	codec *Codec
}

type localSecrets struct {
	redacted
	aead  cipher.AEAD
	nonce *secret
	root  *secret
}

// minCompressLocal is the length from which local values are compressed.
const minCompressLocal = 1024

func newLocalSealer(local *secret, c *Codec) *LocalSealer {
	keys := expand(local, "holdfast local value v1", 64)
	return &LocalSealer{codec: c, sec: &localSecrets{
		aead:  newAEAD(keys[:32]),
		nonce: secretOf(keys[32:]),
		root:  local,
	}}
}

func localAD(context []byte) []byte { return labelled("holdfast local value v1", context) }

// Seal seals plaintext, which is at most 29 bytes longer afterwards. The context
// says what the value is, for instance its database key; Open needs the same.
func (s *LocalSealer) Seal(context, plaintext []byte) []byte {
	sealed := make([]byte, nonceSize, nonceSize+1+len(plaintext)+tagSize)
	sealed = s.codec.pack(sealed, plaintext, minCompressLocal)
	packed := sealed[nonceSize:]

	// The nonce is a function of all that is sealed, so that two different
	// values never meet under one nonce but by a collision of 96 bits.
	m := hmac.New(sha256.New, s.sec.nonce.bytes())
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(len(context))))
	m.Write(context)
	m.Write(packed)
	var sum [sha256.Size]byte
	nonce := sealed[:nonceSize]
	copy(nonce, m.Sum(sum[:0]))
	return s.sec.aead.Seal(nonce, nonce, packed, localAD(context))
}

// Open opens what Seal sealed with the same context. [ErrNotOpened] if it is
// anything else. Values are bounded by 1 GiB; what is allocated is bounded by
// what the sealer of the value, which only a holder of the day's key can be,
// wrote.
func (s *LocalSealer) Open(context, sealed []byte) ([]byte, error) {
	if len(sealed) < nonceSize+1+tagSize {
		return nil, fmt.Errorf("open local value of %d bytes: %w", len(sealed), ErrNotOpened)
	}
	packed, err := s.sec.aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], localAD(context))
	if err != nil {
		return nil, fmt.Errorf("open local value of %d bytes: %w", len(sealed), ErrNotOpened)
	}
	plain, err := s.codec.unpack(packed, maxLocal)
	if err != nil {
		return nil, fmt.Errorf("open local value of %d bytes: %w", len(sealed), err)
	}
	return plain, nil
}

// maxLocal bounds a local value's plaintext.
const maxLocal = 1 << 30

// Lookup returns a keyed hash of value, by which equal values are found again
// without being kept, until the day's keys are gone.
func (s *LocalSealer) Lookup(purpose string, value []byte) [16]byte {
	return lookup(s.sec.root, purpose, value)
}
