// Package intake accepts mail: it turns one SMTP transaction into one event.
//
// When [Tx.Data] returns without an error the message is sealed and durable in
// object storage; that, and nothing less, is what the sender's 250 means. A
// message is accepted as a whole, for all its recipients, or not at all.
package intake

import (
	"context"
	"errors"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// The ways in which mail is refused. Any other error is a trouble of ours and
// temporary to the sender.
var (
	ErrUnknownRecipient = errors.New("no such recipient")
	ErrNotOurs          = errors.New("domain is not served here")
	ErrSecondTenant     = errors.New("recipient of a second customer in one transaction")
	ErrTooManyHops      = errors.New("too many Received fields")
	ErrSenderNotYours   = errors.New("sender address is not the user's")
	ErrNoOutbound       = errors.New("no way out for mail to other domains")
)

const (
	// durable is how long a sender is kept waiting for storage, before the first
	// byte and after the last.
	durable = 28 * time.Second
	// stalled is how long storage, or the node's budget for large bodies, may
	// hold up a message that is coming in. The sender gives up after three
	// minutes (RFC 5321 §4.5.3.2.5).
	stalled = 2 * time.Minute
	// maxHeader is the most of a submitted message that is held to read its
	// header.
	maxHeader = 1 << 20
)

// Target is where mail for an address of ours goes.
type Target struct {
	Tenant     event.Tenant
	Domain     string        // whose primary gets it
	Account    event.Account // whose mailbox it enters; zero for none
	ShadowDays int
}

// Directory resolves addresses without waiting for anything.
type Directory interface {
	// Target returns ErrNotOurs for another domain, ErrUnknownRecipient for an
	// address that a domain of ours does not have. An empty domain is that of
	// <postmaster> (RFC 5321 §4.5.1).
	Target(local, domain string) (Target, error)
}

// Sender is a user who submits mail.
type Sender struct {
	Tenant     event.Tenant
	Account    event.Account
	Address    string // as logged in
	Domain     string
	ShadowDays int
	Outbound   bool                      // the domain has a smart host
	Owns       func(address string) bool // whether an address is the user's
}

// Config is what a Service is made of.
type Config struct {
	Log       *eventlog.Log
	Directory Directory
	Hostname  string
	Hops      int // the most Received fields that are let pass
	// CopyMark returns the mark of a sent message; see [event.Allotment].
	// messageID is empty when the user's own bytes have none; own is then their
	// SHA-256, with a CRLF at the end if there is none.
	CopyMark func(ctx context.Context, t event.Tenant, a event.Account, messageID string, own [32]byte) ([16]byte, error)
}

// Service accepts mail. Its methods may be called by any goroutine.
type Service struct{ cfg Config }

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Hops == 0 {
		cfg.Hops = 50
	}
	return &Service{cfg}
}

// Peer is what is known of the other side.
type Peer struct {
	Addr  string // without port
	Helo  string // printable, without spaces
	ESMTP bool
	TLS   string // version and cipher, or empty
}

// Envelope is what MAIL said.
type Envelope struct {
	From    string // reverse-path without <>, empty for the null path
	Ret     string
	EnvID   string
	Body8   bool
	UTF8    bool
	Subject Sender // who submits; the zero Sender for mail from the network
}

// Rcpt is what RCPT said.
type Rcpt struct {
	Path   string // without <>, as received
	Local  string // unquoted
	Domain string // lower case
	Notify string
	ORcpt  string
}
