// Package continuity keeps the mailboxes that users reach while their primary
// server is down.
//
// Commands go in, events come out, and the mailboxes are a fold over those
// events: UIDs, UIDVALIDITY, flags, modification sequences and expunge
// tombstones follow from the order of the log alone, so that every node, and
// every rebuild, gives a client the same answers.
package continuity

import (
	"errors"

	"holdfast/event"
)

// The errors of commands. A protocol chooses its answer from them.
var (
	ErrNoMailbox   = errors.New("no such mailbox")
	ErrExists      = errors.New("mailbox exists already")
	ErrBadName     = errors.New("mailbox name is not allowed")
	ErrInbox       = errors.New("not possible with INBOX")
	ErrNoMessage   = errors.New("no such message")
	ErrExpired     = errors.New("the message has expired")
	ErrUnavailable = errors.New("storage does not answer") // temporary
	ErrTooBig      = errors.New("message is too big")
)

// Mailbox is the state of one mailbox.
type Mailbox struct {
	ID            event.MailboxID
	Name          string // UTF-8, "/" between levels
	Use           string // special use attribute (RFC 6154) with its backslash, or empty
	UIDValidity   uint32
	UIDNext       event.UID
	HighestModSeq uint64
	Subscribed    bool
	// NonExistent: only the subscription remains (RFC 9051 §6.3.9.4).
	NonExistent bool
	Keywords    []string // every keyword ever used in it, in order of first use
	Messages    uint32
	Unseen      uint32
	Deleted     uint32 // messages with \Deleted
	Size        int64  // bytes as shown
}

// Message is the state of one message in a mailbox.
type Message struct {
	UID    event.UID
	Flags  []string // system flags with backslash and keywords; shared, not to be changed
	ModSeq uint64
	Size   int64        // bytes as shown over IMAP (RFC822.SIZE)
	Date   event.Millis // INTERNALDATE
	Saved  event.Millis // when it came into this mailbox
	Email  event.ID     // the message's event: the same for all its copies
	Ref    event.Ref    // where its bytes are
}

// ChangeKind says what happened to a message of a selected mailbox.
type ChangeKind uint8

// The kinds of change. Zero is invalid.
const (
	ChangeAdded    ChangeKind = 1 // Message is new; UIDs only grow
	ChangeFlags    ChangeKind = 2 // Message has other flags
	ChangeExpunged ChangeKind = 3 // Message.UID is gone
	ChangeKeywords ChangeKind = 4 // a keyword was used for the first time: Keywords
	ChangeDropped  ChangeKind = 5 // the mailbox itself was deleted
)

// Change is one step from one state of a mailbox to the next, in log order.
type Change struct {
	Kind     ChangeKind
	Message  Message
	Keywords []string
	ModSeq   uint64
	// Origin is the command's token when this node issued the command that
	// caused the change, else nil: a session recognises its own doings.
	Origin any
}

// CopyResult tells which UIDs a copy or move gave (RFC 4315 COPYUID).
type CopyResult struct {
	UIDValidity uint32
	Source      []event.UID
	Dest        []event.UID // Dest[i] is the copy of Source[i]
}
