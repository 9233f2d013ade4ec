package continuity

import (
	"encoding/binary"

	"holdfast/event"
	"holdfast/projection"
)

func key(kind byte, a event.Account) []byte { return append([]byte{kind}, a[:]...) }

func nameKey(kind byte, a event.Account, name string) []byte {
	return append(key(kind, a), name...)
}

func mailboxKey(a event.Account, id event.MailboxID) []byte {
	return binary.BigEndian.AppendUint32(key(keyMailbox, a), uint32(id))
}

func messagePrefix(a event.Account, id event.MailboxID) []byte {
	return binary.BigEndian.AppendUint32(key(keyMessage, a), uint32(id))
}

func messageKey(a event.Account, id event.MailboxID, uid event.UID) []byte {
	return binary.BigEndian.AppendUint32(messagePrefix(a, id), uint32(uid))
}

func uidOf(k []byte) event.UID { return event.UID(binary.BigEndian.Uint32(k[len(k)-4:])) }

func tombstonePrefix(a event.Account, id event.MailboxID) []byte {
	return binary.BigEndian.AppendUint32(key(keyTombstone, a), uint32(id))
}

func tombstoneKey(a event.Account, id event.MailboxID, modseq uint64) []byte {
	return binary.BigEndian.AppendUint64(tombstonePrefix(a, id), modseq)
}

func copyKey(a event.Account, c [16]byte) []byte { return append(key(keyCopy, a), c[:]...) }

// placeOf says where a sent message is kept, and whether we put it there.
func placeOf(id event.MailboxID, uid event.UID, ours bool) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(id))
	b = binary.BigEndian.AppendUint32(b, uint32(uid))
	if ours {
		return append(b, 1)
	}
	return append(b, 0)
}

func parsePlace(b []byte) (event.MailboxID, event.UID, bool) {
	if len(b) != 9 {
		return 0, 0, false
	}
	return event.MailboxID(binary.BigEndian.Uint32(b)), event.UID(binary.BigEndian.Uint32(b[4:])), b[8] == 1
}

// ranges joins ascending UIDs.
func ranges(uids []event.UID) (out []event.UIDRange) {
	for _, u := range uids {
		if n := len(out); n > 0 && out[n-1].Last+1 == u {
			out[n-1].Last = u
			continue
		}
		out = append(out, event.UIDRange{First: u, Last: u})
	}
	return out
}

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

// mailboxes returns the numbers of an account's mailboxes, ascending.
func (s *step) mailboxes(a event.Account) (ids []event.MailboxID, err error) {
	for it, err := range s.tx.Scan(key(keyMailbox, a), nil, false) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, event.MailboxID(binary.BigEndian.Uint32(it.Key[17:])))
	}
	return ids, nil
}
