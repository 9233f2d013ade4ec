package shadow

import (
	"bytes"
	"encoding/binary"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// foldName is the name of the projection.
const foldName = "shadow"

// fold is the projection.
type fold struct{}

// Name implements projection.Projection.
func (fold) Name() string { return foldName }

// Version implements projection.Projection.
func (fold) Version() int { return 3 }

// Unhurried implements projection.Unhurried: every reader waits for the tail that
// its node knows.
func (fold) Unhurried() {}

// Apply implements projection.Projection.
func (fold) Apply(tx projection.Txn, r eventlog.Recorded) error {
	switch f := r.Fact.(type) {
	case *event.MessageAccepted:
		return accept(tx, r, f)
	case *event.Repudiated:
		_, err := remove(tx, r.Tenant, f.Message)
		return err
	case *event.Kept:
		return keep(tx, r, f)
	case *event.DayExpired:
		return expireDay(tx, r.Tenant, f.Day)
	case *event.Erased:
		for _, item := range f.Items {
			if err := erase(tx, r.Tenant, item.Message); err != nil {
				return err
			}
		}
	case *event.DeliverySettled:
		for _, o := range f.Outcomes {
			if err := settle(tx, o); err != nil {
				return err
			}
		}
	case *event.RedeliveryOrdered:
		if f.To != "" {
			return nil // it says nothing about the recipients of the message
		}
		for i, item := range f.Items {
			if err := orderAgain(tx, r.Tenant, event.Unit{Source: r.Ref.ID, N: uint32(i)}, item); err != nil {
				return err
			}
		}
	}
	return nil
}

// accept puts a message into its shelf, with its row if it can still be read.
func accept(tx projection.Txn, r eventlog.Recorded, f *event.MessageAccepted) error {
	routes, err := f.Carried()
	if err != nil {
		return err
	}
	ten, err := loadTenant(tx, r.Tenant)
	if err != nil {
		return err
	}
	changed := ten.tick(r.Time)
	p := place{stamp: stamp{order{ten.clock, r.Ref.Position}, r.Time}, size: f.Size}
	if ten.over(r.Expiry) {
		routes = nil
	}
	for _, route := range routes {
		n, isNew := ten.number(route.Domain)
		for range route.N {
			p.domains = append(p.domains, n)
		}
		changed = changed || isNew
	}
	if changed {
		tx.Set(tenantKey(r.Tenant), ten.bytes())
	}
	if ten.over(r.Expiry) {
		return nil
	}
	m := record{stamp: p.stamp, id: r.Ref.ID, rcpts: len(p.domains), size: p.size}
	if f.Meta != nil {
		m.row = newRow(r, f, p.order)
	}
	if p.spot, err = put(tx, shelfID{tenant: r.Tenant, day: r.Expiry}, m); err != nil {
		return err
	}
	tx.Set(idKey(r.Ref.ID), p.append(nil))
	return changeStates(tx, p, func(e *entry) error {
		e.states = bytes.Repeat([]byte{byte(due)}, len(p.domains))
		return nil
	})
}

// tenant is a tenant's clock, the last of its days that has expired, and the
// domains whose routes carry its mail.
type tenant struct {
	clock   int64
	expired event.Day
	domains []string
}

func loadTenant(v projection.View, t event.Tenant) (ten tenant, err error) {
	b, err := v.Get(tenantKey(t))
	if err != nil || b == nil {
		return ten, err
	}
	r := &reader{s: string(b)}
	ten.clock = r.varint()
	ten.expired = event.Day(r.uvarint())
	ten.domains = r.texts()
	if r.bad || r.s != "" {
		return ten, malformed(b)
	}
	return ten, nil
}

func (t *tenant) bytes() []byte {
	b := binary.AppendVarint(nil, t.clock)
	b = binary.AppendUvarint(b, uint64(t.expired))
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
