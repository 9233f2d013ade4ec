package shadow

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"holdfast/event"
	"holdfast/projection"
)

// Doubtful is a message of which it is not known whether a hold selects it,
// because it could not be read when the index took it up, although its day lives.
type Doubtful struct {
	Message event.ID
	Ref     event.Ref // where it would be read
	Expiry  event.Day
}

// InDoubt yields a tenant's messages that a hold may select, expire on until or
// before, and could not be read; until 0 means all. Ids and times of m are known of
// them and must match, all else may. Messages of a day whose key is gone are not
// among them: nobody can keep these. Otherwise it is like [Service.Under], which
// yields none of them.
func (s *Service) InDoubt(ctx context.Context, t event.Tenant, m event.HoldMatch, until event.Day) iter.Seq2[Doubtful, error] {
	return func(yield func(Doubtful, error) bool) {
		q, err := newHold(m)
		if err == nil {
			err = s.fresh(ctx, []event.Tenant{t})
		}
		if until == 0 {
			until = math.MaxInt32
		}
		var all []Doubtful
		if err == nil {
			err = s.runner.View(ctx, foldName, func(v projection.View) (err error) {
				all, err = doubtful(v, q, t, until)
				return err
			})
		}
		if err != nil {
			yield(Doubtful{}, fmt.Errorf("what may be under hold: %w", err))
			return
		}
		for _, d := range all {
			if !yield(d, nil) {
				return
			}
		}
	}
}

// doubtful returns what could not be read and may match. It is little: what was
// erased is of it until the erasure is certified.
func doubtful(v projection.View, q *query, t event.Tenant, until event.Day) (out []Doubtful, err error) {
	for it, err := range v.Scan(append([]byte{keyUnread}, t[:]...), nil, false) {
		if err != nil {
			return nil, err
		}
		s, err := parseShelf(it.Key)
		if err != nil || len(it.Key) != shelfKeySize+idSize {
			return nil, malformed(it.Key)
		}
		if s.day > until {
			break
		}
		id := event.ID(it.Key[shelfKeySize:])
		if len(q.hold.ids) > 0 && !slices.Contains(q.hold.ids, id) {
			continue
		}
		h, err := loadHead(v, s)
		if err != nil {
			return nil, err
		}
		p, err := locate(v, id)
		if err != nil {
			return nil, err
		}
		if p == nil || p.shelf != s || h.lost || !q.within(p.received, p.received) {
			continue
		}
		out = append(out, Doubtful{Message: id, Ref: p.ref(id), Expiry: s.day})
	}
	return out, nil
}
