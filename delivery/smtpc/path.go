package smtpc

import (
	"fmt"
	"strings"
)

// maxPath is generous (RFC 5321 §4.5.3.1.3 says 256): what a server accepted
// once is the next server's to refuse.
const maxPath = 1024

// barePath removes angle brackets and checks that the path can be written into a
// command without changing the command: no control character anywhere, no space
// or angle bracket outside a quoted string, quotes closed. It does not judge
// whether the path is an address; that is the server's to say.
func barePath(p string) (string, error) {
	if strings.HasPrefix(p, "<") && strings.HasSuffix(p, ">") {
		p = p[1 : len(p)-1]
	}
	if len(p) > maxPath {
		return "", fmt.Errorf("%w: %d octets", ErrPath, len(p))
	}
	quoted, escaped := false, false
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c < ' ' || c == 0x7f:
			return "", fmt.Errorf("%w: control character", ErrPath)
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '<' || c == '>' || c == '\\'):
			return "", fmt.Errorf("%w: character %q outside quotes", ErrPath, c)
		}
	}
	if quoted || escaped {
		return "", fmt.Errorf("%w: open quote", ErrPath)
	}
	return p, nil
}

// validParam says whether a parameter value can be written into a command
// (esmtp-value, RFC 5321 §4.1.2, with UTF-8 as in RFC 6531 §3.3).
func validParam(v string) bool {
	if v == "" || len(v) > maxPath {
		return false
	}
	for i := 0; i < len(v); i++ {
		if v[i] <= ' ' || v[i] == 0x7f {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
