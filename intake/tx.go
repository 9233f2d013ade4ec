package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/sabotage"
)

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
	own    *ownSum // of a submitted message without a Message-ID
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

// Rcpt adds a recipient; one that is named twice still gets the message once.
// [ErrUnknownRecipient], [ErrNotOurs], [ErrSecondTenant], [ErrNoOutbound].
func (t *Tx) Rcpt(r Rcpt) error {
	if t.submit && r.Domain == "" {
		r.Domain = t.env.Subject.Domain // a user's postmaster is his own
	}
	rcpt := event.Recipient{Path: r.Path, Domain: r.Domain, Notify: r.Notify, ORcpt: r.ORcpt}
	to, err := t.svc.cfg.Directory.Target(r.Local, r.Domain)
	switch {
	case errors.Is(err, ErrNotOurs) && t.submit, err == nil && t.submit && to.Tenant != t.tenant:
		if !t.env.Subject.Outbound {
			return ErrNoOutbound
		}
		rcpt.Outside, rcpt.Via = true, t.env.Subject.Domain
		t.add(rcpt)
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
	t.add(rcpt)
	if to.Account != (event.Account{}) {
		t.enter(event.Allotment{Account: to.Account, Place: event.PlaceInbox})
	}
	return nil
}

// add takes a recipient in, unless its path was named before.
func (t *Tx) add(r event.Recipient) {
	for i := range t.rcpts {
		if t.rcpts[i].Path == r.Path {
			return
		}
	}
	t.rcpts = append(t.rcpts, r)
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
// end in io.EOF only when the message is whole. Data may be called once, after a
// recipient was taken.
func (t *Tx) Data(ctx context.Context, body io.Reader) (event.ID, error) {
	log := t.svc.cfg.Log
	now := log.Now()
	if sabotage.On(sabotage.KeptTooLong) {
		t.days += 30
	}
	ev := event.Event{ID: event.NewID(), Tenant: t.tenant, Expiry: event.DayOf(now) + event.Day(max(t.days, 1))}
	trace := t.trace(ev.ID, now)
	// Cancelled, not timed out, so that the time can be given anew to each wait.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := time.AfterFunc(durable, cancel)
	defer patience.Stop()
	w, err := log.NewMail(ctx, ev.ID, t.tenant, ev.Expiry, trace)
	if err != nil {
		return ev.ID, fmt.Errorf("message %v: %w", ev.ID, err)
	}
	defer w.Discard()
	patience.Stop() // while it is the sender we wait for
	if t.submit {
		if body, err = t.submitted(ev.ID, body, now); err != nil {
			return ev.ID, fmt.Errorf("message %v: %w", ev.ID, err)
		}
	}
	if _, err := io.Copy(&pacedWriter{w, patience}, body); err != nil {
		return ev.ID, fmt.Errorf("message %v: %w", ev.ID, err)
	}
	patience.Reset(durable)
	mail, err := w.Finish()
	if err != nil {
		return ev.ID, fmt.Errorf("message %v: %w", ev.ID, err)
	}
	if mail.Index.Hops-1 > t.svc.cfg.Hops { // our own line is not a hop yet
		return ev.ID, fmt.Errorf("message %v: %w", ev.ID, ErrTooManyHops)
	}
	if ev.Fact, err = t.fact(ctx, now, trace, &mail); err != nil {
		return ev.ID, fmt.Errorf("message %v: %w", ev.ID, err)
	}
	ev.Body = mail.Body
	if sabotage.On(sabotage.Early250) {
		go log.Append(context.WithoutCancel(ctx), ev)
		return ev.ID, nil
	}
	_, err = log.Append(ctx, ev)
	return ev.ID, err
}

// pacedWriter bounds how long each write may be held up.
type pacedWriter struct {
	w        io.Writer
	patience *time.Timer
}

// Write implements io.Writer.
func (p *pacedWriter) Write(b []byte) (int, error) {
	p.patience.Reset(stalled)
	defer p.patience.Stop()
	if sabotage.On(sabotage.ShortBody) && len(b) > 0 {
		_, err := p.w.Write(b[:len(b)-1])
		return len(b), err
	}
	return p.w.Write(b)
}

func (t *Tx) fact(ctx context.Context, now time.Time, trace []byte, mail *eventlog.Mail) (event.Fact, error) {
	origin, sender := event.OriginInbound, ""
	if t.submit {
		origin = event.OriginSubmission
		who := t.env.Subject
		sender = who.Domain
		id, own := mail.Index.Envelope.MessageID, [32]byte{}
		if t.own != nil {
			id, own = "", t.own.sum()
		}
		mark, err := t.svc.cfg.CopyMark(ctx, who.Tenant, who.Account, id, own)
		if err != nil {
			return nil, err
		}
		t.enter(event.Allotment{Account: who.Account, Place: event.PlaceSent, Seen: true, Copy: mark})
	}
	return &event.MessageAccepted{
		Origin: origin, At: event.Millis(now.UnixMilli()), Size: mail.Size, Shown: mail.Shown,
		Recipients: uint32(len(t.rcpts)), Allotments: t.allot, Routes: event.RoutesOf(t.rcpts), Sender: sender,
		Meta: &event.MessageMeta{
			From: t.env.From, Recipients: t.rcpts, Ret: t.env.Ret, EnvID: t.env.EnvID, Body8: t.env.Body8, UTF8: t.env.UTF8,
			Helo: t.peer.Helo, Peer: t.peer.Addr, TLS: t.peer.TLS, Login: t.env.Subject.Address,
			Trace: trace, SHA256: mail.SHA256, Index: mail.Raw,
		},
	}, nil
}
