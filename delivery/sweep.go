package delivery

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// sweepRow is there while units of a day that has expired have not come to their
// end.
type sweepRow struct {
	Through event.Day `cbor:"1,keyasint"`
	At      queueMark `cbor:"2,keyasint"`
	// Rounds is how often the queue was gone through to its end. A unit that changes
	// its place meanwhile is found in the next round.
	Rounds int `cbor:"3,keyasint,omitempty"`
}

const (
	maxRounds = 3
	// lookedPerUnit bounds how many entries of the queue are passed over for each
	// unit that a step may end.
	lookedPerUnit = 16
)

func sweepKey(t event.Tenant) []byte { return append([]byte{keySweep}, t[:]...) }

// applyDayExpired begins to end what is left in the queue of a condemned day.
func (f fold) applyDayExpired(tx projection.Txn, r eventlog.Recorded, day event.Day) error {
	over, err := lastOver(tx, r.Tenant)
	if err != nil {
		return err
	}
	var w sweepRow
	if err := getSweep(tx, r.Tenant, &w); err != nil {
		return err
	}
	if day = min(day, over); day <= 0 {
		return nil // nothing was condemned
	}
	tx.Set(sweepKey(r.Tenant), event.Marshal(sweepRow{Through: max(w.Through, day)}))
	return f.sweep(tx, r.Tenant)
}

func getSweep(v projection.View, t event.Tenant, w *sweepRow) error {
	raw, err := v.Get(sweepKey(t))
	if err != nil || raw == nil {
		return err
	}
	return event.Unmarshal(raw, w)
}

// sweep ends some units whose day has expired.
func (f fold) sweep(tx projection.Txn, t event.Tenant) error {
	var s sweepRow
	if err := getSweep(tx, t, &s); err != nil || s.Through == 0 {
		return err
	}
	type ending struct {
		u event.Unit
		w *row
	}
	var list []ending
	looked := 0
	next, err := inQueue(tx, t, s.Through, nil, s.At, func(u event.Unit, w *row) bool {
		if len(list) == f.atOnce || looked == f.atOnce*lookedPerUnit {
			return false
		}
		if looked++; w != nil {
			list = append(list, ending{u, w})
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := endByLog(tx, e.u, e.w, event.ResultExpired); err != nil {
			return err
		}
	}
	if next == nil {
		routes, err := routesUntil(tx, t, s.Through, nil)
		if err != nil {
			return err
		}
		if s.Rounds++; len(routes) == 0 || s.Rounds == maxRounds {
			tx.Delete(sweepKey(t))
			return nil
		}
		next = &queueMark{}
	}
	s.At = *next
	tx.Set(sweepKey(t), event.Marshal(s))
	return nil
}

// queueMark is a place in a tenant's queues; zero: their beginning.
type queueMark struct {
	Route string `cbor:"1,keyasint,omitempty"`
	Kind  int    `cbor:"2,keyasint,omitempty"` // index into queueKinds
	Key   []byte `cbor:"3,keyasint,omitempty"`
}

// queueKinds are the queues of a route, of what has not come to its end.
var queueKinds = [...]byte{keyRetry, keyFresh, keyPark}

// routesUntil returns, in order, the routes that are wanted on which units of a
// tenant are due or held that expire on until or before.
func routesUntil(v projection.View, t event.Tenant, until event.Day, wanted func(route string) bool) (routes []string, err error) {
	prefix := append([]byte{keyDays}, t[:]...)
	for it, err := range v.Scan(prefix, nil, false) {
		if err != nil {
			return nil, err
		}
		rest := it.Key[len(prefix):]
		if event.Day(int32(binary.BigEndian.Uint32(rest))) > until {
			break
		}
		if route := string(rest[4:]); wanted == nil || wanted(route) {
			routes = append(routes, route)
		}
	}
	slices.Sort(routes)
	return slices.Compact(routes), nil
}

// inQueue calls fn with the units of a tenant that are due or held and expire on
// until or before, on routes that are wanted (nil: on all), from a place on. For what
// else it passes over there, fn gets no row. When fn returns false it stops before
// that unit, and returns the place. It looks through the queues of those routes only
// that have some.
func inQueue(v projection.View, t event.Tenant, until event.Day, wanted func(route string) bool, from queueMark, fn func(event.Unit, *row) bool) (stopped *queueMark, err error) {
	routes, err := routesUntil(v, t, until, wanted)
	if err != nil {
		return nil, err
	}
	for _, route := range routes {
		for i, kind := range queueKinds {
			at := queueMark{Route: route, Kind: i}
			if route < from.Route || route == from.Route && i < from.Kind {
				continue
			}
			if route == from.Route && i == from.Kind {
				at = from
			}
			stop, err := inOneQueue(v, queuePrefix(kind, queue{t, route}), at.Key, t, until, fn)
			if err != nil {
				return nil, err
			}
			if stop != nil {
				at.Key = stop
				return &at, nil
			}
		}
	}
	return nil, nil
}

// inOneQueue returns the key of the entry at which fn has stopped, or nil.
func inOneQueue(v projection.View, prefix, from []byte, t event.Tenant, until event.Day, fn func(event.Unit, *row) bool) (stopped []byte, err error) {
	for it, err := range v.Scan(prefix, from, false) {
		if err != nil {
			return nil, err
		}
		day, err := expiryOf(it.Value)
		if err != nil {
			return nil, err
		}
		u := parseUnit(it.Value)
		var w *row
		if day != 0 && day <= until {
			if w, err = getRow(v, u); err != nil {
				return nil, err
			}
			if w != nil && w.Tenant != t {
				w = nil
			}
		}
		if !fn(u, w) {
			return bytes.Clone(it.Key), nil
		}
	}
	return nil, nil
}

// Unswept reports whether units of a day that has expired have not come to their
// end: whether an [event.DaySwept] would have something to do. The answer is as
// new as the log that this node knows.
func (s *Service) Unswept(ctx context.Context, t event.Tenant) (left bool, err error) {
	if err := s.folded(ctx, t); err != nil {
		return false, fmt.Errorf("units of days that have expired: %w", err)
	}
	err = s.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		raw, err := v.Get(sweepKey(t))
		left = raw != nil
		return err
	})
	return left, err
}
