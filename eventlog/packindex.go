package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"holdfast/event"
)

// The limits of one pack. They bound what a packer holds in memory and what a
// reader believes.
const (
	maxPackBytes    = 64 << 20 // of one pack; one segment may exceed it alone
	maxPackObject   = maxPackBytes + maxSegmentObject + maxHeaderBytes
	maxPackSegments = 100_000
	maxPackIndex    = 8 << 20
)

// packMagic opens every pack; the last byte is the version.
var packMagic = [8]byte{'H', 'F', 'P', 'A', 'K', 0, 0, 1}

// packIndex is the front matter of a pack; docs/format.md draws it. Nothing in it
// is believed: it says where to look for what the signed headers vouch for.
type packIndex struct {
	Log       event.LogID     `cbor:"1,keyasint"`
	Partition event.Partition `cbor:"2,keyasint"`
	First     event.Seq       `cbor:"3,keyasint"`
	Segments  []packEntry     `cbor:"4,keyasint"`
	// Days say how many bytes of parts of each expiry day the pack has, ascending.
	Days []packDay `cbor:"5,keyasint"`
}

type packEntry struct {
	_      struct{} `cbor:",toarray"`
	Header int64    // bytes from the prefix to the signature, as they were put
	Front  int64    // these, and the state and metadata parts that are there
	Bodies int64    // the inline bodies that are there
	// Cut: metadata and inline bodies of the days before it are not there; it is
	// one more than the last such day, or 0 where all parts are there.
	Cut event.Day
}

type packDay struct {
	_     struct{} `cbor:",toarray"`
	Day   event.Day
	Bytes int64
}

// packName is the name of a pack: which segments it holds, and the first half of
// its index's SHA-256. The same segments without the same parts make the same
// bytes under the same name, whoever packs them.
type packName struct {
	first, last event.Seq
	id          [16]byte
}

func packPrefix(p event.Partition) string { return fmt.Sprintf("pack/%02x/", uint8(p)) }

// key sorts by the last segment, so that one list from a number on finds the
// packs that may hold it.
func (n packName) key(p event.Partition) string {
	return fmt.Sprintf("%s%020d-%020d-%x", packPrefix(p), uint64(n.last), uint64(n.first), n.id)
}

// packAfter sorts before the names of all packs that end at s or later, and
// behind all others.
func packAfter(p event.Partition, s event.Seq) string {
	return fmt.Sprintf("%s%020d~", packPrefix(p), uint64(s-1))
}

// parsePackKey reads what key wrote, without the partition.
func parsePackKey(key string) (n packName, ok bool) {
	parts := strings.Split(strings.TrimPrefix(key, "pack/"), "-")
	if len(parts) != 3 || len(parts[0]) != len("00/")+20 || len(parts[1]) != 20 || len(parts[2]) != 32 {
		return n, false
	}
	last, err1 := strconv.ParseUint(parts[0][3:], 10, 62)
	first, err2 := strconv.ParseUint(parts[1], 10, 62)
	id, err3 := hex.DecodeString(parts[2])
	if err1 != nil || err2 != nil || err3 != nil || first == 0 || first > last || last-first >= maxPackSegments {
		return n, false
	}
	n = packName{event.Seq(first), event.Seq(last), [16]byte(id)}
	return n, n.key(0)[len("pack/00/"):] == key[len("pack/00/"):]
}

// packObject is a pack whose index was read: where its segments lie.
type packObject struct {
	packName
	key    string
	size   int64
	index  packIndex
	fronts []int64 // offsets; one more than segments, the last is where bodies begin
	bodies []int64 // likewise; the last is the size
}

// entry returns the place of a segment in the index.
func (k *packObject) entry(s event.Seq) *packEntry { return &k.index.Segments[s-k.first] }

// weight estimates what it takes in memory.
func (k *packObject) weight() int64 { return 56 * int64(len(k.index.Segments)) }

// encodePackIndex returns the bytes of a pack up to its first header, and its
// name.
func encodePackIndex(x *packIndex) ([]byte, packName) {
	body := event.Marshal(x)
	sum := sha256.Sum256(body)
	head := make([]byte, prefixBytes, prefixBytes+len(body))
	copy(head, packMagic[:])
	binary.BigEndian.PutUint32(head[8:], uint32(len(body)))
	n := packName{first: x.First, last: x.First + event.Seq(len(x.Segments)) - 1, id: [16]byte(sum[:16])}
	return append(head, body...), n
}

// packIndexLength reads how long a pack's bytes up to the first header are.
func packIndexLength(b []byte) (int64, error) {
	if len(b) < prefixBytes || [8]byte(b[:8]) != packMagic {
		return 0, fmt.Errorf("no pack of version 1: %w", ErrDamaged)
	}
	n := int64(binary.BigEndian.Uint32(b[8:]))
	if n == 0 || n > maxPackIndex {
		return 0, fmt.Errorf("index of %d bytes: %w", n, ErrDamaged)
	}
	return prefixBytes + n, nil
}

