package smtpc

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// writeBuffer holds a usual message whole, so that it leaves in one write. It
// is also the unit to which [Timeouts.DataBlock] applies.
const writeBuffer = 32 << 10

// Conn is a connection on which transactions can be made one after another. Its
// methods must not be called concurrently.
type Conn struct {
	cfg    Config
	raw    net.Conn // the connection as dialled; closing it ends everything
	nc     net.Conn // raw, or TLS on top of it
	br     *bufio.Reader
	bw     *bufio.Writer
	wire   *wire
	caps   caps
	secure bool

	scratch []byte // for reading bodies; nil until the first

	broken       bool // no further command makes sense
	needReset    bool // a transaction was left open
	transactions int
}

// Connect dials, reads the banner, says EHLO (or HELO to a server that does not
// know it), and protects the connection as the target's policy says. Every error
// is an [*Error]. Cancelling ctx breaks the attempt off; it does not affect the
// connection once it is returned.
func Connect(ctx context.Context, t Target, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	c, err := connect(ctx, t, cfg)
	if e, ok := errors.AsType[*Error](err); ok && e.Phase == PhaseTLS && t.TLS == Opportunistic && ctx.Err() == nil {
		// A failed handshake leaves the connection useless. Without TLS is better
		// than not at all where nobody asked for certainty (RFC 7435 §3).
		t.TLS = None
		return connect(ctx, t, cfg)
	}
	return c, err
}

func connect(ctx context.Context, t Target, cfg Config) (*Conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, cfg.Timeouts.Connect)
	defer cancel()
	nc, err := cfg.Dial(dialCtx, "tcp", t.address())
	if err != nil {
		return nil, &Error{Phase: PhaseConnect, Err: err, Timeout: isTimeout(err)}
	}
	c := newConn(eager(nc), cfg)
	stop := c.watch(ctx)
	err = c.greet(t)
	stop()
	if err == nil && c.broken {
		err = &Error{Phase: PhaseHelo, Err: ErrClosed}
	}
	if err != nil {
		c.abort()
		return nil, blameContext(ctx, err)
	}
	return c, nil
}

func newConn(nc net.Conn, cfg Config) *Conn {
	c := &Conn{cfg: cfg, raw: nc}
	c.attach(nc)
	return c
}

func (c *Conn) attach(nc net.Conn) {
	c.nc = nc
	c.wire = &wire{nc: nc}
	c.br = bufio.NewReaderSize(nc, maxReplyLine)
	c.bw = bufio.NewWriterSize(c.wire, writeBuffer)
}

// wire sets the deadline of each write and counts what was written.
type wire struct {
	nc      net.Conn
	timeout time.Duration
	written int64
}

func (w *wire) Write(p []byte) (int, error) {
	if err := w.nc.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	n, err := w.nc.Write(p)
	w.written += int64(n)
	return n, err
}

// watch closes the connection when ctx ends, until the returned function is called.
func (c *Conn) watch(ctx context.Context) (stop func()) {
	closed := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		c.raw.Close()
		close(closed)
	})
	return func() {
		if !unwatch() {
			<-closed
			c.broken = true
		}
	}
}

// greet does everything from the banner to the last EHLO.
func (c *Conn) greet(t Target) error {
	r, err := c.reply(PhaseBanner, c.cfg.Timeouts.Banner)
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return &Error{Phase: PhaseBanner, Reply: r}
	}
	if err := c.hello(); err != nil {
		return err
	}
	if t.TLS == None {
		return nil
	}
	if !c.caps.startTLS {
		if t.TLS == Required {
			return &Error{Phase: PhaseTLS, Err: ErrNoTLS}
		}
		return nil
	}
	return c.startTLS(t)
}

// hello says EHLO, or HELO to a server that refuses it (RFC 5321 §3.2).
func (c *Conn) hello() error {
	r, err := c.command(PhaseHelo, c.cfg.Timeouts.Helo, "EHLO "+c.cfg.Hello)
	if err != nil {
		return err
	}
	if r.Positive() {
		c.caps = parseCaps(r)
		return nil
	}
	if !r.Permanent() {
		return &Error{Phase: PhaseHelo, Reply: r}
	}
	c.caps = caps{}
	r, err = c.command(PhaseHelo, c.cfg.Timeouts.Helo, "HELO "+c.cfg.Hello)
	if err != nil {
		return err
	}
	if !r.Positive() {
		return &Error{Phase: PhaseHelo, Reply: r}
	}
	return nil
}

// startTLS upgrades the connection (RFC 3207) and says EHLO again.
func (c *Conn) startTLS(t Target) error {
	r, err := c.command(PhaseTLS, c.cfg.Timeouts.Helo, "STARTTLS")
	if err != nil {
		return err
	}
	if !r.Positive() {
		if t.TLS == Opportunistic && r.Code != 421 {
			return nil // RFC 3207 §4.1: the client may go on without.
		}
		return &Error{Phase: PhaseTLS, Reply: r}
	}
	if c.br.Buffered() > 0 {
		// Somebody put clear text where only the handshake may follow, to have it
		// read as if it were protected.
		return &Error{Phase: PhaseTLS, Err: fmt.Errorf("%w: clear text after STARTTLS", ErrMalformedReply)}
	}
	tc := tls.Client(c.raw, c.tlsConfig(t))
	if err := tc.SetDeadline(time.Now().Add(c.cfg.Timeouts.Helo)); err != nil {
		return &Error{Phase: PhaseTLS, Err: err}
	}
	// Handshake needs no context: watch closes the connection beneath it.
	if err := tc.Handshake(); err != nil {
		return &Error{Phase: PhaseTLS, Err: err, Timeout: isTimeout(err)}
	}
	c.attach(tc)
	c.secure = true
	return c.hello() // RFC 3207 §4.2: what was known before is forgotten.
}

