package continuity

import (
	"encoding/binary"
	"slices"
	"strings"

	"holdfast/event"
)

// maxMailboxes bounds the mailboxes of an account.
const maxMailboxes = 5000

func (s *step) created(f *event.MailboxCreated) error {
	if err := s.ensure(f.Account); err != nil {
		return err
	}
	verdict, err := s.create(f.Account, f.Name, f.Use)
	if err == nil {
		s.tx.Emit(done{verdict})
	}
	return err
}

// create makes a mailbox and the levels above it that are missing (RFC 9051
// §6.3.4). The first result is the verdict.
func (s *step) create(a event.Account, name, use string) (verdict, err error) {
	id, err := lookup(s.tx, a, name)
	if err != nil {
		return nil, err
	}
	if id != 0 {
		return ErrExists, nil
	}
	list, err := loadMailboxes(s.tx, a)
	if err != nil {
		return nil, err
	}
	if len(list)+strings.Count(name, "/") >= maxMailboxes {
		return ErrBadName, nil
	}
	for i, c := range name {
		if c != '/' {
			continue
		}
		above, err := lookup(s.tx, a, name[:i])
		if err != nil {
			return nil, err
		}
		if above == 0 {
			if _, err := s.newMailbox(a, name[:i], "", false); err != nil {
				return nil, err
			}
		}
	}
	if use == "" {
		use = usualUse(name, list)
	}
	_, err = s.newMailbox(a, name, use, false)
	return nil, err
}

// usualUse gives one of the first mailboxes its use again when it was deleted
// and is made anew, unless another mailbox has taken that over.
func usualUse(name string, list []numbered) string {
	for _, m := range firstMailboxes {
		if m.name == name && m.use != "" && !slices.ContainsFunc(list, func(b numbered) bool { return b.row.Use == m.use }) {
			return m.use
		}
	}
	return ""
}

func (s *step) deleted(f *event.MailboxDeleted) error {
	id, err := lookup(s.tx, f.Account, f.Name)
	if err != nil {
		return err
	}
	switch id {
	case 0:
		s.tx.Emit(done{ErrNoMailbox})
		return nil
	case inboxID:
		s.tx.Emit(done{ErrInbox})
		return nil
	}
	if err := s.empty(f.Account, id); err != nil {
		return err
	}
	s.tx.Delete(mailboxKey(f.Account, id))
	s.tx.Delete(nameKey(keyName, f.Account, f.Name))
	s.note(f.Account, id, Change{Kind: ChangeDropped})
	s.tx.Emit(done{})
	return nil
}

// empty removes what is kept of the messages of a mailbox that is deleted.
func (s *step) empty(a event.Account, id event.MailboxID) error {
	box, err := s.mailbox(a, id)
	if err != nil {
		return err
	}
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	all, err := s.within(a, id, everyUID)
	if err != nil {
		return err
	}
	for i := range all {
		s.drop(a, id, box, &all[i], condemned)
	}
	if err := s.forgetCopies(a, id, all); err != nil {
		return err
	}
	return s.deleteAll(tombstonePrefix(a, id))
}

func (s *step) deleteAll(prefix []byte) error {
	var keys [][]byte
	for it, err := range s.tx.Scan(prefix, nil, false) {
		if err != nil {
			return err
		}
		keys = append(keys, slices.Clone(it.Key))
	}
	for _, k := range keys {
		s.tx.Delete(k)
	}
	return nil
}

func (s *step) renamed(f *event.MailboxRenamed) error {
	verdict, err := s.rename(f)
	if err == nil {
		s.tx.Emit(done{verdict})
	}
	return err
}

// renaming is one mailbox on its way to another name.
type renaming struct {
	id       event.MailboxID
	from, to string
}

func (s *step) rename(f *event.MailboxRenamed) (verdict, err error) {
	id, err := lookup(s.tx, f.Account, f.From)
	if err != nil {
		return nil, err
	}
	taken, err := lookup(s.tx, f.Account, f.To)
	if err != nil {
		return nil, err
	}
	switch {
	case id == 0:
		return ErrNoMailbox, nil
	case taken != 0:
		return ErrExists, nil
	case strings.HasPrefix(f.To, f.From+"/"):
		return ErrBadName, nil
	case id == inboxID:
		return s.renameInbox(f)
	}
	// Those below are collected before any is changed.
	moves := []renaming{{id, f.From, f.To}}
	for it, err := range s.tx.Scan(nameKey(keyName, f.Account, f.From+"/"), nil, false) {
		if err != nil {
			return nil, err
		}
		m := renaming{id: event.MailboxID(binary.BigEndian.Uint32(it.Value)), from: nameOf(it.Key)}
		m.to = f.To + m.from[len(f.From):]
		if !goodName(m.to) {
			return ErrBadName, nil // too long
		}
		moves = append(moves, m)
	}
	for _, m := range moves[1:] {
		if other, err := lookup(s.tx, f.Account, m.to); err != nil {
			return nil, err
		} else if other != 0 {
			return ErrExists, nil
		}
	}
	for _, m := range moves {
		box, err := s.mailbox(f.Account, m.id)
		if err != nil {
			return nil, err
		}
		box.Name = m.to
		s.put(mailboxKey(f.Account, m.id), box)
		s.tx.Delete(nameKey(keyName, f.Account, m.from))
		s.tx.Set(nameKey(keyName, f.Account, m.to), binary.BigEndian.AppendUint32(nil, uint32(m.id)))
	}
	return nil, s.levelsAbove(f.Account, f.To)
}

// levelsAbove makes the missing levels above a name (RFC 9051 §6.3.6).
func (s *step) levelsAbove(a event.Account, name string) error {
	i := strings.LastIndexByte(name, '/')
	if i <= 0 {
		return nil
	}
	above, err := lookup(s.tx, a, name[:i])
	if err != nil || above != 0 {
		return err
	}
	_, err = s.create(a, name[:i], "")
	return err
}

// renameInbox makes a new mailbox and moves what is in INBOX to it; INBOX stays
// (RFC 9051 §6.3.6), and so does what has expired, until it is swept.
func (s *step) renameInbox(f *event.MailboxRenamed) (verdict, err error) {
	if verdict, err := s.create(f.Account, f.To, ""); verdict != nil || err != nil {
		return verdict, err
	}
	id, err := lookup(s.tx, f.Account, f.To)
	if err != nil {
		return nil, err
	}
	inbox, err := s.mailbox(f.Account, inboxID)
	if err != nil {
		return nil, err
	}
	box, err := s.mailbox(f.Account, id)
	if err != nil {
		return nil, err
	}
	all, err := s.living(f.Account, inboxID, everyUID)
	if err != nil {
		return nil, err
	}
	condemned, err := s.condemned()
	if err != nil {
		return nil, err
	}
	box.Keywords = inbox.Keywords
	for i := range all {
		row := all[i].row
		row.decide(inboxID, inbox, condemned) // it may not have been looked at yet
		if _, err := s.add(f.Account, id, box, &row); err != nil {
			return nil, err
		}
	}
	if err := s.remove(f.Account, inboxID, inbox, all); err != nil {
		return nil, err
	}
	s.put(mailboxKey(f.Account, inboxID), inbox)
	s.put(mailboxKey(f.Account, id), box)
	return nil, nil
}

func (s *step) subscribed(f *event.MailboxSubscribed) error {
	if err := s.ensure(f.Account); err != nil {
		return err
	}
	k := nameKey(keySubscribe, f.Account, f.Name)
	if f.Subscribed {
		s.tx.Set(k, []byte{1})
	} else {
		s.tx.Delete(k)
	}
	s.tx.Emit(done{})
	return nil
}
