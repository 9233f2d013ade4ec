// Package intake accepts mail: it turns one SMTP transaction into one event.
//
// When [Tx.Data] returns without an error the message is sealed and durable in
// object storage; that, and nothing less, is what the sender's 250 means. A
// message is accepted as a whole, for all its recipients, or not at all.
package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
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
	// durable is how long a sender is kept waiting for storage.
	durable = 30 * time.Second
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
	CopyMark func(ctx context.Context, t event.Tenant, a event.Account, ix *message.Index) ([16]byte, error)
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

// Tx is one transaction. It is used by one goroutine.
type Tx struct {
	svc    *Service
	peer   Peer
	env    Envelope
	submit bool
	tenant event.Tenant
	days   int
	rcpts  []event.Recipient
	allot  []event.Allotment
}

// Begin opens a transaction from the network.
func (s *Service) Begin(p Peer, e Envelope) *Tx { return &Tx{svc: s, peer: p, env: e} }

// Submit opens a transaction from a user. [ErrSenderNotYours].
func (s *Service) Submit(p Peer, e Envelope, who Sender) (*Tx, error) {
	if e.From == "" || !who.Owns(e.From) {
		return nil, ErrSenderNotYours
	}
	e.Subject = who
	return &Tx{svc: s, peer: p, env: e, submit: true, tenant: who.Tenant, days: who.ShadowDays}, nil
}

// Rcpt adds a recipient. [ErrUnknownRecipient], [ErrNotOurs], [ErrSecondTenant],
// [ErrNoOutbound].
func (t *Tx) Rcpt(r Rcpt) error {
	rcpt := event.Recipient{Path: r.Path, Domain: r.Domain, Notify: r.Notify, ORcpt: r.ORcpt}
	to, err := t.svc.cfg.Directory.Target(r.Local, r.Domain)
	switch {
	case errors.Is(err, ErrNotOurs) && t.submit, err == nil && t.submit && to.Tenant != t.tenant:
		if !t.env.Subject.Outbound {
			return ErrNoOutbound
		}
		rcpt.Outside, rcpt.Via = true, t.env.Subject.Domain
		t.rcpts = append(t.rcpts, rcpt)
		return nil
	case err != nil:
		return err
	case t.tenant == event.Tenant{}:
		t.tenant = to.Tenant
	case t.tenant != to.Tenant:
		return ErrSecondTenant
	}
	rcpt.Domain, rcpt.Account = to.Domain, to.Account
	t.days = max(t.days, to.ShadowDays)
	t.rcpts = append(t.rcpts, rcpt)
	if to.Account != (event.Account{}) {
		t.enter(event.Allotment{Account: to.Account, Place: event.PlaceInbox})
	}
	return nil
}

// enter allots a mailbox once, however often it is addressed.
func (t *Tx) enter(a event.Allotment) {
	for _, b := range t.allot {
		if a.Account == b.Account && a.Place == b.Place {
			return
		}
	}
	t.allot = append(t.allot, a)
}

// Data takes the message's bytes and returns its id once it is durable. ctx
// bounds the whole; storage is waited for 30 s after the last byte. body must
// end in io.EOF only when the message is whole.
func (t *Tx) Data(ctx context.Context, body io.Reader) (event.ID, error) {
	log := t.svc.cfg.Log
	now := log.Now()
	id := event.NewID()
	expiry := event.DayOf(now) + event.Day(max(t.days, 1))
	trace := t.trace(id, now)
	w, err := log.NewMail(ctx, id, t.tenant, expiry, trace)
	if err != nil {
		return id, err
	}
	defer w.Discard()
	if t.submit {
		if body, err = t.submitted(id, body, now); err != nil {
			return id, err
		}
	}
	if _, err := io.Copy(w, body); err != nil {
		return id, fmt.Errorf("message %v: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, durable)
	defer cancel()
	mail, err := w.Finish()
	if err != nil {
		return id, err
	}
	if mail.Index.Hops-1 > t.svc.cfg.Hops { // our own line is not a hop yet
		return id, ErrTooManyHops
	}
	ev, err := t.event(ctx, id, expiry, now, trace, mail)
	if err != nil {
		return id, err
	}
	_, err = log.Append(ctx, ev)
	return id, err
}

func (t *Tx) event(ctx context.Context, id event.ID, expiry event.Day, now time.Time, trace []byte, mail eventlog.Mail) (event.Event, error) {
	origin := event.OriginInbound
	if t.submit {
		origin = event.OriginSubmission
		who := t.env.Subject
		mark, err := t.svc.cfg.CopyMark(ctx, who.Tenant, who.Account, mail.Index)
		if err != nil {
			return event.Event{}, err
		}
		t.enter(event.Allotment{Account: who.Account, Place: event.PlaceSent, Seen: true, Copy: mark})
	}
	return event.Event{ID: id, Tenant: t.tenant, Expiry: expiry, Body: mail.Body, Fact: &event.MessageAccepted{
		Origin: origin, At: event.Millis(now.UnixMilli()), Size: mail.Size, Shown: mail.Shown,
		Recipients: uint32(len(t.rcpts)), Allotments: t.allot,
		Meta: &event.MessageMeta{
			From: t.env.From, Recipients: t.rcpts, Ret: t.env.Ret, EnvID: t.env.EnvID, Body8: t.env.Body8, UTF8: t.env.UTF8,
			Helo: t.peer.Helo, Peer: t.peer.Addr, TLS: t.peer.TLS, Login: t.env.Subject.Address,
			Trace: trace, SHA256: mail.SHA256, Index: mail.Raw,
		},
	}}, nil
}

// trace makes our one Received line (RFC 5321 §4.4), without a for clause: it
// would tell one recipient about another.
func (t *Tx) trace(id event.ID, now time.Time) []byte {
	with := "SMTP"
	switch {
	case t.env.UTF8:
		with = "UTF8SMTP" // RFC 6531 §4.3
	case t.peer.ESMTP:
		with = "ESMTP"
	}
	if t.peer.TLS != "" && t.peer.ESMTP {
		with += "S" // RFC 3848
	}
	if t.submit && t.peer.ESMTP {
		with += "A"
	}
	helo := t.peer.Helo
	if helo == "" {
		helo = "unknown"
	}
	return fmt.Appendf(nil, "Received: from %s ([%s])\r\n\tby %s with %s id %s;\r\n\t%s\r\n",
		helo, addressLiteral(t.peer.Addr), t.svc.cfg.Hostname, with, id, message.FormatDate(now.UTC()))
}

// addressLiteral is the form of RFC 5321 §4.1.3, without brackets.
func addressLiteral(addr string) string {
	for _, c := range addr {
		if c == ':' {
			return "IPv6:" + addr
		}
	}
	return addr
}
