package message

import (
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/transform"
)

// cleanText returns b as valid UTF-8 without NULs, see [Index].
func cleanText(b []byte) string {
	// The NULs go last: their replacement would be misread with the bytes.
	return strings.ReplaceAll(guessText(b), "\x00", "\uFFFD")
}

// guessText returns b if it is UTF-8, else b read as windows-1252, which is
// what most mail with bare 8-bit bytes was written in.
func guessText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	s, err := charmap.Windows1252.NewDecoder().Bytes(b)
	if err != nil {
		return strings.ToValidUTF8(string(b), "\uFFFD")
	}
	return string(s)
}

// charsetDecoder returns the decoder of a charset, or nil for UTF-8, US-ASCII
// and charsets that nobody knows: text in those is guessed.
func charsetDecoder(charset string) *encoding.Decoder {
	charset = strings.ToLower(strings.Trim(charset, " \t\"'"))
	// RFC 2231 §5 lets encoded words carry a language behind a "*".
	charset, _, _ = strings.Cut(charset, "*")
	switch charset {
	case "", "utf-8", "utf8", "us-ascii", "ascii", "ansi_x3.4-1968", "unknown-8bit", "x-unknown":
		return nil
	case "cp-850", "ibm850":
		return charmap.CodePage850.NewDecoder()
	}
	enc, err := htmlindex.Get(charset)
	if err != nil {
		enc, err = ianaindex.MIME.Encoding(charset)
	}
	if err != nil || enc == nil {
		if n, ok := strings.CutPrefix(charset, "cp"); ok {
			enc, err = htmlindex.Get("windows-" + n)
		}
	}
	if err != nil || enc == nil || enc == encoding.Replacement {
		return nil
	}
	return enc.NewDecoder()
}

// decodeCharset returns text in a charset as UTF-8.
func decodeCharset(charset string, b []byte) string {
	if d := charsetDecoder(charset); d != nil {
		if s, err := d.Bytes(b); err == nil {
			return string(s)
		}
	}
	return guessText(b)
}

// charsetReader returns the text of r, which is in a charset, as UTF-8.
func charsetReader(charset string, r io.Reader) io.Reader {
	if d := charsetDecoder(charset); d != nil {
		return transform.NewReader(r, d)
	}
	return transform.NewReader(r, guesser{})
}

// guesser is the streaming form of guessText: it decides for each byte above
// 127 whether it begins a UTF-8 character or is windows-1252.
type guesser struct{ transform.NopResetter }

func (guesser) Transform(dst, src []byte, atEOF bool) (nDst, nSrc int, err error) {
	for nSrc < len(src) {
		c := src[nSrc]
		var char [utf8.UTFMax]byte
		out, size := char[:1], 1
		if c < utf8.RuneSelf {
			char[0] = c
		} else {
			if !atEOF && !utf8.FullRune(src[nSrc:]) {
				return nDst, nSrc, transform.ErrShortSrc
			}
			r, n := utf8.DecodeRune(src[nSrc:])
			size = n
			if r == utf8.RuneError && n == 1 {
				r = charmap.Windows1252.DecodeByte(c)
			}
			out = char[:utf8.EncodeRune(char[:], r)]
		}
		if nDst+len(out) > len(dst) {
			return nDst, nSrc, transform.ErrShortDst
		}
		nDst += copy(dst[nDst:], out)
		nSrc += size
	}
	return nDst, nSrc, nil
}
