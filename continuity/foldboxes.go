package continuity

import (
	"encoding/binary"
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
	ids, err := s.mailboxes(a)
	if err != nil {
		return nil, err
	}
	if len(ids) >= maxMailboxes {
		return ErrBadName, nil
	}
	for i, c := range name {
		if c != '/' || i == 0 {
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
	_, err = s.newMailbox(a, name, use, false)
	return nil, err
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
	for _, prefix := range [][]byte{messagePrefix(f.Account, id), tombstonePrefix(f.Account, id)} {
		var keys [][]byte
		for it, err := range s.tx.Scan(prefix, nil, false) {
			if err != nil {
				return err
			}
			keys = append(keys, append([]byte(nil), it.Key...))
		}
		for _, k := range keys {
			s.tx.Delete(k)
		}
	}
	s.tx.Delete(mailboxKey(f.Account, id))
	s.tx.Delete(nameKey(keyName, f.Account, f.Name))
	s.note(f.Account, id, Change{Kind: ChangeDropped})
	s.tx.Emit(done{})
	return nil
}

func (s *step) renamed(f *event.MailboxRenamed) error {
	verdict, err := s.rename(f)
	if err == nil {
		s.tx.Emit(done{verdict})
	}
	return err
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
	type moved struct {
		id       event.MailboxID
		from, to string
	}
	moves := []moved{{id, f.From, f.To}}
	prefix := nameKey(keyName, f.Account, f.From+"/")
	for it, err := range s.tx.Scan(prefix, nil, false) {
		if err != nil {
			return nil, err
		}
		name := string(it.Key[17:])
		moves = append(moves, moved{event.MailboxID(binary.BigEndian.Uint32(it.Value)), name, f.To + name[len(f.From):]})
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

// levelsAbove makes the missing levels above a name.
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
// (RFC 9051 §6.3.6).
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
	var moved []event.UID
	box.Keywords = inbox.Keywords
	err = s.each(f.Account, inboxID, []event.UIDRange{{First: 1, Last: ^event.UID(0)}}, func(uid event.UID, row messageRow) error {
		s.add(f.Account, id, box, row)
		moved = append(moved, uid)
		return nil
	})
	if err == nil && len(moved) > 0 {
		err = s.remove(f.Account, inboxID, inbox, moved)
	}
	s.put(mailboxKey(f.Account, inboxID), inbox)
	s.put(mailboxKey(f.Account, id), box)
	return nil, err
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
