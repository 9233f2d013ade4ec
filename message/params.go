package message

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// rawParam is a parameter before its text is cleaned: boundaries are compared
// with the bytes of the message.
type rawParam struct {
	name  string
	value []byte
}

// contentType reads the value of a Content-Type field. Of a broken one it
// returns what can be read, but no parameters, and ok is not set.
func contentType(value []byte) (typ, subtype string, params []rawParam, ok bool) {
	l := lexer{b: value}
	if l.skipSpace() != more {
		return "", "", nil, false
	}
	t, st := l.token(nil)
	if st != more || !l.at('/') {
		return cleanText(t), "", nil, false
	}
	l.i++
	if l.skipSpace() != more {
		return cleanText(t), "", nil, false
	}
	s, st := l.token(nil)
	if st == broken || st == more && !l.at(';') || len(t) == 0 || len(s) == 0 {
		return cleanText(t), cleanText(s), nil, false
	}
	return cleanText(t), cleanText(s), l.params(), true
}

// transferEncoding reads the value of a Content-Transfer-Encoding field. It
// returns "" for anything but a single token.
func transferEncoding(value []byte) string {
	l := lexer{b: value}
	l.skipSpace()
	t, st := l.token(nil)
	if st != ended {
		return ""
	}
	return cleanText(t)
}

// disposition reads the value of a Content-Disposition field.
func disposition(value []byte) (string, []rawParam, bool) {
	l := lexer{b: value}
	l.skipSpace()
	t, st := l.token(nil)
	if st == broken {
		return "", nil, false
	}
	return cleanText(t), l.params(), true
}

// languages reads the value of a Content-Language field (RFC 3282).
func languages(value []byte) []string {
	l := lexer{b: value}
	l.skipSpace()
	var out []string
	for len(out) < maxParams {
		t, st := l.atom(nil)
		if st == broken {
			break
		}
		out = append(out, cleanText(t))
		if !l.at(',') {
			break
		}
		l.i++
		l.skipSpace()
	}
	return out
}

// params reads *(";" name "=" value), skips what has not that form, and joins
// what RFC 2231 §3 lets a sender split.
func (l *lexer) params() []rawParam {
	var plain []rawParam
	var split []splitParam
	for !l.atEnd() && len(plain)+len(split) < maxParams {
		p, ok := l.param()
		if !ok {
			l.i++ // try to read on behind it
			continue
		}
		if s, ok := splitName(p); ok {
			split = append(split, s)
		} else {
			plain = append(plain, p)
		}
	}
	return append(plain, joinSplit(split)...)
}

// param reads one ";" name "=" value.
func (l *lexer) param() (rawParam, bool) {
	if !l.at(';') {
		return rawParam{}, false
	}
	l.i++
	if l.skipSpace() != more {
		return rawParam{}, false
	}
	name, st := l.token(nil)
	if st != more || !l.at('=') {
		return rawParam{}, false
	}
	l.i++
	p := rawParam{name: string(name)}
	st = l.skipSpace()
	if st == more {
		switch {
		case l.at('"'):
			p.value, st = l.quoted(nil)
		case l.at('='):
			// Some senders write an encoded word here, with its "=?" behind
			// the "=" of the parameter.
			p.value = l.run(nil, func(c byte) bool { return c != ';' && !isSpace(c) })
		default:
			p.value, st = l.token(nil)
		}
	}
	return p, st != broken
}

// splitParam is name*index, or name*index* if extended.
type splitParam struct {
	rawParam
	index    int
	extended bool
}

func splitName(p rawParam) (splitParam, bool) {
	name, rest, found := strings.Cut(p.name, "*")
	if !found {
		return splitParam{}, false
	}
	s := splitParam{rawParam: rawParam{name: name, value: p.value}}
	if rest == "" { // name*
		s.extended = true
		return s, true
	}
	rest, s.extended = strings.CutSuffix(rest, "*")
	if rest == "" {
		return s, true
	}
	n, err := strconv.ParseUint(rest, 10, 31)
	if err != nil || rest[0] == '+' {
		return splitParam{}, false
	}
	s.index = int(n)
	return s, true
}

// joinSplit joins the pieces of each name in the order of their numbers.
// Where a number is missing the pieces stay as they are.
func joinSplit(split []splitParam) []rawParam {
	slices.SortStableFunc(split, func(a, b splitParam) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.index, b.index))
	})
	var out []rawParam
	for len(split) > 0 {
		n, complete, extended := 0, true, false
		for n < len(split) && strings.EqualFold(split[n].name, split[0].name) {
			complete = complete && split[n].index == n
			extended = extended || split[n].extended
			n++
		}
		if complete {
			out = append(out, joinPieces(split[:n], extended))
		} else {
			for _, s := range split[:n] {
				s.rawParam.name += "*" + strconv.Itoa(s.index)
				if s.extended {
					s.rawParam.name += "*"
				}
				out = append(out, s.rawParam)
			}
		}
		split = split[n:]
	}
	return out
}

func joinPieces(pieces []splitParam, extended bool) rawParam {
	p := rawParam{name: pieces[0].name}
	if extended {
		p.name += "*"
		if !pieces[0].extended {
			p.value = append(p.value, "''"...) // no charset, no language
		}
	}
	for _, s := range pieces {
		if extended && !s.extended {
			p.value = append(p.value, bytes.ReplaceAll(s.value, []byte("%"), []byte("%25"))...)
		} else {
			p.value = append(p.value, s.value...)
		}
	}
	return p
}

func cleanParams(raw []rawParam) []Param {
	if len(raw) == 0 {
		return nil
	}
	out := make([]Param, len(raw))
	for i, p := range raw {
		out[i] = Param{Name: cleanText([]byte(p.name)), Value: cleanText(p.value)}
	}
	return out
}

// paramValue finds and decodes a parameter (RFC 2231 §4). Encoded words are
// not allowed in parameters (RFC 2047 §5), but widely sent. Where a name
// stands twice, the encoded value is the better one (RFC 6266 §4.3 says so for
// HTTP, and mail programs send both for the same reason).
func paramValue(params []Param, name string) string {
	for _, p := range params {
		if strings.EqualFold(p.Name, name+"*") {
			return decodeExtended(p.Value)
		}
	}
	for _, p := range params {
		if strings.EqualFold(p.Name, name) {
			return DecodeHeader([]byte(p.Value))
		}
	}
	return ""
}

// decodeExtended decodes charset'language'percent-encoded text.
func decodeExtended(value string) string {
	charset, rest, ok := strings.Cut(value, "'")
	if !ok {
		return value
	}
	if _, rest, ok = strings.Cut(rest, "'"); !ok {
		return value
	}
	out := make([]byte, 0, len(rest))
	for i := 0; i < len(rest); i++ {
		if rest[i] == '%' && i+2 < len(rest) {
			hi, ok1 := unhex(rest[i+1])
			lo, ok2 := unhex(rest[i+2])
			if ok1 && ok2 {
				out = append(out, hi<<4|lo)
				i += 2
				continue
			}
		}
		out = append(out, rest[i])
	}
	return decodeCharset(charset, out)
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
