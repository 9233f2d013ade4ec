package shadow

import (
	"math/bits"
	"slices"

	"holdfast/projection"
)

// walker goes through one shelf from its newest row to its oldest, by blocks. In
// a shelf of kept mail it first finds out at which blocks to look, see [walker.list].
type walker struct {
	v projection.View
	q *query
	s shelfID

	found []*row // that match, newest first, not yet yielded
	// bound is not older than anything that comes after found.
	bound order
	tail  bool // the block that is being filled comes next
	h     head

	// Of kept mail: whether the blocks to look at are known, and what is left of
	// them, the one with the newest row first.
	listed bool
	blocks []candidate
	held   *holding

	groups uint32 // that were not looked at, the oldest ones
	// The group that is being walked: what of it may match, and the newest row
	// of each block.
	group uint32
	set   quarterSet
	last  [groupBlocks]order
}

func newWalker(v projection.View, q *query, s shelfID, h head) *walker {
	return &walker{
		v: v, q: q, s: s, h: h, bound: h.all.newest, tail: h.rows > 0,
		groups: (h.blocks + groupBlocks - 1) / groupBlocks,
	}
}

func (w *walker) left() bool {
	return w.tail || w.set.blocks() != 0 || w.groups > 0 || len(w.blocks) > 0
}

// ready: the first of the found rows is newer than all that is not found yet.
func (w *walker) ready() bool {
	return len(w.found) > 0 && (!w.s.kept || !w.left() || w.found[0].order.compare(w.bound) > 0)
}

// take returns the first of the found rows.
func (w *walker) take() *row {
	r := w.found[0]
	w.found = w.found[1:]
	if w.held != nil {
		w.held.rows--
	}
	return r
}

// newest is not older than the next row that the walker yields.
func (w *walker) newest() order {
	if w.ready() {
		return w.found[0].order
	}
	return w.bound
}

// step looks at the next block, or at which blocks of the next group to look.
func (w *walker) step() error {
	if w.s.kept {
		return w.stepKept()
	}
	if w.tail {
		w.tail = false
		if w.q.may(w.h.open) {
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
	if err := w.nextGroup(); err != nil {
		return err
	}
	w.approach()
	return nil
}

// nextGroup finds out at which blocks of the next group to look.
func (w *walker) nextGroup() error {
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
		return w.openGroup()
	}
	return w.fullGroup()
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
		w.last[i] = sp.newest
		may := uint8(0)
		if w.q.may(sp) {
			for _, tokens := range w.q.either() {
				may |= f.with(tokens)
			}
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
	var any quarterSet
	for _, tokens := range w.q.either() {
		set := w.set
		if err := set.keepWith(w.v, w.s, w.group, tokens); err != nil {
			return err
		}
		for j := range any {
			any[j] |= set[j]
		}
	}
	w.set = any
	if !timed && w.set.blocks() != 0 {
		return w.keepInTime()
	}
	return nil
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
		w.last[i] = sp.newest
		if !w.q.may(sp) {
			may &^= 1 << i
		}
	}
	w.set.keep(may)
	return nil
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
