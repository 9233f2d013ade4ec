package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/auth"
	"holdfast/continuity"
	"holdfast/event"
	"holdfast/imapgw"
	"holdfast/internal/turn"
)

func (n *Node) newIMAP() *imapgw.Server {
	limits := imapgw.Limits{}
	if n.cfg.IMAP.PerAddress > 0 {
		limits.ConnsPerAddr = n.cfg.IMAP.PerAddress
	}
	return imapgw.New(imapgw.Config{
		TLS: n.tls.config, AllowPlaintextAuth: n.cfg.IMAP.AllowPlaintextAuth, Limits: limits,
		MaxMessageSize: int64(n.cfg.SMTP.MaxMessageSize), Logger: n.logger, Observer: n.metrics.imap(),
	}, imapBackend{n})
}

// imapBackend joins package imapgw to package continuity.
type imapBackend struct{ n *Node }

// Login implements imapgw.Backend.
func (b imapBackend) Login(ctx context.Context, peer imapgw.Peer, user, password string) (imapgw.User, error) {
	login, err := b.n.login(ctx, peer.Addr.Addr(), user, password)
	switch {
	case errors.Is(err, auth.ErrBadCredentials):
		return nil, imapgw.ErrBadCredentials
	case errors.Is(err, errNotAdmitted):
		return nil, &imapgw.NotAdmittedError{Reason: "your mail server is up, please use it"}
	case err != nil:
		return nil, err
	}
	domain := domainOf(login.Address)
	days := func() event.Day {
		if d, ok := b.n.directory.Domain(domain); ok {
			return event.Day(max(d.ShadowDays, 1))
		}
		return 1
	}
	u := b.n.continuity.User(login.Tenant, login.Account, login.Address, days, int64(b.n.cfg.SMTP.MaxMessageSize))
	s := b.n.evictor.enter(domain, login.Account)
	return &imapUser{User: u, session: s, evictor: b.n.evictor}, nil
}

// imapUser is one logged-in session.
type imapUser struct {
	*continuity.User
	session *guest
	evictor *evictor
}

// Select implements imapgw.User.
func (u *imapUser) Select(ctx context.Context, name string) (imapgw.Selected, error) {
	s, err := u.User.Select(ctx, name)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Evicted implements imapgw.User.
func (u *imapUser) Evicted() <-chan struct{} { return u.session.out }

// Close implements imapgw.User.
func (u *imapUser) Close() { u.evictor.leave(u.session) }

var _ imapgw.User = (*imapUser)(nil)
var _ imapgw.Selected = (*continuity.Selected)(nil)

const (
	// farewell is how long a session may go on once its domain is closed to
	// users again.
	farewell = 10 * time.Minute
	// lookEvery is how often domains are looked at.
	lookEvery = time.Second
)

// evictor ends the sessions of domains that came back, after a while, and those
// of users who were removed, at once.
type evictor struct {
	mu     sync.Mutex
	guests map[*guest]bool
}

type guest struct {
	domain  string
	account event.Account
	out     chan struct{} // closed when the session must end
	closed  time.Time     // since when the domain is closed; zero while it is open
}

func newEvictor() *evictor { return &evictor{guests: map[*guest]bool{}} }

func (e *evictor) enter(domain string, a event.Account) *guest {
	g := &guest{domain: domain, account: a, out: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.guests[g] = true
	return g
}

func (e *evictor) leave(g *guest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.guests, g)
}

// run looks at the sessions until ctx ends. admits reports whether a domain is
// open to its users, listed whether an account is still somebody's.
func (e *evictor) run(ctx context.Context, admits func(context.Context, string) (bool, error), listed func(event.Account) bool) {
	for {
		t := time.NewTimer(lookEvery)
		select {
		case <-t.C:
			turn.Take(ctx, "look")
			e.look(ctx, admits, listed)
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (e *evictor) look(ctx context.Context, admits func(context.Context, string) (bool, error), listed func(event.Account) bool) {
	e.mu.Lock()
	domains, accounts := map[string]bool{}, map[event.Account]bool{}
	for g := range e.guests {
		domains[g.domain] = true
		accounts[g.account] = true
	}
	e.mu.Unlock()
	for a := range accounts {
		accounts[a] = listed(a)
	}
	for domain := range domains {
		open, err := admits(ctx, domain)
		if err != nil {
			domains[domain] = true // nobody is sent away for a trouble of ours
			continue
		}
		domains[domain] = open
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for g := range e.guests {
		open, known := domains[g.domain]
		switch here, looked := accounts[g.account]; {
		case looked && !here:
			close(g.out)
			delete(e.guests, g)
		case !known || open:
			g.closed = time.Time{}
		case g.closed.IsZero():
			g.closed = now
		case now.Sub(g.closed) >= farewell:
			close(g.out)
			delete(e.guests, g)
		}
	}
}
