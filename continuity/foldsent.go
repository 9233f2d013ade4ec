package continuity

import (
	"slices"

	"holdfast/event"
)

// A message that a user submits is put into the Sent mailbox; many clients put
// their own copy there, too, before or after. There shall be one, and it shall
// be the client's, which may hold more than was sent (a Bcc field). The two know
// each other by a mark, see [Service.CopyMark].

// enterSent puts our copy of a submitted message into the Sent mailbox, unless a
// copy with its mark is there.
func (s *step) enterSent(a event.Account, row *messageRow) error {
	place, _, err := s.copyPlace(a, row.Copy)
	if err != nil || place != nil {
		return err
	}
	id, err := s.findSent(a)
	if err != nil {
		return err
	}
	if id == 0 {
		// The user has deleted it. What he sends must be somewhere.
		if id, err = s.newMailbox(a, firstMailboxes[sentID-1].name, useSent, true); err != nil {
			return err
		}
	}
	box, err := s.mailbox(a, id)
	if err != nil {
		return err
	}
	if err := s.addOurs(a, id, box, row); err != nil {
		return err
	}
	s.put(mailboxKey(a, id), box)
	return nil
}

func (s *step) addOurs(a event.Account, id event.MailboxID, box *mailboxRow, row *messageRow) error {
	uid, err := s.add(a, id, box, row)
	if err != nil {
		return err
	}
	if row.Copy != [16]byte{} {
		s.put(copyKey(a, row.Copy), &copyRow{Mailbox: id, UID: uid, Ours: true})
	}
	return nil
}

// findSent returns the mailbox for what the account sends: the oldest with that
// use, else the one that is called so, else 0.
func (s *step) findSent(a event.Account) (event.MailboxID, error) {
	box, err := s.mailbox(a, sentID)
	if err != nil {
		return 0, err
	}
	if box != nil {
		return sentID, nil // its use cannot be changed
	}
	list, err := loadMailboxes(s.tx, a)
	if err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(list, func(b numbered) bool { return b.row.Use == useSent }); i >= 0 {
		return list[i].id, nil
	}
	return lookup(s.tx, a, firstMailboxes[sentID-1].name)
}

// copyPlace returns where the copy with a mark is, and its row; nil when there is
// none any more.
func (s *step) copyPlace(a event.Account, mark [16]byte) (*copyRow, []byte, error) {
	if mark == [16]byte{} {
		return nil, nil, nil
	}
	raw, err := s.tx.Get(copyKey(a, mark))
	if err != nil || raw == nil {
		return nil, nil, err
	}
	place := new(copyRow)
	if err := event.Unmarshal(raw, place); err != nil {
		return nil, nil, err
	}
	row, err := s.tx.Get(messageKey(a, place.Mailbox, place.UID))
	if err != nil || row == nil {
		return nil, nil, err
	}
	return place, row, nil
}

// replaceOurs makes way for the client's copy of a message that it sends: row is
// marked when it is one, and our copy, should there be one, is removed and
// returned.
func (s *step) replaceOurs(f *event.Appended, box *mailboxRow, row *messageRow) (replaced []byte, err error) {
	if f.Copy == [16]byte{} {
		return nil, nil
	}
	sent, err := s.findSent(f.Account)
	if err != nil || sent != f.Mailbox {
		return nil, err
	}
	row.Copy = f.Copy
	place, raw, err := s.copyPlace(f.Account, f.Copy)
	if err != nil || place == nil || !place.Ours || place.Mailbox != f.Mailbox {
		return nil, err
	}
	ours := found{uid: place.UID}
	if err := ours.row.decode(raw); err != nil {
		return nil, err
	}
	return raw, s.remove(f.Account, f.Mailbox, box, []found{ours})
}

// repudiationDepth is how far from the end of a mailbox a message is looked
// for: more than the segments that can come between it and its repudiation hold.
const repudiationDepth = 4000

// repudiated takes back what came in too late, wherever the user has put it
// meanwhile. It stands near the end of mailboxes, since its repudiation follows
// at once.
func (s *step) repudiated(f *event.Repudiated) error {
	for i, a := range f.Accounts {
		if slices.Contains(f.Accounts[:i], a) {
			continue
		}
		list, err := loadMailboxes(s.tx, a)
		if err != nil {
			return err
		}
		for i := range list {
			if err := s.removeEmail(a, &list[i], f.Message); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *step) removeEmail(a event.Account, b *numbered, email event.ID) error {
	var gone []found
	n := 0
	for it, err := range s.tx.Scan(messagePrefix(a, b.id), nil, true) {
		if err != nil {
			return err
		}
		if len(it.Value) >= rowFixed && event.ID(it.Value[rowID:rowFixed]) == email {
			g := found{uid: uidOf(it.Key)}
			if err := g.row.decode(it.Value); err != nil {
				return err
			}
			gone = append(gone, g)
		}
		if n++; n == repudiationDepth {
			break
		}
	}
	if len(gone) == 0 {
		return nil
	}
	slices.Reverse(gone)
	if err := s.remove(a, b.id, &b.row, gone); err != nil {
		return err
	}
	for i := range gone {
		if err := s.restoreOurs(a, b, &gone[i]); err != nil {
			return err
		}
	}
	if err := s.forgetCopies(a, b.id, gone); err != nil {
		return err
	}
	s.put(mailboxKey(a, b.id), &b.row)
	return nil
}

// restoreOurs brings our copy of a sent message back when the client's, which
// has replaced it, was repudiated.
func (s *step) restoreOurs(a event.Account, b *numbered, gone *found) error {
	if gone.row.Copy == [16]byte{} {
		return nil
	}
	var place copyRow
	if err := s.get(copyKey(a, gone.row.Copy), &place); err != nil {
		return err
	}
	if place.Mailbox != b.id || place.UID != gone.uid || place.Replaced == nil {
		return nil
	}
	var ours messageRow
	if err := ours.decode(place.Replaced); err != nil {
		return err
	}
	return s.addOurs(a, b.id, &b.row, &ours)
}
