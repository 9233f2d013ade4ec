package crypto

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

const (
	// chunkSize is the plaintext of every chunk of a stream but the last.
	chunkSize = 64 << 10
	// maxSealedChunk is the longest a sealed chunk can be: flag, data, tag.
	maxSealedChunk = 1 + chunkSize + tagSize
	// tableHeader is the front of a table: the plaintext's size and the count
	// of chunks. Each chunk's sealed length follows in four bytes.
	tableHeader = 8 + 4
	// tableTrailer is the length of the sealed table, which ends a stream.
	tableTrailer = 4
	// maxChunks keeps the table's length within its four bytes.
	maxChunks = (math.MaxUint32 - tableHeader - tagSize) / 4
)

var errSealerClosed = errors.New("stream sealer is closed")

// StreamSealer seals a body of any length as it is written. It is an io.Writer;
// the body is whole only when Close returned nil. It holds one chunk of 64 KiB
// and four bytes for each chunk written. It is used by one goroutine at a time.
type StreamSealer struct {
	redacted
	codec      *Codec
	aead       cipher.AEAD
	ad         []byte
	commitment Commitment
	out        io.Writer
	chunk      []byte   // plaintext that waits, at most chunkSize
	lengths    []uint32 // of the sealed chunks
	plain      int64
	sealed     int64
	err        error
}

// NewStreamSealer returns a sealer that writes to out. The same leaf and
// binding must not seal anything else.
func (c *Codec) NewStreamSealer(l Leaf, b Binding, out io.Writer) *StreamSealer {
	key, commitment, ad := messageKey(l, b, useStream)
	return &StreamSealer{codec: c, aead: newAEAD(key), ad: ad, commitment: commitment, out: out, chunk: c.chunk()}
}

// Commitment returns the stream's key commitment. It may be called at any time.
func (s *StreamSealer) Commitment() Commitment { return s.commitment }

// Size returns the bytes of plaintext written so far.
func (s *StreamSealer) Size() int64 { return s.plain }

// SealedSize returns the bytes written to the output so far.
func (s *StreamSealer) SealedSize() int64 { return s.sealed }

// Write seals p. After an error of the output every later call returns it.
func (s *StreamSealer) Write(p []byte) (n int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	for len(p) > 0 {
		// A full chunk waits until more follows: the last one is marked.
		if len(s.chunk) == chunkSize {
			if err := s.flush(kindChunk); err != nil {
				return n, err
			}
		}
		k := min(len(p), chunkSize-len(s.chunk))
		s.chunk = append(s.chunk, p[:k]...)
		s.plain += int64(k)
		p, n = p[k:], n+k
	}
	return n, nil
}

// flush seals the waiting chunk and writes it.
func (s *StreamSealer) flush(k kind) error {
	if len(s.lengths) == maxChunks {
		return s.fail(ErrTooLarge)
	}
	work := s.codec.buffers()
	defer s.codec.scratch.put(work)
	plain, packed := s.chunk, work.packed[:0]
	switch packingOf(plain) {
	case byRepeats:
		packed = s.codec.compress(append(packed, flagZstd), plain)
	case byEntropy:
		packed = s.codec.huffman(append(packed, flagZstd), plain)
	}
	if len(packed) <= 1 || len(packed) >= 1+len(plain) {
		packed = append(append(packed[:0], flagRaw), plain...)
	}
	nonce := k.nonce(uint32(len(s.lengths)))
	sealed := s.aead.Seal(packed[:0], nonce[:], packed, s.ad)
	s.chunk, work.packed = plain[:0], sealed[:0]
	if err := s.emit(sealed); err != nil {
		return err
	}
	s.lengths = append(s.lengths, uint32(len(sealed)))
	return nil
}

func (s *StreamSealer) emit(b []byte) error {
	n, err := s.out.Write(b)
	s.sealed += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *StreamSealer) fail(err error) error {
	s.err = fmt.Errorf("seal chunk %d: %w", len(s.lengths), err)
	return s.err
}

// Close writes the last chunk and the table. It does not close the output.
// A sealer that is dropped without Close leaves a stream that does not open.
func (s *StreamSealer) Close() error {
	if s.err != nil {
		return s.err
	}
	if err := s.flush(kindLast); err != nil {
		return err
	}
	count := uint32(len(s.lengths))
	table := make([]byte, 0, tableHeader+4*len(s.lengths)+tagSize+tableTrailer)
	table = binary.BigEndian.AppendUint64(table, uint64(s.plain))
	table = binary.BigEndian.AppendUint32(table, count)
	for _, n := range s.lengths {
		table = binary.BigEndian.AppendUint32(table, n)
	}
	nonce := kindTable.nonce(count)
	table = s.aead.Seal(table[:0], nonce[:], table, s.ad)
	table = binary.BigEndian.AppendUint32(table, uint32(len(table)))
	if err := s.emit(table); err != nil {
		return err
	}
	s.err = errSealerClosed
	clear(s.chunk[:cap(s.chunk)])
	s.codec.chunks.put(s.chunk[:0])
	s.chunk = nil
	return nil
}
