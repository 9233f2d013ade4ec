package shadow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/projection"
)

// hold is what a hold asks for beside what a [Query] can: mail to or from.
type hold struct {
	parties [][]addressQuery // of each one is a recipient or a sender
	ids     []event.ID       // only these are looked at; none: all
	either  [][]token
}

func (h *hold) matches(w *row) bool {
	for _, some := range h.parties {
		if !slices.ContainsFunc(some, w.isParty) {
			return false
		}
	}
	return true
}

// isParty reports whether the mail is to or from an address.
func (w *row) isParty(a addressQuery) bool {
	q := query{rcpt: a, from: a}
	return q.isTo(w) || q.hasFrom(w)
}

// newHold makes a query of what a hold selects.
func newHold(m event.HoldMatch) (*query, error) {
	from := Query{Rcpt: m.Rcpt, From: m.From, Subject: m.Subject, MessageID: m.MessageID}
	if m.Since != 0 {
		from.Since = time.UnixMilli(int64(m.Since))
	}
	if m.Until != 0 {
		from.Until = time.UnixMilli(int64(m.Until))
	}
	q, err := newQuery(from)
	if err != nil {
		return nil, err
	}
	h := &hold{ids: m.Messages, either: [][]token{q.tokens}}
	if d := strings.TrimSpace(m.Domain); d != "" {
		h.add(newAddressQuery("@" + strings.TrimPrefix(d, "@")))
	}
	var users []addressQuery
	for _, u := range m.Users {
		if a := newAddressQuery(u); a.set {
			users = append(users, a)
		}
	}
	if len(users) > 0 {
		h.add(users...)
	}
	q.hold = h
	return q, nil
}

// maxEither is how many sets of tokens are looked for. Of more addresses every
// block is looked at.
const maxEither = 64

// add asks for one of some parties: for each set of tokens that a row may have
// there are two more for each of them, one with it as a recipient and one with it
// as a sender.
func (h *hold) add(some ...addressQuery) {
	h.parties = append(h.parties, some)
	if len(h.either)*len(some)*2 > maxEither {
		return
	}
	var now [][]token
	for _, tokens := range h.either {
		tokens = slices.Clip(tokens)
		for _, a := range some {
			now = append(now, append(tokens, a.token(tokRcpt, tokRcptDomain)), append(tokens, a.token(tokFrom, tokFromDomain)))
		}
	}
	h.either = now
}

// Under yields a tenant's messages that a hold selects and that expire on until or
// before, each once and in no order; until 0 means all. Every field of m that is
// set must match: Domain the domain of a recipient or a sender, Users the address of
// one, Messages the id, the others as in a [Query]. The zero match is all mail
// of the tenant. It sees at least all messages that this node has accepted before.
// An error ends it.
//
// There is no limit; memory is bounded by a block's rows and, for each day, a few
// bytes for each block. The database is held as it was at the beginning for as
// long as the rows are being taken.
func (s *Service) Under(ctx context.Context, t event.Tenant, m event.HoldMatch, until event.Day) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		q, err := newHold(m)
		if err == nil {
			err = s.fresh(ctx, []event.Tenant{t})
		}
		if err != nil {
			yield(Row{}, err)
			return
		}
		if until == 0 {
			until = math.MaxInt32
		}
		stopped := false
		err = s.runner.View(ctx, foldName, func(v projection.View) error {
			rows := underShelves(ctx, v, q, t, until)
			if len(q.hold.ids) > 0 {
				rows = underIDs(ctx, v, q, q.hold.ids, t, until)
			}
			for w, err := range rows {
				if err != nil {
					return err
				}
				if stopped = !yield(w.public(), nil); stopped {
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(Row{}, fmt.Errorf("what is under hold: %w", err))
		}
	}
}

// underIDs yields what matches among some of the messages that a hold names.
func underIDs(ctx context.Context, v projection.View, q *query, some []event.ID, t event.Tenant, until event.Day) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		ids := slices.Clone(some)
		slices.SortFunc(ids, func(a, b event.ID) int { return cmp.Compare(string(a[:]), string(b[:])) })
		for _, id := range slices.Compact(ids) {
			w, s, err := find(v, id)
			if err == nil {
				err = ctx.Err()
			}
			if errors.Is(err, ErrNotFound) || err == nil && (s.tenant != t || s.day > until || !q.matches(w) || !q.choose(w)) {
				continue
			}
			if !yield(w, err) || err != nil {
				return
			}
		}
	}
}

// underShelves yields what matches in a tenant's shelves.
func underShelves(ctx context.Context, v projection.View, q *query, t event.Tenant, until event.Day) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		ws, err := walkers(v, q, []event.Tenant{t})
		if err != nil {
			yield(nil, err)
			return
		}
		for _, w := range ws {
			if w.s.day > until {
				continue
			}
			for r, err := range w.all(ctx) {
				if errors.Is(err, crypto.ErrExpired) {
					break // the mail of this day is gone
				}
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

// all yields what matches in the shelf, by blocks.
func (w *walker) all(ctx context.Context) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		blocks, err := w.list()
		for _, c := range blocks {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				break
			}
			err = w.look(c.block, c.quarters)
			for _, r := range w.found {
				if !yield(r, nil) {
					return
				}
			}
			w.found = w.found[:0]
		}
		if err != nil {
			yield(nil, err)
		}
	}
}
