package residue

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"holdfast/crypto"
	"holdfast/event"
)

// header is what a segment begins with (docs/format.md).
type header struct {
	Log    event.LogID  `cbor:"1,keyasint"`
	Writer event.Writer `cbor:"5,keyasint"`
	Pages  []pageEntry  `cbor:"9,keyasint"`
	Events []eventEntry `cbor:"10,keyasint"`
}

type pageEntry struct {
	_      struct{} `cbor:",toarray"`
	Page   event.Page
	Tenant event.Tenant
	Day    event.Day
	Digest [32]byte
}

type eventEntry struct {
	_      struct{} `cbor:",toarray"`
	ID     event.ID
	Tenant event.Tenant
	Class  event.Class
	Page   uint32 // 1 + index into Pages; 0 for none
	Leaf   uint32
	Parts  []partEntry
}

type partEntry struct {
	_      struct{} `cbor:",toarray"`
	Role   event.Role
	Length int64
	Digest [32]byte
	Commit crypto.Commitment
	Blobs  []blobEntry
}

type blobEntry struct {
	_      struct{} `cbor:",toarray"`
	Length int64
	Digest [32]byte
}

var segmentMagic = []byte{'H', 'F', 'S', 'E', 'G', 0, 0, 1}

const (
	prefixBytes    = 12
	signatureBytes = 64
)

// headersIn finds every header in an object, wherever it stands: a segment has
// one, a pack many.
func headersIn(data []byte) (found []*header, ends []int) {
	for at := 0; ; {
		i := bytes.Index(data[at:], segmentMagic)
		if i < 0 {
			return found, ends
		}
		at += i
		h, n := parseHeader(data[at:])
		if h == nil {
			at++
			continue
		}
		at += n
		found, ends = append(found, h), append(ends, at)
	}
}

func parseHeader(b []byte) (h *header, n int) {
	if len(b) < prefixBytes {
		return nil, 0
	}
	size := int64(binary.BigEndian.Uint32(b[8:]))
	if end := prefixBytes + size + signatureBytes; end > int64(len(b)) {
		return nil, 0
	}
	h = &header{}
	if event.Unmarshal(b[prefixBytes:prefixBytes+size], h) != nil {
		return nil, 0
	}
	return h, prefixBytes + int(size) + signatureBytes
}

// partsOf finds the sealed parts of an object's events among its bytes: behind
// each header the parts that a fold reads, and behind all of these, in a segment
// as in a pack, the bodies. Any of them may be missing, so each is looked for, by
// its digest, where the one before it ended.
func partsOf(data []byte, headers []*header, ends []int) map[[32]byte][]byte {
	found := map[[32]byte][]byte{}
	walk := func(h *header, pos int, bodies bool) int {
		for e := range h.Events {
			for j := range h.Events[e].Parts {
				p := &h.Events[e].Parts[j]
				end := int64(pos) + p.Length
				if (p.Role == event.RoleBody) != bodies || p.Length <= 0 || len(p.Blobs) > 0 || end > int64(len(data)) {
					continue
				}
				if part := data[pos:end]; sha256.Sum256(part) == p.Digest {
					found[p.Digest] = part
					pos = int(end)
				}
			}
		}
		return pos
	}
	pos := 0
	for i, h := range headers {
		pos = walk(h, ends[i], false)
	}
	for _, h := range headers {
		pos = walk(h, pos, true)
	}
	return found
}
