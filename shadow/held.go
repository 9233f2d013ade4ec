package shadow

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/projection"
)

// Hold is a legal hold as [Service.Held] counts it.
type Hold struct {
	Match event.HoldMatch
	After event.Day // it holds what expires later
}

// HeldCount is how many messages holds select, in all and by domain. A message
// counts once, however many select it, and in each of its domains.
type HeldCount struct {
	Messages uint64
	Domains  map[string]uint64
}

// Held counts the messages of a tenant that at least one of some holds selects, as
// of the last segment that was folded.
//
// What a hold selects is told by the mail, so that no counter of the projection
// can know it: a fold from the beginning, to which the mail is gone, would count
// otherwise. What was found is remembered until a shelf changes, and so is counted
// again of the shelves only that mail has come into or gone from. A hold of all mail of the
// tenant costs nothing.
func (s *Service) Held(ctx context.Context, t event.Tenant, holds []Hold) (out HeldCount, err error) {
	c := &heldCount{ctx: ctx, tenant: t, was: s.held.of(t), now: heldShelves{}, sum: &shelfHeld{domains: map[uint16]uint64{}}}
	for _, h := range holds {
		q, err := newHold(h.Match)
		if err != nil {
			return out, err
		}
		c.holds = append(c.holds, oneHold{query: q, after: h.After, text: event.Marshal(&h.Match)})
	}
	out.Domains = map[string]uint64{}
	if len(holds) > 0 {
		err = s.runner.View(ctx, foldName, func(v projection.View) error {
			c.v = v
			if err := errors.Join(c.place(), c.shelves()); err != nil {
				return err
			}
			ten, err := loadTenant(v, t)
			for d, n := range c.sum.domains {
				name, wrong := ten.domain(d)
				err = errors.Join(err, wrong)
				out.Domains[name] = n
			}
			return err
		})
	}
	if err != nil {
		return out, fmt.Errorf("what is under hold: %w", err)
	}
	out.Messages = c.sum.messages
	s.held.set(t, c.now)
	return out, nil
}

// heldMemory remembers for each tenant what holds were found to select.
type heldMemory struct {
	mu  sync.Mutex
	all map[event.Tenant]heldShelves
}

func (m *heldMemory) of(t event.Tenant) heldShelves {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[t]
}

func (m *heldMemory) set(t event.Tenant, h heldShelves) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = map[event.Tenant]heldShelves{}
	}
	m.all[t] = h
	if len(h) == 0 {
		delete(m.all, t)
	}
}

// heldShelves are the shelves of a tenant. It is not changed once it is remembered.
type heldShelves map[shelfID]*shelfHeld

// shelfHeld is what holds select in one shelf.
type shelfHeld struct {
	// state stands for the holds, and for the shelf's head, which changes with
	// each message that comes in or vanishes.
	state    [sha256.Size]byte
	messages uint64
	domains  map[uint16]uint64
}

func (h *shelfHeld) add(domains []uint16) {
	h.messages++
	for _, d := range domains {
		h.domains[d]++
	}
}

// oneHold is a hold, ready to be looked for.
type oneHold struct {
	*query
	after event.Day
	text  []byte
	ids   map[shelfID][]event.ID // of the messages that it names
}

// all: the hold selects all mail of the tenant.
func (h *oneHold) all() bool {
	return len(h.hold.ids) == 0 && len(h.hold.parties) == 0 && len(h.tokens) == 0 && h.literal == "" && !h.timed()
}

// heldCount counts once.
type heldCount struct {
	ctx    context.Context
	v      projection.View
	tenant event.Tenant
	holds  []oneHold
	was    heldShelves
	now    heldShelves
	sum    *shelfHeld
}

// place finds out where the messages are that holds name.
func (c *heldCount) place() error {
	for i := range c.holds {
		h := &c.holds[i]
		h.ids = map[shelfID][]event.ID{}
		for _, id := range h.hold.ids {
			p, err := locate(c.v, id)
			if err != nil {
				return err
			}
			if p != nil {
				h.ids[p.shelf] = append(h.ids[p.shelf], id)
			}
		}
	}
	return nil
}

// in returns the holds that may select something of a shelf.
func (c *heldCount) in(w *walker) []oneHold {
	return slices.DeleteFunc(slices.Clone(c.holds), func(h oneHold) bool {
		return w.s.day <= h.after || !h.may(w.h.all) || len(h.hold.ids) > 0 && len(h.ids[w.s]) == 0
	})
}

// shelves counts in all shelves of the tenant.
func (c *heldCount) shelves() error {
	ws, err := walkers(c.v, &query{until: noEnd}, []event.Tenant{c.tenant})
	if err != nil {
		return err
	}
	for _, w := range ws {
		holds := c.in(w)
		if len(holds) == 0 || w.h.messages == 0 {
			continue
		}
		h := sha256.New()
		for _, one := range holds {
			h.Write(one.text)
		}
		h.Write(w.h.append(nil))
		state := [sha256.Size]byte(h.Sum(nil))
		found := c.was[w.s]
		if found == nil || found.state != state {
			found = &shelfHeld{state: state, domains: map[uint16]uint64{}}
			if err := c.shelf(w.s, w.h, holds, found); err != nil {
				return err
			}
		}
		c.now[w.s] = found
		c.sum.messages += found.messages
		for d, n := range found.domains {
			c.sum.domains[d] += n
		}
	}
	return nil
}

// shelf counts what some holds select in a shelf.
func (c *heldCount) shelf(s shelfID, h head, holds []oneHold, found *shelfHeld) error {
	if slices.ContainsFunc(holds, func(h oneHold) bool { return h.all() }) {
		found.messages = h.messages
		for it, err := range c.v.Scan(s.key(keyCount), nil, false) {
			if err != nil {
				return err
			}
			n, err := parseCounter(it.Value)
			if err != nil {
				return err
			}
			if n.messages > 0 {
				found.domains[countedDomain(it.Key)] = n.messages
			}
		}
		return nil
	}
	for i, one := range holds {
		err := c.hold(s, h, one, holds[:i], found)
		if errors.Is(err, crypto.ErrExpired) {
			found.messages, found.domains = 0, map[uint16]uint64{} // the mail of this day is gone
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hold counts what a hold selects in a shelf, and none of the others before it.
func (c *heldCount) hold(s shelfID, h head, one oneHold, others []oneHold, found *shelfHeld) error {
	rows := newWalker(c.v, one.query, s, h).all(c.ctx, &bookmark{})
	if len(one.hold.ids) > 0 {
		rows = underIDs(c.ctx, c.v, one.query, one.ids[s], c.tenant, s.day, &bookmark{})
	}
	for w, err := range rows {
		if err != nil {
			return err
		}
		if w.shelf != s || slices.ContainsFunc(others, func(o oneHold) bool { return o.selects(w) }) {
			continue
		}
		p, err := locate(c.v, w.id)
		if err != nil {
			return err
		}
		if p == nil || p.shelf != s {
			continue // it has moved
		}
		found.add(p.counted())
	}
	return nil
}

// selects reports whether a hold selects a row.
func (h *oneHold) selects(w *row) bool {
	return (len(h.hold.ids) == 0 || slices.Contains(h.ids[w.shelf], w.id)) && h.matches(w)
}
