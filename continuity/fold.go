package continuity

import (
	"encoding/binary"
	"slices"
	"strings"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// foldName is the name of the mailbox projection.
const foldName = "continuity"

// The keys of the projection, all of which begin with their kind and the
// account. Nothing in them is derived from mail: headers and structure stay in
// the message's own event.
//
//	a                        account: what is given out next
//	m <mailbox 4>            a mailbox
//	n <name>                 its number
//	s <name>                 a subscription
//	M <mailbox 4> <uid 4>    a message
//	x <mailbox 4> <modseq 8> the UIDs that were expunged in this step
//	k <copy 16>              where a message that the user sent is kept
const (
	keyAccount   = 'a'
	keyMailbox   = 'm'
	keyName      = 'n'
	keySubscribe = 's'
	keyMessage   = 'M'
	keyTombstone = 'x'
	keyCopy      = 'k'
)

// The mailboxes that every account has from the start.
var firstMailboxes = []struct{ name, use string }{
	{"INBOX", ""}, {"Sent", `\Sent`}, {"Drafts", `\Drafts`}, {"Trash", `\Trash`}, {"Junk", `\Junk`}, {"Archive", `\Archive`},
}

const (
	inboxID event.MailboxID = 1
	sentID  event.MailboxID = 2
)

type accountRow struct {
	Mailbox  event.MailboxID `cbor:"1,keyasint"` // the last number given
	Validity uint32          `cbor:"2,keyasint"` // the last UIDVALIDITY given
}

type mailboxRow struct {
	Name     string    `cbor:"1,keyasint"`
	Use      string    `cbor:"2,keyasint,omitempty"`
	Validity uint32    `cbor:"3,keyasint"`
	UIDNext  event.UID `cbor:"4,keyasint"`
	ModSeq   uint64    `cbor:"5,keyasint"` // the highest
	Keywords []string  `cbor:"6,keyasint,omitempty"`
	Messages uint32    `cbor:"7,keyasint,omitempty"`
	Unseen   uint32    `cbor:"8,keyasint,omitempty"`
	Deleted  uint32    `cbor:"9,keyasint,omitempty"`
	Size     int64     `cbor:"10,keyasint,omitempty"`
}

type messageRow struct {
	Flags    systemFlags  `cbor:"1,keyasint,omitempty"`
	Keywords []uint32     `cbor:"2,keyasint,omitempty"` // indexes into the mailbox's, ascending
	ModSeq   uint64       `cbor:"3,keyasint"`
	Size     int64        `cbor:"4,keyasint"`
	Date     event.Millis `cbor:"5,keyasint"`
	Saved    event.Millis `cbor:"6,keyasint"`
	Ref      event.Ref    `cbor:"7,keyasint"`
}

// systemFlags is the set of system flags (RFC 9051 §2.3.2).
type systemFlags uint8

const (
	flagSeen systemFlags = 1 << iota
	flagAnswered
	flagFlagged
	flagDeleted
	flagDraft
)

var flagNames = []string{`\Seen`, `\Answered`, `\Flagged`, `\Deleted`, `\Draft`}

// What the fold emits.
type (
	// boxChanges are the changes of one mailbox by one event, in order.
	boxChanges struct {
		Account event.Account
		Mailbox event.MailboxID
		Changes []Change
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
type fold struct{}

// Name implements projection.Projection.
func (fold) Name() string { return foldName }

// Version implements projection.Projection.
func (fold) Version() int { return 1 }

// Apply implements projection.Projection.
func (fold) Apply(tx projection.Txn, r eventlog.Recorded) error {
	s := &step{tx: tx, rec: r}
	var err error
	switch f := r.Fact.(type) {
	case *event.UserSet:
		err = s.ensure(f.Account)
	case *event.MessageAccepted:
		err = s.accepted(f)
	case *event.Repudiated:
		err = s.repudiated(f)
	case *event.Appended:
		err = s.appended(f)
	case *event.FlagsChanged:
		err = s.flagsChanged(f)
	case *event.Expunged:
		err = s.expunged(f)
	case *event.Copied:
		err = s.copied(f)
	case *event.MailboxCreated:
		err = s.created(f)
	case *event.MailboxDeleted:
		err = s.deleted(f)
	case *event.MailboxRenamed:
		err = s.renamed(f)
	case *event.MailboxSubscribed:
		err = s.subscribed(f)
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
}

func (s *step) note(a event.Account, m event.MailboxID, c Change) {
	for _, b := range s.changes {
		if b.Account == a && b.Mailbox == m {
			b.Changes = append(b.Changes, c)
			return
		}
	}
	s.changes = append(s.changes, &boxChanges{a, m, []Change{c}})
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

// newMailbox makes a mailbox whose name is free. UIDVALIDITY grows with each,
// and is never less than the seconds of the log's time, so that an account that
// is made anew under an old name does not give old numbers.
func (s *step) newMailbox(a event.Account, name, use string, subscribe bool) (event.MailboxID, error) {
	var acc accountRow
	if err := s.get(key(keyAccount, a), &acc); err != nil {
		return 0, err
	}
	acc.Mailbox++
	acc.Validity = max(acc.Validity+1, uint32(s.rec.Time/1000))
	s.put(key(keyAccount, a), &acc)
	s.put(mailboxKey(a, acc.Mailbox), &mailboxRow{Name: name, Use: use, Validity: acc.Validity, UIDNext: 1, ModSeq: 1})
	s.tx.Set(nameKey(keyName, a, name), binary.BigEndian.AppendUint32(nil, uint32(acc.Mailbox)))
	if subscribe {
		s.tx.Set(nameKey(keySubscribe, a, name), []byte{1})
	}
	return acc.Mailbox, nil
}

func (s *step) accepted(f *event.MessageAccepted) error {
	for _, al := range f.Allotments {
		if err := s.ensure(al.Account); err != nil {
			return err
		}
		id := inboxID
		if al.Place == event.PlaceSent {
			id = sentID
		}
		if al.Place == event.PlaceSent && al.Copy != [16]byte{} {
			raw, err := s.tx.Get(copyKey(al.Account, al.Copy))
			if err != nil {
				return err
			}
			if raw != nil {
				continue // the client has put its own copy there
			}
		}
		box, err := s.mailbox(al.Account, id)
		if err != nil {
			return err
		}
		if box == nil {
			continue // the user has deleted that mailbox
		}
		row := messageRow{Size: f.Shown, Date: f.At, Saved: f.At, Ref: s.rec.Ref}
		if al.Seen {
			row.Flags |= flagSeen
		}
		uid := s.add(al.Account, id, box, row)
		if al.Copy != [16]byte{} {
			s.tx.Set(copyKey(al.Account, al.Copy), placeOf(id, uid, true))
		}
		s.put(mailboxKey(al.Account, id), box)
	}
	return nil
}

// repudiated takes back what came in too late. It stands near the end of the
// mailboxes it entered, since its repudiation follows at once.
func (s *step) repudiated(f *event.Repudiated) error {
	for _, a := range f.Accounts {
		boxes, err := s.mailboxes(a)
		if err != nil {
			return err
		}
		for _, id := range boxes {
			if err := s.removeEmail(a, id, f.Message); err != nil {
				return err
			}
		}
	}
	return nil
}

// repudiationDepth is how far from the end of a mailbox a message is looked
// for: more than the largest segment holds.
const repudiationDepth = 4000

func (s *step) removeEmail(a event.Account, id event.MailboxID, email event.ID) error {
	prefix := messagePrefix(a, id)
	var found []event.UID
	n := 0
	for it, err := range s.tx.Scan(prefix, nil, true) {
		if err != nil {
			return err
		}
		var row messageRow
		if err := event.Unmarshal(it.Value, &row); err != nil {
			return err
		}
		if row.Ref.ID == email {
			found = append(found, uidOf(it.Key))
		}
		if n++; n == repudiationDepth {
			break
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	box, err := s.mailbox(a, id)
	if err != nil || box == nil {
		return err
	}
	if err := s.remove(a, id, box, found); err != nil {
		return err
	}
	s.put(mailboxKey(a, id), box)
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
	sent := f.Mailbox == sentID && f.Copy != [16]byte{}
	if sent {
		// Our own copy of a submission gives way to the client's, which may hold
		// more (its Bcc field).
		raw, err := s.tx.Get(copyKey(f.Account, f.Copy))
		if err != nil {
			return err
		}
		if id, uid, ours := parsePlace(raw); ours && id == f.Mailbox {
			if err := s.remove(f.Account, id, box, []event.UID{uid}); err != nil {
				return err
			}
		}
	}
	row := messageRow{Size: f.Size, Date: f.Date, Saved: f.At, Ref: s.rec.Ref}
	s.applyFlags(f.Account, f.Mailbox, box, &row, event.FlagsReplace, f.Flags)
	uid := s.add(f.Account, f.Mailbox, box, row)
	if sent {
		s.tx.Set(copyKey(f.Account, f.Copy), placeOf(f.Mailbox, uid, false))
	}
	s.put(mailboxKey(f.Account, f.Mailbox), box)
	s.tx.Emit(appended{box.Validity, uid})
	return nil
}

// add gives a message the next UID and puts it into a mailbox, whose row the
// caller stores.
func (s *step) add(a event.Account, id event.MailboxID, box *mailboxRow, row messageRow) event.UID {
	uid := box.UIDNext
	box.UIDNext++
	box.ModSeq++
	row.ModSeq = box.ModSeq
	box.count(row, 1)
	s.put(messageKey(a, id, uid), &row)
	s.note(a, id, Change{Kind: ChangeAdded, Message: row.message(uid, box), ModSeq: box.ModSeq})
	return uid
}

// remove expunges messages that exist, and keeps their UIDs as a tombstone.
func (s *step) remove(a event.Account, id event.MailboxID, box *mailboxRow, uids []event.UID) error {
	box.ModSeq++
	var gone []event.UID
	for _, uid := range uids {
		var row messageRow
		k := messageKey(a, id, uid)
		raw, err := s.tx.Get(k)
		if err != nil {
			return err
		}
		if raw == nil {
			continue
		}
		if err := event.Unmarshal(raw, &row); err != nil {
			return err
		}
		box.count(row, -1)
		s.tx.Delete(k)
		gone = append(gone, uid)
		s.note(a, id, Change{Kind: ChangeExpunged, Message: Message{UID: uid, Email: row.Ref.ID}, ModSeq: box.ModSeq})
	}
	if len(gone) > 0 {
		s.put(tombstoneKey(a, id, box.ModSeq), ranges(gone))
	}
	return nil
}

func (b *mailboxRow) count(row messageRow, by int) {
	b.Messages += uint32(by)
	b.Size += int64(by) * row.Size
	if row.Flags&flagSeen == 0 {
		b.Unseen += uint32(by)
	}
	if row.Flags&flagDeleted != 0 {
		b.Deleted += uint32(by)
	}
}

// message is the row as the world sees it.
func (m messageRow) message(uid event.UID, box *mailboxRow) Message {
	return Message{
		UID: uid, Flags: flagList(m.Flags, m.Keywords, box.Keywords), ModSeq: m.ModSeq, Size: m.Size,
		Date: m.Date, Saved: m.Saved, Email: m.Ref.ID, Ref: m.Ref,
	}
}

func flagList(f systemFlags, keywords []uint32, names []string) []string {
	var out []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	for _, k := range keywords {
		if int(k) < len(names) {
			out = append(out, names[k])
		}
	}
	return out
}

// applyFlags changes the flags of a row. A keyword that is new to the mailbox
// is added to it. It reports whether anything changed.
func (s *step) applyFlags(a event.Account, id event.MailboxID, box *mailboxRow, row *messageRow, op event.FlagOp, flags []string) bool {
	var sys systemFlags
	var keys []uint32
	for _, f := range flags {
		if i := slices.IndexFunc(flagNames, func(n string) bool { return strings.EqualFold(n, f) }); i >= 0 {
			sys |= 1 << i
			continue
		}
		if strings.HasPrefix(f, `\`) {
			continue // no other system flag can be set by a client (RFC 9051 §2.3.2)
		}
		k, ok := s.keyword(a, id, box, f, op != event.FlagsRemove)
		if ok {
			keys = append(keys, k)
		}
	}
	before, beforeKeys := row.Flags, row.Keywords
	switch op {
	case event.FlagsReplace:
		row.Flags, row.Keywords = sys, nil
	case event.FlagsAdd:
		row.Flags |= sys
	case event.FlagsRemove:
		row.Flags &^= sys
		row.Keywords = slices.DeleteFunc(slices.Clone(row.Keywords), func(k uint32) bool { return slices.Contains(keys, k) })
		keys = nil
	}
	row.Keywords = append(slices.Clone(row.Keywords), keys...)
	slices.Sort(row.Keywords)
	row.Keywords = slices.Compact(row.Keywords)
	return row.Flags != before || !slices.Equal(row.Keywords, beforeKeys)
}

// maxKeywords bounds the keywords of a mailbox; more are not kept.
const maxKeywords = 1000

// keyword returns a keyword's index. Spelling follows its first use.
func (s *step) keyword(a event.Account, id event.MailboxID, box *mailboxRow, name string, add bool) (uint32, bool) {
	i := slices.IndexFunc(box.Keywords, func(n string) bool { return strings.EqualFold(n, name) })
	if i >= 0 {
		return uint32(i), true
	}
	if !add || len(box.Keywords) >= maxKeywords {
		return 0, false
	}
	box.Keywords = append(slices.Clone(box.Keywords), name)
	s.note(a, id, Change{Kind: ChangeKeywords, Keywords: box.Keywords, ModSeq: box.ModSeq + 1}) // with the change that follows
	return uint32(len(box.Keywords) - 1), true
}