func (c *Conn) tlsConfig(t Target) *tls.Config {
	cfg := &tls.Config{}
	if t.TLSConfig != nil {
		cfg = t.TLSConfig.Clone()
	}
	if c.cfg.RootCAs != nil {
		cfg.RootCAs = c.cfg.RootCAs
	}
	if t.ServerName != "" {
		cfg.ServerName = t.ServerName
	} else if cfg.ServerName == "" {
		cfg.ServerName = t.Host
	}
	cfg.InsecureSkipVerify = t.TLS == Opportunistic
	return cfg
}

// command writes one command and reads its reply. The error, if any, is the
// network's or a malformed reply's, never a refusal.
func (c *Conn) command(phase Phase, timeout time.Duration, line string) (Reply, error) {
	c.wire.timeout = timeout
	c.bw.WriteString(line)
	c.bw.WriteString("\r\n")
	if err := c.bw.Flush(); err != nil {
		return Reply{}, c.fail(phase, err)
	}
	return c.reply(phase, timeout)
}

// reply reads one reply, which must be complete within the timeout.
func (c *Conn) reply(phase Phase, timeout time.Duration) (Reply, error) {
	// A connection that takes no deadline is closed, but what was read from it
	// before still counts.
	if err := c.nc.SetReadDeadline(time.Now().Add(timeout)); err != nil && c.br.Buffered() == 0 {
		return Reply{}, c.fail(phase, err)
	}
	r, err := readReply(c.br)
	if err != nil {
		return Reply{}, c.fail(phase, err)
	}
	if r.Code == 421 {
		// RFC 5321 §3.8: the server closes the connection, whatever was asked.
		c.broken = true
	}
	return r, nil
}

// fail marks the connection as useless and names the phase.
func (c *Conn) fail(phase Phase, err error) *Error {
	c.broken = true
	return &Error{Phase: phase, Err: err, Timeout: isTimeout(err)}
}

// abort closes without a word.
func (c *Conn) abort() {
	c.broken = true
	c.raw.Close()
}

// Secure says whether the connection is encrypted.
func (c *Conn) Secure() bool { return c.secure }

// Transactions returns how many transactions were begun. A failure in
// [PhaseMail] of any but the first often means only that the server closed an
// idle connection; it says nothing about the message and little about the server.
func (c *Conn) Transactions() int { return c.transactions }

// Broken says that the connection is known to be of no more use.
func (c *Conn) Broken() bool { return c.broken }

// Alive says whether another transaction may be tried: the connection is not
// known to be broken, the server has not closed it and has said nothing unasked.
// It does not ask the server.
func (c *Conn) Alive() bool {
	if c.broken {
		return false
	}
	if err := c.silence(PhaseMail); err != nil {
		c.abort()
		return false
	}
	return true
}

// silence returns an error if the server has closed the connection or has said
// something to which no command led. Such a reply would be taken for the answer
// to the next command.
func (c *Conn) silence(phase Phase) *Error {
	if c.br.Buffered() == 0 {
		wait := time.Millisecond
		if quiet(c.raw) {
			if !c.secure {
				return nil
			}
			// TLS may hold what it has read ahead; a deadline in the past gives
			// just that.
			wait = -time.Second
		}
		if err := c.nc.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return c.fail(phase, err)
		}
		if _, err := c.br.Peek(1); isTimeout(err) {
			return nil
		} else if err != nil {
			return c.fail(phase, err)
		}
	}
	r, err := c.reply(phase, time.Second)
	if err != nil {
		return err.(*Error)
	}
	c.broken = true
	if r.Temporary() || r.Permanent() {
		return &Error{Phase: phase, Reply: r}
	}
	return &Error{Phase: phase, Err: fmt.Errorf("%w: %s unasked", ErrMalformedReply, r.codes())}
}

// Close says QUIT, waits a short while for the answer, and closes. It may be
// called again. The error is that of closing the network connection; that the
// server did not answer is no error.
func (c *Conn) Close() error {
	if !c.broken {
		c.broken = true
		// TLS says goodbye only to a peer that answers; to another it would wait.
		if _, err := c.command(PhaseHelo, c.cfg.Timeouts.Quit, "QUIT"); err == nil && c.secure {
			_ = c.nc.Close()
		}
	}
	if err := c.raw.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close smtp connection: %w", err)
	}
	return nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &ne) && ne.Timeout()
}

// blameContext names the context as the cause if it has ended, because the
// network error then only says that the connection was closed.
func blameContext(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	e, ok := errors.AsType[*Error](err)
	if cause == nil || !ok || e.Err == nil || errors.Is(e.Err, cause) {
		return err
	}
	e.Err = fmt.Errorf("%w: %w", cause, e.Err)
	e.Timeout = e.Timeout || errors.Is(cause, context.DeadlineExceeded)
	return e
}
