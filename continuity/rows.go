package continuity

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"holdfast/event"
)

// The rows of the projection. Nothing in them is derived from mail: headers and
// structure stay in the message's own event.

type accountRow struct {
	Mailbox  event.MailboxID `cbor:"1,keyasint"` // the last number given
	Validity uint32          `cbor:"2,keyasint"` // the last UIDVALIDITY given
	Tenant   event.Tenant    `cbor:"3,keyasint"` // whose it is
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
	// Tombstones is how many there are, see [step.bury].
	Tombstones uint32 `cbor:"11,keyasint,omitempty"`
}

// copyRow is where the copy of a message that the user sent is kept.
type copyRow struct {
	Mailbox event.MailboxID `cbor:"1,keyasint"`
	UID     event.UID       `cbor:"2,keyasint"`
	Ours    bool            `cbor:"3,keyasint,omitempty"` // put there by the submission, not by the client
	// Replaced is the row of our copy that the client's has replaced. It comes
	// back should the client's be repudiated.
	Replaced []byte `cbor:"4,keyasint,omitempty"`
}

// messageRow is one message in a mailbox. There are many of them, and to select
// a mailbox reads them all, so their form is fixed instead of CBOR: 100,000 are
// read in a fifth of the time.
//
//	flags 1 | modseq 8 | size 8 | date 8 | saved 8 | partition 1 | seq 8 | index 4 | expiry 4 | event 16 |
//	[copy 16] | [kept 16] | keywords, 2 each
//
// The highest bit of the flags says that the copy's mark is there, the next one
// that the id of the [event.Kept] is, whose place it then is that stands here,
// and the third one that the row is late.
type messageRow struct {
	Flags    systemFlags
	Keywords []uint16 // indexes into the mailbox's, ascending
	ModSeq   uint64
	Size     int64
	Date     event.Millis
	Saved    event.Millis
	Email    event.ID  // of the message, whatever becomes of it
	Ref      event.Ref // where it is read: the message's event, or the newest Kept of it
	Expiry   event.Day // on which the mail there expires; 0: unknown
	Copy     [16]byte  // the mark of a copy in Sent, see [event.Allotment]
	// Late: it was not filed at some time after its day had been condemned. Filing
	// it does not help any more.
	Late bool
}

const (
	rowFixed  = 66
	rowID     = rowFixed - 16 // offset of the message's id
	rowMarked = 1 << 7
	rowKept   = 1 << 6
	rowLate   = 1 << 5
)

func (m *messageRow) encode() []byte {
	b := make([]byte, 1, rowFixed+32+2*len(m.Keywords))
	b[0] = byte(m.Flags)
	b = binary.BigEndian.AppendUint64(b, m.ModSeq)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Date))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Saved))
	b = append(b, byte(m.Ref.Position.Partition))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Ref.Position.Seq))
	b = binary.BigEndian.AppendUint32(b, m.Ref.Position.Index)
	b = binary.BigEndian.AppendUint32(b, uint32(m.Expiry))
	b = append(b, m.Email[:]...)
	if m.Copy != [16]byte{} {
		b[0] |= rowMarked
		b = append(b, m.Copy[:]...)
	}
	if m.Ref.ID != m.Email {
		b[0] |= rowKept
		b = append(b, m.Ref.ID[:]...)
	}
	if m.Late {
		b[0] |= rowLate
	}
	for _, k := range m.Keywords {
		b = binary.BigEndian.AppendUint16(b, k)
	}
	return b
}

