package world

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// lan is a network in memory, in which nothing fails but what is closed.
type lan struct {
	mu   sync.Mutex
	ears map[string]*lanEar
}

func newLAN() *lan { return &lan{ears: map[string]*lanEar{}} }

type lanEar struct {
	lan   *lan
	addr  string
	conns chan net.Conn
	over  chan struct{}
	once  sync.Once
}

func (l *lan) Listen(_ context.Context, _, addr string) (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ears[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	e := &lanEar{lan: l, addr: addr, conns: make(chan net.Conn, 100), over: make(chan struct{})}
	l.ears[addr] = e
	return e, nil
}

func (e *lanEar) Accept() (net.Conn, error) {
	select {
	case c := <-e.conns:
		return c, nil
	case <-e.over:
		return nil, net.ErrClosed
	}
}

func (e *lanEar) Close() error {
	e.once.Do(func() {
		e.lan.mu.Lock()
		delete(e.lan.ears, e.addr)
		e.lan.mu.Unlock()
		close(e.over)
	})
	return nil
}

func (e *lanEar) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:25"))
}

// dialer returns a machine's way into the network; cut, if not nil, ends its
// connections.
func (l *lan) dialer(cut *cable) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		l.mu.Lock()
		e := l.ears[addr]
		l.mu.Unlock()
		if e == nil {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
		a, b := &stream{}, &stream{}
		a.cond, b.cond = sync.NewCond(&a.mu), sync.NewCond(&b.mu)
		near, far := &lanConn{in: a, out: b}, &lanConn{in: b, out: a}
		if cut != nil && !cut.hold(near) {
			return nil, syscall.ENETDOWN
		}
		select {
		case e.conns <- far:
			return near, nil
		case <-e.over:
			return nil, syscall.ECONNREFUSED
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// cable is what ties a machine to the network.
type cable struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (c *cable) hold(n net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, n)
	return !c.cut
}

func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, n := range c.conns {
		n.Close()
	}
}

// wired is a listener whose connections end with the cable.
type wired struct {
	net.Listener
	cable *cable
}

func (w wired) Accept() (net.Conn, error) {
	for {
		c, err := w.Listener.Accept()
		if err != nil || w.cable.hold(c) {
			return c, err
		}
		c.Close()
	}
}

// stream is one direction.
type stream struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	closed bool
	until  time.Time // for reading
	alarm  *time.Timer
}

func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

type lanConn struct{ in, out *stream }

func (c *lanConn) Read(p []byte) (int, error) {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 {
		switch {
		case s.closed:
			return 0, io.EOF
		case !s.until.IsZero() && !time.Now().Before(s.until):
			return 0, os.ErrDeadlineExceeded
		}
		s.cond.Wait()
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

func (c *lanConn) Write(p []byte) (int, error) {
	s := c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errors.Join(io.ErrClosedPipe, syscall.EPIPE)
	}
	s.buf = append(s.buf, p...)
	s.cond.Broadcast()
	return len(p), nil
}

func (c *lanConn) Close() error {
	for _, s := range []*stream{c.in, c.out} {
		s.mu.Lock()
		s.closed = true
		s.cond.Broadcast()
		s.mu.Unlock()
	}
	return nil
}

func (c *lanConn) SetReadDeadline(t time.Time) error {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = t
	if s.alarm != nil {
		s.alarm.Stop()
	}
	if !t.IsZero() {
		s.alarm = time.AfterFunc(time.Until(t), s.wake)
	}
	s.cond.Broadcast()
	return nil
}

func (c *lanConn) SetWriteDeadline(time.Time) error { return nil }
func (c *lanConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *lanConn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:25"))
}
func (c *lanConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.2:4000"))
}
