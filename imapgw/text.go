package imapgw

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast/message"
)

// textKey finds a string in the text of a message (RFC 9051 §6.4.4, BODY): in
// every part that is text, without transfer encoding and from its charset; and
// with header (TEXT) also in its header and in those of its parts.
func textKey(s string, header bool) key {
	needle := fold(s)
	return key{cost: costText, isText: true, test: func(c *candidate) (bool, error) {
		ix, err := c.index()
		if ix == nil {
			return false, err
		}
		if header {
			raw, err := c.headerBytes()
			if err != nil {
				return false, err
			}
			if headerHas(raw, needle) {
				return true, nil
			}
		}
		return c.textHas(ix, needle, header)
	}}
}

// headerHas looks for a folded string in the lines of a header.
func headerHas(header []byte, needle string) bool {
	for name, value := range message.HeaderFields(header) {
		if strings.Contains(fold(name+": "+message.DecodeHeader(value)), needle) {
			return true
		}
	}
	return false
}

// textHas looks for a folded string below the header of the message, with header
// also in the headers of parts.
func (c *candidate) textHas(ix *message.Index, needle string, header bool) (found bool, err error) {
	ix.Walk(func(_ []int, p *message.Part) bool {
		found, err = c.partHas(ix, p, needle, header)
		return !found && err == nil
	})
	return found, err
}

func (c *candidate) partHas(ix *message.Index, p *message.Part, needle string, header bool) (bool, error) {
	if header && p != &ix.Root {
		if ok, err := c.subHeaderHas(p, needle); ok || err != nil {
			return ok, err
		}
	}
	if header && p.Message != nil {
		return c.subHeaderHas(&p.Message.Root, needle)
	}
	if !p.IsText() {
		return false, nil
	}
	r, err := c.bytes(p.Body())
	if r == nil {
		return false, err
	}
	return contains(message.TextReader(*p, r), needle)
}

// maxSubHeader bounds how much of the header of a part is looked at.
const maxSubHeader = 1 << 20

func (c *candidate) subHeaderHas(p *message.Part, needle string) (bool, error) {
	r, err := c.bytes(p.Offset, min(p.HeaderLen, maxSubHeader))
	if r == nil {
		return false, err
	}
	header, err := io.ReadAll(r)
	if err != nil {
		return false, err
	}
	return headerHas(header, needle), nil
}

// fold makes strings equal that differ in case only.
func fold(s string) string {
	return string(appendFold(make([]byte, 0, len(s)), []byte(s)))
}

// appendFold appends the folded form of src, which ends between characters.
func appendFold(dst, src []byte) []byte {
	for i := 0; i < len(src); {
		if c := src[i]; c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(src[i:])
		// By way of the upper case, so that the two forms of sigma meet.
		dst = utf8.AppendRune(dst, unicode.ToLower(unicode.ToUpper(r)))
		i += n
	}
	return dst
}

const textBuffer = 32 << 10

// contains reports whether the text of r has a folded string. It keeps two
// buffers, however long the text.
func contains(r io.Reader, needle string) (bool, error) {
	if needle == "" {
		return true, nil
	}
	want := []byte(needle)
	in := make([]byte, textBuffer)
	window := make([]byte, 0, textBuffer+len(needle))
	kept := 0 // bytes at the beginning of in: a character that is not whole yet
	for {
		// Filled to the brim: a reader that gives a word at a time would have
		// the window looked through for each.
		n, err := fill(r, in[kept:])
		n += kept
		whole := n
		if err == nil {
			whole = wholeRunes(in[:n])
		}
		window = appendFold(window, in[:whole])
		if bytes.Contains(window, want) {
			return true, nil
		}
		if err != nil {
			if err == io.EOF { // not errors.Is: a connection that broke may hold one
				err = nil
			}
			return false, err
		}
		if over := len(window) - (len(want) - 1); over > 0 {
			window = append(window[:0], window[over:]...)
		}
		kept = copy(in, in[whole:n])
	}
}

// fill reads until b is full or r has no more. Its error is that of r: an end
// where none was expected stays an error.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	return n, err
}

// wholeRunes returns how much of b is left when a character at its end that may
// go on is cut off.
func wholeRunes(b []byte) int {
	for i := len(b) - 1; i >= 0 && i > len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}
