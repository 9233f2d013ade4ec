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
	// lost: what is sealed in the shelf is not complete or not there, because the
	// day's key was gone before all was folded, or the day has expired.
	lost bool
	// over: the day has expired, and the first blocks of the shelf are dropped.
	over    bool
	dropped uint32
	all     span   // of the shelf
	open    span   // of the block that is being filled
	ids     []byte // of the messages in the block that is being filled; zero for one that vanished
	next    []byte // id of a message that was added behind them, or empty
}

const headSize = 16 + 16 + 1 + 2*spanSize

// The marks of a head.
const (
	isLost = 1
	isOver = 2
)

const idSize = len(event.ID{})

func (h *head) append(b []byte) []byte {
	b = slices.Grow(b, headSize+len(h.ids)+len(h.next))
	for _, n := range []uint32{h.blocks, h.rows, h.rcpts, h.dropped} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = binary.BigEndian.AppendUint64(b, h.messages)
	b = binary.BigEndian.AppendUint64(b, h.bytes)
	var marks byte
	if h.lost {
		marks |= isLost
	}
	if h.over {
		marks |= isOver
	}
	b = append(b, marks)
	return h.appendIDs(h.open.append(h.all.append(b)))
}

func (h *head) appendIDs(b []byte) []byte { return append(append(b, h.ids...), h.next...) }

func parseHead(b []byte) (h head, err error) {
	if len(b) < headSize {
		return h, malformed(b)
	}
	for i, n := range []*uint32{&h.blocks, &h.rows, &h.rcpts, &h.dropped} {
		*n = binary.BigEndian.Uint32(b[4*i:])
	}
	h.messages, h.bytes = binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	h.lost, h.over = b[32]&isLost != 0, b[32]&isOver != 0
	h.all, h.open = parseSpan(b[33:]), parseSpan(b[33+spanSize:])
	h.ids = b[headSize:]
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
	h.next = m.id[:]
	full := h.rows == blockRows || h.rcpts >= blockRcpts
	if !h.lost {
		plain := m.row.append(nil)
		var err error
		if full {
			err = h.closeBlock(tx, s, plain)
		} else {
			err = tx.SetSealed(s.tenant, s.day, s.in(keyRow, h.blocks, byte(h.rows-1)), plain)
		}
		if err := h.note(err); err != nil {
			return err
		}
		if m.row == nil && !h.lost {
			tx.Set(s.unread(m.id), []byte{1})
		}
	}
	if !full {
		return nil
	}
	for i := range byte(h.rows - 1) {
		tx.Delete(s.in(keyRow, h.blocks, i))
	}
	tx.Set(s.at(keyIDs, h.blocks), h.appendIDs(nil))
	h.blocks++
	h.rows, h.rcpts, h.open, h.ids, h.next = 0, 0, span{}, nil, nil
	return nil
}

// note takes what became of work on what is sealed: when the day's key is gone,
// there is no more of it.
func (h *head) note(err error) error {
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
	if err := h.note(h.blank(tx, p)); err != nil {
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

// dropSealed removes what is derived from mail, and the times of blocks, which a
// shelf that was folded without its day's key does not have. It says the same of
// each that has expired. So it removes what says which messages could not be read.
func (h *head) dropSealed(tx projection.Txn, s shelfID) error {
	for block := range h.blocks {
		tx.Delete(s.at(keyBlock, block))
		if h.lost || block/groupBlocks == h.blocks/groupBlocks {
			tx.Delete(s.at(keyFilter, block))
		}
	}
	for slot := range byte(h.rows) {
		tx.Delete(s.in(keyRow, h.blocks, slot))
	}
	for group := range h.blocks / groupBlocks {
		tx.Delete(s.at(keyGroup, group))
		for i := range byte(filterPages) {
			tx.Delete(s.in(keyPage, group, i))
		}
	}
	h.over, h.lost = true, true
	return dropAll(tx, s.key(keyUnread))
}

// dropAll removes all keys that begin with prefix.
func dropAll(tx projection.Txn, prefix []byte) error {
	var keys [][]byte
	for it, err := range tx.Scan(prefix, nil, false) {
		if err != nil {
			return err
		}
		keys = append(keys, slices.Clone(it.Key))
	}
	for _, key := range keys {
		tx.Delete(key)
	}
	return nil
}

// drop removes the rest of an expired shelf: what is kept about its messages, at
// most left blocks of it at a time, and returns how many it has left over: none when the
// shelf is not done. What has moved to another shelf stays.
func (h *head) drop(tx projection.Txn, s shelfID, left int) (int, error) {
	for ; h.dropped <= h.blocks; h.dropped++ {
		if left == 0 {
			tx.Set(s.key(keyHead), h.append(nil))
			return 0, nil
		}
		left--
		block, ids := h.dropped, h.ids
		if block < h.blocks {
			var err error
			if ids, err = tx.Get(s.at(keyIDs, block)); err != nil {
				return 0, err
			}
			tx.Delete(s.at(keyIDs, block))
		}
		if err := forget(tx, s, block, ids); err != nil {
			return 0, err
		}
		tx.Delete(s.at(keyStates, block))
	}
	for group := range h.blocks/groupBlocks + 1 {
		tx.Delete(s.at(keySets, group))
	}
	if err := dropAll(tx, s.key(keyCount)); err != nil {
		return 0, err
	}
	tx.Delete(s.key(keyHead))
	return left, nil
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
