package imapgw

import (
	"errors"

	"github.com/emersion/go-imap/v2"

	"holdfast/continuity"
)

// Response codes that the library does not name.
const (
	codeExpungeIssued imap.ResponseCode = "EXPUNGEISSUED" // RFC 5530 §3
	codeUseAttr       imap.ResponseCode = "USEATTR"       // RFC 6154 §3
	codeReadOnly      imap.ResponseCode = "READ-ONLY"     // RFC 9051 §7.1
)

// no returns a tagged NO.
func no(code imap.ResponseCode, text string) *imap.Error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: text}
}

// bad returns a tagged BAD.
func bad(text string) *imap.Error {
	return &imap.Error{Type: imap.StatusResponseTypeBad, Code: imap.ResponseCodeClientBug, Text: text}
}

// The refusals that this package decides by itself.
var (
	errReadOnly    = no(codeReadOnly, "Mailbox is selected read-only")
	errNotSelected = bad("No mailbox is selected")
	errBadSet      = bad("Message set names a message that does not exist")
	errSomeGone    = no(codeExpungeIssued, "Some of the messages were expunged by another session")
	errBroken      = errors.New("storage failed in the middle of a literal")
	// errTooLong is about a command whose own time is over. A deadline of
	// somebody below, who waits for storage, is none: storage does not answer.
	errTooLong = errors.New("command took too long")
)

// answer chooses the response for an error of the backend (RFC 5530 §3). It is
// the only place where one is chosen. dest says that the mailbox in question is
// the destination of APPEND, COPY or MOVE.
func answer(err error, dest bool) error {
	var own *imap.Error
	var refused *NotAdmittedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own), errors.Is(err, errBroken):
		return err
	case errors.As(err, &refused):
		return no(imap.ResponseCodeUnavailable, refused.Reason)
	case errors.Is(err, ErrBadCredentials):
		return no(imap.ResponseCodeAuthenticationFailed, "User or password is wrong")
	case errors.Is(err, continuity.ErrNoMailbox) && dest:
		return no(imap.ResponseCodeTryCreate, "Mailbox does not exist") // RFC 9051 §6.4.7
	case errors.Is(err, continuity.ErrNoMailbox):
		return no(imap.ResponseCodeNonExistent, "Mailbox does not exist")
	case errors.Is(err, continuity.ErrExists):
		return no(imap.ResponseCodeAlreadyExists, "Mailbox exists already")
	case errors.Is(err, continuity.ErrBadName):
		return no(imap.ResponseCodeCannot, "Mailbox name is not allowed")
	case errors.Is(err, continuity.ErrInbox):
		return no(imap.ResponseCodeCannot, "Not possible with INBOX")
	case errors.Is(err, continuity.ErrNoMessage):
		return errSomeGone
	case errors.Is(err, continuity.ErrExpired):
		return no(imap.ResponseCodeExpired, "The message has expired")
	case errors.Is(err, continuity.ErrTooBig):
		return no(imap.ResponseCodeTooBig, "Message is too big")
	case errors.Is(err, errTooLong):
		return no(imap.ResponseCodeLimit, "It took too long")
	default:
		return no(imap.ResponseCodeUnavailable, "Storage does not answer just now; try again")
	}
}
