package delivery

import (
	"encoding/binary"

	"holdfast/event"
)

// queue is what one route carries: a tenant's mail. A domain that moves to another
// tenant has other queues from then on. What is left in those of the first is due
// nowhere, as where a domain is removed, unless the domain comes back.
type queue struct {
	Tenant event.Tenant
	Route  string
}

func (w *row) queue() queue { return queue{w.Tenant, w.Route} }

// key tells a queue's number of units.
func (q queue) key() string { return string(q.Tenant[:]) + q.Route }

// The routes of a domain: to its primary, and through its smart host.
func primaryRoute(domain string) string  { return "p/" + domain }
func outboundRoute(domain string) string { return "o/" + domain }

func routeOf(domain string, outside bool) string {
	if outside {
		return outboundRoute(domain)
	}
	return primaryRoute(domain)
}

func queuePrefix(kind byte, q queue) []byte {
	k := append([]byte{kind}, q.Tenant[:]...)
	return append(append(k, byte(len(q.Route))), q.Route...)
}

// queueKey is where a unit stands in its queue: by the log's order, and once it
// was deferred by its time first.
func queueKey(u event.Unit, w *row) []byte {
	kind := byte(keyFresh)
	switch {
	case w.State == stateHeld:
		kind = keyPark
	case w.State == stateEnded:
		kind = keyEnded
	case w.RetryAt != 0:
		kind = keyRetry
	}
	k := queuePrefix(kind, w.queue())
	if kind == keyRetry {
		k = binary.BigEndian.AppendUint64(k, uint64(w.RetryAt))
	}
	k = append(k, byte(w.Place.Partition))
	k = binary.BigEndian.AppendUint64(k, uint64(w.Place.Seq))
	k = binary.BigEndian.AppendUint32(k, w.Place.Index)
	return appendUnit(k, u)
}
