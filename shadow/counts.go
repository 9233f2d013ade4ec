package shadow

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/projection"
)

// counter is what is counted of a domain in a shelf.
type counter struct {
	pairs    [kinds]uint64 // recipients whose mail its route carries, by state
	messages uint64        // to or from its users
	bytes    uint64        // of these messages
}

const counterSize = 8 * (kinds + 2)

// numbers lists what append writes.
func (c *counter) numbers() (all [kinds + 2]*uint64) {
	for k := range c.pairs {
		all[k] = &c.pairs[k]
	}
	all[kinds], all[kinds+1] = &c.messages, &c.bytes
	return all
}

func (c *counter) append(b []byte) []byte {
	for _, n := range c.numbers() {
		b = binary.BigEndian.AppendUint64(b, *n)
	}
	return b
}

func parseCounter(b []byte) (c counter, err error) {
	if len(b) != counterSize {
		return c, malformed(b)
	}
	for i, n := range c.numbers() {
		*n = binary.BigEndian.Uint64(b[8*i:])
	}
	return c, nil
}

// add sums; what is taken away is added as its complement.
func (c *counter) add(by counter) {
	from := by.numbers()
	for i, n := range c.numbers() {
		*n += *from[i]
	}
}

// change is by how much the counter of a domain changes.
type change struct {
	domain uint16
	by     counter
}

