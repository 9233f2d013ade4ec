package continuity

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"

	"holdfast/event"
	"holdfast/projection"
)

// sweepRow is there while messages of days that end have not been looked at.
type sweepRow struct {
	Through event.Day `cbor:"1,keyasint"`
	// From is the dayKey to go on with, Next the first UID of it that was not looked
	// at, and Left the span of what stays of those that were.
	From []byte    `cbor:"2,keyasint,omitempty"`
	Next event.UID `cbor:"3,keyasint,omitempty"`
	Left []byte    `cbor:"4,keyasint,omitempty"`
}

// sweepFrom begins to look at all that expires on a day or before, and takes the
// first step.
func (s *step) sweepFrom(day event.Day) error {
	var w sweepRow
	if err := s.get(sweepKey(s.rec.Tenant), &w); err != nil {
		return err
	}
	return s.sweepOn(&sweepRow{Through: max(w.Through, day)})
}

// sweep takes one more step, if something is left to look at.
func (s *step) sweep() error {
	var w sweepRow
	if err := s.get(sweepKey(s.rec.Tenant), &w); err != nil || w.Through == 0 {
		return err
	}
	return s.sweepOn(&w)
}

// sweepOn looks at some messages whose day has come, by days and mailboxes. It
// expunges those that nobody has filed, or whose day has expired; the others wait
// from now on for their [event.Kept].
func (s *step) sweepOn(w *sweepRow) error {
	expired, err := loadDay(s.tx, expiredKey(s.rec.Tenant))
	if err != nil {
		return err
	}
	todo, err := s.dueFrom(w)
	if err != nil {
		return err
	}
	left := s.atOnce
	for i := range todo {
		d := &todo[i]
		if !bytes.Equal(d.key, w.From) {
			w.From, w.Next, w.Left = d.key, 0, nil
		}
		if left <= 0 {
			s.put(sweepKey(s.rec.Tenant), w)
			return nil
		}
		n, done, err := s.sweepBox(d, w, left, expired)
		if err != nil {
			return err
		}
		if left -= n; !done {
			s.put(sweepKey(s.rec.Tenant), w)
			return nil
		}
	}
	s.tx.Delete(sweepKey(s.rec.Tenant))
	return nil
}

// due is between which UIDs of a mailbox messages are that expire on a day.
type due struct {
	key []byte
	day event.Day
	place
	span
}

// dueFrom returns some mailboxes with messages whose day has come: one more than a
// step can look at, if there are so many.
func (s *step) dueFrom(w *sweepRow) (list []due, err error) {
	for d, err := range dueUntil(s.tx, s.rec.Tenant, w.Through, w.From) {
		if err != nil {
			return nil, err
		}
		if list = append(list, d); len(list) > s.atOnce {
			break
		}
	}
	return list, nil
}

// dueUntil yields the mailboxes of the tenant in which messages may expire on a
// day or before, by days, from a key on; nil: from the first.
func dueUntil(scan scanner, t event.Tenant, until event.Day, from []byte) iter.Seq2[due, error] {
	return func(yield func(due, error) bool) {
		for it, err := range scan.Scan(dayPrefix(t), from, false) {
			if err != nil {
				yield(due{}, err)
				return
			}
			d := due{key: slices.Clone(it.Key)}
			d.day, d.place = parseDayKey(it.Key)
			if d.day > until {
				return
			}
			if d.span, err = parseSpan(it.Value); !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// sweepBox looks at no more than limit messages of a mailbox, and reports how much
// of a step that was, and whether it was all.
func (s *step) sweepBox(d *due, w *sweepRow, limit int, expired event.Day) (n int, done bool, err error) {
	box, err := s.mailbox(d.account, d.mailbox)
	if err != nil {
		return 0, false, err
	}
	if box == nil {
		s.tx.Delete(d.key)
		return 1, true, nil
	}
	var left span
	if w.Left != nil {
		if left, err = parseSpan(w.Left); err != nil {
			return 0, false, err
		}
	}
	var gone []found
	done = true
	for m, err := range d.messages(s.tx, w.Next) {
		if err != nil {
			return n, false, err
		}
		if n++; n > limit {
			done = false
			w.Next, w.Left = m.uid, left.encode()
			break
		}
		if m.row.Expiry != d.day {
			continue
		}
		if d.day <= expired || !m.row.needed(d.mailbox, box) {
			gone = append(gone, m)
			continue
		}
		left.take(m.uid)
		s.tx.Set(awaitKey(s.rec.Tenant, m.row.Email, d.account, d.mailbox, m.uid), []byte{1})
	}
	if err := s.expire(d.account, d.mailbox, box, gone); err != nil || !done {
		return n, done, err
	}
	if left.last != 0 {
		s.tx.Set(d.key, left.encode())
	} else {
		s.tx.Delete(d.key)
	}
	return n + 1, true, nil
}

// messages yields those of the mailbox within the span, from a UID on.
func (d *due) messages(v scanner, next event.UID) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		from := messageKey(d.account, d.mailbox, max(d.first, next))
		for it, err := range v.Scan(messagePrefix(d.account, d.mailbox), from, false) {
			m := found{}
			if err == nil {
				m.uid = uidOf(it.Key)
				if m.uid > d.last {
					return
				}
				err = m.row.decode(it.Value)
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Unswept reports whether messages of days that end have not been looked at:
// whether an [event.DaySwept] would have something to do. The answer is as new as
// the log that this node knows.
func (s *Service) Unswept(ctx context.Context, t event.Tenant) (left bool, err error) {
	if err := s.latest(ctx, t); err != nil {
		return false, fmt.Errorf("messages of days that end: %w", err)
	}
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		raw, err := v.Get(sweepKey(t))
		left = raw != nil
		return err
	})
	return left, err
}
