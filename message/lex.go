package message

// status is how a step of the lexer left it.
type status int8

const (
	broken status = -1 // the text does not have the wanted form
	ended  status = 0  // the form was read and the text is at its end
	more   status = 1  // the form was read and there is more text
)

// lexer reads the tokens of RFC 5322 and RFC 2045 header fields from b. It
// bends where senders do: text above 127 is part of words, white space may
// stand around dots. All steps skip the comments and white space behind them.
type lexer struct {
	b []byte
	i int
	// comment is the text of the last comment skipped.
	comment []byte
}

func (l *lexer) atEnd() bool { return l.i >= len(l.b) }

// at reports whether the next byte is c.
func (l *lexer) at(c byte) bool { return l.i < len(l.b) && l.b[l.i] == c }

func (l *lexer) state() status {
	if l.atEnd() {
		return ended
	}
	return more
}

// isAtext reports whether c may stand in an atom (RFC 5322 §3.2.3, RFC 6532
// §3.2).
func isAtext(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80:
		return true
	case c <= ' ' || c == 0x7f:
		return false
	}
	switch c {
	case '(', ')', '<', '>', '[', ']', ':', ';', '@', '\\', ',', '.', '"':
		return false
	}
	return true
}

// isToken reports whether c may stand in a MIME token (RFC 2045 §5.1).
func isToken(c byte) bool {
	return c == '.' || isAtext(c) && c != '/' && c != '?' && c != '='
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// skipSpace skips white space and comments (CFWS, RFC 5322 §3.2.2).
func (l *lexer) skipSpace() status {
	for l.i < len(l.b) {
		switch c := l.b[l.i]; {
		case isSpace(c):
			l.i++
		case c == '(':
			if !l.skipComment() {
				return broken
			}
		default:
			return more
		}
	}
	return ended
}

// skipComment skips one comment with those inside it and keeps its text. It
// reports false, at the end of the text, if the comment is not closed; then
// only what is before its last backslash is kept.
func (l *lexer) skipComment() bool {
	l.comment = l.comment[:0]
	kept := 0
	depth := 0
	for ; l.i < len(l.b); l.i++ {
		c := l.b[l.i]
		switch c {
		case '(':
			depth++
			if depth == 1 {
				continue
			}
		case ')':
			depth--
			if depth == 0 {
				l.i++
				return true
			}
		case '\\':
			kept = len(l.comment)
			l.i++
			if l.i == len(l.b) {
				return false
			}
			c = l.b[l.i]
		}
		l.comment = append(l.comment, c)
	}
	l.comment = l.comment[:kept]
	return false
}

// run appends the bytes for which in holds to dst.
func (l *lexer) run(dst []byte, in func(byte) bool) []byte {
	start := l.i
	for l.i < len(l.b) && in(l.b[l.i]) {
		l.i++
	}
	return append(dst, l.b[start:l.i]...)
}

// atom reads at least one byte of atom text.
func (l *lexer) atom(dst []byte) ([]byte, status) {
	if l.atEnd() || !isAtext(l.b[l.i]) {
		return dst, broken
	}
	dst = l.run(dst, isAtext)
	return dst, l.skipSpace()
}

// dotAtom reads atoms joined by dots. White space around the dots is dropped
// (obs-local-part, RFC 5322 §4.4).
func (l *lexer) dotAtom(dst []byte) ([]byte, status) {
	if l.atEnd() || !isAtext(l.b[l.i]) {
		return dst, broken
	}
	for {
		dst = l.run(dst, isAtext)
		if st := l.skipSpace(); st != more || !l.at('.') {
			return dst, st
		}
		l.i++
		dst = append(dst, '.')
		if st := l.skipSpace(); st != more {
			return dst, st
		}
	}
}

// looseDotAtom reads atoms and dots, which may also stand first, last and
// together, as in local parts that some providers have given out.
func (l *lexer) looseDotAtom(dst []byte) ([]byte, status) {
	st := broken
	for {
		for l.at('.') {
			dst = append(dst, '.')
			l.i++
			if l.atEnd() {
				return dst, ended
			}
			st = more
		}
		if l.at('@') {
			return dst, st
		}
		dst, st = l.atom(dst)
		if st != more || !l.at('.') {
			return dst, st
		}
	}
}

// token reads a MIME token, which may be empty.
func (l *lexer) token(dst []byte) ([]byte, status) {
	dst = l.run(dst, isToken)
	return dst, l.skipSpace()
}

// quoted reads a quoted string, without its quotes and backslashes. Of one
// that is not closed only what is before its last backslash or line end is
// kept.
func (l *lexer) quoted(dst []byte) ([]byte, status) {
	kept := len(dst)
	for l.i++; l.i < len(l.b); l.i++ {
		c := l.b[l.i]
		switch c {
		case '"':
			l.i++
			return dst, l.skipSpace()
		case '\r':
			if l.i+1 < len(l.b) && l.b[l.i+1] == '\n' {
				continue
			}
		case '\n':
			kept = len(dst)
			continue // folding: the white space that follows stays
		case '\\':
			l.i++
			if l.i == len(l.b) {
				return dst[:kept], broken
			}
			kept = len(dst)
			c = l.b[l.i]
		}
		dst = append(dst, c)
	}
	return dst[:kept], broken
}

// phrase reads words, quoted strings and dots, joined by single spaces, up to
// something else. The result may be empty.
func (l *lexer) phrase(dst []byte) ([]byte, status) {
	if l.atEnd() {
		return dst, ended
	}
	if l.at('.') {
		return dst, broken
	}
	for {
		var st status
		if l.at('"') {
			dst, st = l.quoted(dst)
		} else {
			dst = l.run(dst, func(c byte) bool { return c == '.' || isAtext(c) })
			st = l.skipSpace()
		}
		if st != more {
			return dst, st
		}
		if c := l.b[l.i]; !isAtext(c) && c != '"' && c != '.' {
			return dst, more
		}
		dst = append(dst, ' ')
	}
}

// domain reads "@" and a domain or a domain literal.
func (l *lexer) domain(dst []byte) ([]byte, status) {
	l.i++
	if l.skipSpace() != more {
		return dst, broken
	}
	if !l.at('[') {
		return l.dotAtom(dst)
	}
	for start := l.i; l.i < len(l.b); l.i++ {
		switch l.b[l.i] {
		case '\\':
			l.i++
		case ']':
			l.i++
			return append(dst, l.b[start:l.i]...), l.skipSpace()
		}
	}
	l.i = len(l.b)
	return dst, broken
}
