package smtpd

import (
	"bytes"
	"context"
	"io"
	"math"
	"strconv"
	"time"
)

// pace is the time a sender has left for its body: Limits.Data to begin with,
// and more for every octet that arrives, so that a body must come with
// Limits.MinDataRate on the whole. Only time spent waiting for the sender
// counts.
type pace struct {
	left   time.Duration
	limits *Limits
}

func newPace(l *Limits) pace { return pace{left: l.Data, limits: l} }

// fill waits for more of a body, but not longer than most.
func (p *pace) fill(w *wire, most time.Duration) error {
	w.useLarge()
	wait := min(p.limits.Data, most)
	if p.limits.MinDataRate > 0 {
		wait = min(wait, p.left)
	}
	if wait <= 0 {
		return errTimeout
	}
	begin := time.Now()
	n, err := w.readBody(begin.Add(wait))
	if p.limits.MinDataRate > 0 {
		p.left += time.Duration(n)*time.Second/time.Duration(p.limits.MinDataRate) - time.Since(begin)
	}
	return err
}

// bareWait is how long the end of a body is waited for that will be refused for
// its line ends. A sender that took one of them for the end says nothing more, and
// has to hear why before it gives up, or it would try again for days.
const bareWait = 10 * time.Second

// maxDrain is how far beyond its size limit a refused body is read.
const maxDrain = 1 << 30

// dotSource reads a body of DATA (RFC 5321 §4.5.2).
type dotSource struct {
	s      *session
	pace   pace
	prev   byte // the octet before the next one; the body begins after a CRLF
	proper bool // prev is the LF of a CRLF
	bare   bool
	done   bool

	// lfDot is where in the buffer the next "\n." begins, or its fill level if
	// there is none. It is kept so that dense dots do not make the search
	// quadratic; any read makes it stale, then it is -1.
	lfDot  int
	cached bool
}

func newDotSource(s *session) *dotSource {
	return &dotSource{s: s, pace: newPace(s.limits), prev: '\n', proper: true}
}

func (d *dotSource) refusal() error {
	if d.bare {
		return ErrBareLineEnd
	}
	return nil
}

// fill waits for more input.
func (d *dotSource) fill() error {
	d.cached = false
	if d.bare {
		return d.pace.fill(d.s.wire, bareWait)
	}
	return d.pace.fill(d.s.wire, d.s.limits.Data)
}

// next implements source. The only places of interest are dots after a CR or
// LF: all between them goes out in one piece.
func (d *dotSource) next() ([]byte, error) {
	if d.done {
		return nil, io.EOF
	}
	w := d.s.wire
	if w.buffered() == 0 {
		if err := d.fill(); err != nil {
			return nil, err
		}
	}
	kept := 0 // octets known to be ordinary
	if w.buf[w.r] == '.' && (d.prev == '\n' || d.prev == '\r') {
		stuffed, err := d.dot()
		if err != nil {
			return nil, err
		}
		if !stuffed {
			kept = 1
		}
	}
	end := d.boundary(w.r + kept)
	out := w.buf[w.r:end]
	w.r = end
	n := len(out)
	if before := d.prev; out[n-1] == '\n' {
		if n > 1 {
			before = out[n-2]
		}
		d.proper = before == '\r'
	} else {
		d.proper = false
	}
	d.prev = out[n-1]
	return out, nil
}

// dot looks at a dot after a CR or LF: it ends the data (io.EOF), or was stuffed
// and is consumed, or belongs to the message. At least one octet is left in the
// buffer unless an error is returned.
func (d *dotSource) dot() (stuffed bool, err error) {
	w := d.s.wire
	for w.buffered() < 2 || w.buf[w.r+1] == '\r' && w.buffered() < 3 {
		if err := d.fill(); err != nil {
			return false, err
		}
	}
	after := w.buf[w.r+1]
	switch {
	case after == '\r' && w.buf[w.r+2] == '\n' && d.proper:
		w.r += 3
		d.done = true
		return false, io.EOF
	case after == '\n', after == '\r' && !d.proper, after == '\r' && w.buf[w.r+2] == '\r':
		// Some servers take this for the end of data, so a message inside the
		// message could have been smuggled past whoever sent us this one
		// (CVE-2023-51764 and its kin). A dot between a proper CRLF and a CR
		// within text is no line to anybody and stays.
		d.bare = true
	}
	if !d.proper {
		return false, nil
	}
	w.r++
	d.prev, d.proper = '.', false
	return true, nil
}

// boundary returns where in the buffer, at or after from, the next CR or LF with
// a dot behind it has ended, or the fill level.
func (d *dotSource) boundary(from int) int {
	w := d.s.wire
	if !d.cached || d.lfDot < from {
		d.lfDot, d.cached = w.w, true
		if i := bytes.Index(w.buf[from:w.w], []byte("\n.")); i >= 0 {
			d.lfDot = from + i
		}
	}
	end := min(d.lfDot+1, w.w)
	if i := bytes.Index(w.buf[from:end], []byte("\r.")); i >= 0 {
		end = from + i + 1
	}
	return end
}

