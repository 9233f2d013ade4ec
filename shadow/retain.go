package shadow

import (
	"context"
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// remove makes a tenant's message vanish, and returns where it was, or nil. Its
// row stays in its block, unseen.
func remove(tx projection.Txn, t event.Tenant, id event.ID) (*place, error) {
	p, err := locate(tx, id)
	if err != nil || p == nil || p.shelf.tenant != t {
		return nil, err
	}
	e, err := vanish(tx, *p, id)
	if err != nil {
		return nil, err
	}
	tx.Delete(idKey(id))
	return p, e.dropOrders(tx, id)
}

// vanish takes a message out of its shelf and returns its states.
func vanish(tx projection.Txn, p place, id event.ID) (was entry, err error) {
	err = changeStates(tx, p, func(e *entry) error {
		was = *e
		*e = entry{vanished: true}
		return nil
	})
	if err != nil {
		return was, err
	}
	tx.Delete(p.shelf.unread(id))
	return was, release(tx, p)
}

// erase makes a message vanish, and takes it out of what is sealed: the day's
// key, which lives on, opens it no more.
func erase(tx projection.Txn, t event.Tenant, id event.ID) error {
	p, err := remove(tx, t, id)
	if err != nil || p == nil {
		return err
	}
	if err := countErased(tx, p); err != nil {
		return err
	}
	tx.Purge()
	for _, s := range append(p.old, p.spot) {
		if err := blank(tx, s); err != nil {
			return err
		}
	}
	return nil
}

// keep moves a message to the shelf of kept mail of another day, where its row is
// made anew. What has vanished stays so.
func keep(tx projection.Txn, r eventlog.Recorded, k *event.Kept) error {
	was, err := locate(tx, k.Message)
	if err != nil || was == nil || was.shelf.tenant != r.Tenant {
		return err
	}
	first, err := k.Original()
	if err != nil {
		return err
	}
	ten, err := loadTenant(tx, r.Tenant)
	if err != nil || ten.over(r.Expiry) || ten.over(was.shelf.day) {
		return err
	}
	e, err := vanish(tx, *was, k.Message)
	if err != nil {
		return err
	}
	p := *was
	p.kept = r.Ref
	p.old = slices.DeleteFunc(append(slices.Clone(was.old), was.spot), func(s spot) bool { return ten.over(s.shelf.day) })
	m := record{stamp: p.stamp, id: k.Message, rcpts: len(p.domains), size: p.size, row: rowOf(r, first, p.order)}
	if m.row != nil {
		m.row.id, m.row.received = k.Message, p.received
	}
	if p.spot, err = put(tx, shelfID{tenant: r.Tenant, day: r.Expiry, kept: true}, m); err != nil {
		return err
	}
	tx.Set(idKey(k.Message), p.append(nil))
	return changeStates(tx, p, func(n *entry) error {
		n.states = e.states
		return nil
	})
}

// expireDay drops a tenant's shelves up to a day: nothing of them is found any
// more, and what is sealed in them is removed. Of much mail places and states are
// left, and are removed by each [event.DaySwept].
func (f fold) expireDay(tx projection.Txn, t event.Tenant, day event.Day) error {
	ten, err := loadTenant(tx, t)
	if err != nil || ten.over(day) {
		return err
	}
	ten.expired = day
	return f.dropSome(tx, t, &ten, f.dropAtOnce)
}

// dropMore removes more of what has expired.
func (f fold) dropMore(tx projection.Txn, t event.Tenant) error {
	ten, err := loadTenant(tx, t)
	if err != nil || !ten.dropping {
		return err
	}
	return f.dropSome(tx, t, &ten, f.dropAtOnce)
}

// Unswept reports whether there is something left of days of a tenant that have
// expired: whether an [event.DaySwept] would have something to do. The answer is as
// new as the log that this node knows.
func (s *Service) Unswept(ctx context.Context, t event.Tenant) (left bool, err error) {
	if err := s.fresh(ctx, []event.Tenant{t}); err != nil {
		return false, fmt.Errorf("index of days that have expired: %w", err)
	}
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		ten, err := loadTenant(v, t)
		left = ten.dropping
		return err
	})
	return left, err
}

// shelf is a shelf with its head.
type shelf struct {
	id   shelfID
	head head
}

// dropSome removes at most so many blocks of shelves that have expired.
func (f fold) dropSome(tx projection.Txn, t event.Tenant, ten *tenant, blocks int) error {
	var shelves []shelf
	for it, err := range tx.Scan(append([]byte{keyHead}, t[:]...), nil, false) {
		if err != nil {
			return err
		}
		s, err := parseShelf(it.Key)
		if err != nil {
			return err
		}
		if !ten.over(s.day) {
			continue
		}
		h, err := parseHead(it.Value)
		if err != nil {
			return err
		}
		shelves = append(shelves, shelf{s, h})
	}
	for i := range shelves {
		s := &shelves[i]
		if !s.head.over {
			if err := s.head.dropSealed(tx, s.id); err != nil {
				return err
			}
		}
		left, err := s.head.drop(tx, s.id, blocks)
		if err != nil {
			return err
		}
		blocks = left
	}
	// One block was left over when all of the last shelf was removed.
	ten.dropping = len(shelves) > 0 && blocks == 0
	tx.Set(tenantKey(t), ten.bytes())
	return nil
}

// DropTenant implements projection.Ender: one day after the other, and what is known
// of the tenant itself last. So whoever counts meanwhile finds it whole.
func (f fold) DropTenant(tx projection.Txn, t event.Tenant, d *projection.Dropper) error {
	for {
		first, err := firstShelf(tx, t)
		if err != nil {
			return err
		}
		if first == nil {
			break
		}
		ten, err := loadTenant(tx, t)
		if err != nil {
			return err
		}
		ten.expired = max(ten.expired, first.day)
		if err := f.dropSome(tx, t, &ten, f.dropAtOnce); err != nil || d.Stop() {
			return err
		}
	}
	for _, kind := range []byte{keyUnread, keyCount, keyErased, keyTenant} {
		if done, err := d.Under(append([]byte{kind}, t[:]...), nil); err != nil || !done {
			return err
		}
	}
	return nil
}

// firstShelf returns the first shelf of a tenant, or nil.
func firstShelf(v projection.View, t event.Tenant) (*shelfID, error) {
	for it, err := range v.Scan(append([]byte{keyHead}, t[:]...), nil, false) {
		if err != nil {
			return nil, err
		}
		s, err := parseShelf(it.Key)
		return &s, err
	}
	return nil, nil
}
