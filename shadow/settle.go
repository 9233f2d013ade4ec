package shadow

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/projection"
)

// entry is the states of one message in those of its block.
type entry struct {
	vanished bool // the message is not here, or not any more
	states   []byte
}

// states are the states of a block: of each message the number of its recipients
// and one more, and then a state for each; 0 of one that has vanished.
func parseStates(b []byte) ([]entry, error) {
	out := make([]entry, 0, blockRows)
	for rest := b; len(rest) > 0; {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size)+1 {
			return nil, malformed(b)
		}
		rest = rest[size:]
		if n == 0 {
			out = append(out, entry{vanished: true})
			continue
		}
		out = append(out, entry{states: rest[: n-1 : n-1]})
		rest = rest[n-1:]
	}
	return out, nil
}

func (e entry) append(b []byte) []byte {
	if e.vanished {
		return append(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(e.states))+1), e.states...)
}

// dropOrders forgets the orders of a message's recipients.
func (e entry) dropOrders(tx projection.Txn, id event.ID) error {
	for i, s := range e.states {
		if state(s)&ordered != 0 {
			if err := dropOrders(tx, id, uint32(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func loadStates(v projection.View, s shelfID, block uint32) ([]entry, error) {
	raw, err := v.Get(s.at(keyStates, block))
	if err != nil {
		return nil, err
	}
	return parseStates(raw)
}

// changeStates lets change work on a copy of a message's states, and keeps the
// counts and the sets of states with them.
func changeStates(tx projection.Txn, p place, change func(*entry) error) error {
	raw, err := tx.Get(p.shelf.at(keyStates, p.block))
	if err != nil {
		return err
	}
	entries, err := parseStates(raw)
	if err != nil {
		return err
	}
	isNew := p.slot == len(entries)
	if isNew {
		entries = append(entries, entry{})
	}
	if p.slot > len(entries) {
		return malformed(raw)
	}
	e := &entries[p.slot]
	before, was := e.states, e.vanished
	e.states = slices.Clone(before)
	if err := change(e); err != nil {
		return err
	}
	if !isNew && !e.vanished && bytes.Equal(before, e.states) {
		return nil
	}
	out := make([]byte, 0, len(raw)+len(e.states)+2)
	var set byte
	for _, e := range entries {
		out = e.append(out)
		for _, s := range e.states {
			set |= state(s).bit()
		}
	}
	tx.Set(p.shelf.at(keyStates, p.block), out)
	if err := setSet(tx, p.shelf, p.block, set); err != nil {
		return err
	}
	messages := 0
	switch {
	case isNew && !e.vanished:
		messages = 1
	case !isNew && !was && e.vanished:
		messages = -1
	}
	return recount(tx, p, before, e.states, messages)
}

// setSet notes which states occur in a block.
func setSet(tx projection.Txn, s shelfID, block uint32, set byte) error {
	key := s.at(keySets, block/groupBlocks)
	sets, err := tx.Get(key)
	if err != nil {
		return err
	}
	i := int(block % groupBlocks)
	if i < len(sets) && sets[i] == set {
		return nil
	}
	out := make([]byte, max(len(sets), i+1))
	copy(out, sets)
	out[i] = set
	tx.Set(key, out)
	return nil
}

// settle takes an outcome from a tenant's log: of a unit of its own messages, or of
// its orders.
func settle(tx projection.Txn, t event.Tenant, o event.Outcome) error {
	id, n := o.Unit.Source, o.Unit.N
	p, err := locate(tx, id)
	if err != nil {
		return err
	}
	own := p != nil
	if !own {
		raw, err := tx.Get(pairKey(keyUnit, o.Unit.Source, o.Unit.N))
		if err != nil || raw == nil {
			return err // it does not count, or not any more
		}
		if len(raw) != 20 {
			return malformed(raw)
		}
		id, n = event.ID(raw[:16]), binary.BigEndian.Uint32(raw[16:])
		if p, err = locate(tx, id); err != nil || p == nil {
			return err
		}
	}
	if p.shelf.tenant != t {
		return nil
	}
	return changeStates(tx, *p, func(e *entry) error {
		if int64(n) >= int64(len(e.states)) {
			return nil
		}
		s := state(e.states[n])
		switch {
		case s&ordered != 0:
			s, err = settleOrdered(tx, s, id, n, o, own)
		case own:
			s, err = s.after(o)
		}
		e.states[n] = byte(s)
		return err
	})
}

// settleOrdered takes an outcome of one of the units of a pair with orders, and
// returns the state of the pair.
func settleOrdered(tx projection.Txn, s state, id event.ID, n uint32, o event.Outcome, own bool) (state, error) {
	ord, err := loadOrders(tx, id, n)
	if err != nil {
		return gone, err
	}
	if s.has() {
		// By the only unit that is left, of which one more thing is worth knowing.
		if !own && s.kind() == delivered && o.Doubts(event.ResultDelivered) {
			return uncertain, dropUnits(tx, id, n, ord)
		}
		return s, nil
	}
	var now state
	if own {
		now, err = ord.First.after(o)
		ord.First = now
	} else {
		i := slices.IndexFunc(ord.Units, func(u orderUnit) bool { return u.Unit == o.Unit })
		if i < 0 {
			return gone, fmt.Errorf("unit of an order that is not there: %w", event.ErrMalformed)
		}
		now, err = ord.Units[i].State.after(o)
		ord.Units[i].State = now
		if !now.live() {
			ord.Units = slices.Delete(ord.Units, i, i+1)
			tx.Delete(pairKey(keyUnit, o.Unit.Source, o.Unit.N))
		}
	}
	if err != nil {
		return gone, err
	}
	if now.kind() == delivered && !own {
		return now | ordered, keepUnit(tx, id, n, ord, o.Unit)
	}
	if now.has() || !ord.live() {
		return now.kind(), dropUnits(tx, id, n, ord)
	}
	tx.Set(pairKey(keyOrders, id, n), event.Marshal(ord))
	return ord.shown(now) | ordered, nil
}

// orderAgain takes a tenant's order to send a message of its own to its recipient once more. Until
// the recipient has it, the order's outcome counts like that of the first
// delivery; afterwards it changes nothing.
func orderAgain(tx projection.Txn, t event.Tenant, u event.Unit, item event.Redelivery) error {
	p, err := locate(tx, item.Message.ID)
	if err != nil || p == nil || p.shelf.tenant != t {
		return err
	}
	return changeStates(tx, *p, func(e *entry) error {
		if int64(item.N) >= int64(len(e.states)) {
			return nil
		}
		s := state(e.states[item.N])
		if !s.live() && s.kind() != bounced && s.kind() != expired {
			return nil
		}
		ord := &orders{First: s}
		if s&ordered != 0 {
			if ord, err = loadOrders(tx, item.Message.ID, item.N); err != nil {
				return err
			}
		}
		if ord.First.kind() == held {
			ord.First = gone // the queue goes on with the order's unit in its place
		}
		ord.Units = append(ord.Units, orderUnit{u, due})
		tx.Set(pairKey(keyOrders, item.Message.ID, item.N), event.Marshal(ord))
		tx.Set(pairKey(keyUnit, u.Source, u.N), pairKey(0, item.Message.ID, item.N)[1:])
		e.states[item.N] = byte(due | ordered)
		return nil
	})
}

func loadOrders(v projection.View, id event.ID, n uint32) (*orders, error) {
	raw, err := v.Get(pairKey(keyOrders, id, n))
	if err != nil {
		return nil, err
	}
	ord := new(orders)
	return ord, event.Unmarshal(raw, ord)
}

// dropOrders forgets the orders of a pair.
func dropOrders(tx projection.Txn, id event.ID, n uint32) error {
	ord, err := loadOrders(tx, id, n)
	if err != nil {
		return err
	}
	return dropUnits(tx, id, n, ord)
}

// keepUnit forgets the orders of a pair but for the unit that was delivered: a
// later outcome may make it uncertain.
func keepUnit(tx projection.Txn, id event.ID, n uint32, ord *orders, u event.Unit) error {
	if err := dropUnits(tx, id, n, ord); err != nil {
		return err
	}
	tx.Set(pairKey(keyOrders, id, n), event.Marshal(&orders{First: ord.First.kind(), Units: []orderUnit{{u, delivered}}}))
	tx.Set(pairKey(keyUnit, u.Source, u.N), pairKey(0, id, n)[1:])
	return nil
}

func dropUnits(tx projection.Txn, id event.ID, n uint32, ord *orders) error {
	for _, u := range ord.Units {
		tx.Delete(pairKey(keyUnit, u.Unit.Source, u.Unit.N))
	}
	tx.Delete(pairKey(keyOrders, id, n))
	return nil
}
