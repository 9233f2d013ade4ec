package shadow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/projection"
)

// head is what is in a shelf: full blocks, and the block that is being filled.
type head struct {
	blocks   uint32 // full ones
	rows     uint32 // in the block that is being filled
	rcpts    uint32
	messages uint64 // in all blocks, without those that vanished
	bytes    uint64 // of these messages
	// lost: the day's key was gone before all of the shelf was folded. What is
	// sealed in it is not complete and cannot be opened.
	lost bool
	all  span   // of the shelf
	open span   // of the block that is being filled
	ids  []byte // of the messages in the block that is being filled; zero for one that vanished
}

const headSize = 12 + 16 + 1 + 2*spanSize

const idSize = len(event.ID{})

func (h *head) append(b []byte) []byte {
	b = slices.Grow(b, headSize+len(h.ids))
	for _, n := range []uint32{h.blocks, h.rows, h.rcpts} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = binary.BigEndian.AppendUint64(b, h.messages)
	b = binary.BigEndian.AppendUint64(b, h.bytes)
	if h.lost {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return append(h.open.append(h.all.append(b)), h.ids...)
}

func parseHead(b []byte) (h head, err error) {
	if len(b) < headSize {
		return h, malformed(b)
	}
	for i, n := range []*uint32{&h.blocks, &h.rows, &h.rcpts} {
		*n = binary.BigEndian.Uint32(b[4*i:])
	}
	h.messages, h.bytes, h.lost = binary.BigEndian.Uint64(b[12:]), binary.BigEndian.Uint64(b[20:]), b[28] != 0
	h.all, h.open = parseSpan(b[29:]), parseSpan(b[29+spanSize:])
	h.ids = slices.Clip(b[headSize:])
	if uint64(len(h.ids)) != uint64(h.rows)*uint64(idSize) {
		return h, malformed(b)
	}
	return h, nil
}

// loadHead returns a head that is empty when there is no such shelf.
func loadHead(v projection.View, s shelfID) (h head, err error) {
	raw, err := v.Get(s.key(keyHead))
	if err != nil || raw == nil {
		return h, err
	}
	return parseHead(raw)
}

// record is a message as it is put into a shelf.
type record struct {
	stamp
	id    event.ID
	rcpts int
	size  int64
	row   *row // nil when its mail cannot be read any more
}

// put adds a message to a shelf, without its states, and returns where it is.
func put(tx projection.Txn, s shelfID, m record) (spot, error) {
	h, err := loadHead(tx, s)
	if err != nil {
		return spot{}, err
	}
	p := spot{s, h.blocks, int(h.rows)}
	if err := h.add(tx, s, m); err != nil {
		return spot{}, err
	}
	tx.Set(s.key(keyHead), h.append(nil))
	return p, nil
}

// add puts a message into the block that is being filled, and closes the block
// when it is full.
func (h *head) add(tx projection.Txn, s shelfID, m record) error {
	h.rows++
	h.rcpts += uint32(m.rcpts)
	h.messages++
	h.bytes += uint64(max(m.size, 0))
	h.all.add(m.stamp)
	h.open.add(m.stamp)
	h.ids = append(h.ids, m.id[:]...)
	plain := m.row.append(nil)
	if h.rows < blockRows && h.rcpts < blockRcpts {
		return h.sealing(func() error {
			return tx.SetSealed(s.tenant, s.day, s.in(keyRow, h.blocks, byte(h.rows-1)), plain)
		})
	}
	if err := h.sealing(func() error { return h.closeBlock(tx, s, plain) }); err != nil {
		return err
	}
	for i := range byte(h.rows - 1) {
		tx.Delete(s.in(keyRow, h.blocks, i))
	}
	tx.Set(s.at(keyIDs, h.blocks), h.ids)
	h.blocks++
	h.rows, h.rcpts, h.open, h.ids = 0, 0, span{}, nil
	return nil
}

// sealing does something with what is sealed in the shelf, unless its day's key
// is gone, which is noted.
func (h *head) sealing(do func() error) error {
	if h.lost {
		return nil
	}
	err := do()
	if errors.Is(err, crypto.ErrExpired) {
		h.lost = true
		return nil
	}
	return err
}

// closeBlock seals the rows of the block that is full now. The last one's text is
// given.
func (h *head) closeBlock(tx projection.Txn, s shelfID, lastRow []byte) error {
	var all []byte
	for i := range byte(h.rows - 1) {
		b, err := open(tx, s, s.in(keyRow, h.blocks, i))
		if err != nil {
			return fmt.Errorf("row %d of block %d: %w", i, h.blocks, err)
		}
		all = append(all, b...)
	}
	all = append(all, lastRow...)
	rows, err := parseRows(all, everyRow)
	if err != nil {
		return err
	}
	if err := tx.SetSealed(s.tenant, s.day, s.at(keyBlock, h.blocks), all); err != nil {
		return err
	}
	f := newFilter(rows)
	if h.blocks%groupBlocks == groupBlocks-1 {
		return closeGroup(tx, s, h.blocks/groupBlocks, h.open, f)
	}
	return setFilter(tx, s, h.blocks, h.open, f)
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

func setFilter(tx projection.Txn, s shelfID, block uint32, sp span, f *filter) error {
	return tx.SetSealed(s.tenant, s.day, s.at(keyFilter, block), f.append(sp.append(nil)))
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

// blank writes what is sealed about a slot anew without its message, as it would
// be had the message never been readable. It does nothing when the shelf is gone.
func blank(tx projection.Txn, p spot) error {
	h, err := loadHead(tx, p.shelf)
	if err != nil || h.lost || p.block > h.blocks || p.block == h.blocks && p.slot >= int(h.rows) {
		return err
	}
	if err := h.sealing(func() error { return h.blank(tx, p) }); err != nil {
		return err
	}
	if h.lost {
		tx.Set(p.shelf.key(keyHead), h.append(nil))
	}
	return nil
}

func (h *head) blank(tx projection.Txn, p spot) error {
	s := p.shelf
	if p.block == h.blocks {
		return tx.SetSealed(s.tenant, s.day, s.in(keyRow, p.block, byte(p.slot)), (*row)(nil).append(nil))
	}
	plain, err := open(tx, s, s.at(keyBlock, p.block))
	if err != nil {
		return err
	}
	var out []byte
	r := &reader{s: string(plain)}
	for i := 0; r.s != "" && !r.bad; i++ {
		text := r.text()
		if i == p.slot {
			text = ""
		}
		out = appendText(out, text)
	}
	if r.bad {
		return malformed(plain)
	}
	if bytes.Equal(out, plain) {
		return nil
	}
	rows, err := parseRows(out, everyRow)
	if err != nil {
		return err
	}
	if err := tx.SetSealed(s.tenant, s.day, s.at(keyBlock, p.block), out); err != nil {
		return err
	}
	f := newFilter(rows)
	if group := p.block / groupBlocks; group < h.blocks/groupBlocks {
		return setInPages(tx, s, group, int(p.block%groupBlocks), f)
	}
	sp, _, err := openFilter(tx, s, s.at(keyFilter, p.block))
	if err != nil {
		return err
	}
	return setFilter(tx, s, p.block, sp, f)
}

// setInPages puts another filter in the place of that of the n-th block of a full
// group.
func setInPages(tx projection.Txn, s shelfID, group uint32, n int, f *filter) error {
	for i := range filterPages {
		key := s.in(keyPage, group, byte(i))
		plain, err := open(tx, s, key)
		if err != nil {
			return err
		}
		if len(plain) != pageSize {
			return malformed(plain)
		}
		out := slices.Clone(plain)
		for b := range pageBits {
			for j := range f {
				at := (b*quarters+j)*8 + n/8
				out[at] &^= 1 << (n % 8)
				if bit := i*pageBits + b; f[j][bit/8]>>(bit%8)&1 == 1 {
					out[at] |= 1 << (n % 8)
				}
			}
		}
		if bytes.Equal(out, plain) {
			continue
		}
		if err := tx.SetSealed(s.tenant, s.day, key, out); err != nil {
			return err
		}
	}
	return nil
}

// release takes a message that has vanished out of its shelf's sums and of the
// list of ids for which the shelf stands.
func release(tx projection.Txn, p place) error {
	h, err := loadHead(tx, p.shelf)
	if err != nil {
		return err
	}
	h.messages--
	h.bytes -= uint64(max(p.size, 0))
	ids := h.ids
	if p.block < h.blocks {
		if ids, err = tx.Get(p.shelf.at(keyIDs, p.block)); err != nil {
			return err
		}
	}
	if len(ids) < (p.slot+1)*idSize {
		return malformed(ids)
	}
	ids = slices.Clone(ids)
	clear(ids[p.slot*idSize : (p.slot+1)*idSize])
	if p.block < h.blocks {
		tx.Set(p.shelf.at(keyIDs, p.block), ids)
	} else {
		h.ids = ids
	}
	tx.Set(p.shelf.key(keyHead), h.append(nil))
	return nil
}

// drop removes a shelf with all that is kept about its messages. What has moved
// to another shelf stays.
func drop(tx projection.Txn, s shelfID, h head) error {
	for block := range h.blocks + 1 {
		ids := h.ids
		if block < h.blocks {
			var err error
			if ids, err = tx.Get(s.at(keyIDs, block)); err != nil {
				return err
			}
			tx.Delete(s.at(keyIDs, block))
			tx.Delete(s.at(keyBlock, block))
			if h.lost || block/groupBlocks == h.blocks/groupBlocks {
				tx.Delete(s.at(keyFilter, block))
			}
		}
		if err := forget(tx, s, block, ids); err != nil {
			return err
		}
		tx.Delete(s.at(keyStates, block))
	}
	for slot := range byte(h.rows) {
		tx.Delete(s.in(keyRow, h.blocks, slot))
	}
	for group := range h.blocks/groupBlocks + 1 {
		tx.Delete(s.at(keySets, group))
		if group < h.blocks/groupBlocks {
			tx.Delete(s.at(keyGroup, group))
			for i := range byte(filterPages) {
				tx.Delete(s.in(keyPage, group, i))
			}
		}
	}
	var counts [][]byte
	for it, err := range tx.Scan(s.key(keyCount), nil, false) {
		if err != nil {
			return err
		}
		counts = append(counts, slices.Clone(it.Key))
	}
	for _, key := range counts {
		tx.Delete(key)
	}
	tx.Delete(s.key(keyHead))
	return nil
}

// forget removes the places and orders of a block's messages.
func forget(tx projection.Txn, s shelfID, block uint32, ids []byte) error {
	entries, err := loadStates(tx, s, block)
	if err != nil {
		return err
	}
	if len(ids) != len(entries)*idSize {
		return fmt.Errorf("block %d: %d states: %w", block, len(entries), malformed(ids))
	}
	for i, e := range entries {
		id := event.ID(ids[i*idSize:])
		if id == (event.ID{}) {
			continue
		}
		if err := e.dropOrders(tx, id); err != nil {
			return err
		}
		tx.Delete(idKey(id))
	}
	return nil
}
