package smtpd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/failpoint"
)

const (
	// commandBuffer is what an idle connection keeps for input. Ten thousand of
	// them must stay cheap.
	commandBuffer = 1 << 10
	// bodyBuffer is lent to a connection while it receives a body or a line
	// that does not fit into the command buffer.
	bodyBuffer = 64 << 10
	// replyBuffer is how much is answered before a flush is forced, however much
	// pipelined input is waiting.
	replyBuffer = 4 << 10
	// floodLine is how much of an overlong line is thrown away before the
	// connection is given up.
	floodLine = 1 << 20
	// lingerBytes and lingerTime bound what is read and dropped after the last
	// reply, so that a reset does not overtake it.
	lingerBytes = 1 << 20
	lingerTime  = time.Second
)

// How a connection ends, and what can be wrong with a line.
var (
	errTimeout  = errors.New("timeout")
	errShutdown = errors.New("server is shutting down")
	errFlood    = errors.New("too much input")
	errBareLF   = errors.New("line ended by a bare LF")
	errTooLong  = errors.New("line too long")
)

// newBuffers returns a pool of large input buffers.
func newBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { return new([bodyBuffer]byte) }}
}

// wire reads lines and body bytes from a connection and gathers replies, which
// go out before it waits for input. One goroutine uses it, except for interrupt.
type wire struct {
	raw  net.Conn // as accepted
	conn net.Conn // raw, or TLS on top of it

	small []byte            // commandBuffer octets, for ever
	large *[bodyBuffer]byte // lent, or nil
	buf   []byte            // one of the two
	r, w  int               // buf[r:w] is input not yet consumed

	out []byte

	long [8]byte // how the last line began that was too long

	buffers  *sync.Pool // lends large
	limits   *Limits
	closing  *atomic.Bool // of the server
	waiting  atomic.Bool  // blocked in a read for a command
	broken   bool         // a write has failed
	idleTill time.Time    // deadline of the command being read
}

func newWire(conn net.Conn, buffers *sync.Pool, limits *Limits, closing *atomic.Bool) *wire {
	w := &wire{
		raw: conn, conn: conn, small: make([]byte, commandBuffer), buffers: buffers, limits: limits, closing: closing,
	}
	w.buf = w.small
	return w
}

