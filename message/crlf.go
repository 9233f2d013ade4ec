package message

import (
	"bytes"
	"io"
)

// CRLFNormaliser reads a message with every line end made CRLF, as SMTP wants
// it on the wire (RFC 5321 §2.3.8): a lone LF and a lone CR become CRLF, all
// other bytes stay. It is for one goroutine.
type CRLFNormaliser struct {
	r       io.Reader
	in      []byte
	out     []byte // ready to be read
	buf     []byte
	err     error
	afterCR bool // the last byte was a CR, its LF already made
	changed bool
	is8bit  bool
	last    byte
}

// NewCRLFNormaliser returns a reader of r with line ends made CRLF.
func NewCRLFNormaliser(r io.Reader) *CRLFNormaliser { return &CRLFNormaliser{r: r} }

// Changed reports whether what was read so far differs from the source.
func (c *CRLFNormaliser) Changed() bool { return c.changed || c.afterCR }

// Is8bit reports whether a byte read so far was above 127.
func (c *CRLFNormaliser) Is8bit() bool { return c.is8bit }

// EndsInLine reports whether what was read so far does not end with a line
// end, so that SMTP has to add one before the final dot.
func (c *CRLFNormaliser) EndsInLine() bool { return c.last != 0 && c.last != '\n' }

// Read implements io.Reader. Errors are those of the source.
func (c *CRLFNormaliser) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(c.out) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		if c.in == nil {
			c.in = make([]byte, decodeBuffer)
		}
		n, err := c.r.Read(c.in)
		c.err = err
		c.is8bit = c.is8bit || has8bit(c.in[:n])
		c.buf = c.normalise(c.buf[:0], c.in[:n])
		c.out = c.buf
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	c.last = p[n-1]
	return n, nil
}

// normalise appends src to dst. A CR is written with its LF at once, and the
// LF that follows it in src, if one does, is dropped.
func (c *CRLFNormaliser) normalise(dst, src []byte) []byte {
	for len(src) > 0 {
		if c.afterCR {
			c.afterCR = false
			if src[0] == '\n' {
				src = src[1:]
				continue
			}
			c.changed = true
		}
		i := bytes.IndexAny(src, "\r\n")
		if i < 0 {
			return append(dst, src...)
		}
		dst = append(append(dst, src[:i]...), '\r', '\n')
		if src[i] == '\r' {
			c.afterCR = true
		} else {
			c.changed = true
		}
		src = src[i+1:]
	}
	return dst
}
