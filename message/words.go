package message

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// DecodeHeader returns the value of a field as people read it: unfolded, its
// encoded words (RFC 2047) decoded. Words in charsets that nobody knows, and
// bare bytes, are read as UTF-8 if they are that (RFC 6532), else as
// windows-1252; what only looks like an encoded word stays as it is.
//
// A character split between two words is put together again, although RFC
// 2047 §5 forbids senders to split it.
func DecodeHeader(raw []byte) string {
	text := bytes.Trim(dropLineEnds(raw), " \t")
	if !bytes.Contains(text, []byte("=?")) {
		return cleanText(text)
	}
	var out strings.Builder
	// No word ends in the last unclosed bytes, so none needs to be looked for
	// there again and again.
	unclosed := len(text) - 2 - bytes.LastIndex(text, []byte("?="))
	var open encodedWord // decoded, but the next word may go on with it
	flush := func() {
		if open.charset != "" {
			out.WriteString(decodeCharset(open.charset, open.text))
			open = encodedWord{}
		}
	}
	for len(text) > 0 {
		start := bytes.Index(text, []byte("=?"))
		if start < 0 || len(text)-start <= unclosed {
			break
		}
		word, n, ok := parseWord(text[start:])
		if !ok {
			flush()
			out.WriteString(cleanText(text[:start+2]))
			text = text[start+2:]
			continue
		}
		gap := text[:start]
		text = text[start+n:]
		// RFC 2047 §6.2: white space between encoded words is not shown.
		if open.charset != "" && len(bytes.Trim(gap, " \t")) == 0 {
			if strings.EqualFold(open.charset, word.charset) {
				open.text = append(open.text, word.text...)
				continue
			}
			gap = nil
		}
		flush()
		out.WriteString(cleanText(gap))
		open = word
	}
	flush()
	out.WriteString(cleanText(text))
	return strings.ReplaceAll(out.String(), "\x00", "\uFFFD")
}

// dropLineEnds removes CRs and LFs. raw is not changed.
func dropLineEnds(raw []byte) []byte {
	if !bytes.ContainsAny(raw, "\r\n") {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for _, c := range raw {
		if c != '\r' && c != '\n' {
			out = append(out, c)
		}
	}
	return out
}

// encodedWord is an encoded word without its transfer encoding.
type encodedWord struct {
	charset string
	text    []byte
}

// parseWord reads the encoded word "=?charset?encoding?text?=" with which b
// begins, and returns its length.
func parseWord(b []byte) (w encodedWord, n int, ok bool) {
	const maxCharset = 64
	rest := b[2:]
	i := bytes.IndexByte(rest[:min(len(rest), maxCharset)], '?')
	if i <= 0 || bytes.ContainsAny(rest[:i], " \t") || len(rest) < i+3 || rest[i+2] != '?' {
		return w, 0, false
	}
	w.charset = string(rest[:i])
	encoding := rest[i+1] | 0x20
	text := rest[i+3:]
	end := bytes.Index(text, []byte("?="))
	if end < 0 {
		return w, 0, false
	}
	switch encoding {
	case 'q':
		w.text = decodeQ(text[:end])
	case 'b':
		w.text = decodeB(text[:end])
	default:
		return w, 0, false
	}
	return w, 2 + i + 3 + end + 2, true
}

// decodeQ undoes the Q encoding (RFC 2047 §4.2). Bare spaces are accepted.
func decodeQ(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '_':
			out = append(out, ' ')
		case '=':
			if i+2 < len(text) {
				hi, ok1 := unhex(text[i+1])
				lo, ok2 := unhex(text[i+2])
				if ok1 && ok2 {
					out = append(out, hi<<4|lo)
					i += 2
					continue
				}
			}
			out = append(out, c)
		default:
			out = append(out, c)
		}
	}
	return out
}

// decodeB undoes the B encoding (RFC 2047 §4.1), padded or not.
func decodeB(text []byte) []byte {
	digits := make([]byte, 0, len(text))
	for _, c := range text {
		if base64Value[c] < 64 {
			digits = append(digits, c)
		}
	}
	if len(digits)%4 == 1 {
		digits = digits[:len(digits)-1]
	}
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(digits)))
	n, err := base64.RawStdEncoding.Decode(out, digits)
	if err != nil {
		return text
	}
	return out[:n]
}
