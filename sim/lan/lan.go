// Package lan is a network in memory for worlds whose nodes run as they like. Its
// fault model: nothing fails but what is closed, and what hangs on a [Cable] that
// was severed. Bytes are never altered or reordered, and a connection holds any
// number of them: a write does not wait.
package lan

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

// Net is one network.
type Net struct {
	mu   sync.Mutex
	ears map[string]*ear
}

// New returns a network without anybody in it.
func New() *Net { return &Net{ears: map[string]*ear{}} }

type ear struct {
	net   *Net
	addr  string
	conns chan net.Conn
	over  chan struct{}
	once  sync.Once
}

// Listen is as that of net.ListenConfig.
func (l *Net) Listen(_ context.Context, _, addr string) (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ears[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	e := &ear{net: l, addr: addr, conns: make(chan net.Conn, 100), over: make(chan struct{})}
	l.ears[addr] = e
	return e, nil
}

func (e *ear) Accept() (net.Conn, error) {
	select {
	case c := <-e.conns:
		return c, nil
	case <-e.over:
		return nil, net.ErrClosed
	}
}

func (e *ear) Close() error {
	e.once.Do(func() {
		e.net.mu.Lock()
		delete(e.net.ears, e.addr)
		e.net.mu.Unlock()
		close(e.over)
	})
	return nil
}

func (e *ear) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:25"))
}

// Dialer returns a machine's way into the network; cut, if not nil, ends its
// connections.
func (l *Net) Dialer(cut *Cable) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		l.mu.Lock()
		e := l.ears[addr]
		l.mu.Unlock()
		if e == nil {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
		a, b := &stream{}, &stream{}
		a.cond, b.cond = sync.NewCond(&a.mu), sync.NewCond(&b.mu)
		near, far := &conn{in: a, out: b}, &conn{in: b, out: a}
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

// Cable is what ties a machine to the network.
type Cable struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (c *Cable) hold(n net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, n)
	return !c.cut
}

// Sever ends all connections of the machine, for ever.
func (c *Cable) Sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, n := range c.conns {
		n.Close()
	}
}

// Wire returns a listener whose connections end with the cable.
func (c *Cable) Wire(l net.Listener) net.Listener { return wired{l, c} }

type wired struct {
	net.Listener
	cable *Cable
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

type conn struct{ in, out *stream }

func (c *conn) Read(p []byte) (int, error) {
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

func (c *conn) Write(p []byte) (int, error) {
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

func (c *conn) Close() error {
	for _, s := range []*stream{c.in, c.out} {
		s.mu.Lock()
		s.closed = true
		s.cond.Broadcast()
		s.mu.Unlock()
	}
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
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

func (c *conn) SetWriteDeadline(time.Time) error { return nil }
func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *conn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:25"))
}
func (c *conn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.2:4000"))
}
