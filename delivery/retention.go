package delivery

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

// A unit outlives its message's day as long as it is due or held and there is
// somewhere to go: the message is kept ([event.Kept]) until it is not needed any
// more. What was not kept ends with its day, here in the fold, so that the ledger
// says so whether or not a node runs that delivers for the domain.

// applyRetention folds a fact of retention.
func (f fold) applyRetention(tx projection.Txn, r eventlog.Recorded) error {
	switch e := r.Fact.(type) {
	case *event.DayCondemned:
		over, err := lastOver(tx, r.Tenant)
		if err != nil || e.Day <= over {
			return err
		}
		tx.Set(overKey(r.Tenant), binary.BigEndian.AppendUint32(nil, uint32(e.Day)))
	case *event.Kept:
		return applyKept(tx, r, e)
	case *event.DayExpired:
		return f.applyDayExpired(tx, r, e.Day)
	case *event.DaySwept:
		return f.sweep(tx, r.Tenant)
	case *event.Erased:
		for i := range e.Items {
			if err := applyErased(tx, r.Tenant, e.Items[i].Message); err != nil {
				return err
			}
		}
	}
	return nil
}

func overKey(t event.Tenant) []byte { return append([]byte{keyOver}, t[:]...) }

// lastOver returns the last day of a tenant that was condemned.
func lastOver(v projection.View, t event.Tenant) (event.Day, error) {
	raw, err := v.Get(overKey(t))
	if err != nil || len(raw) != 4 {
		return 0, err
	}
	return event.Day(int32(binary.BigEndian.Uint32(raw))), nil
}

func orderKey(u event.Unit, w *row) []byte {
	return appendUnit(append([]byte{keyOrder}, w.Message.ID[:]...), u)
}

// Days of mail are counted from 1970, so that their keys are in order.
func daysKey(t event.Tenant, d event.Day, route string) string {
	b := append(append(make([]byte, 0, 64), t[:]...), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[16:], uint32(d))
	return string(append(b, route...))
}

// countDay notes that a unit got into the queue, or leaves it.
func countDay(tx projection.Txn, w *row, by int64) error {
	if w.Expiry == 0 {
		return nil
	}
	return count(tx, keyDays, daysKey(w.Tenant, w.Expiry, w.Route), by)
}

// unitsOf returns the units of a message: its own, and those of orders.
func unitsOf(v projection.View, message event.ID) (units []event.Unit, err error) {
	for _, prefix := range [][]byte{append([]byte{keyUnit}, message[:]...), append([]byte{keyOrder}, message[:]...)} {
		for it, err := range v.Scan(prefix, nil, false) {
			if err != nil {
				return nil, err
			}
			units = append(units, parseUnit(it.Key[len(it.Key)-unitLen:]))
		}
	}
	return units, nil
}

// applyKept gives the units of a message its new day and place.
func applyKept(tx projection.Txn, r eventlog.Recorded, f *event.Kept) error {
	over, err := lastOver(tx, r.Tenant)
	if err != nil || r.Expiry <= over {
		return err // it comes too late: what holds the message is as short-lived as before
	}
	units, err := unitsOf(tx, f.Message)
	if err != nil {
		return err
	}
	for _, u := range units {
		w, err := getRow(tx, u)
		if err != nil {
			return err
		}
		if w == nil || w.Tenant != r.Tenant || w.State == stateEnded {
			continue
		}
		if err := countDay(tx, w, -1); err != nil {
			return err
		}
		w.Message.Position, w.Kept, w.Expiry = r.Ref.Position, r.Ref.ID, r.Expiry
		if err := countDay(tx, w, 1); err != nil {
			return err
		}
		setRow(tx, u, w)
		tx.Set(queueKey(u, w), entryOf(u, w))
	}
	return nil
}

