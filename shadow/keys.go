package shadow

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"holdfast/event"
)

// A shelf holds the rows of one tenant that expire on one day, in log order.
// Its rows fill blocks of at most blockRows, and its blocks groups of
// groupBlocks. While a block is being filled its rows are keys of their own;
// while a group is, its blocks have filters of their own. All keys of a shelf
// begin with their kind, the tenant and the day:
//
//	h                      head: what is in the shelf
//	r <block 4> <slot 1>   a row of the block that is being filled     (sealed)
//	b <block 4>            a block of rows                             (sealed)
//	s <block 4>            the states of a block's recipients
//	m <group 4>            the set of states that each block has
//	f <block 4>            a block's times and filter, in an open group (sealed)
//	g <group 4>            the times of a full group's blocks
//	p <group 4> <page 1>   a page of a full group's filter             (sealed)
//	c <domain 2>           how many recipients are in which state
//
// The others:
//
//	t <tenant>             the tenant's clock and domains
//	i <id>                 where a message is
//	o <unit>               the pair that a unit of an order is for
//	x <id> <n 4>           the orders of a pair
//
// What is sealed is derived from mail. A domain here is the one whose route
// carries the mail, so always one of the tenant's own.
const (
	keyHead   = 'h'
	keyRow    = 'r'
	keyBlock  = 'b'
	keyStates = 's'
	keySets   = 'm'
	keyFilter = 'f'
	keyGroup  = 'g'
	keyPage   = 'p'
	keyCount  = 'c'
	keyTenant = 't'
	keyID     = 'i'
	keyUnit   = 'o'
	keyOrders = 'x'
)

const (
	// blockRows and groupBlocks are what a search opens at a time: small blocks,
	// because a filter knows only which words a block has, not in which row.
	blockRows   = 32
	groupBlocks = 64
	// A block with much in it is full earlier, so that to change one state or
	// open one row stays cheap.
	blockRcpts = 256
	blockBytes = 64 << 10
)

type shelfID struct {
	tenant event.Tenant
	day    event.Day
}

func (s shelfID) key(kind byte) []byte {
	b := make([]byte, 0, 32)
	b = append(append(b, kind), s.tenant[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(s.day))
}

func (s shelfID) at(kind byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(s.key(kind), n)
}

func (s shelfID) in(kind byte, n uint32, slot byte) []byte { return append(s.at(kind, n), slot) }

const shelfKeySize = 1 + 16 + 4

func parseShelf(key []byte) (s shelfID, err error) {
	if len(key) < shelfKeySize {
		return s, malformed(key)
	}
	return shelfID{event.Tenant(key[1:17]), event.Day(binary.BigEndian.Uint32(key[17:]))}, nil
}

func malformed(b []byte) error {
	return fmt.Errorf("value of %d bytes: %w", len(b), event.ErrMalformed)
}

func tenantKey(t event.Tenant) []byte { return append([]byte{keyTenant}, t[:]...) }

func idKey(id event.ID) []byte { return append([]byte{keyID}, id[:]...) }

func pairKey(kind byte, id event.ID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte{kind}, id[:]...), n)
}

// order is a message's place among all: newest is greatest. Within a tenant it
// is the log's order; the clock, which never goes back within a tenant, ranks
// the messages of several.
type order struct {
	clock int64 // seconds
	pos   event.Position
}

const orderSize = 8 + 1 + 8 + 4

func (o order) compare(p order) int {
	return cmp.Or(cmp.Compare(o.clock, p.clock), cmp.Compare(o.pos.Partition, p.pos.Partition),
		cmp.Compare(o.pos.Seq, p.pos.Seq), cmp.Compare(o.pos.Index, p.pos.Index))
}

func (o order) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(o.clock))
	b = append(b, byte(o.pos.Partition))
	b = binary.BigEndian.AppendUint64(b, uint64(o.pos.Seq))
	return binary.BigEndian.AppendUint32(b, o.pos.Index)
}

func parseOrder(b []byte) order {
	return order{int64(binary.BigEndian.Uint64(b)), event.Position{
		Partition: event.Partition(b[8]), Seq: event.Seq(binary.BigEndian.Uint64(b[9:])), Index: binary.BigEndian.Uint32(b[17:orderSize]),
	}}
}

// span is the times of some rows, and the place of the last of them.
type span struct {
	from, to event.Millis // of reception
	last     order
}

const spanSize = 16 + orderSize

func (s *span) add(w *row) {
	if s.last == (order{}) || w.received < s.from {
		s.from = w.received
	}
	if s.last == (order{}) || w.received > s.to {
		s.to = w.received
	}
	s.last = w.order
}

func (s span) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(s.from))
	b = binary.BigEndian.AppendUint64(b, uint64(s.to))
	return s.last.append(b)
}

func parseSpan(b []byte) span {
	return span{event.Millis(binary.BigEndian.Uint64(b)), event.Millis(binary.BigEndian.Uint64(b[8:])), parseOrder(b[16:])}
}

// head is what is in a shelf: full blocks, and the block that is being filled.
type head struct {
	blocks uint32 // full ones
	rows   uint32 // in the block that is being filled
	rcpts  uint32
	bytes  uint32
	all    span // of the shelf
	open   span // of the block that is being filled
}

const headSize = 16 + 2*spanSize

func (h *head) append(b []byte) []byte {
	for _, n := range []uint32{h.blocks, h.rows, h.rcpts, h.bytes} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return h.open.append(h.all.append(b))
}

func parseHead(b []byte) (h head, err error) {
	if len(b) != headSize {
		return h, malformed(b)
	}
	for i, n := range []*uint32{&h.blocks, &h.rows, &h.rcpts, &h.bytes} {
		*n = binary.BigEndian.Uint32(b[4*i:])
	}
	h.all, h.open = parseSpan(b[16:]), parseSpan(b[16+spanSize:])
	return h, nil
}

// place is where a message is, and the domain of each of its recipients.
type place struct {
	shelf   shelfID
	block   uint32
	slot    int
	domains []uint16 // numbers in the tenant's list
}

func (p place) append(b []byte) []byte {
	b = append(b, p.shelf.tenant[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.shelf.day))
	b = binary.BigEndian.AppendUint32(b, p.block)
	b = append(b, byte(p.slot))
	for _, d := range p.domains {
		b = binary.AppendUvarint(b, uint64(d))
	}
	return b
}

func parsePlace(b []byte) (p place, err error) {
	if len(b) < 25 {
		return p, malformed(b)
	}
	p = place{
		shelf: shelfID{event.Tenant(b[:16]), event.Day(binary.BigEndian.Uint32(b[16:]))},
		block: binary.BigEndian.Uint32(b[20:]), slot: int(b[24]),
	}
	for rest := b[25:]; len(rest) > 0; {
		d, n := binary.Uvarint(rest)
		if n <= 0 {
			return p, malformed(b)
		}
		p.domains = append(p.domains, uint16(d))
		rest = rest[n:]
	}
	return p, nil
}
