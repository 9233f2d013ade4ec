package eventlog

import (
	"holdfast/crypto"
	"holdfast/event"
)

// The bounds of what is kept in memory, in bytes but for certificates.
const (
	rawBytes     = 24 << 20 // ciphertext of segments that this process wrote
	segmentBytes = 24 << 20 // opened segments, estimated
	headerBytes  = 8 << 20
	frontBytes   = 4 << 20 // of segments whose header was read alone
	maxFront     = 64 << 10
	maxCerts     = 1000
	runBytes     = 16 << 20 // ciphertext of bodies that are read one after another
	maxTouched   = 256
	packBytes    = 16 << 20 // indexes of packs
	chunkBytes   = 32 << 20 // stretches of packs that are read on
)

// slot names a segment.
type slot struct {
	p event.Partition
	s event.Seq
}

// cache serves what was recently written or read. Bodies are in it only as
// ciphertext.
type cache struct {
	raw      *memo[slot, *image]
	segments *memo[slot, *Segment]
	headers  *memo[slot, *parsed]
	fronts   *memo[slot, headed] // what came with a header, until it is asked for
	certs    *memo[crypto.Certificate, struct{}]
	touched  *memo[slot, struct{}]      // segments of which a body was read lately
	runs     *memo[slot, []byte]        // all bodies of a segment
	packs    *memo[string, *packObject] // by their keys
	chunks   *memo[chunk, []byte]
	nearby   *memo[slot, struct{}] // numbers of segments read from packs lately, divided by nearby
}

func newCache() *cache {
	return &cache{
		raw:      newMemo[slot](rawBytes, func(m *image) int64 { return m.size }),
		segments: newMemo[slot](segmentBytes, func(s *Segment) int64 { return s.weight }),
		// A decoded header takes about twice its bytes.
		headers: newMemo[slot](headerBytes, func(h *parsed) int64 { return 2 * h.front }),
		fronts:  newMemo[slot](frontBytes, func(r headed) int64 { return int64(len(r.front.bytes)) }),
		certs:   newMemo[crypto.Certificate](maxCerts, one[struct{}]),
		touched: newMemo[slot](maxTouched, one[struct{}]),
		runs:    newMemo[slot](runBytes, func(b []byte) int64 { return int64(len(b)) }),
		packs:   newMemo[string](packBytes, (*packObject).weight),
		chunks:  newMemo[chunk](chunkBytes, func(b []byte) int64 { return int64(len(b)) }),
		nearby:  newMemo[slot](maxTouched, one[struct{}]),
	}
}

// keepRaw keeps a segment that was just put, unless it would push out all others.
func (c *cache) keepRaw(at slot, m *image) {
	if m.size <= rawBytes/3 {
		c.raw.keep(at, m)
	}
}
