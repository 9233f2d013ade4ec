package continuity

import (
	"encoding/binary"
	"slices"

	"holdfast/event"
)

// A message's day ends in two steps. When it is condemned, what no user has
// filed is expunged. What is filed waits for its [event.Kept], which gives it
// another day, and when the day has expired, what is left goes.
//
// Between the two nothing becomes needed that was not: a message that is not
// filed then, in one mailbox, is late there, and so are its copies, whatever
// becomes of them. That is so from the condemnation on, whether or not the message
// has been looked at since: of many each event looks at some, see [step.sweep].

// retention folds a fact of retention.
func (s *step) retention(f event.Fact) error {
	switch f := f.(type) {
	case *event.DayCondemned:
		return s.dayCondemned(f.Day)
	case *event.Kept:
		return s.kept(f)
	case *event.DayExpired:
		return s.dayExpired(f.Day)
	case *event.DaySwept:
		return s.sweep()
	case *event.Erased:
		return s.erased(f)
	}
	return nil
}

// condemned returns the last day of the tenant that was condemned, 0 when none
// was.
func (s *step) condemned() (event.Day, error) {
	if s.day == nil {
		d, err := loadCondemned(s.tx, s.rec.Tenant)
		if err != nil {
			return 0, err
		}
		s.day = &d
	}
	return *s.day, nil
}

// filed reports whether what a mailbox holds with these flags is filed: it is
// elsewhere than in INBOX, Sent, Trash or Junk, or is flagged in one of the first
// two.
func filed(id event.MailboxID, box *mailboxRow, flags systemFlags) bool {
	switch {
	case box.Use == `\Trash` || box.Use == `\Junk`:
		return false
	case id == inboxID || box.Use == useSent:
		return flags&flagFlagged != 0
	}
	return true
}

// needed reports whether a message is to be kept past its day.
func (m *messageRow) needed(id event.MailboxID, box *mailboxRow) bool {
	return !m.Late && filed(id, box, m.Flags)
}

// decide takes note that a message whose day is condemned is not filed.
func (m *messageRow) decide(id event.MailboxID, box *mailboxRow, condemned event.Day) {
	if m.over(condemned) && !filed(id, box, m.Flags) {
		m.Late = true
	}
}

// over reports whether a message expires on a day or before.
func (m *messageRow) over(d event.Day) bool { return m.Expiry != 0 && m.Expiry <= d }

// awaits reports whether a Kept may come for the message, its first or another
// one. Such messages are found by keyAwait.
func (m *messageRow) awaits(condemned event.Day) bool {
	return m.over(condemned) || m.Ref.ID != m.Email
}

// span is a range of UIDs, in blocks of 64, so that it changes seldom.
type span struct{ first, last event.UID }

const spanBlock = 63

func (sp *span) take(uid event.UID) {
	if first := uid &^ spanBlock; sp.last == 0 || first < sp.first {
		sp.first = first
	}
	sp.last = max(sp.last, uid|spanBlock)
}

func (sp span) encode() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(sp.first)), uint32(sp.last))
}

func parseSpan(b []byte) (sp span, err error) {
	if len(b) != 8 {
		return sp, event.ErrMalformed
	}
	return span{event.UID(binary.BigEndian.Uint32(b)), event.UID(binary.BigEndian.Uint32(b[4:]))}, nil
}

// enter notes where a message is that gets into a mailbox, or gets another day,
// so that it is found when its day ends. The caller stores its row.
func (s *step) enter(a event.Account, id event.MailboxID, box *mailboxRow, uid event.UID, row *messageRow) error {
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	row.decide(id, box, condemned)
	if row.awaits(condemned) {
		s.tx.Set(awaitKey(s.rec.Tenant, row.Email, a, id, uid), []byte{1})
	}
	if row.Expiry == 0 {
		return nil
	}
	k := dayKey(s.rec.Tenant, row.Expiry, place{a, id})
	raw, err := s.tx.Get(k)
	if err != nil {
		return err
	}
	var sp span
	if raw != nil {
		if sp, err = parseSpan(raw); err != nil {
			return err
		}
	}
	old := sp
	if sp.take(uid); sp != old {
		s.tx.Set(k, sp.encode())
	}
	return nil
}

func (s *step) dayCondemned(day event.Day) error {
	old, err := s.condemned()
	if err != nil {
		return err
	}
	if day > old {
		s.tx.Set(condemnedKey(s.rec.Tenant), binary.BigEndian.AppendUint32(nil, uint32(day)))
		s.day = &day
	}
	return s.sweepFrom(day)
}

// dayExpired removes what is left of a day. One that was not condemned before is
// not touched.
func (s *step) dayExpired(day event.Day) error {
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	day = min(day, condemned)
	old, err := loadDay(s.tx, expiredKey(s.rec.Tenant))
	if err != nil {
		return err
	}
	if day > old {
		s.tx.Set(expiredKey(s.rec.Tenant), binary.BigEndian.AppendUint32(nil, uint32(day)))
	}
	return s.sweepFrom(day)
}

