package crypto

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// tailSize is how much of a stream's end is fetched at once. It holds the table
// of bodies up to some 250 MiB, and the whole of most bodies.
const tailSize = 16 << 10

// smallChunk is up to what size the plaintext of a chunk gets memory of its own.
const smallChunk = 4 << 10

// StreamReader reads the plaintext of a sealed stream. It fetches and opens only
// the chunks it needs. Read and Seek are used by one goroutine at a time; ReadAt
// may be called by any, at the same time as they are.
//
// Any error but io.EOF means that the stream, or a part of it, is not what was
// sealed, or that its source failed.
type StreamReader struct {
	redacted
	codec *Codec
	aead  cipher.AEAD
	ad    []byte
	src   io.ReaderAt
	tail  []byte // the end of the stream, as fetched on opening
	from  int64  // where the tail begins

	offsets []int64 // where each sealed chunk begins; after the last, where it ends
	plain   int64

	pos  int64
	cur  chunk                 // of Read
	last atomic.Pointer[chunk] // of ReadAt, never changed once stored
}

// chunk is one opened chunk.
type chunk struct {
	number int // from 1; 0 for none
	plain  []byte
}

// OpenStream opens a stream of size bytes. It reads the stream's end, and with
// it the table: one call of src.ReadAt for bodies up to some 250 MiB, two for
// larger ones. [ErrNotOpened] if it was not sealed with this leaf, binding and
// commitment, or is damaged there; [ErrMalformed] if it cannot be a stream.
func (c *Codec) OpenStream(l Leaf, b Binding, want Commitment, src io.ReaderAt, size int64) (*StreamReader, error) {
	key, commitment, ad := messageKey(l, b, useStream)
	r := &StreamReader{codec: c, ad: ad, src: src}
	err := ErrNotOpened
	if want.equal(commitment[:]) {
		r.aead = newAEAD(key)
		err = r.open(size)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %d of event %v, %d bytes: %w", b.Part, b.Event, size, err)
	}
	return r, nil
}

// resident is a source whose bytes are in memory and stay as they are: they are
// opened where they lie.
type resident interface {
	// Slice returns n bytes at off, or false.
	Slice(off, n int64) ([]byte, bool)
}

// sealed returns n bytes of the source at off: its own, or a copy in what room
// returns.
func (r *StreamReader) sealed(off, n int64, room func() []byte) ([]byte, error) {
	if m, ok := r.src.(resident); ok {
		if b, ok := m.Slice(off, n); ok {
			return b, nil
		}
	}
	p := room()[:n]
	return p, readFull(r.src, p, off)
}

// readFull fills p from src at off. io.EOF in the middle is damage, not an end.
func readFull(src io.ReaderAt, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	// Not errors.Is: a store's connection that broke is trouble, and no damage.
	if err == nil || err == io.EOF {
		return fmt.Errorf("source ends %d bytes early: %w", len(p)-n, ErrMalformed)
	}
	return fmt.Errorf("read the source: %w", err)
}

func (r *StreamReader) open(size int64) error {
	if size < 1+tagSize+tableHeader+4+tagSize+tableTrailer {
		return ErrMalformed
	}
	if err := r.fetchTail(size, min(size, tailSize)); err != nil {
		return err
	}
	tableLen := int64(binary.BigEndian.Uint32(r.tail[len(r.tail)-tableTrailer:]))
	if tableLen < tableHeader+4+tagSize || (tableLen-tableHeader-tagSize)%4 != 0 || tableLen+tableTrailer > size {
		return fmt.Errorf("table of %d bytes: %w", tableLen, ErrMalformed)
	}
	if tableLen+tableTrailer > int64(len(r.tail)) {
		if err := r.fetchTail(size, tableLen+tableTrailer); err != nil {
			return err
		}
	}
	count := (tableLen - tableHeader - tagSize) / 4
	nonce := kindTable.nonce(uint32(count))
	sealed := r.tail[int64(len(r.tail))-tableLen-tableTrailer : len(r.tail)-tableTrailer]
	table, err := r.aead.Open(nil, nonce[:], sealed, r.ad)
	if err != nil {
		return fmt.Errorf("table: %w", ErrNotOpened)
	}
	return r.readTable(table, count, size-tableLen-tableTrailer)
}

func (r *StreamReader) fetchTail(size, n int64) error {
	r.from = size - n
	var err error
	r.tail, err = r.sealed(r.from, n, func() []byte { return make([]byte, n) })
	return err
}

