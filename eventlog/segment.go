package eventlog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"holdfast/crypto"
	"holdfast/event"
)

// The limits of one segment. They bound what a reader must hold.
const (
	maxSegmentEvents = 1000
	maxSegmentBytes  = 4 << 20  // of sealed parts; one event may exceed it alone
	maxHeaderBytes   = 16 << 20 // refused beyond
	maxSegmentObject = 96 << 20 // refused beyond
)

// segmentMagic opens every segment; the last byte is the version.
var segmentMagic = [8]byte{'H', 'F', 'S', 'E', 'G', 0, 0, 1}

const (
	prefixBytes    = 12
	signatureBytes = 64
)

// ErrDamaged is wrapped by every error that says that bytes of the log are not
// what was written: a flipped bit, a swap, a forgery.
var ErrDamaged = errors.New("log damaged")

// header is the signed front matter of a segment; docs/format.md draws it.
type header struct {
	Log       event.LogID     `cbor:"1,keyasint"`
	Partition event.Partition `cbor:"2,keyasint"`
	Seq       event.Seq       `cbor:"3,keyasint"`
	Prev      Hash            `cbor:"4,keyasint"`
	Writer    event.Writer    `cbor:"5,keyasint"`
	Nonce     [16]byte        `cbor:"6,keyasint"`
	Time      event.Millis    `cbor:"7,keyasint"`
	Cert      []byte          `cbor:"8,keyasint"`
	Pages     []pageEntry     `cbor:"9,keyasint"`
	Events    []eventEntry    `cbor:"10,keyasint"`
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

// parsed is a header whose form, signature and certificate were checked, with
// the places of its parts.
type parsed struct {
	header
	hash    Hash
	classes event.Classes // of its events
	front   int64         // offset of the first part
	bodies  int64         // offset of the first inline body: the end of the front
	end     int64         // size of the object
	// offsets[i][j] is where part j of event i begins; -1 for a part in blobs.
	offsets [][]int64
}

// encodeHeader returns the bytes of a segment up to its first part.
func encodeHeader(h *header, sign func([]byte) []byte) []byte {
	body := event.Marshal(h)
	out := make([]byte, prefixBytes, prefixBytes+len(body)+signatureBytes)
	copy(out, segmentMagic[:])
	binary.BigEndian.PutUint32(out[8:], uint32(len(body)))
	out = append(out, body...)
	return append(out, sign(out)...)
}

// headerLength reads the length of header and signature from an object's first
// bytes.
func headerLength(b []byte) (int64, error) {
	if len(b) < prefixBytes || [8]byte(b[:8]) != segmentMagic {
		return 0, fmt.Errorf("no segment of version 1: %w", ErrDamaged)
	}
	n := int64(binary.BigEndian.Uint32(b[8:]))
	if n == 0 || n > maxHeaderBytes {
		return 0, fmt.Errorf("header of %d bytes: %w", n, ErrDamaged)
	}
	return prefixBytes + n + signatureBytes, nil
}

// headerCheck checks that a node with this certificate signed, and may sign what
// is needed.
type headerCheck func(cert, signed, sig []byte, need event.Classes) error

// parseHeader checks and decodes the bytes up to the first part. verify checks
// certificate and signature.
func parseHeader(b []byte, verify headerCheck) (*parsed, error) {
	n, err := headerLength(b)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < n {
		return nil, fmt.Errorf("header cut short: %w", ErrDamaged)
	}
	b = b[:n]
	signedEnd := n - signatureBytes
	p := &parsed{hash: sha256.Sum256(b), front: n}
	if err := event.Unmarshal(b[prefixBytes:signedEnd], &p.header); err != nil {
		return nil, fmt.Errorf("header: %w: %w", err, ErrDamaged)
	}
	var need event.Classes
	for i := range p.Events {
		need |= event.ClassesOf(p.Events[i].Class)
	}
	p.classes = need
	if err := verify(p.Cert, b[:signedEnd], b[signedEnd:], need); err != nil {
		return nil, err
	}
	if err := p.place(); err != nil {
		return nil, err
	}
	return p, nil
}

// place computes where every part begins, and refuses what cannot be.
func (p *parsed) place() error {
	bad := func(what string) error { return fmt.Errorf("%s: %w", what, ErrDamaged) }
	if len(p.Events) == 0 || len(p.Events) > maxSegmentEvents || p.Seq == 0 {
		return bad("impossible number of events")
	}
	off := p.front
	p.offsets = make([][]int64, len(p.Events))
	for _, bodies := range []bool{false, true} {
		if bodies {
			p.bodies = off
		}
		for i := range p.Events {
			e := &p.Events[i]
			if e.Page > uint32(len(p.Pages)) || e.Class == 0 || !event.AllClasses.Has(e.Class) {
				return bad("event refers to nothing")
			}
			if !bodies {
				p.offsets[i] = make([]int64, len(e.Parts))
			}
			var last event.Role
			for j := range e.Parts {
				part := &e.Parts[j]
				if part.Role <= last || part.Role > event.RoleBody || part.Length < 0 || part.Length > 1<<40 {
					return bad("impossible part")
				}
				last = part.Role
				if (part.Role == event.RoleBody) != bodies {
					continue
				}
				if len(part.Blobs) > 0 {
					if !bodies || !blobsAddUp(part) {
						return bad("impossible blobs")
					}
					p.offsets[i][j] = -1
					continue
				}
				p.offsets[i][j] = off
				if off += part.Length; off > maxSegmentObject {
					return bad("segment too large")
				}
			}
		}
	}
	p.end = off
	return nil
}

func blobsAddUp(part *partEntry) bool {
	h := sha256.New()
	var sum int64
	for _, b := range part.Blobs {
		if b.Length <= 0 || b.Length > maxBlobBytes {
			return false
		}
		sum += b.Length
		h.Write(b.Digest[:])
	}
	return sum == part.Length && [32]byte(h.Sum(nil)) == part.Digest
}

// page returns the key page of an event, and false when it has none.
func (p *parsed) page(e *eventEntry) (pageEntry, bool) {
	if e.Page == 0 {
		return pageEntry{}, false
	}
	return p.Pages[e.Page-1], true
}

// part returns the index of the part with a role, or -1.
func (e *eventEntry) part(r event.Role) int {
	for j := range e.Parts {
		if e.Parts[j].Role == r {
			return j
		}
	}
	return -1
}

// The names of objects (docs/format.md).

func segmentKey(p event.Partition, s event.Seq) string {
	return fmt.Sprintf("log/%02x/%020d", uint8(p), uint64(s))
}

// parseSegmentKey reads what segmentKey wrote, without the partition.
func parseSegmentKey(key string) (event.Seq, bool) {
	const prefix, digits = len("log/00/"), 20
	if len(key) != prefix+digits {
		return 0, false
	}
	n, err := strconv.ParseUint(key[prefix:], 10, 64)
	return event.Seq(n), err == nil && n > 0 && n < 1<<62
}

func segmentPrefix(p event.Partition) string { return fmt.Sprintf("log/%02x/", uint8(p)) }

func blobKey(d event.Day, id event.ID, part int) string {
	return fmt.Sprintf("blob/%s/%s/%04d", d, id, part)
}

func pageKey(e pageEntry) string {
	return fmt.Sprintf("key/%s/%s/%s", e.Day, e.Tenant, e.Page)
}

const tenantPrefix = "key/tenant/"

func tenantKey(t event.Tenant) string { return tenantPrefix + t.String() }

// PartitionOf returns the partition that holds a tenant's events, of n.
func PartitionOf(t event.Tenant, n int) event.Partition {
	if t == event.SystemTenant {
		return 0
	}
	return event.Partition(binary.BigEndian.Uint64(t[:8]) % uint64(n))
}
