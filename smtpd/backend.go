package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
)

// Backend decides what the protocol cannot: who may log in, and what becomes
// of a message. Its methods are called from the goroutine of one connection
// each, so calls for different connections run at the same time. Their contexts
// end with the connection's server, and after [Limits.Answer].
type Backend interface {
	// Auth checks a login (submission only). The identity is the one to act as
	// and is usually empty (RFC 4616). It returns [ErrBadCredentials] for a
	// login that is wrong, [ErrLoginUnavailable] for one that is right but not
	// open now; any other error is answered as temporary.
	Auth(ctx context.Context, peer Peer, identity, user, password string) (Login, error)
	// Begin opens a transaction at MAIL. The login is nil where nobody has
	// logged in. The server calls Close of the returned Transaction exactly once.
	Begin(ctx context.Context, peer Peer, login Login, from ReversePath, p MailParams) (Transaction, error)
}

// Login is whatever the Backend wants to remember about a user who has logged
// in; the server keeps it with the connection and gives it back at Begin.
type Login any

// Transaction is one mail transaction. Its methods are called one at a time.
type Transaction interface {
	// Rcpt adds a recipient. Recipients for which it returned nil are the
	// message's, in that order. An error refuses only this recipient.
	Rcpt(ctx context.Context, to ForwardPath, p RcptParams) error
	// Data receives the message: body yields exactly its bytes, dots unstuffed
	// and the end of data stripped. It is called at most once, after at least
	// one recipient was accepted.
	//
	// Only a body read until io.EOF is whole. If the sender broke off or a
	// limit was reached, body returns an error that wraps
	// io.ErrUnexpectedEOF; nothing may be kept then, and Data must return an
	// error. Data may return an error early, without reading the rest. Success
	// without having seen io.EOF is a broken contract and panics.
	//
	// The id of a kept message goes into the answer: printable ASCII. After the
	// end of the body ctx has [Limits.Answer] left. Reading slowly slows the
	// sender; the server holds one buffer and no more. The slices that a
	// WriterTo use of body writes are valid only during that Write.
	Data(ctx context.Context, body io.Reader) (id string, err error)
	// Close ends the transaction and abandons it unless Data has succeeded.
	Close()
}

// Peer is what is known of the other side of a connection.
type Peer struct {
	Addr   netip.AddrPort // the client; IPv4 never mapped into IPv6
	Local  netip.AddrPort // our end
	Helo   string         // argument of HELO or EHLO, printable, without spaces; "" before it
	ESMTP  bool           // greeted with EHLO
	TLS    *tls.ConnectionState
	ConnID string // random, one per connection, for logs
}

// ReversePath is the sender of a message as given in MAIL.
type ReversePath struct {
	Path
	Null bool // "<>": never to be answered with a bounce
}

// ForwardPath is a recipient as given in RCPT. "<postmaster>" without a domain
// (RFC 5321 §4.5.1) has an empty Domain.
type ForwardPath struct {
	Path
}

// Path is an address of the envelope.
type Path struct {
	Raw       string // between the angle brackets, as received but for white space at its ends
	Mailbox   string // Raw without a source route (RFC 5321 appendix C); quotes kept
	Local     string // local part, unquoted
	Domain    string // lower-cased; an address literal keeps its brackets
	DomainRaw string // as received
}

// MailParams are the parameters of MAIL.
type MailParams struct {
	Size     int64  // declared (RFC 1870); 0 if not
	Body     string // "", "7BIT" or "8BITMIME" (RFC 6152)
	SMTPUTF8 bool   // RFC 6531
	Ret      string // "", "FULL" or "HDRS" (RFC 3461 §4.3)
	EnvID    string // valid xtext (RFC 3461 §4.4)
	Auth     string // valid xtext or "<>" (RFC 4954 §5); submission only
}

// RcptParams are the parameters of RCPT.
type RcptParams struct {
	Notify []string // upper case: "NEVER" alone, or some of "SUCCESS", "FAILURE", "DELAY" (RFC 3461 §4.1)
	ORcpt  string   // "type;xtext", valid (RFC 3461 §4.2)
}

// Kinds of errors a Backend may return, wrapped or bare. The answer follows
// from the kind alone. An error of no kind, the end of a context among them, is
// answered 451 4.3.0 (454 4.7.0 for a login): the sender tries again.
var (
	ErrUnknownRecipient  = errors.New("recipient unknown")               // 550 5.1.1
	ErrRelayDenied       = errors.New("relaying denied")                 // 550 5.7.1
	ErrSenderNotYours    = errors.New("sender address not the user's")   // 553 5.7.1
	ErrPolicy            = errors.New("refused by policy")               // 550 5.7.1
	ErrSecondTenant      = errors.New("recipient of another tenant")     // 452 4.5.3
	ErrTooManyRecipients = errors.New("too many recipients")             // 452 4.5.3
	ErrTooBig            = errors.New("message too big")                 // 552 5.3.4
	ErrTooManyHops       = errors.New("too many hops")                   // 554 5.4.6
	ErrThrottled         = errors.New("throttled")                       // 421 4.7.0, and the connection is closed
	ErrTemporary         = errors.New("temporarily unavailable")         // 451 4.3.0, as everything unknown
	ErrBadCredentials    = errors.New("bad credentials")                 // 535 5.7.8
	ErrLoginUnavailable  = errors.New("login right, but not open now")   // 454 4.7.0, not counted as a failure
	ErrIncomplete        = errors.New("sender broke off the message")    // from the body reader: the connection ended
	ErrBareLineEnd       = errors.New("bare CR or LF around a lone dot") // from the body reader: 554 5.6.0
)