// readTable takes the sizes from the table; end is where the chunks end.
func (r *StreamReader) readTable(table []byte, count, end int64) error {
	r.plain = int64(binary.BigEndian.Uint64(table))
	if r.plain < 0 || r.plain > count*chunkSize || count != max(1, (r.plain+chunkSize-1)/chunkSize) ||
		int64(binary.BigEndian.Uint32(table[8:])) != count {
		return fmt.Errorf("table of %d chunks: %w", count, ErrMalformed)
	}
	r.offsets = make([]int64, count+1)
	for i := range count {
		n := int64(binary.BigEndian.Uint32(table[tableHeader+4*i:]))
		if n < 1+tagSize || n > maxSealedChunk {
			return fmt.Errorf("sealed chunk of %d bytes: %w", n, ErrMalformed)
		}
		r.offsets[i+1] = r.offsets[i] + n
	}
	if r.offsets[count] != end {
		return fmt.Errorf("chunks of %d bytes in %d: %w", r.offsets[count], end, ErrMalformed)
	}
	return nil
}

// Size returns the length of the plaintext.
func (r *StreamReader) Size() int64 { return r.plain }

// plainLen returns the length of chunk i's plaintext.
func (r *StreamReader) plainLen(i int) int {
	return int(min(chunkSize, r.plain-int64(i)*chunkSize))
}

// chunkAt appends the plaintext of chunk i to dst, which has room for it.
func (r *StreamReader) chunkAt(dst []byte, i int) ([]byte, error) {
	s := r.codec.buffers()
	defer r.codec.scratch.put(s)
	off, n := r.offsets[i], int(r.offsets[i+1]-r.offsets[i])
	var sealed []byte
	if off >= r.from {
		sealed = r.tail[off-r.from:][:n]
	} else {
		var err error
		if sealed, err = r.sealed(off, int64(n), func() []byte { return s.sealed }); err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	k := kindChunk
	if i == len(r.offsets)-2 {
		k = kindLast
	}
	nonce := k.nonce(uint32(i))
	packed, err := r.aead.Open(s.packed[:0], nonce[:], sealed, r.ad)
	if err != nil {
		return nil, fmt.Errorf("chunk %d: %w", i, ErrNotOpened)
	}
	want := len(dst) + r.plainLen(i)
	switch packed[0] {
	case flagRaw:
		if len(dst)+len(packed)-1 == want {
			return append(dst, packed[1:]...), nil
		}
	case flagZstd:
		dst, err = r.codec.decompress(dst[:len(dst):want], packed[1:])
		if err == nil && len(dst) == want {
			return dst, nil
		}
	}
	return nil, fmt.Errorf("chunk %d: %w", i, ErrMalformed)
}

// Read implements io.Reader.
func (r *StreamReader) Read(p []byte) (int, error) {
	if r.pos >= r.plain {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	i := int(r.pos / chunkSize)
	if r.cur.number != i+1 {
		buf := r.cur.plain[:0]
		r.cur.number = 0 // the buffer is overwritten now
		if need := r.plainLen(i); cap(buf) < need {
			if buf = nil; need > smallChunk {
				buf = r.codec.chunk()
			} else {
				buf = make([]byte, 0, need)
			}
		}
		plain, err := r.chunkAt(buf, i)
		if err != nil {
			return 0, err
		}
		r.cur = chunk{i + 1, plain}
	}
	n := copy(p, r.cur.plain[r.pos%chunkSize:])
	r.pos += int64(n)
	return n, nil
}

// Close lets others use the memory of Read. The reader can be used further.
func (r *StreamReader) Close() error {
	if cap(r.cur.plain) == chunkSize {
		r.codec.chunks.put(r.cur.plain[:0])
	}
	r.cur = chunk{}
	return nil
}

// Seek implements io.Seeker. It may go beyond the end, where Read returns EOF.
func (r *StreamReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.plain
	default:
		return 0, fmt.Errorf("seek a stream: whence %d: %w", whence, errors.ErrUnsupported)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek a stream to %d: %w", offset, errNegative)
	}
	r.pos = offset
	return offset, nil
}

var errNegative = errors.New("negative position")

// ReadAt implements io.ReaderAt.
func (r *StreamReader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read a stream at %d: %w", off, errNegative)
	}
	if off >= r.plain {
		return 0, io.EOF
	}
	for n < len(p) && off < r.plain {
		i, at := int(off/chunkSize), int(off%chunkSize)
		whole := r.plainLen(i)
		var k int
		switch last := r.last.Load(); {
		case last != nil && last.number == i+1:
			k = copy(p[n:], last.plain[at:])
		case at == 0 && len(p)-n >= whole:
			if _, err := r.chunkAt(p[n:n], i); err != nil {
				return n, err
			}
			k = whole
		default:
			plain, err := r.chunkAt(make([]byte, 0, whole), i)
			if err != nil {
				return n, err
			}
			r.last.Store(&chunk{i + 1, plain})
			k = copy(p[n:], plain[at:])
		}
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
