package shadow

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
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
		p.limit = left
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
	h, err := loadHead(v, p.shelf)
	if err != nil {
		return nil, p.shelf, err
	}
	if h.lost {
		return nil, p.shelf, ErrNotFound
	}
	rows, err := blockOf(v, p.shelf, p.block, everyRow)
	if errors.Is(err, crypto.ErrExpired) {
		return nil, p.shelf, ErrNotFound
	}
	if err != nil {
		return nil, p.shelf, err
	}
	if p.slot < len(rows) && rows[p.slot] == nil {
		return nil, p.shelf, ErrNotFound // it could not be read when this was folded
	}
	if p.slot >= len(rows) || rows[p.slot].id != id {
		return nil, p.shelf, fmt.Errorf("slot %d of block %d: %w", p.slot, p.block, event.ErrMalformed)
	}
	if err := withStates(v, p.shelf, p.block, rows); err != nil {
		return nil, p.shelf, err
	}
	if rows[p.slot] == nil {
		return nil, p.shelf, ErrNotFound
	}
	return rows[p.slot], p.shelf, nil
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

// withStates gives the rows of a block their states, and leaves out those that
// have vanished.
func withStates(v projection.View, s shelfID, block uint32, rows []*row) error {
	entries, err := loadStates(v, s, block)
	if err != nil {
		return err
	}
	if len(entries) != len(rows) {
		return fmt.Errorf("block %d: %d rows, %d states: %w", block, len(rows), len(entries), event.ErrMalformed)
	}
	for i, w := range rows {
		if entries[i].vanished {
			rows[i] = nil
		}
		if rows[i] == nil {
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
		var held holding
		for _, w := range ws {
			if w.s.kept {
				w.held = &held
				held.walkers = append(held.walkers, w)
			}
		}
		heap.Init(&ws)
		for len(ws) > 0 {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			w := ws[0]
			switch {
			case w.ready():
				if !yield(w.take(), nil) {
					return
				}
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
			if !h.lost && q.may(h.all) {
				ws = append(ws, newWalker(v, q, s, h))
			}
		}
	}
	return ws, nil
}
