package event

import "github.com/fxamacker/cbor/v2"

// MailboxID names a mailbox of an account for ever, through renames. The fold
// numbers them in log order; 1 is INBOX.
type MailboxID uint32

// UID is an IMAP unique identifier (RFC 9051 §2.3.1.1).
type UID uint32

// UIDRange is an inclusive range of UIDs.
type UIDRange struct {
	_     struct{} `cbor:",toarray"`
	First UID
	Last  UID
}

// MailboxCreated asks for a new mailbox. Whether it was possible is the fold's
// verdict, the same on every node.
type MailboxCreated struct {
	Account Account `cbor:"1,keyasint"`
	Name    string  `cbor:"2,keyasint"` // UTF-8, "/" between levels
	// Use is a special use attribute (RFC 6154) such as \Archive, or empty.
	Use string `cbor:"3,keyasint,omitempty"`
}

// MailboxDeleted deletes a mailbox and what is in it.
type MailboxDeleted struct {
	Account Account `cbor:"1,keyasint"`
	Name    string  `cbor:"2,keyasint"`
}

// MailboxRenamed gives a mailbox, and those below it, another name. Renaming
// INBOX moves its messages (RFC 9051 §6.3.6).
type MailboxRenamed struct {
	Account Account `cbor:"1,keyasint"`
	From    string  `cbor:"2,keyasint"`
	To      string  `cbor:"3,keyasint"`
}

// MailboxSubscribed sets or clears the subscription of a name.
type MailboxSubscribed struct {
	Account    Account `cbor:"1,keyasint"`
	Name       string  `cbor:"2,keyasint"`
	Subscribed bool    `cbor:"3,keyasint"`
}

// FlagOp says how flags change.
type FlagOp uint8

// The operations (RFC 9051 §6.4.6). Zero is invalid.
const (
	FlagsReplace FlagOp = 1
	FlagsAdd     FlagOp = 2
	FlagsRemove  FlagOp = 3
)

// FlagsChanged changes flags and keywords of messages.
type FlagsChanged struct {
	Account Account    `cbor:"1,keyasint"`
	Mailbox MailboxID  `cbor:"2,keyasint"`
	UIDs    []UIDRange `cbor:"3,keyasint"`
	Op      FlagOp     `cbor:"4,keyasint"`
	Flags   []string   `cbor:"5,keyasint,omitempty"`
	// UnchangedSince, when not zero, leaves out messages with a higher modseq
	// (RFC 7162 §3.1.3); the fold's verdict names them.
	UnchangedSince uint64 `cbor:"6,keyasint,omitempty"`
}

// Expunged removes messages that have \Deleted set when the fold comes to this
// event; those of them that are in UIDs.
type Expunged struct {
	Account Account    `cbor:"1,keyasint"`
	Mailbox MailboxID  `cbor:"2,keyasint"`
	UIDs    []UIDRange `cbor:"3,keyasint"`
}

// Copied copies messages to another mailbox; with Move, it removes them from
// the first in the same instant (RFC 9051 §6.4.8).
type Copied struct {
	Account Account    `cbor:"1,keyasint"`
	From    MailboxID  `cbor:"2,keyasint"`
	UIDs    []UIDRange `cbor:"3,keyasint"`
	To      MailboxID  `cbor:"4,keyasint"`
	Move    bool       `cbor:"5,keyasint,omitempty"`
}

// Appended puts a message that the user brought into a mailbox. It has no
// envelope and is delivered to nobody.
type Appended struct {
	Account Account   `cbor:"1,keyasint"`
	Mailbox MailboxID `cbor:"2,keyasint"`
	At      Millis    `cbor:"3,keyasint"` // reception
	Date    Millis    `cbor:"4,keyasint"` // INTERNALDATE as the client gave it
	Size    int64     `cbor:"5,keyasint"`
	Flags   []string  `cbor:"6,keyasint,omitempty"`
	// Copy: see [Allotment].
	Copy [16]byte `cbor:"7,keyasint,omitzero"`
	// Domain is the tenant's own to which the user belongs.
	Domain string `cbor:"8,keyasint,omitempty"`

	// Meta is nil once the mail has expired.
	Meta *AppendedMeta `cbor:"-"`
}

// AppendedMeta is the mail-derived part of an [Appended].
type AppendedMeta struct {
	SHA256 [32]byte        `cbor:"1,keyasint"`
	Index  cbor.RawMessage `cbor:"2,keyasint"` // see [MessageMeta]
	// Owner is the user's address.
	Owner string `cbor:"3,keyasint,omitempty"`
}

// Kind returns KindMailboxCreated.
func (*MailboxCreated) Kind() Kind { return KindMailboxCreated }

// Kind returns KindMailboxDeleted.
func (*MailboxDeleted) Kind() Kind { return KindMailboxDeleted }

// Kind returns KindMailboxRenamed.
func (*MailboxRenamed) Kind() Kind { return KindMailboxRenamed }

// Kind returns KindMailboxSubscribed.
func (*MailboxSubscribed) Kind() Kind { return KindMailboxSubscribed }

// Kind returns KindFlagsChanged.
func (*FlagsChanged) Kind() Kind { return KindFlagsChanged }

// Kind returns KindExpunged.
func (*Expunged) Kind() Kind { return KindExpunged }

// Kind returns KindCopied.
func (*Copied) Kind() Kind { return KindCopied }

// Kind returns KindAppended.
func (*Appended) Kind() Kind { return KindAppended }

// Class returns ClassMailbox.
func (*MailboxCreated) Class() Class { return ClassMailbox }

// Class returns ClassMailbox.
func (*MailboxDeleted) Class() Class { return ClassMailbox }

// Class returns ClassMailbox.
func (*MailboxRenamed) Class() Class { return ClassMailbox }

// Class returns ClassMailbox.
func (*MailboxSubscribed) Class() Class { return ClassMailbox }

// Class returns ClassMailbox.
func (*FlagsChanged) Class() Class { return ClassMailbox }

// Class returns ClassMailbox.
func (*Expunged) Class() Class { return ClassMailbox }

// Class returns ClassMailbox.
func (*Copied) Class() Class { return ClassMailbox }

// Class returns ClassMailbox.
func (*Appended) Class() Class    { return ClassMailbox }
func (a *Appended) metaPart() any { return &a.Meta }
