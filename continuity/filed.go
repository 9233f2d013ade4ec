package continuity

import (
	"bytes"
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
	return loadDay(v, condemnedKey(t))
}

func loadDay(v projection.View, key []byte) (event.Day, error) {
	raw, err := v.Get(key)
	if err != nil || len(raw) != 4 {
		return 0, err
	}
	return event.Day(binary.BigEndian.Uint32(raw)), nil
}

// maxAnswer is how many messages Filed looks up at a time.
const maxAnswer = 8192

// Filed returns the messages of a tenant that its users have filed and that
// expire on until or before, where they are read now. The answer is as new as the
// log that this node knows. Up to 8192 messages are those at one point of it, each
// once; of more, those that are next are looked up where the log is then, and one
// that is in several mailboxes may come again if it has not been kept meanwhile.
// Once until was condemned, none joins them any more that was not filed before.
func (s *Service) Filed(ctx context.Context, t event.Tenant, until event.Day) iter.Seq2[event.Ref, error] {
	return func(yield func(event.Ref, error) bool) {
		if sabotage.On(sabotage.FiledForgotten) {
			return
		}
		at := &bookmark{}
		for at != nil {
			refs, next, err := s.filed(ctx, t, until, *at)
			if err != nil {
				yield(event.Ref{}, fmt.Errorf("filed messages: %w", err))
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

// bookmark is a message: the first of a mailbox and day from a UID on.
type bookmark struct {
	key  []byte // dayKey
	next event.UID
}

// filed returns up to maxAnswer messages, and where to go on when there may be
// more.
func (s *Service) filed(ctx context.Context, t event.Tenant, until event.Day, at bookmark) (refs []event.Ref, next *bookmark, err error) {
	if err := s.latest(ctx, t); err != nil {
		return nil, nil, err
	}
	seen := map[event.ID]bool{}
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		expired, err := loadDay(v, expiredKey(t))
		if err != nil {
			return err
		}
		for d, err := range dueUntil(v, t, until, at.key) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			first := event.UID(0)
			if bytes.Equal(d.key, at.key) {
				first = at.next
			}
			box, err := loadMailbox(v, d.account, d.mailbox)
			if err != nil {
				return err
			}
			if box == nil || d.day <= expired {
				continue // nothing of it opens any more
			}
			for m, err := range d.messages(v, first) {
				if err != nil {
					return err
				}
				if len(refs) == maxAnswer {
					next = &bookmark{d.key, m.uid}
					return nil
				}
				if m.row.Expiry == d.day && m.row.needed(d.mailbox, box) && !seen[m.row.Email] {
					seen[m.row.Email] = true
					refs = append(refs, m.row.Ref)
				}
			}
		}
		return nil
	})
	return refs, next, err
}

// latest waits until the mailboxes have all of a tenant that this node knows.
func (s *Service) latest(ctx context.Context, t event.Tenant) error {
	p := s.log.PartitionOf(t)
	return s.runner.WaitFor(ctx, foldName, event.Position{Partition: p, Seq: s.log.TailAtLeast(p)})
}
