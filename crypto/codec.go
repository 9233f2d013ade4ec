package crypto

import (
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Flags at the front of a sealed plaintext. Zero is invalid.
const (
	flagRaw  = 1
	flagZstd = 2
)

const (
	// minCompress is the length below which zstd is not tried: it seldom wins.
	minCompress = 64
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
	encoders sync.Pool // of *zstd.Encoder
	decoders sync.Pool // of *zstd.Decoder
	scratch  sync.Pool // of *scratch
}

// scratch is the working memory of one chunk.
type scratch struct {
	plain  []byte // a chunk's plaintext
	packed []byte // flag and data, sealed or not
	sealed []byte
}

// NewCodec returns a Codec.
func NewCodec() *Codec { return &Codec{} }

func (c *Codec) encoder() *zstd.Encoder {
	if e, ok := c.encoders.Get().(*zstd.Encoder); ok {
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
	if d, ok := c.decoders.Get().(*zstd.Decoder); ok {
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
	if s, ok := c.scratch.Get().(*scratch); ok {
		return s
	}
	return &scratch{
		plain:  make([]byte, 0, chunkSize),
		packed: make([]byte, 0, maxSealedChunk),
		sealed: make([]byte, 0, maxSealedChunk),
	}
}

// compress appends plain's zstd frame to dst.
func (c *Codec) compress(dst, plain []byte) []byte {
	e := c.encoder()
	defer c.encoders.Put(e)
	return e.EncodeAll(plain, dst)
}

// decompress appends the content of a zstd frame to dst. It never grows dst
// beyond its capacity: [ErrMalformed] if the content does not fit.
func (c *Codec) decompress(dst, frame []byte) ([]byte, error) {
	d := c.decoder()
	defer c.decoders.Put(d)
	out, err := d.DecodeAll(frame, dst)
	if err != nil {
		// zstd's errors tell about lengths at most, but nothing that a caller
		// could act upon.
		return nil, ErrMalformed
	}
	return out, nil
}