func (m *messageRow) decode(b []byte) error {
	rest := len(b) - rowFixed
	if rest >= 0 {
		rest -= 16 * (int(b[0]>>7) + int(b[0]>>6&1))
	}
	if rest < 0 || rest%2 != 0 {
		return fmt.Errorf("message row of %d bytes: %w", len(b), event.ErrMalformed)
	}
	*m = messageRow{
		Flags:  systemFlags(b[0] &^ (rowMarked | rowKept | rowLate)),
		ModSeq: binary.BigEndian.Uint64(b[1:]),
		Size:   int64(binary.BigEndian.Uint64(b[9:])),
		Date:   event.Millis(binary.BigEndian.Uint64(b[17:])),
		Saved:  event.Millis(binary.BigEndian.Uint64(b[25:])),
		Ref: event.Ref{ID: event.ID(b[rowID:rowFixed]), Position: event.Position{
			Partition: event.Partition(b[33]), Seq: event.Seq(binary.BigEndian.Uint64(b[34:])), Index: binary.BigEndian.Uint32(b[42:]),
		}},
		Expiry: event.Day(int32(binary.BigEndian.Uint32(b[46:]))),
		Late:   b[0]&rowLate != 0,
	}
	m.Email = m.Ref.ID
	tail := b[rowFixed:]
	if b[0]&rowMarked != 0 {
		m.Copy, tail = [16]byte(tail), tail[16:]
	}
	if b[0]&rowKept != 0 {
		m.Ref.ID, tail = event.ID(tail[:16]), tail[16:]
	}
	for ; len(tail) > 0; tail = tail[2:] {
		m.Keywords = append(m.Keywords, binary.BigEndian.Uint16(tail))
	}
	return nil
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

var flagNames = [...]string{`\Seen`, `\Answered`, `\Flagged`, `\Deleted`, `\Draft`}

// count adds a message to the mailbox's counters, or takes it away.
func (b *mailboxRow) count(row *messageRow, by int) {
	b.Messages += uint32(by)
	b.Size += int64(by) * row.Size
	if row.Flags&flagSeen == 0 {
		b.Unseen += uint32(by)
	}
	if row.Flags&flagDeleted != 0 {
		b.Deleted += uint32(by)
	}
}

func (b *mailboxRow) mailbox(id event.MailboxID, subscribed bool) Mailbox {
	return Mailbox{
		ID: id, Name: b.Name, Use: b.Use, UIDValidity: b.Validity, UIDNext: b.UIDNext, HighestModSeq: b.ModSeq,
		Subscribed: subscribed, Keywords: b.Keywords, Messages: b.Messages, Unseen: b.Unseen, Deleted: b.Deleted, Size: b.Size,
	}
}

// message is the row as the world sees it.
func (m *messageRow) message(uid event.UID, lists *flagLists) Message {
	return Message{
		UID: uid, Flags: lists.of(m), ModSeq: m.ModSeq, Size: m.Size,
		Date: m.Date, Saved: m.Saved, Email: m.Email, Ref: m.Ref,
	}
}

// flagLists makes lists of flags for the messages of one mailbox; messages with
// the same flags share one.
type flagLists struct {
	names  []string // the mailbox's keywords
	plain  [1 << len(flagNames)][]string
	others map[string][]string
}

func (l *flagLists) of(m *messageRow) []string {
	if m.Flags == 0 && len(m.Keywords) == 0 {
		return nil
	}
	if len(m.Keywords) == 0 {
		i := int(m.Flags) % len(l.plain)
		if l.plain[i] == nil {
			l.plain[i] = l.list(m)
		}
		return l.plain[i]
	}
	k := make([]byte, 1, 64)
	k[0] = byte(m.Flags)
	for _, w := range m.Keywords {
		k = binary.BigEndian.AppendUint16(k, w)
	}
	list, ok := l.others[string(k)]
	if !ok {
		if l.others == nil {
			l.others = map[string][]string{}
		}
		list = l.list(m)
		l.others[string(k)] = list
	}
	return list
}

func (l *flagLists) list(m *messageRow) []string {
	var out []string
	for i, name := range flagNames {
		if m.Flags&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	for _, k := range m.Keywords {
		if int(k) < len(l.names) {
			out = append(out, l.names[k])
		}
	}
	return out
}

// maxKeywords bounds the keywords of a mailbox; more are not kept.
const maxKeywords = 1000

// flagSet is flags as a mailbox's rows hold them.
type flagSet struct {
	system   systemFlags
	keywords []uint16 // ascending, each once
}

// flagSet reads flags. With learn, keywords that are new to the mailbox are
// added to it, and fresh says so. Spelling follows the first use.
func (b *mailboxRow) flagSet(flags []string, learn bool) (set flagSet, fresh bool) {
	for _, f := range flags {
		if i := slices.IndexFunc(flagNames[:], func(n string) bool { return strings.EqualFold(n, f) }); i >= 0 {
			set.system |= 1 << i
			continue
		}
		if f == "" || f[0] == '\\' {
			continue // no other system flag can be set by a client (RFC 9051 §2.3.2)
		}
		k, isNew, ok := b.keyword(f, learn)
		fresh = fresh || isNew
		if ok {
			set.keywords = append(set.keywords, k)
		}
	}
	slices.Sort(set.keywords)
	set.keywords = slices.Compact(set.keywords)
	return set, fresh
}

func (b *mailboxRow) keyword(name string, learn bool) (k uint16, fresh, ok bool) {
	// RFC 9051 §2.3.2: keywords are the same in any case.
	if i := slices.IndexFunc(b.Keywords, func(n string) bool { return strings.EqualFold(n, name) }); i >= 0 {
		return uint16(i), false, true
	}
	if !learn || len(b.Keywords) >= maxKeywords {
		return 0, false, false
	}
	b.Keywords = append(slices.Clone(b.Keywords), name) // the old list may be in a session's hands
	return uint16(len(b.Keywords) - 1), true, true
}

// change applies flags to a row and reports whether that made a difference.
func (set *flagSet) change(row *messageRow, op event.FlagOp) bool {
	flags, keys := row.Flags, row.Keywords
	switch op {
	case event.FlagsReplace:
		flags, keys = set.system, set.keywords
	case event.FlagsAdd:
		flags |= set.system
		if len(set.keywords) > 0 {
			keys = slices.Concat(keys, set.keywords)
			slices.Sort(keys)
			keys = slices.Compact(keys)
		}
	case event.FlagsRemove:
		flags &^= set.system
		if len(set.keywords) > 0 {
			keys = slices.DeleteFunc(slices.Clone(keys), func(k uint16) bool { return slices.Contains(set.keywords, k) })
		}
	}
	if flags == row.Flags && slices.Equal(keys, row.Keywords) {
		return false
	}
	row.Flags, row.Keywords = flags, keys
	return true
}
