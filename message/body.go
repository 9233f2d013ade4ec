package message

import (
	"io"
	"strings"
)

// DecodeBody returns the body of a part without its transfer encoding (RFC
// 2045 §6). r is the body as it lies in the message. It never fails on
// account of the content: what is not of the encoding is skipped (base64) or
// kept (quoted-printable), and an unknown encoding is none. Errors of r are
// passed on. It keeps a few kilobytes, whatever the size of the body.
func DecodeBody(part Part, r io.Reader) io.Reader {
	switch strings.ToLower(part.Encoding) {
	case "base64":
		return &decodeReader{r: r, step: new(base64Decoder)}
	case "quoted-printable":
		return &decodeReader{r: r, step: new(quotedDecoder)}
	}
	return r
}

// IsKnownEncoding reports whether [DecodeBody] knows the part's transfer
// encoding, so that BINARY can be answered (RFC 3516 §4.3).
func (p *Part) IsKnownEncoding() bool {
	switch strings.ToLower(p.Encoding) {
	case "", "7bit", "8bit", "binary", "base64", "quoted-printable":
		return true
	}
	return false
}

// decoder undoes an encoding piece by piece.
type decoder interface {
	// decode appends what src decodes to. At the end of the body last is set.
	decode(dst, src []byte, last bool) []byte
}

const decodeBuffer = 16 << 10

// decodeReader reads r through a decoder.
type decodeReader struct {
	r    io.Reader
	step decoder
	in   []byte
	out  []byte // decoded, not yet read
	buf  []byte
	err  error
}

func (d *decodeReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		if d.in == nil {
			d.in = make([]byte, decodeBuffer)
		}
		n, err := d.r.Read(d.in)
		d.err = err
		d.buf = d.step.decode(d.buf[:0], d.in[:n], err == io.EOF)
		d.out = d.buf
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	return n, nil
}

// notBase64 marks bytes that are no base64 digits in base64Value.
const notBase64 = 0xff

// base64Value maps base64 digits to their values.
var base64Value = func() (t [256]byte) {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range t {
		t[i] = notBase64
	}
	for i := range len(digits) {
		t[digits[i]] = byte(i)
	}
	return t
}()

// base64Decoder undoes base64 (RFC 2045 §6.8). Bytes that are no digits are
// skipped, and padding ends a group but not the text, since some senders
// join encoded pieces.
type base64Decoder struct {
	bits  uint32
	count int // digits in bits
}

func (d *base64Decoder) decode(dst, src []byte, last bool) []byte {
	for _, c := range src {
		v := base64Value[c]
		if v == notBase64 {
			if c == '=' {
				dst = d.flush(dst)
			}
			continue
		}
		d.bits = d.bits<<6 | uint32(v)
		d.count++
		if d.count == 4 {
			dst = append(dst, byte(d.bits>>16), byte(d.bits>>8), byte(d.bits))
			d.bits, d.count = 0, 0
		}
	}
	if last {
		dst = d.flush(dst)
	}
	return dst
}

// flush appends the bytes of an incomplete group.
func (d *base64Decoder) flush(dst []byte) []byte {
	switch d.count {
	case 2:
		dst = append(dst, byte(d.bits>>4))
	case 3:
		dst = append(dst, byte(d.bits>>10), byte(d.bits>>2))
	}
	d.bits, d.count = 0, 0
	return dst
}

// maxPending bounds the white space that quotedDecoder holds back.
const maxPending = 1024

// quotedDecoder undoes quoted-printable (RFC 2045 §6.7). White space at the
// end of a line goes (rule 3), and "=" before anything that is not of the
// encoding stays.
type quotedDecoder struct {
	// pending is input of which the meaning depends on what follows: white
	// space, a CR, or "=" and what may belong to it.
	pending []byte
}

func (d *quotedDecoder) decode(dst, src []byte, last bool) []byte {
	for len(src) > 0 {
		if len(d.pending) == 0 {
			n := 0
			for n < len(src) && src[n] > ' ' && src[n] != '=' {
				n++
			}
			dst = append(dst, src[:n]...)
			if src = src[n:]; n > 0 {
				continue
			}
		}
		dst = d.feed(dst, src[0])
		src = src[1:]
	}
	if last {
		if len(d.pending) > 0 && d.pending[0] != '=' {
			// The end of the body is the end of a line.
			d.pending = trimBlanks(d.pending)
		} else if isSoftBreak(d.pending) {
			d.pending = d.pending[:0]
		}
		dst = append(dst, d.pending...)
		d.pending = d.pending[:0]
	}
	return dst
}

// feed decodes one more byte.
func (d *quotedDecoder) feed(dst []byte, c byte) []byte {
	p := d.pending
	switch {
	case len(p) == 0 || p[0] != '=':
		return d.feedPlain(dst, c)
	case c == '\n' && isSoftBreak(p):
		d.pending = p[:0]
		return dst
	case len(p) == 2:
		hi, ok1 := unhex(p[1])
		if lo, ok2 := unhex(c); ok1 && ok2 {
			d.pending = p[:0]
			return append(dst, hi<<4|lo)
		}
		if (c == ' ' || c == '\t' || c == '\r') && isSoftBreak(p) {
			d.pending = append(p, c)
			return dst
		}
	case len(p) < maxPending:
		_, isHex := unhex(c)
		if isHex && len(p) == 1 || isSoftBreak(p) && (c == ' ' || c == '\t' || c == '\r') {
			d.pending = append(p, c)
			return dst
		}
	}
	// What was held back is not of the encoding: its "=" is an ordinary one.
	dst = append(dst, '=')
	rest := append([]byte(nil), p[1:]...)
	d.pending = p[:0]
	for _, held := range rest {
		dst = d.feedPlain(dst, held)
	}
	return d.feedPlain(dst, c)
}

// feedPlain decodes a byte that is not behind a "=".
func (d *quotedDecoder) feedPlain(dst []byte, c byte) []byte {
	switch {
	case c == '\n':
		hasCR := len(d.pending) > 0 && d.pending[len(d.pending)-1] == '\r'
		d.pending = d.pending[:0]
		if hasCR {
			dst = append(dst, '\r')
		}
		return append(dst, '\n')
	case (c == ' ' || c == '\t' || c == '\r') && len(d.pending) < maxPending:
		d.pending = append(d.pending, c)
		return dst
	}
	dst = append(dst, d.pending...)
	d.pending = d.pending[:0]
	if c == '=' {
		d.pending = append(d.pending, c)
		return dst
	}
	return append(dst, c)
}

// isSoftBreak reports whether p is "=" and white space only, so that a line
// end behind it makes a soft line break.
func isSoftBreak(p []byte) bool {
	if len(p) == 0 || p[0] != '=' {
		return false
	}
	return len(trimBlanks(p)) == 1
}

func trimBlanks(p []byte) []byte {
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t' || p[len(p)-1] == '\r') {
		p = p[:len(p)-1]
	}
	return p
}
