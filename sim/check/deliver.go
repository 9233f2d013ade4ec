package check

import (
	"bytes"
	"cmp"
	"regexp"
	"slices"

	"holdfast/e2e/outside"
	"holdfast/event"
)

// Delivery judges what became of accepted mail.
//
// The rules, for each unit (one message for one recipient, or one item of an
// administrator's order):
//
//   - once faults have stopped (atRest), it is delivered, bounced or expired, or
//     its message was repudiated; held only when held is allowed. A unit that is
//     said to be delivered and also bounced or expired came to its first end while
//     another's intent was open, or is uncertain for another reason.
//   - it is delivered only after a copy came to the next hop, whole.
//   - one that bounced or expired has a bounce to the sender, in the segment of
//     its outcome, unless the reverse-path is null or the unit came of an order.
//
// For each copy at a next hop:
//
//   - it is one of an acceptance in the log, for one of its recipients, with its
//     reverse-path; its bytes are our Received line and the message, bare CR and
//     LF made CRLF. The acceptance was durable before.
//   - it is accounted for by an intent of its own that was durable before the
//     final dot arrived, and that nobody said came to nothing. So a copy too many
//     is always one more intent, seen before its dot by whoever reads the log.
//   - a process that lives says what became of an intent before it has another one
//     for the same unit: only a crash leaves an intent without an end.
//   - when an earlier intent of the unit had no end, or a lost or a good one, the
//     outcome of a later one says that it is uncertain.
//   - it is not of a repudiated message, unless its intent was durable before the
//     repudiation.
func Delivery(l *Log, h *History, atRest, heldAllowed bool) []Finding {
	c := &court{rule: "delivery"}
	d := newDocket(l)
	regrets := l.repudiated()
	copies := map[address][]*Arrival{}
	for i := range h.Arrivals {
		c.arrival(l, &h.Arrivals[i], copies)
	}
	units := map[address][]*unit{}
	var order []address
	for _, u := range d.order {
		if atRest {
			c.atEnd(u, heldAllowed)
		}
		c.unit(l, u, regrets)
		a := address{u.message, u.path}
		if units[a] == nil {
			order = append(order, a)
		}
		units[a] = append(units[a], u)
	}
	for _, a := range order {
		c.account(a, units[a], copies[a], regrets[a.message])
		delete(copies, a)
	}
	for a, more := range copies {
		if a.path != "" {
			c.finds("%d copies of %v came to %s, who is no recipient", len(more), a.message, a.path)
		}
	}
	slices.SortFunc(c.found, func(x, y Finding) int { return cmp.Compare(x.Text, y.Text) })
	return c.found
}

// address is one recipient of one message: where copies are counted.
type address struct {
	message event.ID
	path    string
}

// traceID finds the event's id in our Received line.
var traceID = regexp.MustCompile(`\bid ([0-9a-f]{32})\b`)

func (c *court) arrival(l *Log, a *Arrival, copies map[address][]*Arrival) {
	m := traceID.FindSubmatch(a.Body[:min(len(a.Body), 1000)])
	if m == nil {
		c.finds("%s got a message without our Received line for %q", a.Primary, a.To)
		return
	}
	id, err := event.ParseID(string(m[1]))
	if err != nil {
		c.finds("%s got a message with the id %q", a.Primary, m[1])
		return
	}
	for _, to := range a.To {
		copies[address{id, to}] = append(copies[address{id, to}], a)
	}
	e := l.Find(id)
	if e == nil {
		c.finds("%s got %v for %q, which is not in the log", a.Primary, id, a.To)
		return
	}
	f, ok := e.Fact.(*event.MessageAccepted)
	if !ok {
		c.finds("%s got %v for %q, which is no message", a.Primary, id, a.To)
		return
	}
	if e.Since > a.At {
		c.finds("%s got %v at %d, before it was durable at %d", a.Primary, id, a.At, e.Since)
	}
	if f.Meta == nil {
		return
	}
	if a.From != f.Meta.From {
		c.finds("%s got %v from %q, not from %q", a.Primary, id, a.From, f.Meta.From)
	}
	want := outside.AsDelivered(slices.Concat(f.Meta.Trace, e.Body))
	if !e.Gone && !bytes.Equal(a.Body, want) {
		c.finds("%s got %v with %d bytes that are not its %d", a.Primary, id, len(a.Body), len(want))
	}
}

