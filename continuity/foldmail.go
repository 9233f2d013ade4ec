package continuity

import (
	"cmp"
	"slices"

	"holdfast/event"
	"holdfast/internal/sabotage"
)

// everyUID is the range of all messages of a mailbox.
var everyUID = []event.UIDRange{{First: 1, Last: ^event.UID(0)}}

// within returns the messages of a mailbox in the ranges, ascending by UID.
func (s *step) within(a event.Account, id event.MailboxID, uids []event.UIDRange) (all []found, err error) {
	uids = slices.Clone(uids)
	slices.SortFunc(uids, func(x, y event.UIDRange) int { return cmp.Compare(x.First, y.First) })
	prefix := messagePrefix(a, id)
	next := event.UID(1)
	for _, r := range uids {
		first := max(r.First, next)
		if first > r.Last {
			continue
		}
		for it, err := range s.tx.Scan(prefix, messageKey(a, id, first), false) {
			if err != nil {
				return nil, err
			}
			f := found{uid: uidOf(it.Key)}
			if f.uid > r.Last {
				break
			}
			if err := f.row.decode(it.Value); err != nil {
				return nil, err
			}
			all = append(all, f)
		}
		if r.Last == ^event.UID(0) {
			break
		}
		next = r.Last + 1
	}
	return all, nil
}

// living is within without what has expired and was not swept yet. It goes no other
// place: it would stay where the sweep has been, and opens no more.
func (s *step) living(a event.Account, id event.MailboxID, uids []event.UIDRange) ([]found, error) {
	all, err := s.within(a, id, uids)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	expired, err := loadDay(s.tx, expiredKey(s.rec.Tenant))
	return slices.DeleteFunc(all, func(m found) bool { return m.row.over(expired) }), err
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
	s.tx.Emit(done{})
	all, err := s.within(f.Account, f.Mailbox, f.UIDs)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(m found) bool { return f.UnchangedSince != 0 && m.row.ModSeq > f.UnchangedSince })
	if len(all) == 0 {
		return nil // so that no keyword is learnt
	}
	set, fresh := box.flagSet(f.Flags, f.Op != event.FlagsRemove)
	if fresh {
		s.noteKeywords(f.Account, f.Mailbox, box)
	}
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	lists := flagLists{names: box.Keywords}
	modseq := box.ModSeq + 1 // one step for all of them
	for i := range all {
		m := &all[i]
		m.row.decide(f.Mailbox, box, condemned) // it may not have been looked at yet
		old := m.row
		if !set.change(&m.row, f.Op) || sabotage.On(sabotage.FlagForgotten) {
			continue
		}
		box.ModSeq, m.row.ModSeq = modseq, modseq
		box.count(&old, -1)
		box.count(&m.row, 1)
		m.row.decide(f.Mailbox, box, condemned)
		s.tx.Set(messageKey(f.Account, f.Mailbox, m.uid), m.row.encode())
		s.note(f.Account, f.Mailbox, Change{Kind: ChangeFlags, Message: m.row.message(m.uid, &lists), ModSeq: modseq})
	}
	if box.ModSeq == modseq {
		s.put(mailboxKey(f.Account, f.Mailbox), box)
	}
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
	gone, err := s.within(f.Account, f.Mailbox, f.UIDs)
	if err != nil {
		return err
	}
	gone = slices.DeleteFunc(gone, func(m found) bool { return m.row.Flags&flagDeleted == 0 })
	if len(gone) > 0 && !sabotage.On(sabotage.ExpungeUndone) {
		if err := s.remove(f.Account, f.Mailbox, box, gone); err != nil {
			return err
		}
		if err := s.forgetCopies(f.Account, f.Mailbox, gone); err != nil {
			return err
		}
		s.put(mailboxKey(f.Account, f.Mailbox), box)
	}
	verdict := expunged{}
	for i := range gone {
		verdict.UIDs = append(verdict.UIDs, gone[i].uid)
	}
	s.tx.Emit(verdict)
	return nil
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
	all, err := s.living(f.Account, f.From, f.UIDs)
	if err != nil {
		return err
	}
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	res := CopyResult{UIDValidity: to.Validity}
	for i := range all {
		m := &all[i]
		m.row.decide(f.From, from, condemned) // it may not have been looked at yet
		row := m.row
		row.Saved = s.rec.Time
		row.Keywords = s.translate(m.row.Keywords, f, from, to)
		uid, err := s.add(f.Account, f.To, to, &row)
		if err != nil {
			return err
		}
		res.Source = append(res.Source, m.uid)
		res.Dest = append(res.Dest, uid)
	}
	if f.Move {
		if err := s.remove(f.Account, f.From, from, all); err != nil {
			return err
		}
		if err := s.forgetCopies(f.Account, f.From, all); err != nil {
			return err
		}
	}
	if len(all) > 0 {
		s.put(mailboxKey(f.Account, f.From), from)
		s.put(mailboxKey(f.Account, f.To), to)
	}
	s.tx.Emit(copied{res})
	return nil
}

// translate returns the keywords of a message as the mailbox numbers them that
// it is copied to.
func (s *step) translate(keys []uint16, f *event.Copied, from, to *mailboxRow) []uint16 {
	if len(keys) == 0 || from == to {
		return keys
	}
	names := make([]string, 0, len(keys))
	for _, k := range keys {
		names = append(names, from.Keywords[k])
	}
	set, fresh := to.flagSet(names, true)
	if fresh {
		s.noteKeywords(f.Account, f.To, to)
	}
	return set.keywords
}
