package continuity

import (
	"encoding/binary"
	"fmt"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

// foldName is the name of the mailbox projection.
const foldName = "continuity"

// firstMailboxes are the mailboxes that every account has from the start.
var firstMailboxes = [...]struct{ name, use string }{
	{"INBOX", ""}, {"Sent", useSent}, {"Drafts", `\Drafts`}, {"Trash", `\Trash`}, {"Junk", `\Junk`}, {"Archive", `\Archive`},
}

// The numbers of the first two. INBOX can be neither deleted nor renamed.
const (
	inboxID event.MailboxID = 1
	sentID  event.MailboxID = 2
	useSent                 = `\Sent`
)

// What the fold emits.
type (
	// boxChanges are the changes of one mailbox by one event, in order.
	boxChanges struct {
		Account event.Account
		Mailbox event.MailboxID
		Changes []Change
		// Gone were expunged in one step, GoneAt, after the changes. When a day ends
		// they are many, of mailboxes that nobody looks at.
		Gone   []event.UID
		GoneAt uint64
	}
	// done is the verdict on a command: nil, or one of this package's errors.
	done struct{ Err error }
	// appended, copied and expunged are verdicts with a result.
	appended struct {
		Validity uint32
		UID      event.UID
	}
	copied   struct{ Result CopyResult }
	expunged struct{ UIDs []event.UID }
)

// fold is the mailbox projection.
type fold struct {
	// atOnce is how many messages are looked at in one step of removing those of
	// days that end. It is constant for a version.
	atOnce int
}

// newFold looks at so many that a step takes some 30 ms, and fits into one
// transaction of the database.
func newFold() fold { return fold{atOnce: 2000} }

// Name implements projection.Projection.
func (fold) Name() string { return foldName }

// Version implements projection.Projection.
func (fold) Version() int { return 6 }

// ReadsVersion implements projection.OldReader: the messages of version 2 do not
// say when they expire.
func (fold) ReadsVersion(v int) bool { return v >= 3 }

// Unhurried implements projection.Unhurried: every reader waits for the tail that
// its node knows.
func (fold) Unhurried() {}

// Apply implements projection.Projection.
func (f fold) Apply(tx projection.Txn, r eventlog.Recorded) error {
	s := &step{tx: tx, rec: r, atOnce: f.atOnce}
	var err error
	switch e := r.Fact.(type) {
	case *event.UserSet:
		err = s.ensure(e.Account)
	case *event.MessageAccepted:
		err = s.accepted(e)
	case *event.Repudiated:
		err = s.repudiated(e)
	case *event.Appended:
		err = s.appended(e)
	case *event.FlagsChanged:
		err = s.flagsChanged(e)
	case *event.Expunged:
		err = s.expunged(e)
	case *event.Copied:
		err = s.copied(e)
	case *event.MailboxCreated:
		err = s.created(e)
	case *event.MailboxDeleted:
		err = s.deleted(e)
	case *event.MailboxRenamed:
		err = s.renamed(e)
	case *event.MailboxSubscribed:
		err = s.subscribed(e)
	default:
		err = s.retention(r.Fact)
	}
	if err != nil {
		return err
	}
	for _, b := range s.changes {
		tx.Emit(*b)
	}
	return nil
}

// step is the fold of one event.
type step struct {
	tx      projection.Txn
	rec     eventlog.Recorded
	changes []*boxChanges
	day     *event.Day // see condemned
	atOnce  int        // see fold
}

func (s *step) note(a event.Account, m event.MailboxID, c Change) {
	for _, b := range s.changes {
		if b.Account == a && b.Mailbox == m {
			b.Changes = append(b.Changes, c)
			return
		}
	}
	s.changes = append(s.changes, &boxChanges{Account: a, Mailbox: m, Changes: []Change{c}})
}

// noteKeywords tells of new keywords, together with the change that brings them,
// which comes next.
func (s *step) noteKeywords(a event.Account, m event.MailboxID, box *mailboxRow) {
	s.note(a, m, Change{Kind: ChangeKeywords, Keywords: box.Keywords, ModSeq: box.ModSeq + 1})
}

// ensure gives an account its first mailboxes.
func (s *step) ensure(a event.Account) error {
	raw, err := s.tx.Get(key(keyAccount, a))
	if err != nil || raw != nil {
		return err
	}
	for _, m := range firstMailboxes {
		if _, err := s.newMailbox(a, m.name, m.use, true); err != nil {
			return err
		}
	}
	return nil
}

// newMailbox makes a mailbox whose name is free. UIDVALIDITY grows with each of
// an account, so that a name that is used again never gives old numbers, and is
// at least the second of the log's time.
func (s *step) newMailbox(a event.Account, name, use string, subscribe bool) (event.MailboxID, error) {
	var acc accountRow
	if err := s.get(key(keyAccount, a), &acc); err != nil {
		return 0, err
	}
	acc.Mailbox++
	acc.Tenant = s.rec.Tenant
	acc.Validity = max(acc.Validity+1, uint32(s.rec.Time/1000))
	if sabotage.On(sabotage.FoldByClock) {
		acc.Validity = max(acc.Validity, uint32(time.Now().Unix()))
	}
	s.put(key(keyAccount, a), &acc)
	s.put(mailboxKey(a, acc.Mailbox), &mailboxRow{Name: name, Use: use, Validity: acc.Validity, UIDNext: 1, ModSeq: 1})
	s.tx.Set(nameKey(keyName, a, name), binary.BigEndian.AppendUint32(nil, uint32(acc.Mailbox)))
	if subscribe {
		s.tx.Set(nameKey(keySubscribe, a, name), []byte{1})
	}
	return acc.Mailbox, nil
}

func (s *step) accepted(f *event.MessageAccepted) error {
	for i := range f.Allotments {
		al := &f.Allotments[i]
		if err := s.ensure(al.Account); err != nil {
			return err
		}
		row := messageRow{Size: f.Shown, Date: f.At, Saved: f.At, Email: s.rec.Ref.ID, Ref: s.rec.Ref, Expiry: s.rec.Expiry, Copy: al.Copy}
		if al.Seen {
			row.Flags |= flagSeen
		}
		var err error
		if al.Place == event.PlaceSent {
			err = s.enterSent(al.Account, &row)
		} else {
			err = s.enterInbox(al.Account, &row)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *step) enterInbox(a event.Account, row *messageRow) error {
	box, err := s.mailbox(a, inboxID)
	if err != nil {
		return err
	}
	if box == nil {
		return fmt.Errorf("account has no INBOX: %w", event.ErrMalformed) // nothing removes it
	}
	if _, err := s.add(a, inboxID, box, row); err != nil {
		return err
	}
	s.put(mailboxKey(a, inboxID), box)
	return nil
}

func (s *step) appended(f *event.Appended) error {
	box, err := s.mailbox(f.Account, f.Mailbox)
	if err != nil {
		return err
	}
	if box == nil {
		s.tx.Emit(done{ErrNoMailbox})
		return nil
	}
	row := messageRow{Size: f.Size, Date: f.Date, Saved: f.At, Email: s.rec.Ref.ID, Ref: s.rec.Ref, Expiry: s.rec.Expiry}
	replaced, err := s.replaceOurs(f, box, &row)
	if err != nil {
		return err
	}
	set, fresh := box.flagSet(f.Flags, true)
	if fresh {
		s.noteKeywords(f.Account, f.Mailbox, box)
	}
	row.Flags, row.Keywords = set.system, set.keywords
	uid, err := s.add(f.Account, f.Mailbox, box, &row)
	if err != nil {
		return err
	}
	if row.Copy != [16]byte{} {
		s.put(copyKey(f.Account, row.Copy), &copyRow{Mailbox: f.Mailbox, UID: uid, Replaced: replaced})
	}
	s.put(mailboxKey(f.Account, f.Mailbox), box)
	s.tx.Emit(appended{box.Validity, uid})
	return nil
}

// add gives a message the next UID and puts it into a mailbox, whose row the
// caller stores.
func (s *step) add(a event.Account, id event.MailboxID, box *mailboxRow, row *messageRow) (event.UID, error) {
	uid := box.UIDNext
	if n := sabotage.Count(sabotage.UIDFromMemory); n > 0 {
		uid = event.UID(n)
	}
	box.UIDNext = uid + 1
	box.ModSeq++
	row.ModSeq = box.ModSeq
	box.count(row, 1)
	if err := s.enter(a, id, box, uid, row); err != nil {
		return 0, err
	}
	s.tx.Set(messageKey(a, id, uid), row.encode())
	lists := flagLists{names: box.Keywords}
	s.note(a, id, Change{Kind: ChangeAdded, Message: row.message(uid, &lists), ModSeq: box.ModSeq})
	return uid, nil
}

// found is a message in a mailbox.
type found struct {
	uid event.UID
	row messageRow
}

// remove expunges messages, ascending by UID, and keeps their UIDs as a
// tombstone. The caller stores the mailbox's row.
func (s *step) remove(a event.Account, id event.MailboxID, box *mailboxRow, gone []found) error {
	if len(gone) == 0 {
		return nil
	}
	condemned, err := s.condemned()
	if err != nil {
		return err
	}
	box.ModSeq++
	for i := range gone {
		g := &gone[i]
		s.drop(a, id, box, g, condemned)
		s.note(a, id, Change{Kind: ChangeExpunged, Message: Message{UID: g.uid, Email: g.row.Email}, ModSeq: box.ModSeq})
	}
	return s.bury(a, id, box, gone)
}

// drop takes a message out of its mailbox.
func (s *step) drop(a event.Account, id event.MailboxID, box *mailboxRow, g *found, condemned event.Day) {
	box.count(&g.row, -1)
	s.tx.Delete(messageKey(a, id, g.uid))
	if g.row.awaits(condemned) {
		s.tx.Delete(awaitKey(s.rec.Tenant, g.row.Email, a, id, g.uid))
	}
}
