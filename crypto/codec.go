package crypto

import (
	"sync"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// Flags at the front of a sealed plaintext. Zero is invalid.
const (
	flagRaw  = 1
	flagZstd = 2
)

const (
	// minCompress is the length below which zstd is not tried: what it saves on
	// a few hundred bytes is not worth the 15 microseconds it takes.
	minCompress = 768
	// zstdWindow bounds what an encoder remembers, and so its memory. Chunks of
	// bodies are smaller anyway.
	zstdWindow = 256 << 10
	// maxZstdWindow is the largest window a decoder accepts.
	maxZstdWindow = 8 << 20
)

// Codec seals and opens message parts. It owns the compressors and buffers for
// that, as many as are in use at a time. All methods may be called by any
// goroutine, but only of the synctest bubble in which the Codec was made, so
// make one for each log and never keep one in a package-level variable.
type Codec struct {
	encoders stock[*zstd.Encoder]
	decoders stock[*zstd.Decoder]
	coders   stock[*huff0.Scratch]
	scratch  stock[*scratch]
	chunks   stock[[]byte] // of capacity chunkSize, for plaintext
}

// scratch is what sealing or opening one chunk needs for a moment.
type scratch struct {
	packed []byte // flag and data, sealed or not
	sealed []byte
}

// maxStock bounds what lies ready of each kind; more may be in use.
const maxStock = 16

// stock keeps what can be used again. Unlike a sync.Pool it is bounded, and is
// not emptied by the garbage collector: an encoder costs more to make than what
// it is used for.
type stock[T any] struct {
	mu   sync.Mutex
	free []T
}

func (s *stock[T]) get() (v T, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 {
		return v, false
	}
	last := len(s.free) - 1
	v, ok = s.free[last], true
	clear(s.free[last:])
	s.free = s.free[:last]
	return v, ok
}

func (s *stock[T]) put(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < maxStock {
		s.free = append(s.free, v)
	}
}

// NewCodec returns a Codec.
func NewCodec() *Codec { return &Codec{} }

func (c *Codec) encoder() *zstd.Encoder {
	if e, ok := c.encoders.get(); ok {
		return e
	}
	// No checksum: the seal authenticates.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("internal error: zstd: " + err.Error())
	}
	return e
}

func (c *Codec) decoder() *zstd.Decoder {
	if d, ok := c.decoders.get(); ok {
		return d
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		panic("internal error: zstd: " + err.Error())
	}
	return d
}

func (c *Codec) buffers() *scratch {
	if s, ok := c.scratch.get(); ok {
		return s
	}
	return &scratch{
		packed: make([]byte, 0, maxSealedChunk),
		sealed: make([]byte, 0, maxSealedChunk),
	}
}

func (c *Codec) chunk() []byte {
	if b, ok := c.chunks.get(); ok {
		return b
	}
	return make([]byte, 0, chunkSize)
}

// compress appends plain's zstd frame to dst.
func (c *Codec) compress(dst, plain []byte) []byte {
	e := c.encoder()
	defer c.encoders.put(e)
	return e.EncodeAll(plain, dst)
}

// decompress appends the content of a zstd frame to dst. It never grows dst
// beyond its capacity: [ErrMalformed] if the content does not fit.
func (c *Codec) decompress(dst, frame []byte) ([]byte, error) {
	d := c.decoder()
	defer c.decoders.put(d)
	out, err := d.DecodeAll(frame, dst)
	if err != nil {
		// zstd's errors tell about lengths at most, but nothing that a caller
		// could act upon.
		return nil, ErrMalformed
	}
	return out, nil
}
