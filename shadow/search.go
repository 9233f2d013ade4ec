package shadow

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/projection"
)

// Search yields the messages that match, newest first: by the log's order
// within a tenant, and by reception to the second between tenants. That order
// is the same for every search, so that a search with After goes on where
// another ended. It sees at least all messages that this node has accepted
// before. An error ends it: [ErrState], [ErrNotFound] for a message After which
// does not exist, or what the projection says.
//
// The database is held as it was at the beginning for as long as the rows are
// being taken.
func (s *Service) Search(ctx context.Context, q Query) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		p, err := newQuery(q)
		if err == nil {
			err = s.fresh(ctx, q.Tenants)
		}
		if err != nil {
			yield(Row{}, err)
			return
		}
		left := q.Limit
		if left <= 0 {
			left = DefaultLimit
		}
		left = min(left, MaxLimit)
		stopped, begin, rows := false, time.Now(), 0
		err = s.runner.View(ctx, foldName, func(v projection.View) error {
			if err := p.begin(v, q); err != nil {
				return err
			}
			for w, err := range search(ctx, v, p, q.Tenants) {
				if err != nil {
					return err
				}
				rows++
				if stopped = !yield(w.public(), nil); stopped {
					return nil
				}
				if rows == left {
					return nil
				}
			}
			return nil
		})
		s.logger.Debug("search", "rows", rows, "took", time.Since(begin))
		if err != nil && !stopped {
			yield(Row{}, fmt.Errorf("search: %w", err))
		}
	}
}

// begin finds where the query begins.
func (q *query) begin(v projection.View, from Query) error {
	if from.After == (event.ID{}) {
		return nil
	}
	w, s, err := find(v, from.After)
	if err != nil {
		return err
	}
	if len(from.Tenants) > 0 && !slices.Contains(from.Tenants, s.tenant) {
		return ErrNotFound
	}
	q.before = w.order
	return nil
}

// find returns the row of one message. [ErrNotFound].
func find(v projection.View, id event.ID) (*row, shelfID, error) {
	p, err := locate(v, id)
	if err != nil {
		return nil, shelfID{}, err
	}
	if p == nil {
		return nil, shelfID{}, ErrNotFound
	}
	rows, err := blockOf(v, p.shelf, p.block, everyRow)
	if errors.Is(err, crypto.ErrExpired) {
		return nil, p.shelf, ErrNotFound
	}
	if err != nil {
		return nil, p.shelf, err
	}
	if p.slot >= len(rows) || rows[p.slot] == nil || rows[p.slot].id != id {
		return nil, p.shelf, fmt.Errorf("slot %d of block %d: %w", p.slot, p.block, event.ErrMalformed)
	}
	return rows[p.slot], p.shelf, withStates(v, p.shelf, p.block, rows)
}

// blockOf reads rows of a block, whether it is full or not; see parseRows.
func blockOf(v projection.View, s shelfID, block uint32, want uint8) ([]*row, error) {
	key := s.at(keyBlock, block)
	raw, err := v.Get(key)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return tailOf(v, s, block)
	}
	plain, err := v.OpenSealed(s.tenant, s.day, key, raw)
	if err != nil {
		return nil, err
	}
	return s.rows(plain, want)
}

func (s shelfID) rows(plain []byte, want uint8) ([]*row, error) {
	rows, err := parseRows(plain, want)
	for _, w := range rows {
		if w != nil {
			w.shelf = s
		}
	}
	return rows, err
}

// tailOf reads the rows of the block that is being filled.
func tailOf(v projection.View, s shelfID, block uint32) ([]*row, error) {
	var plain []byte
	for it, err := range v.Scan(s.at(keyRow, block), nil, false) {
		if err != nil {
			return nil, err
		}
		b, err := v.OpenSealed(s.tenant, s.day, it.Key, it.Value)
		if err != nil {
			return nil, err
		}
		plain = append(plain, b...)
	}
	return s.rows(plain, everyRow)
}

