package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/projection"
)

// MaxItems is how many messages one order may name.
const MaxItems = 1000

// orderTries is how often an order is made anew because holds have changed.
const orderTries = 5

// Erase makes messages unreadable for ever, and returns where the log certifies
// that. refs are where the messages are read. [ErrHeld] when a hold selects one of
// them, [ErrTooMany]; after any other error the order may stand, and is then
// carried out by [Service.Run].
func (s *Service) Erase(ctx context.Context, t event.Tenant, who, reason string, refs []event.Ref) (event.Ref, error) {
	refs = unique(refs)
	switch {
	case len(refs) == 0:
		return event.Ref{}, ErrNotFound
	case len(refs) > MaxItems:
		return event.Ref{}, fmt.Errorf("erase %d messages, at most %d: %w", len(refs), MaxItems, ErrTooMany)
	}
	messages, err := s.messages(ctx, t, refs)
	if err != nil {
		return event.Ref{}, err
	}
	for range orderTries {
		changes, err := s.refuseHeld(ctx, t, messages)
		if err != nil {
			return event.Ref{}, err
		}
		order := event.ErasureOrdered{At: s.millis(), Who: who, Reason: reason, Items: refs, Holds: changes}
		ref, ok, err := s.do(ctx, t, &order)
		if err != nil {
			return event.Ref{}, fmt.Errorf("order an erasure: %w", err)
		}
		if ok {
			failpoint.Hit(failpoint.ErasureOrdered)
			done, err := s.complete(ctx, t, ref.ID, order)
			if errors.Is(err, eventlog.ErrCertified) {
				return s.Certificate(ctx, ref.ID)
			}
			if err != nil {
				err = fmt.Errorf("order %v stands and is carried out by itself: %w", ref.ID, err)
			}
			return done, err
		}
	}
	return event.Ref{}, fmt.Errorf("order an erasure: %w", ErrBusy)
}

// Certificate returns where the log certifies an erasure: by the id of that event,
// or of the order, of which the first counts. [ErrNotFound].
func (s *Service) Certificate(ctx context.Context, id event.ID) (ref event.Ref, err error) {
	for i := range s.log.Partitions() {
		p := event.Partition(i)
		if err := s.runner.WaitFor(ctx, foldName, event.Position{Partition: p, Seq: s.log.TailAtLeast(p)}); err != nil {
			return ref, fmt.Errorf("certificate of %v: %w", id, err)
		}
	}
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		// Every tenant of which something was erased has this row.
		for it, err := range v.Scan([]byte{keyTenant}, nil, false) {
			if err != nil {
				return err
			}
			if there, err := getRow(v, certifiedKey(event.Tenant(it.Key[1:]), id), &ref); there || err != nil {
				return err
			}
		}
		return ErrNotFound
	})
	return ref, err
}

// unique drops what is named twice.
func unique(refs []event.Ref) (out []event.Ref) {
	seen := map[event.ID]bool{}
	for _, r := range refs {
		if !seen[r.ID] {
			seen[r.ID] = true
			out = append(out, r)
		}
	}
	return out
}

// messages returns the ids of the messages that are read at refs, in their
// order. [ErrNotFound] when one of them is no message of the tenant.
func (s *Service) messages(ctx context.Context, t event.Tenant, refs []event.Ref) (out []event.ID, err error) {
	for _, ref := range refs {
		rec, err := s.log.Event(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("message %v: %w", ref.ID, err)
		}
		if rec.Tenant != t || !isMessage(rec.Fact) {
			return nil, fmt.Errorf("message %v: %w", ref.ID, ErrNotFound)
		}
	}
	err = s.view(ctx, t, func(v projection.View) error {
		for _, ref := range refs {
			message := ref.ID
			if _, err := getRow(v, messageKey(t, ref.ID), &message); err != nil {
				return err
			}
			out = append(out, message)
		}
		return nil
	})
	return out, err
}

func isMessage(f event.Fact) bool {
	switch f.(type) {
	case *event.MessageAccepted, *event.Appended:
		return true
	}
	return false
}

// refuseHeld returns ErrHeld, with the names, when holds select one of the
// messages, and else how often the tenant's holds have changed.
func (s *Service) refuseHeld(ctx context.Context, t event.Tenant, messages []event.ID) (uint64, error) {
	holds, changes, err := s.holdsOf(ctx, t)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, h := range holds {
		m := h.Placed.Match
		if m.Messages = common(m.Messages, messages); len(m.Messages) == 0 {
			continue
		}
		for sel, err := range s.cfg.Index.Under(ctx, t, m, 0) {
			if err != nil {
				return 0, fmt.Errorf("what hold %s selects: %w", h.Placed.Name, err)
			}
			if sel.Expiry > h.After {
				names = append(names, h.Placed.Name)
				break
			}
		}
	}
	if len(names) > 0 {
		return 0, fmt.Errorf("by hold %s: %w", strings.Join(names, ", "), ErrHeld)
	}
	return changes, nil
}

// common returns the ids that a hold names among those given; all when it names
// none.
func common(named, ids []event.ID) []event.ID {
	if len(named) == 0 {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id event.ID) bool { return !slices.Contains(named, id) })
}

