package imapgw

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"holdfast/internal/turn"
)

// LoginResult is how an attempt to log in ended.
type LoginResult string

// The results.
const (
	LoginOK          LoginResult = "ok"
	LoginFailed      LoginResult = "failed"       // unknown user or wrong password
	LoginNotAdmitted LoginResult = "not-admitted" // right password, but not now
	LoginError       LoginResult = "error"        // could not be decided
)

// Observer hears what is worth counting. Its methods must not block and are
// called from several goroutines.
type Observer interface {
	// Connected is called with 1 and -1.
	Connected(delta int)
	// Refused: a connection was turned away because of a limit.
	Refused()
	LoggedIn(LoginResult)
}

type nobody struct{}

func (nobody) Connected(int)        {}
func (nobody) Refused()             {}
func (nobody) LoggedIn(LoginResult) {}

// Config is what a Server needs to know. The zero Config is a server without
// TLS on which nobody can log in.
type Config struct {
	// TLS returns the configuration for the next handshake, so that a renewed
	// certificate counts at once. Nil: no TLS.
	TLS func() *tls.Config
	// AllowPlaintextAuth lets clients log in without TLS.
	AllowPlaintextAuth bool
	Limits             Limits
	// MaxMessageSize bounds what APPEND takes, in bytes (default 64 MiB); the
	// smaller of it and [User.AppendLimit] counts.
	MaxMessageSize int64
	// Logger hears what went wrong; nil: nobody does. No address, subject or
	// content goes there.
	Logger *slog.Logger
	// Observer may be nil.
	Observer Observer
}

const defaultMessageSize = 64 << 20

// capabilities are those the library asks to be told of. CONDSTORE, QRESYNC,
// ID, QUOTA, SORT and THREAD cannot be added to it from outside.
func capabilities() imap.CapSet {
	return imap.CapSet{
		imap.CapIMAP4rev1: {}, imap.CapIMAP4rev2: {},
		imap.CapNamespace: {}, imap.CapUIDPlus: {}, imap.CapESearch: {}, imap.CapSearchRes: {},
		imap.CapListExtended: {}, imap.CapListStatus: {}, imap.CapMove: {}, imap.CapStatusSize: {},
		imap.CapBinary: {}, imap.CapChildren: {}, imap.CapSpecialUse: {}, imap.CapCreateSpecialUse: {},
		imap.CapLiteralPlus: {},
	}
}

// Server speaks IMAP for a Backend.
type Server struct {
	cfg      Config
	backend  Backend
	log      *slog.Logger
	observer Observer
	imap     *imapserver.Server
	places   *places
	penalty  *penalties

	ctx      context.Context // of all sessions; ends when Shutdown's patience does
	cancel   context.CancelFunc
	stopping chan struct{} // closed when Shutdown begins

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]*session // nil value: not yet, or not any more, a session
	stopped   bool
	sessions  sync.WaitGroup
}

// New returns a server that is ready to serve.
func New(cfg Config, b Backend) *Server {
	if cfg.MaxMessageSize <= 0 {
		cfg.MaxMessageSize = defaultMessageSize
	}
	s := &Server{
		cfg: cfg, backend: b, log: cfg.Logger, observer: cfg.Observer,
		places: newPlaces(cfg.Limits), penalty: newPenalties(),
		stopping: make(chan struct{}), listeners: map[net.Listener]struct{}{}, conns: map[*conn]*session{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observer == nil {
		s.observer = nobody{}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	opts := &imapserver.Options{
		NewSession: s.newSession,
		Caps:       capabilities(),
		Logger:     libraryLog{s.log},
		// Where there is TLS, the framer lets nobody log in before it.
		InsecureAuth: cfg.AllowPlaintextAuth || cfg.TLS != nil,
	}
	s.imap = imapserver.New(opts)
	return s
}

func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.cfg.TLS(), nil },
	}
}

// Serve accepts connections, with STARTTLS when there is TLS, until ctx ends or
// Shutdown is called, and closes ln. It may be called for several listeners.
// Sessions go on after it has returned; Shutdown ends them.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, framing{Listener: &listener{Listener: ln, srv: s, ctx: ctx}, srv: s, gate: s.cfg.TLS != nil})
}

// ServeTLS is Serve for clients that speak TLS at once (RFC 8314).
func (s *Server) ServeTLS(ctx context.Context, ln net.Listener) error {
	if s.cfg.TLS == nil {
		return errors.New("serve IMAP with TLS: no TLS configuration")
	}
	secure := tls.NewListener(&listener{Listener: ln, srv: s, ctx: ctx, tls: true}, s.tlsConfig())
	return s.serve(ctx, framing{Listener: secure, srv: s})
}

func (s *Server) serve(ctx context.Context, ln net.Listener) error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		_ = ln.Close() // it is not needed
		return net.ErrClosed
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	err := s.imap.Serve(ln)
	s.mu.Lock()
	delete(s.listeners, ln)
	s.mu.Unlock()
	_ = ln.Close() // closing twice does no harm
	if err != nil {
		return fmt.Errorf("serve IMAP: %w", err)
	}
	return nil
}

// Shutdown stops accepting, tells the logged-in clients BYE as soon as their
// running command is answered, and waits for all sessions to end. When ctx ends
// before that, connections are cut and its error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	var closing sync.WaitGroup
	defer closing.Wait()
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.stopping)
	}
	for ln := range s.listeners {
		_ = ln.Close() // nothing was promised to those who wait
	}
	for c, sess := range s.conns {
		if sess == nil || !sess.loggedIn() {
			closing.Go(func() { _ = c.Close() }) // ends within closeTimeout
		}
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.sessions.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.mu.Lock()
		for c := range s.conns {
			c.abort()
		}
		s.mu.Unlock()
		s.cancel()
		<-done
		return fmt.Errorf("shut down IMAP: %w", ctx.Err())
	}
	s.cancel()
	return nil
}

// wrap makes an accepted connection ours, or reports false when Shutdown has
// begun. The session that the library makes for it gives its place back.
func (s *Server) wrap(ctx context.Context, nc net.Conn, pl *place) (net.Conn, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, false
	}
	c := newConn(nc, pl)
	c.ctx = turn.Named(ctx, "imap "+nc.RemoteAddr().String())
	s.conns[c] = nil
	s.sessions.Add(1)
	return c, true
}

// ended forgets a connection. Each one that was wrapped is ended once.
func (s *Server) ended(c *conn) {
	_ = c.Close() // the library may have done so
	c.place.leave()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.observer.Connected(-1)
	s.sessions.Done()
}

// newSession is called by the library, once for each connection.
func (s *Server) newSession(ic *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
	f, ok := ic.NetConn().(*framer)
	if !ok {
		panic("internal error: a connection that did not come through the listener")
	}
	c := f.nc
	s.observer.Connected(1)
	sess := newSession(s, ic, c)
	s.mu.Lock()
	s.conns[c] = sess
	s.mu.Unlock()
	return sess, &imapserver.GreetingData{}, nil
}

// strangerTimeout is how long a client may stay without logging in.
const strangerTimeout = 3 * time.Minute

// libraryLog passes on what the library logs. Its lines can quote a client, so
// they are for debugging, but for panics, whose lines cannot.
type libraryLog struct{ log *slog.Logger }

// Printf implements the library's Logger.
func (l libraryLog) Printf(format string, args ...any) {
	if strings.HasPrefix(format, "panic") {
		l.log.Error("IMAP session failed", "detail", fmt.Sprintf(format, args...))
		return
	}
	l.log.Debug("IMAP library", "detail", fmt.Sprintf(format, args...))
}
