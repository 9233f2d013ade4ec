package event

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Millis is an instant: milliseconds since 1970-01-01T00:00:00Z by the store's
// clock as the writer knew it.
type Millis int64

// Origin says how a message came in.
type Origin uint8

// The origins. Zero is invalid.
const (
	OriginInbound    Origin = 1 // from the network, as MX
	OriginSubmission Origin = 2 // from an authenticated user
	OriginBounce     Origin = 3 // made here: a delivery status notification
)

// Place is a mailbox that a message enters at acceptance.
type Place uint8

// The places. Zero is invalid.
const (
	PlaceInbox Place = 1
	PlaceSent  Place = 2
)

// Allotment puts a message into one mailbox of one account. UIDs and counts
// follow from allotments alone, in log order.
type Allotment struct {
	Account Account `cbor:"1,keyasint"`
	Place   Place   `cbor:"2,keyasint"`
	Seen    bool    `cbor:"3,keyasint,omitempty"`
	// Copy, when not zero, is a keyed hash of the Message-ID by which a Sent
	// copy and the client's own copy of the same message recognise each other.
	Copy [16]byte `cbor:"4,keyasint,omitzero"`
}

// MessageAccepted says that a message was accepted as a whole for all its
// recipients. Once it is durable the sender hears 250.
type MessageAccepted struct {
	Origin     Origin      `cbor:"1,keyasint"`
	At         Millis      `cbor:"2,keyasint"`
	Size       int64       `cbor:"3,keyasint"` // bytes as the sender sent them
	Shown      int64       `cbor:"4,keyasint"` // bytes as shown over IMAP: with our Received line above
	Recipients uint32      `cbor:"5,keyasint"` // their number; the units of delivery are 0..Recipients-1
	Allotments []Allotment `cbor:"6,keyasint,omitempty"`
	// Routes says which routes carry the recipients, in their order, and outlives
	// the mail: so the queue and the balance sheet are the same in a rebuild years
	// later. Read it with [MessageAccepted.Carried].
	Routes []Route `cbor:"7,keyasint,omitempty"`
	// Sender is the domain of the user who submitted it; empty for other mail.
	Sender string `cbor:"8,keyasint,omitempty"`

	// Meta is nil once the mail has expired.
	Meta *MessageMeta `cbor:"-"`
}

// Route says that the route of one of the tenant's own domains carries the next
// N recipients of a message. It holds nothing of the mail: a recipient behind a
// smart host counts for the domain whose smart host it is.
type Route struct {
	_       struct{} `cbor:",toarray"`
	Domain  string
	Outside bool // through that domain's smart host, not to its primary
	N       uint32
}

// RoutesOf returns which routes carry recipients, in their order.
func RoutesOf(rcpts []Recipient) (routes []Route) {
	for _, r := range rcpts {
		next := Route{Domain: r.Domain, Outside: r.Outside, N: 1}
		if r.Outside {
			next.Domain = r.Via
		}
		if n := len(routes); n > 0 && routes[n-1].Domain == next.Domain && routes[n-1].Outside == next.Outside {
			routes[n-1].N++
			continue
		}
		routes = append(routes, next)
	}
	return routes
}

// Carried returns which routes carry the recipients. A message without Routes
// tells it only until its mail has expired; then there is none. The error wraps
// [ErrMalformed].
func (m *MessageAccepted) Carried() ([]Route, error) {
	if m.Routes == nil {
		if m.Meta == nil {
			return nil, nil
		}
		return RoutesOf(m.Meta.Recipients), nil
	}
	var sum uint64
	for _, r := range m.Routes {
		sum += uint64(r.N)
	}
	if sum != uint64(m.Recipients) || sum > maxElements {
		return nil, fmt.Errorf("routes of %d recipients in a message to %d: %w", sum, m.Recipients, ErrMalformed)
	}
	return m.Routes, nil
}

// MessageMeta is the mail-derived part of a [MessageAccepted].
type MessageMeta struct {
	From       string      `cbor:"1,keyasint"` // reverse-path as received, without <>; empty for the null path
	Recipients []Recipient `cbor:"2,keyasint"`
	Ret        string      `cbor:"3,keyasint,omitempty"` // RFC 3461 §4.3
	EnvID      string      `cbor:"4,keyasint,omitempty"` // RFC 3461 §4.4, xtext as received
	Body8      bool        `cbor:"5,keyasint,omitempty"` // BODY=8BITMIME
	UTF8       bool        `cbor:"6,keyasint,omitempty"` // SMTPUTF8
	Helo       string      `cbor:"7,keyasint,omitempty"`
	Peer       string      `cbor:"8,keyasint,omitempty"`  // address of the client
	TLS        string      `cbor:"9,keyasint,omitempty"`  // protocol version and cipher
	Login      string      `cbor:"10,keyasint,omitempty"` // the address a submitter logged in as
	// Trace is our Received line with its CRLF, made once and kept apart from
	// the message's own bytes.
	Trace  []byte   `cbor:"11,keyasint"`
	SHA256 [32]byte `cbor:"12,keyasint"` // of the message's own bytes
	// Index is the CBOR of the message's structure (package message), computed
	// once at reception.
	Index cbor.RawMessage `cbor:"13,keyasint"`
}

// Recipient is one accepted forward-path.
type Recipient struct {
	Path    string  `cbor:"1,keyasint"`           // as received, without <>
	Domain  string  `cbor:"2,keyasint"`           // lower case; whose route carries it
	Account Account `cbor:"3,keyasint,omitzero"`  // zero when no listed user
	Notify  string  `cbor:"4,keyasint,omitempty"` // RFC 3461 §4.1
	ORcpt   string  `cbor:"5,keyasint,omitempty"` // RFC 3461 §4.2
	// Outside: goes through the Via domain's smart host, not to a primary.
	Outside bool   `cbor:"6,keyasint,omitempty"`
	Via     string `cbor:"7,keyasint,omitempty"` // the sender's own domain
}

// Kind returns KindMessageAccepted.
func (*MessageAccepted) Kind() Kind { return KindMessageAccepted }

// Class returns ClassAcceptance.
func (*MessageAccepted) Class() Class    { return ClassAcceptance }
func (m *MessageAccepted) metaPart() any { return &m.Meta }

// Repudiated says that a message landed in the log although its sender was told
// 451, because the store had stayed silent past the deadline. It is treated as
// if it had never been accepted: the sender's retry is the message.
type Repudiated struct {
	Message  ID        `cbor:"1,keyasint"`
	Accounts []Account `cbor:"2,keyasint,omitempty"` // whose mailboxes it had entered
}

// Kind returns KindRepudiated.
func (*Repudiated) Kind() Kind { return KindRepudiated }

// Class returns ClassAcceptance.
func (*Repudiated) Class() Class { return ClassAcceptance }
