package shadow

import (
	"bytes"
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

// underAtOnce is how many messages are looked up in one view of the database.
const underAtOnce = 8192

// Under yields a tenant's messages that a hold selects and that expire on until or
// before, each once and in no order; until 0 means all. Every field of m that is
// set must match: Domain the domain of a recipient or a sender, Users the address of
// one, Messages the id, the others as in a [Query]. The zero match is all mail
// of the tenant. It sees at least all messages that this node has accepted before.
// An error ends it.
//
// There is no limit; memory is bounded by a block's rows and, for each day, a few
// bytes for each block. With until 0 the database is held as it was at the beginning
// for as long as the rows are being taken. Otherwise no row is yielded while it is
// held: 8192 messages, and the rest of a block, are as they were at one point of the
// log, and those that are next are looked up where the log is then. One that was
// erased or kept for longer meanwhile does not come any more, and one that got
// another day until then may come again.
func (s *Service) Under(ctx context.Context, t event.Tenant, m event.HoldMatch, until event.Day) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		q, err := newHold(m)
		if err != nil {
			yield(Row{}, err)
			return
		}
		u := under{s: s, q: q, tenant: t, until: until}
		if until == 0 {
			u.until = math.MaxInt32
			err = u.stream(ctx, yield)
		} else {
			err = u.pages(ctx, yield)
		}
		if err != nil {
			yield(Row{}, fmt.Errorf("what is under hold: %w", err))
		}
	}
}

// under goes through what a hold selects.
type under struct {
	s      *Service
	q      *query
	tenant event.Tenant
	until  event.Day
	at     bookmark
}

// bookmark is where the row stands that came last: days and blocks are gone through
// in their order, so that what moves on meanwhile is not missed.
type bookmark struct {
	shelf shelfID
	block uint32
	id    event.ID // of messages that a hold names
}

// rows yields what matches from the bookmark on, which goes with it.
func (u *under) rows(ctx context.Context, v projection.View) iter.Seq2[*row, error] {
	if len(u.q.hold.ids) > 0 {
		return underIDs(ctx, v, u.q, u.q.hold.ids, u.tenant, u.until, &u.at)
	}
	return underShelves(ctx, v, u.q, u.tenant, u.until, &u.at)
}

// stream yields all within one view.
func (u *under) stream(ctx context.Context, yield func(Row, error) bool) error {
	if err := u.s.fresh(ctx, []event.Tenant{u.tenant}); err != nil {
		return err
	}
	stopped := false
	err := u.s.runner.View(ctx, foldName, func(v projection.View) error {
		for w, err := range u.rows(ctx, v) {
			if err != nil {
				return err
			}
			if stopped = !yield(w.public(), nil); stopped {
				return nil
			}
		}
		return nil
	})
	if stopped {
		return nil
	}
	return err
}

// pages yields all outside of the views that it takes.
func (u *under) pages(ctx context.Context, yield func(Row, error) bool) error {
	for more := true; more; {
		if err := u.s.fresh(ctx, []event.Tenant{u.tenant}); err != nil {
			return err
		}
		var page []Row
		err := u.s.runner.View(ctx, foldName, func(v projection.View) (err error) {
			page, more, err = u.page(ctx, v)
			return err
		})
		if err != nil {
			return err
		}
		for _, r := range page {
			if !yield(r, nil) {
				return nil
			}
		}
	}
	return nil
}

// page returns what comes next, whole blocks of it, and whether there is more.
func (u *under) page(ctx context.Context, v projection.View) (page []Row, more bool, err error) {
	var last bookmark
	for w, err := range u.rows(ctx, v) {
		if err != nil {
			return nil, false, err
		}
		if len(page) >= u.s.underAtOnce && u.at != last {
			return page, true, nil // it is the first of the next one
		}
		page, last = append(page, w.public()), u.at
	}
	return page, false, nil
}

// underIDs yields what matches among some of the messages that a hold names.
func underIDs(ctx context.Context, v projection.View, q *query, some []event.ID, t event.Tenant, until event.Day, at *bookmark) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		order := func(a, b event.ID) int { return bytes.Compare(a[:], b[:]) }
		ids := slices.Clone(some)
		slices.SortFunc(ids, order)
		for _, id := range slices.Compact(ids) {
			if order(id, at.id) < 0 {
				continue
			}
			at.id = id
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
func underShelves(ctx context.Context, v projection.View, q *query, t event.Tenant, until event.Day, at *bookmark) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		ws, err := walkers(v, q, []event.Tenant{t})
		if err != nil {
			yield(nil, err)
			return
		}
		for _, w := range ws {
			if w.s.day > until || bytes.Compare(w.s.key(keyHead), at.shelf.key(keyHead)) < 0 {
				continue
			}
			if w.s != at.shelf {
				*at = bookmark{shelf: w.s}
			}
			for r, err := range w.all(ctx, at) {
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

// all yields what matches in the shelf, by blocks in their order, from the
// bookmark's on.
func (w *walker) all(ctx context.Context, at *bookmark) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		blocks, err := w.list()
		slices.SortFunc(blocks, func(a, b candidate) int { return cmp.Compare(a.block, b.block) })
		for _, c := range blocks {
			if err == nil && c.block < at.block {
				continue
			}
			at.block = c.block
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