// counted returns the numbers of the domains for which a message counts, each
// once: those of its recipients' routes, and its sender's.
func (p *place) counted() []uint16 {
	out := make([]uint16, 0, 4)
	for _, d := range p.domains {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	if p.sender != 0 && !slices.Contains(out, p.sender-1) {
		out = append(out, p.sender-1)
	}
	return out
}

// recount brings a change of states into the counters of the domains; the message
// itself comes in or vanishes when messages is 1 or -1.
func recount(tx projection.Txn, p place, before, after []byte, messages int) error {
	var room [4]change // recipients of one message are rarely in more domains
	changes := room[:0]
	of := func(d uint16) *counter {
		n := slices.IndexFunc(changes, func(c change) bool { return c.domain == d })
		if n < 0 {
			n = len(changes)
			changes = append(changes, change{domain: d})
		}
		return &changes[n].by
	}
	carrier := func(i int) uint16 {
		if i < len(p.domains) {
			return p.domains[i]
		}
		return 0
	}
	for i, s := range before {
		of(carrier(i)).pairs[state(s).kind()]--
	}
	for i, s := range after {
		of(carrier(i)).pairs[state(s).kind()]++
	}
	if messages != 0 {
		for _, d := range p.counted() {
			by := of(d)
			by.messages = uint64(messages)
			by.bytes = uint64(messages) * uint64(max(p.size, 0))
		}
	}
	for _, c := range changes {
		c.by.pairs[gone] = 0
		if c.by == (counter{}) {
			continue
		}
		if err := count(tx, domainKey(p.shelf.key(keyCount), c.domain), c.by); err != nil {
			return err
		}
	}
	return nil
}

func domainKey(prefix []byte, domain uint16) []byte {
	return binary.BigEndian.AppendUint16(prefix, domain)
}

// countedDomain returns the domain of a counter of a shelf.
func countedDomain(key []byte) uint16 { return binary.BigEndian.Uint16(key[shelfKeySize:]) }

// count adds to a counter.
func count(tx projection.Txn, key []byte, by counter) error {
	raw, err := tx.Get(key)
	if err != nil {
		return err
	}
	if raw != nil {
		now, err := parseCounter(raw)
		if err != nil {
			return err
		}
		by.add(now)
	}
	tx.Set(key, by.append(nil))
	return nil
}

// countErased counts a message that an order has taken away, for good.
func countErased(tx projection.Txn, p *place) error {
	for _, d := range p.counted() {
		by := counter{messages: 1, bytes: uint64(max(p.size, 0))}
		if err := count(tx, domainKey(erasedPrefix(p.shelf.tenant), d), by); err != nil {
			return err
		}
	}
	return nil
}

// names are the domains of tenants by their numbers, as far as they were asked
// for.
type names struct {
	v   projection.View
	all map[event.Tenant]tenant
}

func (n *names) of(t event.Tenant) (tenant, error) {
	ten, ok := n.all[t]
	if ok {
		return ten, nil
	}
	ten, err := loadTenant(n.v, t)
	if err != nil {
		return ten, err
	}
	if n.all == nil {
		n.all = map[event.Tenant]tenant{}
	}
	n.all[t] = ten
	return ten, nil
}

// domain returns the name of a domain of a tenant.
func (t *tenant) domain(n uint16) (string, error) {
	if int(n) >= len(t.domains) {
		return "", fmt.Errorf("domain %d of %d: %w", n, len(t.domains), event.ErrMalformed)
	}
	return t.domains[n], nil
}

// owner is a domain of a tenant.
type owner struct {
	tenant event.Tenant
	domain uint16
}

// eachCounter tells of the counters of all shelves that have not expired, by
// tenants and days.
func eachCounter(v projection.View, all *names, tell func(shelfID, owner, counter)) error {
	for it, err := range v.Scan([]byte{keyCount}, nil, false) {
		if err != nil {
			return err
		}
		s, err := parseShelf(it.Key)
		if err != nil || len(it.Key) != shelfKeySize+2 {
			return malformed(it.Key)
		}
		ten, err := all.of(s.tenant)
		if err != nil {
			return err
		}
		if ten.over(s.day) {
			continue
		}
		c, err := parseCounter(it.Value)
		if err != nil {
			return err
		}
		tell(s, owner{s.tenant, countedDomain(it.Key)}, c)
	}
	return nil
}

// counts reads the counts of recipients, summed over all shelves.
func counts(v projection.View) ([]Count, error) {
	sum := map[owner]*counter{}
	var order []owner
	all := &names{v: v}
	err := eachCounter(v, all, func(_ shelfID, o owner, c counter) {
		if sum[o] == nil {
			sum[o] = new(counter)
			order = append(order, o)
		}
		sum[o].add(c)
	})
	if err != nil {
		return nil, err
	}
	var out []Count
	for _, o := range order {
		ten, err := all.of(o.tenant)
		if err != nil {
			return nil, err
		}
		name, err := ten.domain(o.domain)
		if err != nil {
			return nil, err
		}
		for k := due; k < kinds; k++ {
			if n := sum[o].pairs[k]; n != 0 {
				out = append(out, Count{o.tenant, name, k.String(), n})
			}
		}
	}
	return out, nil
}

// domains reads what is kept of the mail of each domain, and what was erased.
func domains(v projection.View) ([]DomainCount, error) {
	sum := map[owner]*DomainCount{}
	of := func(o owner) *DomainCount {
		if sum[o] == nil {
			sum[o] = &DomainCount{Tenant: o.tenant}
		}
		return sum[o]
	}
	all := &names{v: v}
	err := eachCounter(v, all, func(s shelfID, o owner, c counter) {
		d := of(o)
		if c.messages > 0 && (d.Oldest == 0 || s.day < d.Oldest) {
			d.Oldest = s.day
		}
		d.Messages += c.messages
		d.Bytes += c.bytes
		if s.kept {
			d.Past += c.messages
		}
	})
	if err != nil {
		return nil, err
	}
	for it, err := range v.Scan([]byte{keyErased}, nil, false) {
		if err != nil {
			return nil, err
		}
		if len(it.Key) != 1+16+2 {
			return nil, malformed(it.Key)
		}
		c, err := parseCounter(it.Value)
		if err != nil {
			return nil, err
		}
		d := of(owner{event.Tenant(it.Key[1:17]), binary.BigEndian.Uint16(it.Key[17:])})
		d.Erased, d.ErasedBytes = c.messages, c.bytes
	}
	var out []DomainCount
	for o, d := range sum {
		ten, err := all.of(o.tenant)
		if err != nil {
			return nil, err
		}
		if d.Domain, err = ten.domain(o.domain); err != nil {
			return nil, err
		}
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b DomainCount) int {
		return cmp.Or(slices.Compare(a.Tenant[:], b.Tenant[:]), cmp.Compare(a.Domain, b.Domain))
	})
	return out, nil
}

// days reads how much is in all shelves.
func days(v projection.View) (out []DayCount, err error) {
	for it, err := range v.Scan([]byte{keyHead}, nil, false) {
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
		if h.over {
			continue
		}
		n := len(out) - 1
		if n < 0 || out[n].Tenant != s.tenant || out[n].Day != s.day {
			out = append(out, DayCount{Tenant: s.tenant, Day: s.day})
			n++
		}
		out[n].Messages += h.messages
		out[n].Bytes += h.bytes
		if s.kept {
			out[n].Past += h.messages
		}
	}
	return slices.DeleteFunc(out, func(d DayCount) bool { return d.Messages == 0 }), nil
}
