package imapgw

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-sasl"

	"holdfast/event"
	"holdfast/internal/turn"
)

// session is one connection's, from greeting to close. The library calls its
// methods one at a time, with two exceptions: Idle may still run when the
// connection has broken and Poll and Close are called, and the watcher says BYE
// at any time. So everything below turn belongs to whoever holds turn.
type session struct {
	srv    *Server
	ic     *imapserver.Conn
	nc     *conn
	ctx    context.Context
	cancel context.CancelFunc

	stranger *time.Timer // ends the connection unless the client logs in
	watcher  sync.WaitGroup
	user     User // set once by login, before the watcher starts
	isKnown  atomic.Bool
	failures int

	turn  chan struct{} // holds one token
	sel   *selection    // nil when no mailbox is selected
	saved []event.UID   // what "$" stands for (RFC 5182), ascending
	// seenAgain is when FETCH may set \Seen again after that has failed.
	seenAgain time.Time
}

var (
	_ imapserver.SessionIMAP4rev2   = (*session)(nil)
	_ imapserver.SessionAppendLimit = (*session)(nil)
	_ imapserver.SessionSASL        = (*session)(nil)
)

func newSession(srv *Server, ic *imapserver.Conn, nc *conn) *session {
	s := &session{srv: srv, ic: ic, nc: nc, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	s.ctx, s.cancel = context.WithCancel(turn.Like(srv.ctx, nc.ctx))
	s.stranger = time.AfterFunc(strangerTimeout, func() { _ = nc.Close() })
	return s
}

// lock takes the turn; the returned function gives it back.
func (s *session) lock() (unlock func()) {
	<-s.turn
	return func() { s.turn <- struct{}{} }
}

func (s *session) loggedIn() bool { return s.isKnown.Load() }

// Close ends the session. The library calls it once, whatever happened.
func (s *session) Close() error {
	s.stranger.Stop()
	s.cancel()
	s.watcher.Wait()
	unlock := s.lock()
	defer unlock()
	s.unselect()
	if s.user != nil {
		s.user.Close()
	}
	s.srv.ended(s.nc)
	return nil
}

// Login implements LOGIN (RFC 9051 §6.2.3). The library has made sure that
// there is TLS where it is required.
func (s *session) Login(user, password string) error {
	peer := Peer{TLS: s.ic.NetConn().(*framer).isTLS()}
	if a, ok := s.nc.RemoteAddr().(*net.TCPAddr); ok {
		peer.Addr = a.AddrPort()
	}
	ctx, cancel := context.WithTimeout(s.ctx, loginPatience)
	defer cancel()
	u, err := s.srv.backend.Login(ctx, peer, user, password)
	var refused *NotAdmittedError
	switch {
	case err == nil:
		s.srv.observer.LoggedIn(LoginOK)
	case errors.Is(err, ErrBadCredentials):
		s.srv.observer.LoggedIn(LoginFailed)
		s.penance(peer)
		return answer(err, false)
	case errors.As(err, &refused):
		s.srv.observer.LoggedIn(LoginNotAdmitted)
		return answer(err, false)
	default:
		s.srv.observer.LoggedIn(LoginError)
		return answer(err, false)
	}
	s.stranger.Stop()
	s.ic.NetConn().(*framer).loggedIn()
	s.user = u
	s.isKnown.Store(true)
	s.nc.place.known()
	s.watcher.Add(1)
	go s.watch()
	return nil
}

// loginPatience bounds the wait for a decision, which includes that for a turn
// at hashing the password.
const loginPatience = 30 * time.Second

// penance delays the answer to a failed login.
func (s *session) penance(peer Peer) {
	s.failures++
	delay, ok := s.srv.penalty.failed(peer.Addr.Addr(), time.Now())
	if ok {
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-s.ctx.Done():
		case <-s.srv.stopping:
		}
		t.Stop()
		s.srv.penalty.done()
	}
	if !ok || s.failures >= maxFailures {
		s.nc.endAfterReply()
	}
}

// watch says BYE when the session has to end. It runs from login to Close.
func (s *session) watch() {
	defer s.watcher.Done()
	var text string
	select {
	case <-s.user.Evicted():
		text = "Your mail server is back: please use it again"
	case <-s.srv.stopping:
		text = "Server is shutting down; please connect again"
	case <-s.ctx.Done():
		return
	}
	// The answer to a running command goes first: a client that does not hear
	// what became of its APPEND makes another one.
	t := time.NewTimer(byePatience)
	defer t.Stop()
	select {
	case <-s.nc.whenQuiet():
	case <-t.C:
	case <-s.ctx.Done():
		return
	}
	_ = s.ic.Bye(text) // the connection ends in any case
}

// byePatience is how long a running command may hold up BYE.
const byePatience = 10 * time.Second

// AuthenticateMechanisms returns what AUTHENTICATE offers.
func (s *session) AuthenticateMechanisms() []string { return []string{"PLAIN"} }

// Authenticate implements AUTHENTICATE PLAIN (RFC 4616).
func (s *session) Authenticate(mech string) (sasl.Server, error) {
	if mech != "PLAIN" {
		return nil, no("", "There is only PLAIN")
	}
	return &plain{s}, nil
}

type plain struct{ s *session }

// Next takes the client's only message.
func (p *plain) Next(response []byte) (challenge []byte, done bool, err error) {
	if response == nil {
		return nil, false, nil
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 {
		return nil, false, bad("Malformed SASL response")
	}
	as, user, password := string(parts[0]), string(parts[1]), string(parts[2])
	if as != "" && as != user {
		return nil, false, no(imap.ResponseCodeAuthorizationFailed, "Nobody may act for another")
	}
	if err := p.s.Login(user, password); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// appendLimit is the largest message the user may APPEND, in bytes.
func (s *session) appendLimit() int64 {
	return min(s.srv.cfg.MaxMessageSize, s.user.AppendLimit(), math.MaxUint32)
}

// AppendLimit tells the library the largest APPEND. It asks in two places: in
// the middle of a response, for the APPENDLIMIT capability, and before it reads
// a literal. There, were a literal that the client sends without waiting too
// large, the library would refuse it but not skip it, and take the message's
// lines for commands. So there the answer is "any", and Append refuses.
func (s *session) AppendLimit() uint32 {
	if s.nc.isResponding() {
		return uint32(s.appendLimit())
	}
	return math.MaxUint32
}

// Namespace implements NAMESPACE (RFC 2342).
func (s *session) Namespace() (*imap.NamespaceData, error) {
	return &imap.NamespaceData{Personal: []imap.NamespaceDescriptor{{Prefix: "", Delim: delimiter}}}, nil
}

// say writes one untagged response that the library has no function for. It may
// be called between responses only.
func (s *session) say(line []byte) error {
	_, err := s.ic.NetConn().Write(append(line, '\r', '\n'))
	return err
}
