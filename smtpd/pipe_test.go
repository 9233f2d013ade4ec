package smtpd

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// simConn is one end of a connection in memory. Its fault model: a Write is one
// packet, and a Read returns at most the rest of one packet; each direction can
// be closed alone, and what was written before can still be read, as with TCP
// without a reset. Nothing is lost or delayed, and writes never block. It works
// inside a synctest bubble.
type simConn struct {
	in, out       *simPipe
	local, remote net.Addr
}

// simPipe is one direction.
type simPipe struct {
	mu       sync.Mutex
	cond     *sync.Cond
	packets  [][]byte
	closed   bool // by the writer: io.EOF after the packets
	dead     bool // by the reader
	deadline time.Time
	timer    *time.Timer
}

func newSimPipe() *simPipe {
	p := &simPipe{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// newSimPair returns the two ends of a connection.
func newSimPair(client, server string) (*simConn, *simConn) {
	a, b := newSimPipe(), newSimPipe()
	ca, sa := mustTCPAddr(client), mustTCPAddr(server)
	return &simConn{in: a, out: b, local: ca, remote: sa}, &simConn{in: b, out: a, local: sa, remote: ca}
}

func mustTCPAddr(s string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", s)
	if err != nil {
		panic(err)
	}
	return a
}

func (c *simConn) Read(b []byte) (int, error) {
	p := c.in
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.dead:
			return 0, net.ErrClosed
		case !p.deadline.IsZero() && !time.Now().Before(p.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(p.packets) > 0:
			n := copy(b, p.packets[0])
			if p.packets[0] = p.packets[0][n:]; len(p.packets[0]) == 0 {
				p.packets = p.packets[1:]
			}
			return n, nil
		case p.closed:
			return 0, io.EOF
		}
		p.cond.Wait()
	}
}

func (c *simConn) Write(b []byte) (int, error) {
	p := c.out
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.dead {
		return 0, net.ErrClosed
	}
	if len(b) > 0 {
		p.packets = append(p.packets, append([]byte(nil), b...))
		p.cond.Broadcast()
	}
	return len(b), nil
}

func (c *simConn) CloseWrite() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.closed = true
	c.out.cond.Broadcast()
	return nil
}

func (c *simConn) Close() error {
	c.CloseWrite()
	c.SetReadDeadline(time.Time{})
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.dead = true
	c.in.cond.Broadcast()
	return nil
}

func (c *simConn) SetReadDeadline(t time.Time) error {
	p := c.in
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.deadline = t
	if !t.IsZero() && !p.dead {
		p.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.cond.Broadcast()
		})
	}
	p.cond.Broadcast()
	return nil
}

func (c *simConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *simConn) SetWriteDeadline(time.Time) error { return nil }
func (c *simConn) LocalAddr() net.Addr              { return c.local }
func (c *simConn) RemoteAddr() net.Addr             { return c.remote }

// simListener hands connections in memory to a server.
type simListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newSimListener() *simListener {
	return &simListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// dial returns the client's end of a new connection.
func (l *simListener) dial(from string) *simConn {
	client, server := newSimPair(from, "192.0.2.25:25")
	select {
	case l.conns <- server:
	case <-l.done:
		client.CloseWrite()
		server.Close()
	}
	return client
}

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *simListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *simListener) Addr() net.Addr { return mustTCPAddr("192.0.2.25:25") }
