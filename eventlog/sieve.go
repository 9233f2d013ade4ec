package eventlog

import (
	"crypto/sha256"
	"encoding/binary"
)

const (
	sieveBits  = 1 << 27 // 16 MiB
	sieveKeys  = 4
	sieveExact = 50_000
)

// sieve is a set of names in bounded memory. Up to sieveExact names it is exact.
// With more, what was added is always found, and now and then something is found
// that was not: with ten million names one in some hundreds (a Bloom filter).
type sieve struct {
	few  map[sieveName]struct{} // nil once they are many
	bits []uint64
}

type sieveName [sieveKeys]uint32

func newSieve() *sieve { return &sieve{few: map[sieveName]struct{}{}} }

func (s *sieve) add(name []byte) {
	n := sieveNameOf(name)
	if s.few == nil {
		s.set(n)
		return
	}
	s.few[n] = struct{}{}
	if len(s.few) > sieveExact {
		s.bits = make([]uint64, sieveBits/64)
		for n := range s.few {
			s.set(n)
		}
		s.few = nil
	}
}

func (s *sieve) set(n sieveName) {
	for _, b := range n {
		b %= sieveBits
		s.bits[b/64] |= 1 << (b % 64)
	}
}

func (s *sieve) has(name []byte) bool {
	n := sieveNameOf(name)
	if s.few != nil {
		_, ok := s.few[n]
		return ok
	}
	for _, b := range n {
		b %= sieveBits
		if s.bits[b/64]&(1<<(b%64)) == 0 {
			return false
		}
	}
	return true
}

func sieveNameOf(name []byte) (n sieveName) {
	h := sha256.Sum256(name)
	for i := range n {
		n[i] = binary.BigEndian.Uint32(h[4*i:])
	}
	return n
}