// parsePack reads the index of the pack of a name, which is size bytes long, and
// refuses what cannot be.
func parsePack(b []byte, name packName, size int64, id event.LogID, p event.Partition) (*packObject, error) {
	bad := func(what string) error { return fmt.Errorf("%s: %w", what, ErrDamaged) }
	n, err := packIndexLength(b)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < n {
		return nil, bad("index cut short")
	}
	k := &packObject{packName: name, key: name.key(p), size: size}
	if err := event.Unmarshal(b[prefixBytes:n], &k.index); err != nil {
		return nil, fmt.Errorf("index: %w: %w", err, ErrDamaged)
	}
	x := &k.index
	if x.First == 0 || len(x.Segments) == 0 || len(x.Segments) > maxPackSegments {
		return nil, bad("impossible number of segments")
	}
	if raw, is := encodePackIndex(x); is != name || x.Log != id || x.Partition != p || !bytes.Equal(raw, b[:n]) {
		return nil, bad("this is another pack")
	}
	return k, k.place(n)
}

// place computes where every segment's bytes begin.
func (k *packObject) place(off int64) error {
	bad := func(what string) error { return fmt.Errorf("%s: %w", what, ErrDamaged) }
	x := &k.index
	for i, d := range x.Days {
		if d.Bytes <= 0 || i > 0 && x.Days[i-1].Day >= d.Day {
			return bad("impossible day")
		}
	}
	k.fronts, k.bodies = make([]int64, 0, len(x.Segments)+1), make([]int64, 0, len(x.Segments)+1)
	for i := range x.Segments {
		e := &x.Segments[i]
		if e.Header <= prefixBytes+signatureBytes || e.Header > prefixBytes+maxHeaderBytes+signatureBytes ||
			e.Front < e.Header || e.Front > maxSegmentObject || e.Bodies < 0 || e.Bodies > maxSegmentObject {
			return bad("impossible segment")
		}
		k.fronts = append(k.fronts, off)
		if off += e.Front; off > k.size {
			return bad("pack cut short")
		}
	}
	k.fronts = append(k.fronts, off)
	for i := range x.Segments {
		k.bodies = append(k.bodies, off)
		if off += x.Segments[i].Bodies; off > k.size {
			return bad("pack cut short")
		}
	}
	k.bodies = append(k.bodies, off)
	if off != k.size {
		return bad("pack is longer than its segments")
	}
	return nil
}

// droppable reports whether a part lies in the segment and dies with a day.
func (p *parsed) droppable(i, j int) (event.Day, bool) {
	e := &p.Events[i]
	page, ok := p.page(e)
	return page.Day, ok && e.Parts[j].Role != event.RoleState && len(e.Parts[j].Blobs) == 0
}

// absent reports whether a cut leaves a part out.
func (p *parsed) absent(i, j int, cut event.Day) bool {
	if cut == 0 {
		return false
	}
	day, ok := p.droppable(i, j)
	return ok && day < cut
}

// cut returns how packs say that the parts of all days before one are left out.
func (p *parsed) cut(before event.Day) (cut event.Day) {
	for i := range p.Events {
		for j := range p.Events[i].Parts {
			if day, ok := p.droppable(i, j); ok && day < before {
				cut = max(cut, day+1)
			}
		}
	}
	return cut
}

// packedLengths returns how long a segment's front and its inline bodies are
// under a cut.
func (p *parsed) packedLengths(cut event.Day) (front, bodies int64) {
	front, bodies = p.bodies, p.end-p.bodies
	if cut == 0 {
		return front, bodies
	}
	for i := range p.Events {
		for j := range p.Events[i].Parts {
			part := &p.Events[i].Parts[j]
			switch {
			case !p.absent(i, j, cut):
			case part.Role == event.RoleBody:
				bodies -= part.Length
			default:
				front -= part.Length
			}
		}
	}
	return front, bodies
}

// dropParts returns what a cut leaves of bytes that begin at off and hold parts
// of all days that another cut has left.
func (p *parsed) dropParts(b []byte, bodies bool, was, cut event.Day) []byte {
	out := make([]byte, 0, len(b))
	at := int64(0)
	if !bodies {
		out, at = append(out, b[:p.front]...), p.front
	}
	p.inside(bodies, func(i, j int) {
		n := p.Events[i].Parts[j].Length
		if p.absent(i, j, was) {
			return
		}
		if !p.absent(i, j, cut) {
			out = append(out, b[at:at+n]...)
		}
		at += n
	})
	return slices.Clip(out)
}

// spread returns a packed front as it was before parts were left out of it, with
// zeros in their places.
func (p *parsed) spread(b []byte, cut event.Day) []byte {
	if int64(len(b)) == p.bodies {
		return b
	}
	out := make([]byte, p.bodies)
	at := p.front
	copy(out, b[:at])
	p.inside(false, func(i, j int) {
		if n := p.Events[i].Parts[j].Length; !p.absent(i, j, cut) {
			copy(out[p.offsets[i][j]:], b[at:at+n])
			at += n
		}
	})
	return out
}

// packedBody returns where an inline body begins among those that a cut has left.
func (p *parsed) packedBody(i, j int, cut event.Day) (off int64) {
	end := p.offsets[i][j]
	p.inside(true, func(i, j int) {
		if p.offsets[i][j] < end && !p.absent(i, j, cut) {
			off += p.Events[i].Parts[j].Length
		}
	})
	return off
}

// inside calls f for each part that lies in the segment, front or bodies, in the
// order of their bytes.
func (p *parsed) inside(bodies bool, f func(i, j int)) {
	for i := range p.Events {
		for j := range p.Events[i].Parts {
			if (p.Events[i].Parts[j].Role == event.RoleBody) == bodies && p.offsets[i][j] >= 0 {
				f(i, j)
			}
		}
	}
}
