package continuity

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"holdfast/event"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

type scanner interface {
	Scan(prefix, from []byte, reverse bool) iter.Seq2[projection.Item, error]
}

// loadCondemned returns the last day of a tenant that was condemned.
func loadCondemned(v projection.View, t event.Tenant) (event.Day, error) {
	raw, err := v.Get(condemnedKey(t))
	if err != nil || len(raw) != 4 {
		return 0, err
	}
	return event.Day(binary.BigEndian.Uint32(raw)), nil
}

// maxAnswer is how many messages Filed looks up at a time.
const maxAnswer = 8192

// Filed returns the messages of a tenant that its users have filed and that
// expire on until or before, each once, where they are read now. The answer is as
// new as the log that this node knows; up to 8192 messages are those at one point
// of it. Once until was condemned, none joins them any more that was not filed
// before.
func (s *Service) Filed(ctx context.Context, t event.Tenant, until event.Day) iter.Seq2[event.Ref, error] {
	return func(yield func(event.Ref, error) bool) {
		seen := map[event.ID]bool{}
		if sabotage.On(sabotage.FiledForgotten) {
			return
		}
		for more := true; more; {
			refs, err := s.filed(ctx, t, until, seen)
			if err != nil {
				yield(event.Ref{}, fmt.Errorf("filed messages: %w", err))
				return
			}
			for _, r := range refs {
				if !yield(r, nil) {
					return
				}
			}
			more = len(refs) == maxAnswer
		}
	}
}

// filed returns up to maxAnswer messages that were not seen, and notes that they
// are.
func (s *Service) filed(ctx context.Context, t event.Tenant, until event.Day, seen map[event.ID]bool) (refs []event.Ref, err error) {
	p := s.log.PartitionOf(t)
	if err := s.runner.WaitFor(ctx, foldName, event.Position{Partition: p, Seq: s.log.TailAtLeast(p)}); err != nil {
		return nil, err
	}
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		list, err := dueUntil(v, t, until)
		if err != nil {
			return err
		}
		for _, d := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			box, err := loadMailbox(v, d.account, d.mailbox)
			if err != nil {
				return err
			}
			if box == nil {
				continue
			}
			err = d.each(v, func(row *messageRow) bool {
				if row.over(until) && row.needed(d.mailbox, box) && !seen[row.Email] {
					seen[row.Email] = true
					refs = append(refs, row.Ref)
				}
				return len(refs) < maxAnswer
			})
			if err != nil || len(refs) == maxAnswer {
				return err
			}
		}
		return nil
	})
	return refs, err
}

// each calls fn, until it returns false, with the messages between whose UIDs
// there may be some that are due.
func (d *due) each(v projection.View, fn func(*messageRow) bool) error {
	from := messageKey(d.account, d.mailbox, d.first)
	for it, err := range v.Scan(messagePrefix(d.account, d.mailbox), from, false) {
		if err != nil {
			return err
		}
		if uidOf(it.Key) > d.last {
			break
		}
		var row messageRow
		if err := row.decode(it.Value); err != nil {
			return err
		}
		if !fn(&row) {
			break
		}
	}
	return nil
}
