package imapgw

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/message"
)

// ErrBadCredentials says that the user is not known or the password is wrong;
// which of the two is nobody's business. It counts as a failed login.
var ErrBadCredentials = errors.New("user or password is wrong")

// NotAdmittedError says that the password was right but the user may not come
// in now, for instance because the domain's primary is up. It does not count as
// a failed login.
type NotAdmittedError struct {
	// Reason is shown to the user. It is one line of ASCII and names no address.
	Reason string
}

func (e *NotAdmittedError) Error() string { return "not admitted: " + e.Reason }

// Peer is the other end of a connection.
type Peer struct {
	Addr netip.AddrPort
	TLS  bool
}

// Backend opens users' mailboxes to IMAP. Its methods are safe for concurrent
// use.
type Backend interface {
	// Login checks the password and returns the user, whom the caller closes.
	// Errors: [ErrBadCredentials]; [NotAdmittedError]; any other means that it
	// could not be decided now, and the client hears NO [UNAVAILABLE]. Login
	// bounds its own work on password hashes; the caller delays failures.
	Login(ctx context.Context, peer Peer, user, password string) (User, error)
}

// User is one logged-in user. All methods are safe for concurrent use. Mailbox
// names are UTF-8 with "/" between levels; INBOX, and INBOX as the first level
// of a longer name, come in capitals. All errors may be package continuity's;
// any other is answered NO [UNAVAILABLE].
//
// What a method did is durable when it returns, and every method sees
// everything that this node answered before, to whomever.
type User interface {
	// List returns all mailboxes, and the names that are only subscribed
	// (NonExistent), in no particular order.
	List(ctx context.Context) ([]continuity.Mailbox, error)
	// Status returns one mailbox, or ErrNoMailbox (also for a name that is only
	// subscribed).
	Status(ctx context.Context, name string) (continuity.Mailbox, error)
	// Create makes a mailbox and the levels above it that are missing. use is a
	// special use attribute or empty. ErrExists, ErrBadName.
	Create(ctx context.Context, name, use string) error
	// Delete removes a mailbox with its messages; those below it stay.
	// ErrNoMailbox, ErrInbox.
	Delete(ctx context.Context, name string) error
	// Rename renames a mailbox and those below it. Renaming INBOX moves its
	// messages into the new mailbox (RFC 9051 §6.3.6). ErrNoMailbox, ErrExists,
	// ErrBadName.
	Rename(ctx context.Context, from, to string) error
	// Subscribe sets or clears the subscription of a name, which need not be
	// that of a mailbox.
	Subscribe(ctx context.Context, name string, subscribed bool) error
	// Select opens a mailbox, which the caller closes. ErrNoMailbox.
	Select(ctx context.Context, name string) (Selected, error)
	// Append stores exactly size bytes of r as a new message. It may return
	// before r was read to its end only with an error. A zero date means now.
	// ErrNoMailbox, ErrTooBig. If r fails, its error is returned wrapped and
	// nothing was stored.
	Append(ctx context.Context, name string, size int64, r io.Reader, flags []string, date time.Time) (uidvalidity uint32, uid event.UID, err error)
	// AppendLimit is the largest size Append takes, in bytes.
	AppendLimit() int64
	// Evicted is closed when the session must end, for instance because the
	// domain's primary has been back for long enough.
	Evicted() <-chan struct{}
	// Close frees what Login took. It may be called once, when every Selected
	// is closed.
	Close()
}

// Selected is one session's hold on one mailbox, which it keeps through
// renames. Its methods are safe for concurrent use with those of other
// sessions, but one session calls them one at a time; only the channel of Wake
// is waited on at the same time.
//
// Ranges of UIDs may cover UIDs that do not exist (any more): those are passed
// over without an error.
type Selected interface {
	// Mailbox is the mailbox as it was when it was selected.
	Mailbox() continuity.Mailbox
	// Snapshot is the messages as they were when it was selected, ascending by
	// UID. The caller owns the slice, but not what its elements point to. It may
	// be called once.
	Snapshot() []continuity.Message
	// Changes takes what happened since the snapshot or the last call, in log
	// order, and never blocks. It includes everything this node answered
	// before, so also the doings of a method of this Selected that has
	// returned. A session that falls behind by more changes than the backend
	// wants to keep gets one ChangeDropped instead of them, as if the mailbox
	// had been deleted.
	Changes() []continuity.Change
	// Wake is signalled when Changes may have something. It always returns the
	// same channel, which has a buffer of one.
	Wake() <-chan struct{}
	// Store changes flags. Keywords are case-insensitive: the spelling of their
	// first use in the mailbox is kept. unchangedSince, when not zero, leaves
	// out messages with a higher modseq. The changes this causes carry origin.
	// A message whose flags stay as they are gives no change.
	Store(ctx context.Context, uids []event.UIDRange, op event.FlagOp, flags []string, unchangedSince uint64, origin any) error
	// Expunge removes those of uids that have \Deleted when it takes effect,
	// and returns them, ascending.
	Expunge(ctx context.Context, uids []event.UIDRange, origin any) ([]event.UID, error)
	// Copy copies messages, with flags and dates, in ascending order of UID.
	// ErrNoMailbox for dest.
	Copy(ctx context.Context, uids []event.UIDRange, dest string) (continuity.CopyResult, error)
	// Move copies messages and removes them from this mailbox in the same
	// instant. ErrNoMailbox for dest.
	Move(ctx context.Context, uids []event.UIDRange, dest string) (continuity.CopyResult, error)
	// Index is the structure of the message as shown: its offsets count in the
	// bytes that Open gives. The caller must not change it. ErrNoMessage (when
	// an expunged message cannot be read any more), ErrExpired.
	Index(ctx context.Context, m continuity.Message) (*message.Index, error)
	// Open returns the message as shown, m.Size bytes. The caller closes it.
	// Errors as those of Index; a Read may still fail when storage does.
	Open(ctx context.Context, m continuity.Message) (io.ReadSeekCloser, error)
	// Close ends the hold. It may be called once.
	Close()
}