// expire removes messages whose mail is gone, and all that was kept of them, and
// stores the mailbox's row.
func (s *step) expire(a event.Account, id event.MailboxID, box *mailboxRow, gone []found) error {
	if len(gone) == 0 {
		return nil
	}
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	box.ModSeq++
	c := &boxChanges{Account: a, Mailbox: id, GoneAt: box.ModSeq}
	for i := range gone {
		s.drop(a, id, box, &gone[i], condemned)
		c.Gone = append(c.Gone, gone[i].uid)
	}
	s.changes = append(s.changes, c)
	if err := s.forgetCopies(a, id, gone); err != nil {
		return err
	}
	if err := s.bury(a, id, box, gone); err != nil {
		return err
	}
	s.put(mailboxKey(a, id), box)
	return nil
}

// all returns the changes one by one.
func (c *boxChanges) all() []Change {
	list := c.Changes
	for _, uid := range c.Gone {
		list = append(list, Change{Kind: ChangeExpunged, Message: Message{UID: uid}, ModSeq: c.GoneAt})
	}
	return list
}

// kept gives a message another place and another day, wherever a user has it.
func (s *step) kept(f *event.Kept) error {
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	if s.rec.Expiry <= condemned {
		return nil // it comes too late: what holds the message is as short-lived as before
	}
	type at struct {
		place
		uid event.UID
	}
	var list []at
	for it, err := range s.tx.Scan(awaitPrefix(s.rec.Tenant, f.Message), nil, false) {
		if err != nil {
			return err
		}
		p, uid := parseAwaitKey(it.Key)
		list = append(list, at{p, uid})
	}
	for _, m := range list {
		k := messageKey(m.account, m.mailbox, m.uid)
		raw, err := s.tx.Get(k)
		if err != nil {
			return err
		}
		box, err := s.mailbox(m.account, m.mailbox)
		if err != nil {
			return err
		}
		if raw == nil || box == nil {
			continue
		}
		var row messageRow
		if err := row.decode(raw); err != nil {
			return err
		}
		row.Ref, row.Expiry, row.Late = s.rec.Ref, s.rec.Expiry, false
		if err := s.enter(m.account, m.mailbox, box, m.uid, &row); err != nil {
			return err
		}
		s.tx.Set(k, row.encode())
	}
	return nil
}

// erased removes messages and their copies.
func (s *step) erased(f *event.Erased) error {
	var accounts []event.Account // in the order of the event
	erased := map[event.Account]map[event.ID]bool{}
	for _, item := range f.Items {
		for _, a := range item.Accounts {
			if erased[a] == nil {
				erased[a] = map[event.ID]bool{}
				accounts = append(accounts, a)
			}
			erased[a][item.Message] = true
		}
	}
	for _, a := range accounts {
		if err := s.erase(a, erased[a]); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) erase(a event.Account, erased map[event.ID]bool) error {
	list, err := loadMailboxes(s.tx, a)
	if err != nil {
		return err
	}
	for i := range list {
		b := &list[i]
		var gone []found
		for it, err := range s.tx.Scan(messagePrefix(a, b.id), nil, false) {
			if err != nil {
				return err
			}
			if len(it.Value) < rowFixed || !erased[event.ID(it.Value[rowID:rowFixed])] {
				continue
			}
			g := found{uid: uidOf(it.Key)}
			if err := g.row.decode(it.Value); err != nil {
				return err
			}
			gone = append(gone, g)
		}
		if err := s.expire(a, b.id, &b.row, gone); err != nil {
			return err
		}
	}
	return s.forgetReplaced(a, erased)
}

// forgetCopies removes the marks by which messages that go were found in Sent.
func (s *step) forgetCopies(a event.Account, id event.MailboxID, gone []found) error {
	for i := range gone {
		mark := gone[i].row.Copy
		if mark == [16]byte{} {
			continue
		}
		var at copyRow
		if err := s.get(copyKey(a, mark), &at); err != nil {
			return err
		}
		if at.Mailbox == id && at.UID == gone[i].uid {
			s.tx.Delete(copyKey(a, mark))
		}
	}
	return nil
}

// forgetReplaced sees to it that an erased message which the client's own copy
// has replaced does not come back.
func (s *step) forgetReplaced(a event.Account, erased map[event.ID]bool) error {
	type mark struct {
		key []byte
		row copyRow
	}
	var list []mark
	for it, err := range s.tx.Scan(key(keyCopy, a), nil, false) {
		if err != nil {
			return err
		}
		m := mark{key: slices.Clone(it.Key)}
		if err := event.Unmarshal(it.Value, &m.row); err != nil {
			return err
		}
		if b := m.row.Replaced; len(b) >= rowFixed && erased[event.ID(b[rowID:rowFixed])] {
			list = append(list, m)
		}
	}
	for _, m := range list {
		m.row.Replaced = nil
		s.put(m.key, &m.row)
	}
	return nil
}