// drain implements source.
func (d *dotSource) drain() error {
	for left := d.s.server.config.MaxMessageSize + maxDrain; left > 0; {
		b, err := d.next()
		if err != nil {
			return err
		}
		left -= int64(len(b))
	}
	return errFlood
}

// chunkSource reads a body of BDAT (RFC 3030 §2). Between two chunks it holds
// the conversation.
type chunkSource struct {
	s    *session
	ctx  context.Context // of the conversation, for the commands between chunks
	pace pace
	sum  int64 // of all chunks announced so far
	size int64 // of this chunk
	left int64 // of this chunk, not yet read
	last bool
	err  error
}

func (c *chunkSource) refusal() error {
	// A chunk that takes the message over the limit is refused without waiting
	// for its octets.
	if c.sum > c.s.server.config.MaxMessageSize {
		return ErrTooBig
	}
	return nil
}

// announce begins a chunk.
func (c *chunkSource) announce(size int64, last bool) {
	c.size, c.left, c.last = size, size, last
	if c.sum += size; c.sum < 0 {
		c.sum = math.MaxInt64
	}
}

// next implements source.
func (c *chunkSource) next() ([]byte, error) {
	for c.left == 0 && c.err == nil {
		if c.last {
			return nil, io.EOF
		}
		c.s.put(reply{code: 250, status: "2.0.0", text: strconv.FormatInt(c.size, 10) + " octets received"})
		if c.err = c.nextChunk(); c.err == nil && c.refusal() != nil {
			return nil, nil
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	w := c.s.wire
	if w.buffered() == 0 {
		if err := c.pace.fill(w, c.s.limits.Data); err != nil {
			c.err = err
			return nil, err
		}
	}
	n := int(min(c.left, int64(w.buffered())))
	out := w.buf[w.r : w.r+n]
	w.r += n
	c.left -= int64(n)
	return out, nil
}

// nextChunk reads commands until the next chunk begins. One that abandons the
// message is left to the session. The time a sender takes between chunks is taken
// from its pace, so that a message cannot be held open by small chunks.
func (c *chunkSource) nextChunk() error {
	s := c.s
	for begin := time.Now(); ; {
		line, err := s.next()
		if now := time.Now(); c.s.limits.MinDataRate > 0 {
			c.pace.left -= now.Sub(begin)
			begin = now
		}
		if err == nil && c.pace.left <= 0 {
			err = errTimeout
		}
		if err != nil {
			s.badLine(err)
			if s.ended {
				return errAborted
			}
			continue
		}
		verb, arg := cutVerb(line)
		switch {
		case verb == "BDAT":
			size, last, ok := parseChunk(arg)
			if !ok {
				s.answer(replyBadChunk)
				return errAborted
			}
			c.announce(size, last)
			return nil
		case abandons(verb, arg):
			s.pending = bytes.Clone(line)
			return errAborted
		}
		s.dispatch(c.ctx, line)
		s.slowDown(c.ctx)
		if s.ended {
			return errAborted
		}
	}
}

// abandons says whether a command ends an open transaction. One that will be
// refused does not (RFC 5321 §4.1.4).
func abandons(verb string, arg []byte) bool {
	switch verb {
	case "RSET", "QUIT":
		return len(arg) == 0
	case "EHLO", "HELO":
		return validHelo(string(arg))
	}
	return false
}

// drain implements source: it drops the rest of this chunk.
func (c *chunkSource) drain() error {
	if c.left > c.s.server.config.MaxMessageSize+maxDrain {
		return errFlood
	}
	for c.left > 0 {
		if _, err := c.next(); err != nil {
			return err
		}
	}
	return io.EOF
}

// hopCounter counts Received fields in a message's header as it passes (RFC 5321
// §6.3).
type hopCounter struct {
	max  int // negative: not counted
	n    int
	at   int  // octets of receivedField matched in this line; skipLine, or sawCR
	over bool // the header has ended
}

const (
	receivedField = "received:"
	skipLine      = -1
	sawCR         = -2
)

// feed looks at the next bytes and says whether the limit still holds.
func (h *hopCounter) feed(b []byte) bool {
	for len(b) > 0 && !h.over && h.max >= 0 {
		if h.at == skipLine {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				return true
			}
			b, h.at = b[i+1:], 0
			continue
		}
		c := b[0]
		b = b[1:]
		switch {
		case c == '\n' && (h.at == 0 || h.at == sawCR):
			h.over = true
		case c == '\n':
			h.at = 0
		case c == '\r' && h.at == 0:
			h.at = sawCR
		case h.at >= 0 && c|0x20 == receivedField[h.at]|0x20:
			if h.at++; h.at == len(receivedField) {
				h.at = skipLine
				if h.n++; h.n > h.max {
					return false
				}
			}
		default:
			h.at = skipLine
		}
	}
	return true
}