// interrupt wakes a connection that waits for a command, so that it notices
// that the server is closing; one that is busy is left alone. Other goroutines
// may call it, after closing was set: readMore looks at closing after it has set
// its deadline, so one of the two sees the other.
func (w *wire) interrupt() {
	if w.waiting.Load() {
		w.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// put queues a reply.
func (w *wire) put(r reply) {
	w.out = r.append(w.out)
	if len(w.out) >= replyBuffer {
		w.flush()
	}
}

// flush sends the queued replies. A failure is remembered: the client has gone,
// and the next read will say so.
func (w *wire) flush() {
	if len(w.out) == 0 {
		return
	}
	if !w.broken {
		w.conn.SetWriteDeadline(time.Now().Add(w.limits.Command))
		if _, err := w.conn.Write(w.out); err != nil {
			w.broken = true
		}
		failpoint.Hit(failpoint.ReplySaid)
	}
	if cap(w.out) > 2*replyBuffer {
		w.out = nil
	}
	w.out = w.out[:0]
}

// useLarge makes room for a body.
func (w *wire) useLarge() {
	if w.large != nil {
		return
	}
	w.large = w.buffers.Get().(*[bodyBuffer]byte)
	n := copy(w.large[:], w.buf[w.r:w.w])
	w.buf, w.r, w.w = w.large[:], 0, n
}

// useSmall gives the large buffer back as soon as its content fits without it.
func (w *wire) useSmall() {
	if w.large == nil || w.w-w.r > len(w.small)/2 {
		return
	}
	n := copy(w.small, w.buf[w.r:w.w])
	w.buffers.Put(w.large)
	w.large, w.buf, w.r, w.w = nil, w.small, 0, n
}

// release gives back what was lent.
func (w *wire) release() {
	w.r, w.w = 0, 0
	w.useSmall()
}

// discard drops all input that has arrived but was not consumed.
func (w *wire) discard() { w.r, w.w = 0, 0 }

// buffered returns how much input waits.
func (w *wire) buffered() int { return w.w - w.r }

// makeRoom moves the waiting input to the front of the buffer, or to a larger
// one if it fills it.
func (w *wire) makeRoom() {
	switch {
	case w.r == w.w:
		w.r, w.w = 0, 0
	case w.w < len(w.buf):
	case w.r > 0:
		n := copy(w.buf, w.buf[w.r:w.w])
		w.r, w.w = 0, n
	default:
		w.useLarge()
	}
}

// read waits for more input until the deadline.
func (w *wire) read(deadline time.Time) (int, error) {
	w.makeRoom()
	if w.w == len(w.buf) {
		panic("internal error: smtpd: input buffer is full")
	}
	for range 100 {
		n, err := w.conn.Read(w.buf[w.w:])
		w.w += n
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Now().Before(deadline) {
				return 0, errInterrupted
			}
			return 0, errTimeout
		case err != nil:
			return 0, fmt.Errorf("%w: %w", ErrIncomplete, err)
		}
	}
	return 0, fmt.Errorf("%w: %w", ErrIncomplete, io.ErrNoProgress)
}

// errInterrupted is a deadline that fired early: interrupt was called.
var errInterrupted = errors.New("interrupted")

// readMore waits for input that belongs to a command.
func (w *wire) readMore() error {
	w.flush()
	w.waiting.Store(true)
	defer w.waiting.Store(false)
	w.conn.SetReadDeadline(w.idleTill)
	if w.closing.Load() {
		return errShutdown
	}
	_, err := w.read(w.idleTill)
	if err == errInterrupted {
		return errShutdown
	}
	return err
}

// readBody waits for input that belongs to a body, and returns how much came.
// An interrupt meant for an idle connection is overslept.
func (w *wire) readBody(deadline time.Time) (int, error) {
	w.flush()
	for {
		w.conn.SetReadDeadline(deadline)
		n, err := w.read(deadline)
		if err != errInterrupted {
			return n, err
		}
	}
}

// readLine returns the next line without its CRLF. It is valid until the next
// read. The errors errTooLong (the line is gone but for long) and errBareLF leave the
// connection usable; any other ends it. The whole line must arrive within
// Limits.Command, so that it cannot be dripped for ever.
func (w *wire) readLine(limit int) ([]byte, error) {
	if w.closing.Load() {
		return nil, errShutdown
	}
	w.useSmall()
	if w.r < w.w {
		if i := bytes.IndexByte(w.buf[w.r:w.w], '\n'); i >= 0 {
			return w.takeLine(i, limit)
		}
	}
	w.idleTill = time.Now().Add(w.limits.Command)
	seen, dropped := w.w-w.r, 0
	for {
		if seen > limit {
			if dropped == 0 {
				copy(w.long[:], w.buf[w.r:w.w])
			}
			dropped += seen
			w.discard()
			seen = 0
			if dropped > floodLine {
				return nil, errFlood
			}
		}
		if err := w.readMore(); err != nil {
			return nil, err
		}
		i := bytes.IndexByte(w.buf[w.r+seen:w.w], '\n')
		if i < 0 {
			seen = w.w - w.r
			continue
		}
		if dropped > 0 {
			w.r += seen + i + 1
			return nil, errTooLong
		}
		return w.takeLine(seen+i, limit)
	}
}

// takeLine consumes the line whose LF is i octets ahead.
func (w *wire) takeLine(i, limit int) ([]byte, error) {
	line := w.buf[w.r : w.r+i]
	w.r += i + 1
	switch {
	case i == 0 || line[i-1] != '\r':
		return nil, errBareLF
	case i+1 > limit:
		copy(w.long[:], line)
		return nil, errTooLong
	}
	return line[:i-1], nil
}

// hangUp closes the connection. If input may still be on its way, that is read
// and dropped for a moment, because a reset would take our last reply with it.
func (w *wire) hangUp(linger bool) {
	w.flush()
	if half, ok := w.conn.(interface{ CloseWrite() error }); ok && linger && !w.broken {
		half.CloseWrite()
		w.discard()
		deadline := time.Now().Add(lingerTime)
		w.conn.SetReadDeadline(deadline)
		for left := lingerBytes; left > 0; {
			n, err := w.conn.Read(w.buf)
			if err != nil {
				break
			}
			left -= n
		}
	}
	w.conn.Close()
	w.release()
}
