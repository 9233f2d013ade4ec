package shadow

import (
	"slices"
)

// candidate is a block that may hold rows that match.
type candidate struct {
	block    uint32
	quarters uint8
	newest   order
}

// list returns all blocks of the shelf that may hold rows that match. The walker
// has then nothing left.
func (w *walker) list() (out []candidate, err error) {
	if w.tail && w.q.may(w.h.open) {
		out = append(out, candidate{w.h.blocks, everyRow, w.h.open.newest})
	}
	w.tail = false
	for w.groups > 0 {
		if err := w.nextGroup(); err != nil {
			return nil, err
		}
		for i := range groupBlocks {
			if q := w.set.of(i); q != 0 {
				out = append(out, candidate{w.group*groupBlocks + uint32(i), q, w.last[i]})
			}
		}
		w.set = quarterSet{}
	}
	return out, nil
}

// stepKept finds out at which blocks of a shelf of kept mail to look, or looks at
// the one that may hold the newest row. The rows of different blocks may come in
// any order, so that what is found waits until no other block can hold anything
// newer. Where mail is kept in the order in which it came in, that is at once.
func (w *walker) stepKept() (err error) {
	if !w.listed {
		w.listed = true
		w.blocks, err = w.list()
		slices.SortFunc(w.blocks, func(a, b candidate) int { return b.newest.compare(a.newest) })
	} else {
		c := w.blocks[0]
		w.blocks = w.blocks[1:]
		if c.newest.compare(w.held.floor) < 0 {
			w.blocks = nil
		} else {
			n := len(w.found)
			err = w.look(c.block, c.quarters)
			slices.SortFunc(w.found, func(a, b *row) int { return b.order.compare(a.order) })
			w.held.rows += len(w.found) - n
			w.held.prune(w.q.limit)
		}
	}
	if len(w.blocks) > 0 {
		w.bound = w.blocks[0].newest
	}
	return err
}

// holding is the kept rows that a search has found and not yet yielded.
type holding struct {
	walkers []*walker
	rows    int
	// floor: there are as many newer rows as the search yields at all.
	floor order
}

// prune forgets rows that cannot be among the first limit, so that a search holds
// about twice as many at most.
func (h *holding) prune(limit int) {
	if h.rows <= 2*limit+blockRows {
		return
	}
	all := make([]order, 0, h.rows)
	for _, w := range h.walkers {
		for _, r := range w.found {
			all = append(all, r.order)
		}
	}
	slices.SortFunc(all, func(a, b order) int { return b.compare(a) })
	h.floor = all[limit-1]
	h.rows = 0
	for _, w := range h.walkers {
		n := slices.IndexFunc(w.found, func(r *row) bool { return r.order.compare(h.floor) < 0 })
		if n >= 0 {
			w.found = slices.Clone(w.found[:n])
		}
		h.rows += len(w.found)
	}
}
