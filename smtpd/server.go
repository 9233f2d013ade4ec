package smtpd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/turn"
)

// ErrServerClosed is returned by Serve after Shutdown.
var ErrServerClosed = errors.New("smtpd: server closed")

// refusalTime bounds the reply to a connection that is not let in.
const refusalTime = time.Second

// Server accepts connections and holds one conversation on each.
type Server struct {
	config  Config
	backend Backend
	closing atomic.Bool
	buffers *sync.Pool // of every connection that receives a body

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	perSource map[netip.Prefix]int
	work      sync.WaitGroup // sessions
}

// New returns a server that is ready to Serve.
func New(config Config, backend Backend) (*Server, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	if backend == nil {
		return nil, errors.New("smtpd: no backend")
	}
	return &Server{
		config:    config,
		backend:   backend,
		buffers:   newBuffers(),
		listeners: map[net.Listener]struct{}{},
		sessions:  map[*session]struct{}{},
		perSource: map[netip.Prefix]int{},
	}, nil
}

// Serve accepts connections from a listener, which it closes in the end, until
// Shutdown is called (then it returns ErrServerClosed), ctx ends (then all
// conversations are cut off), or accepting fails. It returns when its
// conversations are over. It may be called for several listeners at once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if !s.addListener(ln) {
		ln.Close()
		return ErrServerClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	var own sync.WaitGroup
	defer own.Wait()
	defer s.removeListener(ln)
	defer ln.Close()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()

	var pause time.Duration
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
		case s.closing.Load():
			// Sessions finish what is in hand; Shutdown decides for how long, so
			// their context must outlive this loop.
			own.Wait()
			return ErrServerClosed
		case ctx.Err() != nil:
			return fmt.Errorf("smtpd: serve: %w", context.Cause(ctx))
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("smtpd: accept: %w", err)
		default:
			// Most likely no file descriptors are left; that passes.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.config.Logger.Warn("accept failed", "error", err, "pause", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		s.admit(ctx, conn, &own)
	}
}

// Shutdown closes the listeners, says 421 to every connection that waits for a
// command, and waits until the others have finished the command they are in, a
// whole body included. When ctx ends first, it cuts them off and returns ctx's
// error; Serve then returns when the Backend's calls have noticed. It may be
// called again.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closing.Store(true)
	s.mu.Lock()
	listeners := make([]net.Listener, 0, len(s.listeners))
	for ln := range s.listeners {
		listeners = append(listeners, ln)
	}
	s.mu.Unlock()
	for _, ln := range listeners {
		ln.Close()
	}
	for _, ses := range s.list() {
		ses.interrupt()
	}
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	for _, ses := range s.list() {
		ses.cancel()
		ses.raw.Close()
	}
	return fmt.Errorf("smtpd: shutdown: %w", ctx.Err())
}

// list returns the sessions of the moment.
func (s *Server) list() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*session, 0, len(s.sessions))
	for ses := range s.sessions {
		all = append(all, ses)
	}
	return all
}

func (s *Server) addListener(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) removeListener(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}

// admit starts a session for a connection, or refuses it.
func (s *Server) admit(ctx context.Context, conn net.Conn, own *sync.WaitGroup) {
	addr := addrPort(conn.RemoteAddr())
	if !s.allowed(addr.Addr()) {
		s.turnAway(conn, replySource)
		return
	}
	ctx, cancel := context.WithCancel(turn.Named(ctx, "smtp "+addr.String()))
	ses := newSession(s, conn, cancel)
	ses.peer = Peer{Addr: addr, Local: addrPort(conn.LocalAddr()), ConnID: newConnID()}
	source := sourceOf(addr.Addr())
	if refusal, ok := s.enter(ses, source); !ok {
		cancel()
		s.turnAway(conn, refusal)
		return
	}
	own.Go(func() {
		defer s.leave(ses, source)
		defer cancel()
		// When the server's context ends, the conversation does, at once.
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		s.config.Observer.ConnOpened()
		defer s.config.Observer.ConnClosed()
		ses.run(ctx)
	})
}

// enter counts a session in.
func (s *Server) enter(ses *session, source netip.Prefix) (reply, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.config.Limits
	switch {
	case s.closing.Load():
		return replyForEnd(errShutdown), false
	case l.Connections > 0 && len(s.sessions) >= l.Connections:
		return replyConnections, false
	case l.ConnectionsPerAddress > 0 && s.perSource[source] >= l.ConnectionsPerAddress:
		return replyConnections, false
	}
	s.sessions[ses] = struct{}{}
	s.perSource[source]++
	s.work.Add(1)
	return reply{}, true
}

// leave counts a session out.
func (s *Server) leave(ses *session, source netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ses)
	if s.perSource[source]--; s.perSource[source] == 0 {
		delete(s.perSource, source)
	}
	s.work.Done()
}

// turnAway refuses a connection with a greeting. One line always fits into the
// socket's empty buffer, so this does not hold up the accept loop.
func (s *Server) turnAway(conn net.Conn, r reply) {
	s.config.Observer.Refused(r.reason)
	conn.SetDeadline(time.Now().Add(refusalTime))
	conn.Write(r.append(nil))
	conn.Close()
}

// allowed says whether an address may connect.
func (s *Server) allowed(addr netip.Addr) bool {
	if len(s.config.AllowSources) == 0 {
		return true
	}
	for _, p := range s.config.AllowSources {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// sourceOf groups addresses for the limit of connections: an IPv6 host has a
// whole /64 to choose from.
func sourceOf(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// addrPort returns the address of a network end, zero if it has none (a pipe).
func addrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// newConnID names a connection in logs.
func newConnID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
