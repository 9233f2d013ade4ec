package shadow

import (
	"encoding/binary"
	"errors"
	"fmt"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// foldName is the name of the projection.
const foldName = "shadow"

// fold is the projection.
type fold struct{}

// Name implements projection.Projection.
func (fold) Name() string { return foldName }

// Version implements projection.Projection.
func (fold) Version() int { return 2 }

// Unhurried implements projection.Unhurried: every reader waits for the tail that
// its node knows.
func (fold) Unhurried() {}

// Apply implements projection.Projection.
func (fold) Apply(tx projection.Txn, r eventlog.Recorded) error {
	switch f := r.Fact.(type) {
	case *event.MessageAccepted:
		if f.Meta == nil {
			return nil // expired
		}
		err := accept(tx, r, f)
		if errors.Is(err, crypto.ErrExpired) {
			return nil // since it was read; nothing was written yet
		}
		return err
	case *event.Repudiated:
		return repudiate(tx, r.Tenant, f.Message)
	case *event.DeliverySettled:
		for _, o := range f.Outcomes {
			if err := settle(tx, o); err != nil {
				return err
			}
		}
	case *event.RedeliveryOrdered:
		if f.To != "" {
			return nil // it says nothing about the recipients of the message
		}
		for i, item := range f.Items {
			if err := orderAgain(tx, r.Tenant, event.Unit{Source: r.Ref.ID, N: uint32(i)}, item); err != nil {
				return err
			}
		}
	}
	return nil
}

// accept puts a message into its shelf. What is sealed is written first, so
// that nothing is when the day's key is gone.
func accept(tx projection.Txn, r eventlog.Recorded, f *event.MessageAccepted) error {
	s := shelfID{r.Tenant, r.Expiry}
	ten, err := loadTenant(tx, r.Tenant)
	if err != nil {
		return err
	}
	changed := ten.tick(r.Time)
	w := newRow(r, f, order{ten.clock, r.Ref.Position})
	raw, err := tx.Get(s.key(keyHead))
	if err != nil {
		return err
	}
	var h head
	if raw != nil {
		if h, err = parseHead(raw); err != nil {
			return err
		}
	}
	p := place{shelf: s, block: h.blocks, slot: int(h.rows)}
	if err := h.add(tx, s, w); err != nil {
		return err
	}
	tx.Set(s.key(keyHead), h.append(nil))

	for _, c := range w.rcpts {
		n, isNew := ten.number(c.carrier())
		p.domains = append(p.domains, n)
		changed = changed || isNew
	}
	if changed {
		tx.Set(tenantKey(r.Tenant), ten.bytes())
	}
	tx.Set(idKey(r.Ref.ID), p.append(nil))
	return changeStates(tx, p, func(e *entry) error {
		for range w.rcpts {
			e.states = append(e.states, byte(due))
		}
		return nil
	})
}

// add puts a row into the block that is being filled, and closes the block when
// it is full.
func (h *head) add(tx projection.Txn, s shelfID, w *row) error {
	plain := w.append(nil)
	h.rows++
	h.rcpts += uint32(len(w.rcpts))
	h.bytes += uint32(len(plain))
	h.all.add(w)
	h.open.add(w)
	if h.rows < blockRows && h.rcpts < blockRcpts && h.bytes < blockBytes {
		return tx.SetSealed(s.tenant, s.day, s.in(keyRow, h.blocks, byte(h.rows-1)), plain)
	}
	var all []byte
	for i := range byte(h.rows - 1) {
		b, err := open(tx, s, s.in(keyRow, h.blocks, i))
		if err != nil {
			return fmt.Errorf("row %d of block %d: %w", i, h.blocks, err)
		}
		all = append(all, b...)
	}
	all = append(all, plain...)
	rows, err := parseRows(all, everyRow)
	if err != nil {
		return err
	}
	if err := tx.SetSealed(s.tenant, s.day, s.at(keyBlock, h.blocks), all); err != nil {
		return err
	}
	for i := range byte(h.rows - 1) {
		tx.Delete(s.in(keyRow, h.blocks, i))
	}
	f := newFilter(rows)
	if h.blocks%groupBlocks == groupBlocks-1 {
		err = closeGroup(tx, s, h.blocks/groupBlocks, h.open, f)
	} else {
		err = tx.SetSealed(s.tenant, s.day, s.at(keyFilter, h.blocks), f.append(h.open.append(nil)))
	}
	h.blocks++
	h.rows, h.rcpts, h.bytes, h.open = 0, 0, 0, span{}
	return err
}

// closeGroup turns the filters of a group's blocks round. The last one's is
// given.
func closeGroup(tx projection.Txn, s shelfID, group uint32, last span, lastFilter *filter) error {
	var filters []*filter
	var times []byte
	for i := range uint32(groupBlocks - 1) {
		key := s.at(keyFilter, group*groupBlocks+i)
		sp, f, err := openFilter(tx, s, key)
		if err != nil {
			return fmt.Errorf("filter %d of group %d: %w", i, group, err)
		}
		filters = append(filters, f)
		times = sp.append(times)
		tx.Delete(key)
	}
	pages := turn(append(filters, lastFilter))
	for i := range pages {
		if err := tx.SetSealed(s.tenant, s.day, s.in(keyPage, group, byte(i)), pages[i][:]); err != nil {
			return err
		}
	}
	tx.Set(s.at(keyGroup, group), last.append(times))
	return nil
}

func openFilter(v projection.View, s shelfID, key []byte) (sp span, f *filter, err error) {
	b, err := open(v, s, key)
	if err != nil {
		return sp, nil, err
	}
	if len(b) != spanSize+filterSize {
		return sp, nil, malformed(b)
	}
	return parseSpan(b), parseFilter(b[spanSize:]), nil
}

// tenant is a tenant's clock, and the domains whose routes carry its mail.
type tenant struct {
	clock   int64
	domains []string
}

func loadTenant(v projection.View, t event.Tenant) (ten tenant, err error) {
	b, err := v.Get(tenantKey(t))
	if err != nil || b == nil {
		return ten, err
	}
	r := &reader{s: string(b)}
	ten.clock = r.varint()
	ten.domains = r.texts()
	if r.bad || r.s != "" {
		return ten, malformed(b)
	}
	return ten, nil
}

func (t *tenant) bytes() []byte {
	b := binary.AppendVarint(nil, t.clock)
	b = binary.AppendUvarint(b, uint64(len(t.domains)))
	for _, d := range t.domains {
		b = appendText(b, d)
	}
	return b
}

// tick moves the clock on to a time of reception, never back.
func (t *tenant) tick(at event.Millis) (moved bool) {
	if sec := int64(at) / 1000; sec > t.clock {
		t.clock = sec
		return true
	}
	return false
}

// maxDomains is how many domains of a tenant are counted apart; the rest are
// counted with the last.
const maxDomains = 1 << 14

func (t *tenant) number(domain string) (n uint16, isNew bool) {
	for i, d := range t.domains {
		if d == domain {
			return uint16(i), false
		}
	}
	if len(t.domains) == maxDomains {
		return maxDomains - 1, false
	}
	t.domains = append(t.domains, domain)
	return uint16(len(t.domains) - 1), true
}