// withStates gives the rows of a block their states.
func withStates(v projection.View, s shelfID, block uint32, rows []*row) error {
	entries, err := loadStates(v, s, block)
	if err != nil {
		return err
	}
	if len(entries) != len(rows) {
		return fmt.Errorf("block %d: %d rows, %d states: %w", block, len(rows), len(entries), event.ErrMalformed)
	}
	for i, w := range rows {
		if w == nil {
			continue
		}
		if len(entries[i].states) != len(w.rcpts) {
			return fmt.Errorf("block %d: %d recipients, %d states: %w", block, len(w.rcpts), len(entries[i].states), event.ErrMalformed)
		}
		w.states = make([]state, len(w.rcpts))
		for j, b := range entries[i].states {
			w.states[j] = state(b)
		}
	}
	return nil
}

// search yields what matches in the shelves of some tenants, or of all. The
// shelves are walked side by side: the one that may hold the newest row is
// looked at next.
func search(ctx context.Context, v projection.View, q *query, tenants []event.Tenant) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		ws, err := walkers(v, q, tenants)
		if err != nil {
			yield(nil, err)
			return
		}
		heap.Init(&ws)
		for len(ws) > 0 {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			w := ws[0]
			switch {
			case len(w.found) > 0:
				if !yield(w.found[0], nil) {
					return
				}
				w.found = w.found[1:]
			case w.left():
				err := w.step()
				if errors.Is(err, crypto.ErrExpired) {
					heap.Pop(&ws) // the mail of this day is gone
					continue
				}
				if err != nil {
					yield(nil, err)
					return
				}
			default:
				heap.Pop(&ws)
				continue
			}
			heap.Fix(&ws, 0)
		}
	}
}

// walkers returns one for each shelf that may hold something.
func walkers(v projection.View, q *query, tenants []event.Tenant) (ws byNewest, err error) {
	prefixes := [][]byte{{keyHead}}
	if len(tenants) > 0 {
		prefixes = nil
		for i, t := range tenants {
			if !slices.Contains(tenants[:i], t) {
				prefixes = append(prefixes, append([]byte{keyHead}, t[:]...))
			}
		}
	}
	for _, prefix := range prefixes {
		for it, err := range v.Scan(prefix, nil, false) {
			if err != nil {
				return nil, err
			}
			s, err := parseShelf(it.Key)
			if err != nil {
				return nil, err
			}
			h, err := parseHead(it.Value)
			if err != nil {
				return nil, err
			}
			if q.within(h.all.from, h.all.to) {
				ws = append(ws, newWalker(v, q, s, h))
			}
		}
	}
	return ws, nil
}

// walker goes through one shelf from its newest row to its oldest, by blocks.
type walker struct {
	v projection.View
	q *query
	s shelfID

	found []*row // that match, newest first, not yet yielded
	// bound is not older than anything that comes after found.
	bound order
	tail  bool // the block that is being filled comes next
	h     head

	groups uint32 // that were not looked at, the oldest ones
	// The group that is being walked: what of it may match, and the newest row
	// of each block.
	group uint32
	set   quarterSet
	last  [groupBlocks]order
}

func newWalker(v projection.View, q *query, s shelfID, h head) *walker {
	return &walker{
		v: v, q: q, s: s, h: h, bound: h.all.last, tail: h.rows > 0,
		groups: (h.blocks + groupBlocks - 1) / groupBlocks,
	}
}

func (w *walker) left() bool { return w.tail || w.set.blocks() != 0 || w.groups > 0 }

// newest is not older than the next row that the walker yields.
func (w *walker) newest() order {
	if len(w.found) > 0 {
		return w.found[0].order
	}
	return w.bound
}

// step looks at the next block, or at which blocks of the next group to look.
func (w *walker) step() error {
	if w.tail {
		w.tail = false
		if w.q.within(w.h.open.from, w.h.open.to) {
			return w.look(w.h.blocks, everyRow)
		}
		return nil
	}
	if blocks := w.set.blocks(); blocks != 0 {
		i := bits.Len64(blocks) - 1
		quarters := w.set.of(i)
		w.set.keep(1<<i - 1)
		w.approach()
		return w.look(w.group*groupBlocks+uint32(i), quarters)
	}
	w.groups--
	w.group = w.groups
	set, err := w.withState()
	if err != nil || set == 0 {
		return err
	}
	for j := range w.set {
		w.set[j] = set
	}
	if w.group == w.h.blocks/groupBlocks {
		err = w.openGroup()
	} else {
		err = w.fullGroup()
	}
	if err == nil {
		w.approach()
	}
	return err
}

