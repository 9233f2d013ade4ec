package continuity

import (
	"slices"

	"holdfast/event"
)

// each calls fn for the messages of a mailbox in the ranges, ascending by UID.
func (s *step) each(a event.Account, id event.MailboxID, uids []event.UIDRange, fn func(event.UID, messageRow) error) error {
	uids = slices.Clone(uids)
	slices.SortFunc(uids, func(x, y event.UIDRange) int { return int(int64(x.First) - int64(y.First)) })
	prefix := messagePrefix(a, id)
	type found struct {
		uid event.UID
		row messageRow
	}
	// Collected first: fn changes what is being scanned.
	var all []found
	next := event.UID(1)
	for _, r := range uids {
		first := max(r.First, next)
		if first > r.Last {
			continue
		}
		for it, err := range s.tx.Scan(prefix, messageKey(a, id, first), false) {
			if err != nil {
				return err
			}
			uid := uidOf(it.Key)
			if uid > r.Last {
				break
			}
			f := found{uid: uid}
			if err := event.Unmarshal(it.Value, &f.row); err != nil {
				return err
			}
			all = append(all, f)
		}
		if r.Last == ^event.UID(0) {
			break
		}
		next = r.Last + 1
	}
	for _, f := range all {
		if err := fn(f.uid, f.row); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) flagsChanged(f *event.FlagsChanged) error {
	box, err := s.mailbox(f.Account, f.Mailbox)
	if err != nil {
		return err
	}
	if box == nil {
		s.tx.Emit(done{ErrNoMailbox})
		return nil
	}
	box.ModSeq++ // one step for all of them
	err = s.each(f.Account, f.Mailbox, f.UIDs, func(uid event.UID, row messageRow) error {
		if f.UnchangedSince != 0 && row.ModSeq > f.UnchangedSince {
			return nil
		}
		old := row
		if !s.applyFlags(f.Account, f.Mailbox, box, &row, f.Op, f.Flags) {
			return nil
		}
		row.ModSeq = box.ModSeq
		box.count(old, -1)
		box.count(row, 1)
		s.put(messageKey(f.Account, f.Mailbox, uid), &row)
		s.note(f.Account, f.Mailbox, Change{Kind: ChangeFlags, Message: row.message(uid, box), ModSeq: box.ModSeq})
		return nil
	})
	if err != nil {
		return err
	}
	s.put(mailboxKey(f.Account, f.Mailbox), box)
	s.tx.Emit(done{})
	return nil
}

func (s *step) expunged(f *event.Expunged) error {
	box, err := s.mailbox(f.Account, f.Mailbox)
	if err != nil {
		return err
	}
	if box == nil {
		s.tx.Emit(done{ErrNoMailbox})
		return nil
	}
	var gone []event.UID
	err = s.each(f.Account, f.Mailbox, f.UIDs, func(uid event.UID, row messageRow) error {
		if row.Flags&flagDeleted != 0 {
			gone = append(gone, uid)
		}
		return nil
	})
	if err == nil && len(gone) > 0 {
		err = s.remove(f.Account, f.Mailbox, box, gone)
		s.put(mailboxKey(f.Account, f.Mailbox), box)
	}
	s.tx.Emit(expunged{gone})
	return err
}

func (s *step) copied(f *event.Copied) error {
	from, err := s.mailbox(f.Account, f.From)
	if err != nil {
		return err
	}
	to, err := s.mailbox(f.Account, f.To)
	if err != nil {
		return err
	}
	if from == nil || to == nil {
		s.tx.Emit(done{ErrNoMailbox})
		return nil
	}
	if f.From == f.To {
		to = from // one row, not two copies of it
	}
	res := CopyResult{UIDValidity: to.Validity}
	err = s.each(f.Account, f.From, f.UIDs, func(uid event.UID, row messageRow) error {
		copyOf := row
		copyOf.Saved = s.rec.Time
		copyOf.Keywords = nil
		for _, k := range row.Keywords {
			if n, ok := s.keyword(f.Account, f.To, to, from.Keywords[k], true); ok {
				copyOf.Keywords = append(copyOf.Keywords, n)
			}
		}
		slices.Sort(copyOf.Keywords)
		res.Source = append(res.Source, uid)
		res.Dest = append(res.Dest, s.add(f.Account, f.To, to, copyOf))
		return nil
	})
	if err != nil {
		return err
	}
	if f.Move && len(res.Source) > 0 {
		if err := s.remove(f.Account, f.From, from, res.Source); err != nil {
			return err
		}
	}
	s.put(mailboxKey(f.Account, f.From), from)
	s.put(mailboxKey(f.Account, f.To), to)
	s.tx.Emit(copied{res})
	return nil
}
