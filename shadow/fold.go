package shadow

import (
	"bytes"
	"encoding/binary"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

// foldName is the name of the projection.
const foldName = "shadow"

// fold is the projection.
type fold struct {
	// dropAtOnce is how many blocks of an expired day one event removes. It is
	// constant for a version.
	dropAtOnce int
}

// newFold removes 4096 messages at once, which takes some 50 ms.
func newFold() fold { return fold{dropAtOnce: 4096 / blockRows} }

// Name implements projection.Projection.
func (fold) Name() string { return foldName }

// Version implements projection.Projection.
func (fold) Version() int { return 9 }

// ReadsVersion implements projection.OldReader: the rows of version 2 stand
// elsewhere, the states of version 4 are others, and none has what users put into
// mailboxes.
func (fold) ReadsVersion(v int) bool { return v >= 5 }

// Unhurried implements projection.Unhurried: every reader waits for the tail that
// its node knows.
func (fold) Unhurried() {}

// Apply implements projection.Projection.
func (f fold) Apply(tx projection.Txn, r eventlog.Recorded) error {
	switch e := r.Fact.(type) {
	case *event.MessageAccepted:
		return f.accept(tx, r, e)
	case *event.Appended:
		return f.append(tx, r, e)
	case *event.Repudiated:
		_, err := remove(tx, r.Tenant, e.Message)
		return err
	case *event.Kept:
		return keep(tx, r, e)
	case *event.DayExpired:
		return f.expireDay(tx, r.Tenant, e.Day)
	case *event.DaySwept:
		return f.dropMore(tx, r.Tenant)
	case *event.Erased:
		for _, item := range e.Items {
			if sabotage.On(sabotage.RowStays) {
				continue
			}
			if err := erase(tx, r.Tenant, item.Message); err != nil {
				return err
			}
		}
	case *event.DeliverySettled:
		for _, o := range e.Outcomes {
			if err := settle(tx, r.Tenant, o); err != nil {
				return err
			}
		}
	case *event.RedeliveryOrdered:
		if e.To != "" {
			return nil // it says nothing about the recipients of the message
		}
		for i, item := range e.Items {
			if err := orderAgain(tx, r.Tenant, event.Unit{Source: r.Ref.ID, N: uint32(i)}, item); err != nil {
				return err
			}
		}
	}
	return nil
}

// accept takes a message that was accepted.
func (f fold) accept(tx projection.Txn, r eventlog.Recorded, e *event.MessageAccepted) error {
	routes, err := e.Carried()
	if err != nil {
		return err
	}
	return f.enter(tx, r, arrival{routes, e.Sender, e.Size, due})
}

// arrival is what is known of a new message without its mail.
type arrival struct {
	routes []event.Route
	sender string // the domain whose user sent it, or none
	size   int64
	state  state // of all its recipients
}

// enter puts a message into its shelf, with its row if it can still be read.
func (f fold) enter(tx projection.Txn, r eventlog.Recorded, a arrival) error {
	ten, err := loadTenant(tx, r.Tenant)
	if err != nil {
		return err
	}
	changed := ten.tick(r.Time)
	p := place{stamp: stamp{order{ten.clock, r.Ref.Position}, r.Time}, size: a.size}
	if ten.over(r.Expiry) {
		a.routes, a.sender = nil, ""
	}
	for _, route := range a.routes {
		n, isNew := ten.number(route.Domain)
		for range route.N {
			p.domains = append(p.domains, n)
		}
		changed = changed || isNew
	}
	if a.sender != "" {
		n, isNew := ten.number(a.sender)
		p.sender, changed = n+1, changed || isNew
	}
	if changed {
		tx.Set(tenantKey(r.Tenant), ten.bytes())
	}
	if ten.over(r.Expiry) {
		return nil
	}
	m := record{stamp: p.stamp, id: r.Ref.ID, rcpts: len(p.domains), size: p.size, row: rowOf(r, r.Fact, p.order)}
	if p.spot, err = put(tx, shelfID{tenant: r.Tenant, day: r.Expiry}, m); err != nil {
		return err
	}
	tx.Set(idKey(r.Ref.ID), p.append(nil))
	return changeStates(tx, p, func(n *entry) error {
		n.states = bytes.Repeat([]byte{byte(a.state)}, len(p.domains))
		return nil
	})
}

// tenant is a tenant's clock, the last of its days that has expired, and the
// domains whose routes carry its mail or whose users sent it.
type tenant struct {
	clock   int64
	expired event.Day
	// dropping: of what has expired not all is removed.
	dropping bool
	domains  []string
}

func loadTenant(v projection.View, t event.Tenant) (ten tenant, err error) {
	b, err := v.Get(tenantKey(t))
	if err != nil || b == nil {
		return ten, err
	}
	r := &reader{s: string(b)}
	ten.clock = r.varint()
	ten.expired = event.Day(r.uvarint())
	ten.dropping = r.byte() == 1
	ten.domains = r.texts()
	if r.bad || r.s != "" {
		return ten, malformed(b)
	}
	return ten, nil
}

func (t *tenant) bytes() []byte {
	b := binary.AppendVarint(nil, t.clock)
	b = binary.AppendUvarint(b, uint64(t.expired))
	var dropping byte
	if t.dropping {
		dropping = 1
	}
	b = append(b, dropping)
	b = binary.AppendUvarint(b, uint64(len(t.domains)))
	for _, d := range t.domains {
		b = appendText(b, d)
	}
	return b
}

// over reports whether the day has expired.
func (t *tenant) over(d event.Day) bool { return t.expired != 0 && d <= t.expired }

// tick moves the clock on to a time of reception, never back.
func (t *tenant) tick(at event.Millis) (moved bool) {
	if sec := int64(at) / 1000; sec > t.clock {
		t.clock = sec
		return true
	}
	return false
}

// maxDomains is how many domains of a tenant are counted apart; the rest are
// counted with the last.
const maxDomains = 1 << 14

func (t *tenant) number(domain string) (n uint16, isNew bool) {
	for i, d := range t.domains {
		if d == domain {
			return uint16(i), false
		}
	}
	if len(t.domains) == maxDomains {
		return maxDomains - 1, false
	}
	t.domains = append(t.domains, domain)
	return uint16(len(t.domains) - 1), true
}