func applyErased(tx projection.Txn, t event.Tenant, message event.ID) error {
	units, err := unitsOf(tx, message)
	if err != nil {
		return err
	}
	for _, u := range units {
		w, err := getRow(tx, u)
		if err != nil {
			return err
		}
		if w == nil || w.Tenant != t || w.State == stateEnded {
			continue
		}
		if err := endByLog(tx, u, w, event.ResultErased); err != nil {
			return err
		}
	}
	return nil
}

// endByLog ends a unit that nobody has said anything of. Who is at it may still
// say something: until then it is kept as one that has ended.
func endByLog(tx projection.Txn, u event.Unit, w *row, how event.Result) error {
	o := event.Outcome{Unit: u, Result: how}
	tx.Emit(Settled{Unit: u, Outcome: o, Tenant: w.Tenant, Message: w.Message, Rcpt: w.Rcpt})
	return end(tx, o, w)
}

// maxAnswer is how many messages Needed looks up at a time.
const maxAnswer = 8192

// Needed returns the messages of a tenant that are due or held, expire on until or
// before, and go to where deliverable says that mail can be delivered to, where
// they are read now. Without deliverable that is every domain that the
// directory says is the tenant's and that has a primary, or a smart host for what goes through that.
//
// The answer is as new as the log that this node knows. Up to 8192 messages are
// those at one point of it, each once. Of more, those that are next are looked up
// where the log is then: what changes its place in the queue meanwhile may be left
// out, or come twice if it has not been kept. Once until was condemned, none joins
// them any more that was not due or held before.
func (s *Service) Needed(ctx context.Context, t event.Tenant, until event.Day, deliverable func(domain string, outbound bool) bool) iter.Seq2[event.Ref, error] {
	if deliverable == nil {
		deliverable = s.deliverable(t)
	}
	return func(yield func(event.Ref, error) bool) {
		if sabotage.On(sabotage.DueForgotten) {
			return
		}
		at := &queueMark{}
		for at != nil {
			refs, next, err := s.needed(ctx, t, until, deliverable, *at)
			if err != nil {
				yield(event.Ref{}, fmt.Errorf("messages that are due: %w", err))
				return
			}
			for _, r := range refs {
				if !yield(r, nil) {
					return
				}
			}
			at = next
		}
	}
}

// needed returns up to maxAnswer messages, and where to go on when there may be
// more.
func (s *Service) needed(ctx context.Context, t event.Tenant, until event.Day, deliverable func(string, bool) bool, at queueMark) (refs []event.Ref, next *queueMark, err error) {
	if err := s.folded(ctx, t); err != nil {
		return nil, nil, err
	}
	seen := map[event.ID]bool{}
	err = s.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		wanted := func(route string) bool { return deliverable(route[2:], route == outboundRoute(route[2:])) }
		var err error
		next, err = inQueue(v, t, until, wanted, at, func(_ event.Unit, w *row) bool {
			if len(refs) == maxAnswer || ctx.Err() != nil {
				return false
			}
			if w != nil && !seen[w.Message.ID] {
				seen[w.Message.ID] = true
				refs = append(refs, w.at())
			}
			return true
		})
		return err
	})
	if err == nil {
		err = ctx.Err()
	}
	return refs, next, err
}

// folded waits until the queue has all of a tenant that this node knows.
func (s *Service) folded(ctx context.Context, t event.Tenant) error {
	p := s.log.PartitionOf(t)
	return s.cfg.Runner.WaitFor(ctx, foldName, event.Position{Partition: p, Seq: s.log.TailAtLeast(p)})
}

// deliverable tells from the directory where a tenant's mail can be delivered to.
func (s *Service) deliverable(t event.Tenant) func(domain string, outbound bool) bool {
	sites := map[string]Site{}
	for _, conf := range s.cfg.Directory.Sites() {
		if conf.Tenant == t {
			sites[conf.Domain] = conf
		}
	}
	return func(domain string, outbound bool) bool {
		conf := sites[domain]
		return outbound && conf.Outbound != "" || !outbound && len(conf.Primary) > 0
	}
}
