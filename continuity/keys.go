package continuity

import (
	"encoding/binary"

	"holdfast/event"
	"holdfast/projection"
)

// The keys of the projection. They begin with their kind; then comes the account,
// for those of retention the tenant.
//
//	a                        account: what is given out next
//	m <mailbox 4>            a mailbox
//	n <name>                 its number
//	s <name>                 a subscription
//	M <mailbox 4> <uid 4>    a message
//	x <mailbox 4> <modseq 8> the UIDs that were expunged in this step, or up to it
//	k <copy 16>              where a message that the user sent is kept
//
//	c                        the last day that was condemned
//	d <day 4> <account 16> <mailbox 4>             between which UIDs messages are
//	                         that expire on this day
//	v                        the last day that has expired
//	w                        sweepRow: how far the messages of days that end are removed
//	e <message 16> <account 16> <mailbox 4> <uid 4> a message whose day was
//	                         condemned once, see [messageRow.awaits]
const (
	keyAccount   = 'a'
	keyMailbox   = 'm'
	keyName      = 'n'
	keySubscribe = 's'
	keyMessage   = 'M'
	keyTombstone = 'x'
	keyCopy      = 'k'
	keyCondemned = 'c'
	keyDay       = 'd'
	keyAwait     = 'e'
	keyExpired   = 'v'
	keySweep     = 'w'
)

// afterAccount is where in a key the rest begins.
const afterAccount = 17

func key(kind byte, a event.Account) []byte {
	return append(append(make([]byte, 0, 32), kind), a[:]...)
}

func nameKey(kind byte, a event.Account, name string) []byte {
	return append(key(kind, a), name...)
}

func nameOf(k []byte) string { return string(k[afterAccount:]) }

func mailboxKey(a event.Account, id event.MailboxID) []byte {
	return binary.BigEndian.AppendUint32(key(keyMailbox, a), uint32(id))
}

func mailboxOf(k []byte) event.MailboxID {
	return event.MailboxID(binary.BigEndian.Uint32(k[afterAccount:]))
}

func messagePrefix(a event.Account, id event.MailboxID) []byte {
	return binary.BigEndian.AppendUint32(key(keyMessage, a), uint32(id))
}

func messageKey(a event.Account, id event.MailboxID, uid event.UID) []byte {
	return binary.BigEndian.AppendUint32(messagePrefix(a, id), uint32(uid))
}

// place is where in an account's mailboxes something is.
type place struct {
	account event.Account
	mailbox event.MailboxID
}

func condemnedKey(t event.Tenant) []byte { return key(keyCondemned, event.Account(t)) }

func expiredKey(t event.Tenant) []byte { return key(keyExpired, event.Account(t)) }

func sweepKey(t event.Tenant) []byte { return key(keySweep, event.Account(t)) }

func dayPrefix(t event.Tenant) []byte { return key(keyDay, event.Account(t)) }

// days are counted from 1970, so that their keys are in order.
func dayKey(t event.Tenant, d event.Day, p place) []byte {
	k := binary.BigEndian.AppendUint32(dayPrefix(t), uint32(d))
	k = append(k, p.account[:]...)
	return binary.BigEndian.AppendUint32(k, uint32(p.mailbox))
}

func parseDayKey(k []byte) (event.Day, place) {
	k = k[afterAccount:]
	return event.Day(binary.BigEndian.Uint32(k)), place{event.Account(k[4:20]), event.MailboxID(binary.BigEndian.Uint32(k[20:]))}
}

func awaitPrefix(t event.Tenant, message event.ID) []byte {
	return append(append(make([]byte, 0, 64), key(keyAwait, event.Account(t))...), message[:]...)
}

func awaitKey(t event.Tenant, message event.ID, a event.Account, id event.MailboxID, uid event.UID) []byte {
	k := append(awaitPrefix(t, message), a[:]...)
	k = binary.BigEndian.AppendUint32(k, uint32(id))
	return binary.BigEndian.AppendUint32(k, uint32(uid))
}

func parseAwaitKey(k []byte) (place, event.UID) {
	k = k[afterAccount+16:]
	return place{event.Account(k[:16]), event.MailboxID(binary.BigEndian.Uint32(k[16:]))}, uidOf(k)
}

func uidOf(k []byte) event.UID { return event.UID(binary.BigEndian.Uint32(k[len(k)-4:])) }

func tombstonePrefix(a event.Account, id event.MailboxID) []byte {
	return binary.BigEndian.AppendUint32(key(keyTombstone, a), uint32(id))
}

func tombstoneKey(a event.Account, id event.MailboxID, modseq uint64) []byte {
	return binary.BigEndian.AppendUint64(tombstonePrefix(a, id), modseq)
}

func copyKey(a event.Account, c [16]byte) []byte { return append(key(keyCopy, a), c[:]...) }

func (s *step) get(k []byte, v any) error { return load(s.tx, k, v) }

// load reads a row; an absent key leaves v as it is.
func load(view projection.View, k []byte, v any) error {
	raw, err := view.Get(k)
	if err != nil || raw == nil {
		return err
	}
	return event.Unmarshal(raw, v)
}

func (s *step) put(k []byte, v any) { s.tx.Set(k, event.Marshal(v)) }

// mailbox returns a mailbox's row, or nil.
func (s *step) mailbox(a event.Account, id event.MailboxID) (*mailboxRow, error) {
	return loadMailbox(s.tx, a, id)
}

func loadMailbox(v projection.View, a event.Account, id event.MailboxID) (*mailboxRow, error) {
	raw, err := v.Get(mailboxKey(a, id))
	if err != nil || raw == nil {
		return nil, err
	}
	row := new(mailboxRow)
	return row, event.Unmarshal(raw, row)
}

// lookup returns the number of the mailbox with a name, 0 for none.
func lookup(v projection.View, a event.Account, name string) (event.MailboxID, error) {
	raw, err := v.Get(nameKey(keyName, a, name))
	if err != nil || len(raw) != 4 {
		return 0, err
	}
	return event.MailboxID(binary.BigEndian.Uint32(raw)), nil
}

// numbered is a mailbox with its number.
type numbered struct {
	id  event.MailboxID
	row mailboxRow
}

// loadMailboxes returns an account's mailboxes by ascending number.
func loadMailboxes(v projection.View, a event.Account) (list []numbered, err error) {
	for it, err := range v.Scan(key(keyMailbox, a), nil, false) {
		if err != nil {
			return nil, err
		}
		b := numbered{id: mailboxOf(it.Key)}
		if err := event.Unmarshal(it.Value, &b.row); err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}
