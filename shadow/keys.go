package shadow

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"holdfast/event"
)

// A shelf holds the rows of one tenant that expire on one day: one shelf those of
// mail as it was accepted, in log order, and another those of mail that was kept
// past an earlier day, as it comes. Its rows fill blocks of at most blockRows, and
// its blocks groups of groupBlocks. While a block is being filled its rows are
// keys of their own; while a group is, its blocks have filters of their own. All
// keys of a shelf begin with their kind, the tenant, the day, and 1 for kept mail:
//
//	h                      head: what is in the shelf
//	r <block 4> <slot 1>   a row of the block that is being filled     (sealed)
//	b <block 4>            a block of rows                             (sealed)
//	n <block 4>            the ids of a full block's messages
//	s <block 4>            the states of a block's recipients
//	m <group 4>            the set of states that each block has
//	f <block 4>            a block's times and filter, in an open group (sealed)
//	g <group 4>            the times of a full group's blocks
//	p <group 4> <page 1>   a page of a full group's filter             (sealed)
//	c <domain 2>           how many messages are a domain's, and their bytes, and how
//	                       many recipients are in which state
//	u <id>                 a message that could not be read when it was folded
//
// The others:
//
//	t <tenant>             the tenant's clock, last expired day, and domains
//	e <tenant> <domain 2>  what was erased of a domain's messages
//	i <id>                 where a message is
//	o <unit>               the pair that a unit of an order is for
//	x <id> <n 4>           the orders of a pair
//
// What is sealed is derived from mail. A domain here is the one whose route
// carries the mail, or whose user sent it, so always one of the tenant's own. What is not sealed follows
// from the state parts of events alone, so that it is the same when it is folded
// again after the mail is gone: a message whose mail cannot be read any more has
// its slot, its states and its times, and an empty text in place of its row. Until
// it is known why it cannot be read, by its erasure or the end of its day, it is
// noted by u, unless the key of the whole day is gone.
const (
	keyHead   = 'h'
	keyRow    = 'r'
	keyBlock  = 'b'
	keyIDs    = 'n'
	keyStates = 's'
	keySets   = 'm'
	keyFilter = 'f'
	keyGroup  = 'g'
	keyPage   = 'p'
	keyCount  = 'c'
	keyUnread = 'u'
	keyTenant = 't'
	keyErased = 'e'
	keyID     = 'i'
	keyUnit   = 'o'
	keyOrders = 'x'
)

const (
	// blockRows and groupBlocks are what a search opens at a time: small blocks,
	// because a filter knows only which words a block has, not in which row.
	blockRows   = 32
	groupBlocks = 64
	// A block with many recipients is full earlier, so that to change one state
	// or open one row stays cheap. The size of rows must not count: it is not
	// known any more when a block is filled again without them.
	blockRcpts = 256
)

type shelfID struct {
	tenant event.Tenant
	day    event.Day
	kept   bool // for mail that was kept past an earlier day
}

func (s shelfID) key(kind byte) []byte {
	b := make([]byte, 0, 32)
	b = append(append(b, kind), s.tenant[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(s.day))
	if s.kept {
		return append(b, 1)
	}
	return append(b, 0)
}

func (s shelfID) at(kind byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(s.key(kind), n)
}

func (s shelfID) unread(id event.ID) []byte { return append(s.key(keyUnread), id[:]...) }

func (s shelfID) in(kind byte, n uint32, slot byte) []byte { return append(s.at(kind, n), slot) }

const shelfKeySize = 1 + 16 + 4 + 1

func parseShelf(key []byte) (s shelfID, err error) {
	if len(key) < shelfKeySize || key[21] > 1 {
		return s, malformed(key)
	}
	return shelfID{event.Tenant(key[1:17]), event.Day(binary.BigEndian.Uint32(key[17:])), key[21] == 1}, nil
}

func malformed(b []byte) error {
	return fmt.Errorf("value of %d bytes: %w", len(b), event.ErrMalformed)
}

func tenantKey(t event.Tenant) []byte { return append([]byte{keyTenant}, t[:]...) }

func erasedPrefix(t event.Tenant) []byte { return append([]byte{keyErased}, t[:]...) }

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

// stamp is when a message came in. It stays with the message when it is kept.
type stamp struct {
	order    order
	received event.Millis
}

// span is the times of some rows, and the places of the oldest and the newest of
// them among all.
type span struct {
	from, to       event.Millis // of reception
	oldest, newest order
}

const spanSize = 16 + 2*orderSize

func (s *span) add(m stamp) {
	if s.newest == (order{}) {
		*s = span{m.received, m.received, m.order, m.order}
		return
	}
	s.from, s.to = min(s.from, m.received), max(s.to, m.received)
	if m.order.compare(s.oldest) < 0 {
		s.oldest = m.order
	}
	if m.order.compare(s.newest) > 0 {
		s.newest = m.order
	}
}

func (s span) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(s.from))
	b = binary.BigEndian.AppendUint64(b, uint64(s.to))
	return s.newest.append(s.oldest.append(b))
}

func parseSpan(b []byte) span {
	return span{
		event.Millis(binary.BigEndian.Uint64(b)), event.Millis(binary.BigEndian.Uint64(b[8:])),
		parseOrder(b[16:]), parseOrder(b[16+orderSize:]),
	}
}
