package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"holdfast/auth"
	"holdfast/intake"
	"holdfast/smtpd"
)

// newSMTP makes the server for mail from the network, or from users.
func (n *Node) newSMTP(mode smtpd.Mode) (*smtpd.Server, error) {
	c := n.cfg.SMTP
	cfg := smtpd.Config{
		Hostname: n.cfg.Hostname, Mode: mode, TLS: n.tls.config, MaxMessageSize: int64(c.MaxMessageSize),
		Logger: n.logger, Observer: n.metrics.smtp(mode), Limits: smtpd.DefaultLimits(),
	}
	if c.MaxConnections > 0 {
		cfg.Limits.Connections = c.MaxConnections
	}
	if c.MaxRecipients > 0 {
		cfg.Limits.Recipients = c.MaxRecipients
	}
	perAddress := c.PerAddress
	if mode == smtpd.Submission {
		cfg.AllowPlaintextAuth = n.cfg.Submission.AllowPlaintextAuth
		perAddress = n.cfg.Submission.PerAddress
	} else {
		for _, s := range c.AllowSources {
			cfg.AllowSources = append(cfg.AllowSources, netip.MustParsePrefix(s)) // checked with the configuration
		}
	}
	if perAddress > 0 {
		cfg.Limits.ConnectionsPerAddress = perAddress
	}
	return smtpd.New(cfg, smtpBackend{n})
}

// smtpBackend joins package smtpd to package intake.
type smtpBackend struct{ n *Node }

// Auth implements smtpd.Backend.
func (b smtpBackend) Auth(ctx context.Context, peer smtpd.Peer, identity, user, password string) (smtpd.Login, error) {
	login, err := b.n.login(ctx, peer.Addr.Addr(), user, password)
	switch {
	case errors.Is(err, auth.ErrBadCredentials):
		return nil, smtpd.ErrBadCredentials
	case errors.Is(err, errNotAdmitted):
		return nil, smtpd.ErrLoginUnavailable
	case errors.Is(err, auth.ErrThrottled):
		return nil, smtpd.ErrThrottled
	case err != nil:
		return nil, err
	}
	// RFC 4616 §2: the identity to act as; only one's own may be.
	if identity != "" && !strings.EqualFold(identity, login.Address) {
		return nil, smtpd.ErrBadCredentials
	}
	return login, nil
}

// errNotAdmitted says that the password was right, but the domain is not open
// to its users now.
var errNotAdmitted = errors.New("the primary server is up; use it")

// login checks a password and whether the user may come in now.
func (n *Node) login(ctx context.Context, peer netip.Addr, user, password string) (auth.Login, error) {
	login, err := n.auth.Check(ctx, peer, user, password)
	if err != nil {
		return login, err
	}
	ok, err := n.admits(ctx, domainOf(login.Address))
	if err != nil {
		return login, err
	}
	if !ok {
		return login, errNotAdmitted
	}
	return login, nil
}

// Begin implements smtpd.Backend.
func (b smtpBackend) Begin(_ context.Context, peer smtpd.Peer, login smtpd.Login, from smtpd.ReversePath, p smtpd.MailParams) (smtpd.Transaction, error) {
	who := intake.Peer{Addr: peer.Addr.Addr().String(), Helo: peer.Helo, ESMTP: peer.ESMTP}
	if peer.TLS != nil {
		who.TLS = tls.VersionName(peer.TLS.Version) + " " + tls.CipherSuiteName(peer.TLS.CipherSuite)
	}
	env := intake.Envelope{From: from.Mailbox, Ret: p.Ret, EnvID: p.EnvID, Body8: p.Body == "8BITMIME", UTF8: p.SMTPUTF8}
	if login == nil {
		return &smtpTx{tx: b.n.intake.Begin(who, env), n: b.n, peer: peer}, nil
	}
	sender, err := b.n.sender(login.(auth.Login))
	if err != nil {
		return nil, err
	}
	tx, err := b.n.intake.Submit(who, env, sender)
	if err != nil {
		return nil, smtpError(err)
	}
	return &smtpTx{tx: tx, n: b.n, peer: peer}, nil
}

// sender is what intake needs to know of a user who submits.
func (n *Node) sender(login auth.Login) (intake.Sender, error) {
	snap := n.directory.Snapshot()
	u, ok := snap.User(login.Address)
	if !ok || u.Account != login.Account {
		return intake.Sender{}, fmt.Errorf("user is gone: %w", smtpd.ErrPolicy)
	}
	d, ok := snap.Domain(domainOf(u.Address))
	if !ok {
		return intake.Sender{}, fmt.Errorf("domain is gone: %w", smtpd.ErrPolicy)
	}
	return intake.Sender{
		Tenant: u.Tenant, Account: u.Account, Address: u.Address, Domain: d.Name, ShadowDays: d.ShadowDays,
		Outbound: d.Outbound != "", Owns: u.Owns,
	}, nil
}

// smtpTx is one transaction.
type smtpTx struct {
	n    *Node
	tx   *intake.Tx
	peer smtpd.Peer
}

// Rcpt implements smtpd.Transaction.
func (t *smtpTx) Rcpt(_ context.Context, to smtpd.ForwardPath, p smtpd.RcptParams) error {
	return smtpError(t.tx.Rcpt(intake.Rcpt{
		Path: to.Mailbox, Local: to.Local, Domain: to.Domain, Notify: strings.Join(p.Notify, ","), ORcpt: p.ORcpt,
	}))
}

// Data implements smtpd.Transaction.
func (t *smtpTx) Data(ctx context.Context, body io.Reader) (string, error) {
	id, err := t.tx.Data(ctx, body)
	if err != nil {
		t.n.logger.Info("message not accepted", "event", id, "conn", t.peer.ConnID, "error", err)
		return "", smtpError(err)
	}
	t.n.logger.Info("message accepted", "event", id, "conn", t.peer.ConnID)
	return id.String(), nil
}

// Close implements smtpd.Transaction.
func (t *smtpTx) Close() {}

// smtpError chooses the kind by which package smtpd chooses the reply. Whatever
// is not listed is our own trouble, and temporary.
func smtpError(err error) error {
	for _, m := range []struct{ from, to error }{
		{intake.ErrUnknownRecipient, smtpd.ErrUnknownRecipient},
		{intake.ErrNotOurs, smtpd.ErrRelayDenied},
		{intake.ErrNoOutbound, smtpd.ErrRelayDenied},
		{intake.ErrSecondTenant, smtpd.ErrSecondTenant},
		{intake.ErrTooManyHops, smtpd.ErrTooManyHops},
		{intake.ErrSenderNotYours, smtpd.ErrSenderNotYours},
	} {
		if errors.Is(err, m.from) {
			return fmt.Errorf("%w: %w", m.to, err)
		}
	}
	return err
}
