package shadow

import (
	"encoding/binary"

	"holdfast/event"
	"holdfast/projection"
)

// spot is a slot of a block.
type spot struct {
	shelf shelfID
	block uint32
	slot  int
}

// place is where a message is, and what has to be known about it without its
// mail: when it came in, its size, and the domain of each of its recipients.
type place struct {
	spot
	stamp
	size    int64
	domains []uint16 // numbers in the tenant's list
	// sender is the number and one more of the domain whose user sent it; 0 for none.
	sender uint16
	// kept is where a message is read that was kept past an earlier day.
	kept event.Ref
	// old are the slots from which it moved when it was kept, in shelves that had
	// not expired by then. Its row still stands there, unseen.
	old []spot
}

// ref returns where the message with this id is read.
func (p *place) ref(id event.ID) event.Ref {
	if p.shelf.kept {
		return p.kept
	}
	return event.Ref{Position: p.order.pos, ID: id}
}

// locate returns where a message is, or nil.
func locate(v projection.View, id event.ID) (*place, error) {
	raw, err := v.Get(idKey(id))
	if err != nil || raw == nil {
		return nil, err
	}
	p, err := parsePlace(raw)
	return &p, err
}

func (p place) append(b []byte) []byte {
	b = append(b, p.shelf.tenant[:]...)
	b = p.spot.append(b)
	b = binary.AppendVarint(b, p.order.clock)
	b = appendPosition(b, p.order.pos)
	b = binary.AppendVarint(b, int64(p.received)-p.order.clock*1000)
	b = binary.AppendVarint(b, p.size)
	b = binary.AppendUvarint(b, uint64(len(p.domains)))
	for _, d := range p.domains {
		b = binary.AppendUvarint(b, uint64(d))
	}
	b = binary.AppendUvarint(b, uint64(p.sender))
	if p.shelf.kept {
		b = append(appendPosition(b, p.kept.Position), p.kept.ID[:]...)
	}
	for _, s := range p.old {
		b = s.append(b)
	}
	return b
}

// append adds the spot without its tenant.
func (s spot) append(b []byte) []byte {
	var kept byte
	if s.shelf.kept {
		kept = 1
	}
	b = binary.AppendUvarint(b, uint64(s.shelf.day))
	return append(binary.AppendUvarint(append(b, kept), uint64(s.block)), byte(s.slot))
}

func parsePlace(b []byte) (p place, err error) {
	r := &reader{s: string(b)}
	var t event.Tenant
	copy(t[:], r.bytes(16))
	p.spot = r.spot(t)
	p.order.clock = r.varint()
	p.order.pos = r.position()
	p.received = event.Millis(r.varint() + p.order.clock*1000)
	p.size = r.varint()
	if n := r.count(); n > 0 {
		p.domains = make([]uint16, n)
	}
	for i := range p.domains {
		p.domains[i] = uint16(r.uvarint())
	}
	p.sender = uint16(r.uvarint())
	if p.shelf.kept {
		p.kept.Position = r.position()
		copy(p.kept.ID[:], r.bytes(16))
	}
	for r.s != "" && !r.bad {
		p.old = append(p.old, r.spot(t))
	}
	if r.bad {
		return p, malformed(b)
	}
	return p, nil
}

func (r *reader) spot(t event.Tenant) spot {
	s := spot{shelf: shelfID{tenant: t, day: event.Day(r.uvarint())}}
	s.shelf.kept = r.byte() == 1
	s.block, s.slot = uint32(r.uvarint()), int(r.byte())
	return s
}