// approach lowers the bound to the next block to look at.
func (w *walker) approach() {
	if blocks := w.set.blocks(); blocks != 0 {
		w.bound = w.last[bits.Len64(blocks)-1]
	}
}

// look finds the rows of a block that match.
func (w *walker) look(block uint32, quarters uint8) error {
	rows, err := blockOf(w.v, w.s, block, quarters)
	if err != nil {
		return err
	}
	any := false
	for i, r := range rows {
		if r != nil && !w.q.matches(r) {
			rows[i] = nil
		}
		any = any || rows[i] != nil
	}
	if !any {
		return nil
	}
	if err := withStates(w.v, w.s, block, rows); err != nil {
		return err
	}
	for _, r := range slices.Backward(rows) {
		if r != nil && w.q.choose(r) {
			w.found = append(w.found, r)
		}
	}
	return nil
}

// openGroup finds the blocks to look at in a group that is being filled.
func (w *walker) openGroup() error {
	first := w.group * groupBlocks
	for i := range int(w.h.blocks - first) {
		sp, f, err := openFilter(w.v, w.s, w.s.at(keyFilter, first+uint32(i)))
		if err != nil {
			return err
		}
		w.last[i] = sp.last
		may := uint8(0)
		if w.may(i, sp) {
			may = f.with(w.q.tokens)
		}
		for j := range w.set {
			if may>>j&1 == 0 {
				w.set[j] &^= 1 << i
			}
		}
	}
	w.set.keep(1<<(w.h.blocks-first) - 1)
	return nil
}

// fullGroup finds the blocks to look at in a full group: first by what is
// likely to leave the fewest.
func (w *walker) fullGroup() error {
	timed := w.q.timed()
	if timed {
		if err := w.keepInTime(); err != nil {
			return err
		}
	}
	err := w.set.keepWith(w.v, w.s, w.group, w.q.tokens)
	if err == nil && !timed && w.set.blocks() != 0 {
		err = w.keepInTime()
	}
	return err
}

func (w *walker) keepInTime() error {
	raw, err := w.v.Get(w.s.at(keyGroup, w.group))
	if err != nil {
		return err
	}
	if len(raw) != groupBlocks*spanSize {
		return malformed(raw)
	}
	may := ^uint64(0)
	for i := range groupBlocks {
		sp := parseSpan(raw[i*spanSize:])
		w.last[i] = sp.last
		if !w.may(i, sp) {
			may &^= 1 << i
		}
	}
	w.set.keep(may)
	return nil
}

// may reports whether the i-th block of the group, whose predecessors are
// known, can hold rows that are received in time and old enough.
func (w *walker) may(i int, sp span) bool {
	if i > 0 && w.q.before != (order{}) && w.last[i-1].compare(w.q.before) >= 0 {
		return false
	}
	return w.q.within(sp.from, sp.to)
}

// withState returns which blocks of the group have recipients in the state that
// is looked for.
func (w *walker) withState() (set uint64, err error) {
	if w.q.state == gone {
		return ^uint64(0), nil
	}
	sets, err := w.v.Get(w.s.at(keySets, w.group))
	if err != nil {
		return 0, err
	}
	for i, b := range sets {
		if b&w.q.state.bit() != 0 && i < groupBlocks {
			set |= 1 << i
		}
	}
	return set, nil
}

// byNewest is a heap of walkers, the one with the newest bound first.
type byNewest []*walker

func (h byNewest) Len() int           { return len(h) }
func (h byNewest) Less(i, j int) bool { return h[i].newest().compare(h[j].newest()) > 0 }
func (h byNewest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byNewest) Push(x any)        { *h = append(*h, x.(*walker)) }
func (h *byNewest) Pop() any {
	old := *h
	n := len(old) - 1
	w := old[n]
	*h = old[:n]
	return w
}
