package crypto

import (
	"encoding/binary"
	"fmt"
	"math"
)

// kind is the first byte of a nonce under a message key: one key seals either
// one small value or one stream, and no two of these share a nonce.
type kind byte

const (
	kindSmall kind = 1 // a value sealed whole
	kindChunk kind = 2 // a chunk of a stream, not the last
	kindLast  kind = 3 // the last chunk
	kindTable kind = 4 // the table of chunks
)

// nonce returns kind, seven zero bytes, and the counter.
func (k kind) nonce(counter uint32) [nonceSize]byte {
	n := [nonceSize]byte{byte(k)}
	binary.BigEndian.PutUint32(n[8:], counter)
	return n
}

// messageKey derives the key, the commitment and the associated data of a part.
func messageKey(l Leaf, b Binding, use string) (key []byte, c Commitment, ad []byte) {
	if l.key == nil {
		panic("internal error: the zero leaf has no keys")
	}
	bound := b.bytes()
	k := expand(l.key, "holdfast message v1", 64, bound)
	return k[:32], Commitment(k[32:]), labelled(use, bound)
}

const (
	useSmall  = "holdfast small v1"
	useStream = "holdfast stream v1"
)

// SealSmall seals a value whole, compressed if that makes it smaller. It is at
// most 17 bytes longer afterwards. The same leaf and binding must not seal
// another value.
func (c *Codec) SealSmall(l Leaf, b Binding, plaintext []byte) (sealed []byte, _ Commitment) {
	key, commitment, ad := messageKey(l, b, useSmall)
	packed := c.pack(make([]byte, 0, 1+len(plaintext)+tagSize), plaintext, minCompress)
	nonce := kindSmall.nonce(0)
	return newAEAD(key).Seal(packed[:0], nonce[:], packed, ad), commitment
}

// OpenSmall opens what SealSmall sealed. [ErrNotOpened] if it was not sealed
// with this leaf, binding and commitment; [ErrTooLarge] if the plaintext is
// longer than maxPlain, which bounds what is allocated.
func (c *Codec) OpenSmall(l Leaf, b Binding, want Commitment, sealed []byte, maxPlain int64) ([]byte, error) {
	plain, err := c.openSmall(l, b, want, sealed, maxPlain)
	if err != nil {
		return nil, fmt.Errorf("open part %d of role %d of event %v, %d bytes: %w", b.Part, b.Role, b.Event, len(sealed), err)
	}
	return plain, nil
}

func (c *Codec) openSmall(l Leaf, b Binding, want Commitment, sealed []byte, maxPlain int64) ([]byte, error) {
	key, commitment, ad := messageKey(l, b, useSmall)
	if !want.equal(commitment[:]) {
		return nil, fmt.Errorf("commitment: %w", ErrNotOpened)
	}
	nonce := kindSmall.nonce(0)
	packed, err := newAEAD(key).Open(nil, nonce[:], sealed, ad)
	if err != nil {
		return nil, ErrNotOpened
	}
	return c.unpack(packed, maxPlain)
}

// pack appends plain to dst in its packed form: flagRaw and the bytes, or
// flagZstd, the length as 32 bits and a zstd frame, whichever is shorter.
// Values shorter than least are not compressed. plain must not overlap dst.
func (c *Codec) pack(dst, plain []byte, least int) []byte {
	at := len(dst)
	if len(plain) >= least && uint64(len(plain)) <= math.MaxUint32 {
		dst = append(dst, flagZstd)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(plain)))
		dst = c.compress(dst, plain)
		if len(dst)-at < 1+len(plain) {
			return dst
		}
	}
	return append(append(dst[:at], flagRaw), plain...)
}

// unpack returns what pack packed. The result may share memory with packed.
func (c *Codec) unpack(packed []byte, maxPlain int64) ([]byte, error) {
	if len(packed) == 0 {
		return nil, ErrMalformed
	}
	flag, data := packed[0], packed[1:]
	switch flag {
	case flagRaw:
		if int64(len(data)) > maxPlain {
			return nil, ErrTooLarge
		}
		return data, nil
	case flagZstd:
		if len(data) < 4 {
			return nil, ErrMalformed
		}
		n := int64(binary.BigEndian.Uint32(data))
		if n > maxPlain {
			return nil, ErrTooLarge
		}
		plain, err := c.decompress(make([]byte, 0, n), data[4:])
		if err != nil || int64(len(plain)) != n {
			return nil, ErrMalformed
		}
		return plain, nil
	}
	return nil, ErrMalformed
}