// complete carries an order out: the messages' own keys are removed, of all
// copies that live, and then it is certified. Two workers may do it at once: one
// of them certifies it, and the other one has [eventlog.ErrCertified].
func (s *Service) complete(ctx context.Context, t event.Tenant, id event.ID, o event.ErasureOrdered) (event.Ref, error) {
	refs, err := s.inLog(ctx, o.Items)
	if err != nil {
		return event.Ref{}, fmt.Errorf("erase: %w", err)
	}
	messages, err := s.messages(ctx, t, refs)
	if err != nil {
		return event.Ref{}, fmt.Errorf("erase: %w", err)
	}
	var places []event.Ref
	for i, message := range messages {
		ps, err := s.places(ctx, t, message, refs[i])
		if err != nil {
			return event.Ref{}, fmt.Errorf("erase message %v: %w", message, err)
		}
		places = append(places, ps...)
	}
	gone, err := s.cfg.Keep.Erase(ctx, unique(places))
	if err != nil {
		return event.Ref{}, err
	}
	failpoint.Hit(failpoint.ErasureDone)
	var items []event.ErasedItem
	for _, g := range gone {
		items = append(items, event.ErasedItem{Message: g.Message, Place: g.Ref, Accounts: g.Accounts, Digests: g.Digests, Size: g.Size})
	}
	ref, err := s.append(ctx, t, &event.Erased{At: s.millis(), Order: id, Who: o.Who, Reason: o.Reason, Items: items})
	if err != nil {
		return ref, fmt.Errorf("certify an erasure: %w", err)
	}
	failpoint.Hit(failpoint.ErasureCertified)
	s.logger.Info("messages were erased by order", "tenant", t, "order", id, "messages", len(messages))
	s.Wake() // Bases have to be taken anew
	return ref, nil
}

// inLog leaves out what has expired and left the log since its erasure was
// ordered, which may have waited for days.
func (s *Service) inLog(ctx context.Context, refs []event.Ref) (out []event.Ref, err error) {
	for _, ref := range refs {
		_, err := s.log.Event(ctx, ref)
		if err == nil {
			out = append(out, ref)
		} else if !errors.Is(err, eventlog.ErrBeforeStart) {
			return nil, fmt.Errorf("message %v: %w", ref.ID, err)
		}
	}
	return out, nil
}

// places returns every place in the log where a message can still be read: where
// it is read now, the copies that live, and what they were copied from.
func (s *Service) places(ctx context.Context, t event.Tenant, message event.ID, now event.Ref) (out []event.Ref, err error) {
	out = []event.Ref{now}
	var sources []event.Ref
	var days installRow
	var expired tenantRow
	err = s.view(ctx, t, func(v projection.View) error {
		if _, err := getRow(v, installKey(), &days); err != nil {
			return err
		}
		if _, err := getRow(v, tenantKey(t), &expired); err != nil {
			return err
		}
		for it, err := range v.Scan(copyPrefix(t, message), nil, false) {
			if err != nil {
				return err
			}
			var row copyRow
			if err := event.Unmarshal(it.Value, &row); err != nil {
				return err
			}
			if row.Expiry <= expired.Expired {
				continue // it is not dropped yet
			}
			out, sources = append(out, row.Ref), append(sources, row.From)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, from := range sources {
		rec, err := s.log.Event(ctx, from)
		if errors.Is(err, eventlog.ErrBeforeStart) {
			continue // all that stood there has expired
		}
		if err != nil {
			return nil, err
		}
		if rec.Expiry >= days.Ratchet {
			out = append(out, from)
		}
	}
	return unique(out), nil
}

// finishOrders carries out what was ordered and is not done, and erases copies
// that landed after their message was erased.
func (s *Service) finishOrders(ctx context.Context, t event.Tenant) error {
	type order struct {
		id event.ID
		o  event.ErasureOrdered
	}
	var open []order
	err := s.view(ctx, t, func(v projection.View) error {
		for it, err := range v.Scan(tenantPrefix(keyOrder, t), nil, false) {
			if err != nil {
				return err
			}
			var row orderRow
			if err := event.Unmarshal(it.Value, &row); err != nil {
				return err
			}
			open = append(open, order{event.ID(it.Key[17:]), row.Order})
		}
		return strays(v, t, func(id event.ID, ref event.Ref) {
			open = append(open, order{id, event.ErasureOrdered{Who: strayWho, Reason: strayReason, Items: []event.Ref{ref}}})
		})
	})
	for _, o := range open {
		if _, e := s.complete(ctx, t, o.id, o.o); e != nil && !errors.Is(e, eventlog.ErrCertified) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// What the certificate of a copy says that landed while its message was erased.
const (
	strayWho    = "holdfast"
	strayReason = "copy of an erased message, made at the same time"
)

// strays tells of the copies that live of messages that were erased.
func strays(v projection.View, t event.Tenant, tell func(order event.ID, ref event.Ref)) error {
	for it, err := range v.Scan(tenantPrefix(keyErased, t), nil, false) {
		if err != nil {
			return err
		}
		var row erasedRow
		if err := event.Unmarshal(it.Value, &row); err != nil {
			return err
		}
		for c, err := range v.Scan(copyPrefix(t, event.ID(it.Key[17:])), nil, false) {
			if err != nil {
				return err
			}
			var copied copyRow
			if err := event.Unmarshal(c.Value, &copied); err != nil {
				return err
			}
			tell(row.Order, copied.Ref)
		}
	}
	return nil
}
