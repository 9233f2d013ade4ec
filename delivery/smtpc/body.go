package smtpc

import (
	"bytes"
	"io"
)

// bodyWriter puts a message on the wire: bare CR and LF become CRLF, and lines
// that begin with a dot get another (RFC 5321 §4.5.2). It may be fed in pieces
// of any size; the bytes on the wire do not depend on them.
//
// No next hop must see an end of data that is none. Some drop NULs before they
// look, so NULs between the beginning of a line and a dot are left out, and the
// dot is stuffed.
//
// A CR at the end of a piece is kept back until the next byte shows whether it
// is bare, and so are NULs at the beginning of a line until it shows whether a dot
// follows.
type bodyWriter struct {
	w          io.Writer
	midLine    bool // bytes were written since the last CRLF
	pendingCR  bool
	nuls       int // at the beginning of the line, kept back
	normalised bool
}

var (
	crlf = []byte("\r\n")
	dot  = []byte(".")
	nul  = make([]byte, 1024)
)

// Write implements [io.Writer].
func (b *bodyWriter) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > 0 && b.pendingCR {
		b.pendingCR = false
		if p[0] == '\n' {
			p = p[1:]
		} else {
			b.normalised = true
		}
		if err := b.endLine(); err != nil {
			return 0, err
		}
	}
	// The next LF is looked for once, not once for each CR before it: a body of
	// nothing but CRs must not cost quadratic time.
	lf := bytes.IndexByte(p, '\n')
	for len(p) > 0 {
		k, err := b.line(p, lf)
		if err != nil {
			return 0, err
		}
		p = p[k:]
		switch {
		case lf >= k:
			lf -= k
		case lf >= 0:
			lf = bytes.IndexByte(p, '\n')
		}
	}
	return n, nil
}

// line writes up to and including the first line end of p and returns how much
// of p that was. p is not empty and its first LF is at lf, or -1.
func (b *bodyWriter) line(p []byte, lf int) (int, error) {
	text := p
	if lf >= 0 {
		text = p[:lf]
	}
	if cr := bytes.IndexByte(text, '\r'); cr >= 0 {
		if cr == lf-1 {
			return lf + 1, b.wholeLine(p[:lf+1])
		}
		if err := b.text(p[:cr]); err != nil {
			return 0, err
		}
		if cr == len(p)-1 {
			b.pendingCR = true
			return len(p), nil
		}
		b.normalised = true
		return cr + 1, b.endLine()
	}
	if err := b.text(text); err != nil || lf < 0 {
		return len(p), err
	}
	b.normalised = true
	return lf + 1, b.endLine()
}

// wholeLine writes text that ends in CRLF.
func (b *bodyWriter) wholeLine(p []byte) error {
	if err := b.text(p); err != nil {
		return err
	}
	b.midLine = false
	return nil
}

// text writes part of a line.
func (b *bodyWriter) text(p []byte) error {
	if !b.midLine {
		for len(p) > 0 && p[0] == 0 {
			b.nuls++
			p = p[1:]
		}
	}
	if len(p) == 0 {
		return nil
	}
	if !b.midLine && p[0] == '.' {
		b.normalised = b.normalised || b.nuls > 0
		b.nuls = 0
		if _, err := b.w.Write(dot); err != nil {
			return err
		}
	}
	if err := b.flushNULs(); err != nil {
		return err
	}
	b.midLine = true
	_, err := b.w.Write(p)
	return err
}

// flushNULs writes those that were kept back.
func (b *bodyWriter) flushNULs() error {
	for b.nuls > 0 {
		n, err := b.w.Write(nul[:min(b.nuls, len(nul))])
		b.nuls -= n
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bodyWriter) endLine() error {
	if err := b.flushNULs(); err != nil {
		return err
	}
	b.midLine = false
	_, err := b.w.Write(crlf)
	return err
}

// finish ends the last line, if it has no end. It does not write the final dot.
func (b *bodyWriter) finish() error {
	if !b.pendingCR && !b.midLine && b.nuls == 0 {
		return nil
	}
	b.pendingCR = false
	b.normalised = true
	return b.endLine()
}