func (c *court) atEnd(u *unit, heldAllowed bool) {
	if u.state == unitDue || u.state == unitHeld && !heldAllowed {
		c.finds("unit %v/%d is still %v", u.id.Source, u.id.N, u.state)
	}
}

func (c *court) unit(l *Log, u *unit, regrets map[event.ID]*Entry) {
	for i := range u.intents {
		in := &u.intents[i]
		if in.doubt && in.end == endDelivered && !in.marked {
			c.finds("unit %v/%d may have been delivered before %v, but that delivery is not marked uncertain", u.id.Source, u.id.N, in.at.Ref.Position)
		}
	}
	for _, e := range u.twice {
		c.finds("unit %v/%d: at %v a process meant to deliver it again and had not said what became of the last time", u.id.Source, u.id.N, e.Ref.Position)
	}
	if len(u.delivers) > 0 && len(u.bounced) > 0 && regrets[u.message] == nil {
		doubt := u.doubtful || slices.ContainsFunc(u.intents, func(in intent) bool { return in.doubt || in.end == endOpen || in.end == endLost })
		if !doubt {
			c.finds("unit %v/%d is said to be delivered and also %v", u.id.Source, u.id.N, u.state)
		}
	}
	if (u.state == unitBounced || u.state == unitExpired) && !u.quiet && u.from != "" && !l.bouncedWith(u, regrets) {
		c.finds("unit %v/%d is %v, but no bounce goes to its sender", u.id.Source, u.id.N, u.state)
	}
}

// bouncedWith reports whether a bounce to a unit's sender stands in the segment
// of an outcome that ended it.
func (l *Log) bouncedWith(u *unit, regrets map[event.ID]*Entry) bool {
	for _, o := range u.bounced {
		p := o.Ref.Position
		for i := range l.Partitions[p.Partition] {
			e := &l.Partitions[p.Partition][i]
			f, ok := e.Fact.(*event.MessageAccepted)
			if !ok || f.Origin != event.OriginBounce || e.Ref.Position.Seq != p.Seq || regrets[e.Ref.ID] != nil {
				continue
			}
			if f.Meta == nil || slices.ContainsFunc(f.Meta.Recipients, func(r event.Recipient) bool { return r.Path == u.from }) {
				return true
			}
		}
	}
	return false
}

// account compares the copies that came to an address with the intents for it.
func (c *court) account(a address, units []*unit, copies []*Arrival, regret *Entry) {
	if a.path == "" {
		return // it has expired: nothing can be compared
	}
	var possible []Moment
	delivered := 0
	seen := map[*Entry]bool{} // an order goes on with the intents of what it replaced
	for _, u := range units {
		for i := range u.intents {
			in := &u.intents[i]
			if !in.end.mayHaveArrived() || seen[in.at] {
				continue
			}
			seen[in.at] = true
			possible = append(possible, in.at.Since)
			if in.end == endDelivered {
				delivered++
				c.arrivedBefore(a, copies, in)
			}
		}
		if len(u.delivers) > 0 && len(copies) == 0 {
			c.finds("unit %v/%d is delivered, but nothing came to %s", u.id.Source, u.id.N, a.path)
		}
	}
	slices.Sort(possible)
	slices.SortFunc(copies, func(x, y *Arrival) int { return cmp.Compare(x.At, y.At) })
	for i, got := range copies {
		if n, _ := slices.BinarySearch(possible, got.At); n <= i {
			c.finds("copy %d of %v for %s came at %d to %s with %d intents before it", i+1, a.message, a.path, got.At, got.Primary, n)
		}
		if regret != nil && !slices.ContainsFunc(possible, func(m Moment) bool { return m < regret.Since }) {
			c.finds("%v came to %s although it was repudiated at %d, before any intent", a.message, a.path, regret.Since)
		}
	}
	if delivered > len(copies) {
		c.finds("%v is delivered %d times to %s, where %d copies came", a.message, delivered, a.path, len(copies))
	}
}

func (c *court) arrivedBefore(a address, copies []*Arrival, in *intent) {
	ok := slices.ContainsFunc(copies, func(got *Arrival) bool { return got.At > in.at.Since && got.At < in.ended.Since })
	if !ok {
		c.finds("%v for %s is on record as delivered at %v, but nothing came between its intent and its outcome", a.message, a.path, in.ended.Ref.Position)
	}
}
