package imapgw

import (
	"context"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// coalesce is how many bytes gather before they are written although
	// nobody waits for them.
	coalesce = 64 << 10
	// writeTimeout is how long one flush (of coalesce bytes and a little) may
	// take before the connection counts as dead.
	writeTimeout = time.Minute
	// closeTimeout is how long Close waits for the last bytes to leave.
	closeTimeout = 2 * time.Second
	// firstReadTimeout bounds the time before the protocol sets its first read
	// deadline, which for implicit TLS is after the handshake.
	firstReadTimeout = 30 * time.Second
)

// conn is a TCP connection as the protocol library sees it, or the TLS layer
// above it. The library writes each response line by itself; conn gathers them
// and writes when the server waits for the client, so that the flags of 100,000
// messages take some tens of system calls and not 100,000.
//
// Writes may come from several goroutines; each Write stays together.
type conn struct {
	net.Conn
	raw   syscall.RawConn // nil when there is none
	place *place
	ctx   context.Context // of whoever serves

	mu      sync.Mutex
	buf     *[]byte // from buffers; nil when empty
	reading bool    // the server waits for the client: write at once
	held    bool    // between hold and flush: do not write at once
	last    bool    // the next Read ends the connection
	closed  bool
	// responding: between the beginning and the end of a response.
	responding bool
	quiet      []chan struct{} // closed when reading begins

	writer chan struct{} // holds one token: the right to write to Conn
}

// buffers are the write buffers that no connection needs just now: an idle
// connection has none.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, coalesce+4096)
	return &b
}}

func newConn(c net.Conn, pl *place) *conn {
	w := &conn{Conn: c, place: pl, writer: make(chan struct{}, 1)}
	w.writer <- struct{}{}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(firstReadTimeout)) // fails only on a closed connection
	return w
}

// Write takes p and writes it at the latest when the server next waits for the
// client. An error of writing shows in a later call.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	if c.buf == nil {
		c.buf = buffers.Get().(*[]byte)
	}
	*c.buf = append(*c.buf, p...)
	now := len(*c.buf) >= coalesce || c.reading && !c.held
	c.mu.Unlock()
	if now {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Read writes what has gathered and then waits for the client.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	c.reading = true
	last := c.last
	for _, ch := range c.quiet {
		close(ch)
	}
	c.quiet = nil
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.reading = false
		c.mu.Unlock()
	}()
	if err := c.flush(); err != nil {
		return 0, err
	}
	if last {
		return 0, io.EOF
	}
	if c.raw != nil {
		// Without it, a client that waits for our acknowledgement before it
		// sends the rest of a literal (Nagle) waits 40 ms for it: 20 APPENDs a
		// second instead of thousands.
		quickAck(c.raw)
	}
	return c.Conn.Read(p)
}

// flush writes what has gathered.
func (c *conn) flush() error {
	c.mu.Lock()
	if c.buf == nil {
		c.held = false
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	<-c.writer
	defer func() { c.writer <- struct{}{} }()
	c.mu.Lock()
	buf := c.buf
	c.buf, c.held = nil, false
	if !c.closed { // else Close has set a shorter one
		_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // the write below tells
	}
	c.mu.Unlock()
	if buf == nil {
		return nil
	}
	_, err := c.Conn.Write(*buf)
	if cap(*buf) <= 2*coalesce {
		*buf = (*buf)[:0]
		buffers.Put(buf)
	}
	if err != nil {
		c.abort()
	}
	return err
}

// hold keeps what is written from now on together until flush, although a
// reader waits: for the updates during IDLE.
func (c *conn) hold() {
	c.mu.Lock()
	c.held = true
	c.mu.Unlock()
}

// endAfterReply ends the connection when the server next waits for the client.
func (c *conn) endAfterReply() {
	c.mu.Lock()
	c.last = true
	c.mu.Unlock()
}

// whenQuiet returns a channel that is closed as soon as the server waits for
// the client: between commands, or in the middle of one that has not come
// whole.
func (c *conn) whenQuiet() <-chan struct{} {
	ch := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading || c.closed {
		close(ch)
	} else {
		c.quiet = append(c.quiet, ch)
	}
	return ch
}

// abort ends the connection without writing anything more: what comes next
// would be taken for part of a literal that could not be finished.
func (c *conn) abort() {
	c.mu.Lock()
	c.closed = true
	c.buf = nil
	c.mu.Unlock()
	_ = c.Conn.Close() // nothing is to be saved
}

// Close writes what has gathered, if that is possible at once, and closes. It
// may be called again.
func (c *conn) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	for _, ch := range c.quiet {
		close(ch)
	}
	c.quiet = nil
	c.mu.Unlock()
	if again {
		return nil
	}
	// A write that a dead client blocks ends too.
	_ = c.Conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	err := c.flush()
	if cerr := c.Conn.Close(); err == nil {
		err = cerr
	}
	return err
}

// SetWriteDeadline sets no deadline: the library means the time for one line,
// but here lines gather, and flush has its own timeout. It tells when the
// library is in the middle of a response, though.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.responding = !t.IsZero()
	c.mu.Unlock()
	return nil
}

// isResponding reports whether the library is in the middle of a response.
func (c *conn) isResponding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.responding
}

// SetDeadline sets the deadline for reading only.
func (c *conn) SetDeadline(t time.Time) error { return c.Conn.SetReadDeadline(t) }
