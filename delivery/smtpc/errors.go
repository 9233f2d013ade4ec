package smtpc

import (
	"errors"
	"fmt"
)

// Phase is a step of the conversation.
type Phase uint8

// The phases, in the order in which they occur. The zero Phase is invalid.
const (
	PhaseConnect Phase = iota + 1
	PhaseBanner
	PhaseHelo
	PhaseTLS
	PhaseMail
	PhaseRcpt
	PhaseData
	PhaseBody
	PhaseDot
)

var phaseNames = [...]string{"none", "connect", "banner", "helo", "tls", "mail", "rcpt", "data", "body", "dot"}

// String returns one lower-case word.
func (p Phase) String() string {
	if int(p) >= len(phaseNames) {
		return fmt.Sprintf("phase %d", uint8(p))
	}
	return phaseNames[p]
}

var (
	// ErrMalformedReply is wrapped by errors about bytes that are not an SMTP reply,
	// or not one that may stand at this place.
	ErrMalformedReply = errors.New("malformed reply")
	// ErrClosed is wrapped when a connection is used that was closed or broke.
	ErrClosed = errors.New("connection closed")
	// ErrNoTLS is wrapped when TLS is required and not offered.
	ErrNoTLS = errors.New("server does not offer STARTTLS")
	// ErrPath is wrapped when a path of the envelope cannot be sent as it is.
	ErrPath = errors.New("malformed path")
	// ErrNoSMTPUTF8 is wrapped when an address needs SMTPUTF8 and the server lacks it.
	ErrNoSMTPUTF8 = errors.New("server does not offer SMTPUTF8")
	// ErrTooLarge is wrapped when the message exceeds the size the server announced.
	ErrTooLarge = errors.New("message exceeds the server's size limit")
	// ErrNoRecipients is wrapped when an envelope has no recipient.
	ErrNoRecipients = errors.New("no recipients")
)

// Error is the error of every function of this package. Its text holds the
// phase and codes, never a reply's text, which may quote addresses.
type Error struct {
	Phase Phase
	// Reply is the refusal, from the server or, with Local, on its behalf. Its
	// Code is 0 if the trouble was the network's.
	Reply Reply
	// Err is the network error, the context's, the hook's or the reader's; it may
	// be nil when Reply says all.
	Err error
	// Local says that the server is not to blame: the message could not be read,
	// the hook refused, or the envelope cannot be said to this server.
	Local bool
	// Timeout says that the server did not answer in time, or did not read.
	Timeout bool
}

// Error returns the phase, the codes and the cause.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("smtp %s: %s", e.Phase, e.Reply.codes())
	case e.Reply.Code == 0:
		return fmt.Sprintf("smtp %s: %v", e.Phase, e.Err)
	}
	return fmt.Sprintf("smtp %s: %s: %v", e.Phase, e.Reply.codes(), e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Permanent says that the server (or this client on its behalf) refused for good.
func (e *Error) Permanent() bool { return e.Reply.Permanent() }
