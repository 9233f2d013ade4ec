package smtpd

import (
	"bytes"
	"net/netip"
	"strings"
	"unicode/utf8"
)

const (
	// maxLocal is above the 64 octets of RFC 5321 §4.5.3.1.1, which mailing
	// lists with the recipient in the sender address (VERP) exceed.
	maxLocal  = 256
	maxDomain = 255  // RFC 5321 §4.5.3.1.2
	maxPath   = 1024 // with a source route
)

// equalFold compares ASCII in any case.
func equalFold(a, b string) bool { return strings.EqualFold(a, b) }

// parsePath reads "<...>" at the start of b and returns what follows it. An
// empty path and one without a domain are syntactically fine here. Printers and
// scripts leave the brackets out, or put white space inside them: that is taken,
// because it can mean only one thing.
func parsePath(b []byte) (Path, []byte, bool) {
	raw, rest, ok := cutBrackets(b)
	if !ok || len(raw) > maxPath || len(rest) > 0 && rest[0] != ' ' {
		return Path{}, nil, false
	}
	p := Path{Raw: string(raw)}
	if p.Raw == "" {
		return p, rest, true
	}
	mailbox, ok := skipRoute(p.Raw)
	if !ok {
		return Path{}, nil, false
	}
	p.Mailbox = mailbox
	local, domain, ok := cutLocal(mailbox)
	if !ok {
		return Path{}, nil, false
	}
	p.Local, p.DomainRaw = local, domain
	if domain != "" {
		if !validDomain(domain) {
			return Path{}, nil, false
		}
		p.Domain = strings.ToLower(domain)
	}
	return p, rest, true
}

// cutBrackets returns what stands between the brackets at the start of b, and
// what stands behind them.
func cutBrackets(b []byte) (raw, rest []byte, ok bool) {
	if len(b) > 0 && b[0] != '<' {
		end := bytes.IndexAny(b, " \t")
		if end < 0 {
			end = len(b)
		}
		return b[:end], b[end:], !bytes.ContainsAny(b[:end], `<>"`)
	}
	if len(b) < 2 {
		return nil, nil, false
	}
	end := closingBracket(b)
	if end < 0 {
		return nil, nil, false
	}
	raw = bytes.Trim(b[1:end], " ")
	return raw, b[end+1:], len(raw) > 0 || end == 1
}

// closingBracket finds the ">" that is not inside a quoted string.
func closingBracket(b []byte) int {
	quoted := false
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			return i
		}
	}
	return -1
}

// skipRoute cuts "@a,@b:" off, which must be accepted and should be ignored
// (RFC 5321 §4.1.1.3, appendix C).
func skipRoute(s string) (string, bool) {
	if s[0] != '@' {
		return s, true
	}
	colon := routeEnd(s)
	if colon < 0 || colon == len(s)-1 {
		return "", false
	}
	route, rest := s[:colon], s[colon+1:]
	for hop := range strings.SplitSeq(route, ",") {
		if len(hop) < 2 || hop[0] != '@' || !validDomain(hop[1:]) {
			return "", false
		}
	}
	return rest, true
}

// routeEnd finds the colon that ends a route, which is not one of an IPv6
// address literal.
func routeEnd(s string) int {
	literal := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '[', c == ']':
			literal = c == '['
		case c == ':' && !literal:
			return i
		}
	}
	return -1
}

// cutLocal splits a mailbox into its local part, unquoted, and its domain,
// which is empty if there is no "@".
func cutLocal(s string) (local, domain string, ok bool) {
	if s[0] == '"' {
		local, rest, ok := unquote(s)
		if !ok || len(local) > maxLocal {
			return "", "", false
		}
		if rest == "" {
			return local, "", true
		}
		return local, rest[1:], rest[0] == '@' && len(rest) > 1
	}
	at := strings.IndexByte(s, '@')
	local = s
	if at >= 0 {
		local, domain = s[:at], s[at+1:]
		if domain == "" {
			return "", "", false
		}
	}
	if local == "" || len(local) > maxLocal {
		return "", "", false
	}
	for i := range len(local) {
		if !atext(local[i]) && local[i] != '.' {
			return "", "", false
		}
	}
	return local, domain, true
}

// atext is RFC 5322 §3.2.3, with the octets of UTF-8 (RFC 6531 §3.3). Lines are
// known to be valid UTF-8.
func atext(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c >= 0x80:
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// unquote reads the quoted string at the start of s (RFC 5321 §4.1.2).
func unquote(s string) (content, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\':
			i++
			if i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", false
			}
			b.WriteByte(s[i])
		case c < ' ' || c == 0x7f:
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// validDomain checks a domain or an address literal. Underscores are taken,
// because hosts are named so; U-labels are (RFC 6531 §3.3).
func validDomain(d string) bool {
	if d == "" || len(d) > maxDomain {
		return false
	}
	if d[0] == '[' {
		return validLiteral(d)
	}
	for label := range strings.SplitSeq(d, ".") {
		if label == "" || len(label) > 63 && isASCII(label) || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c >= 0x80) {
				return false
			}
		}
	}
	return utf8.ValidString(d)
}

// validLiteral checks "[192.0.2.1]" and "[IPv6:2001:db8::1]" (RFC 5321 §4.1.3).
// No general address literal has ever been defined.
func validLiteral(d string) bool {
	inner, ok := strings.CutSuffix(d[1:], "]")
	if !ok {
		return false
	}
	if len(inner) > 5 && equalFold(inner[:5], "IPv6:") {
		a, err := netip.ParseAddr(inner[5:])
		return err == nil && a.Is6() && a.Zone() == ""
	}
	a, err := netip.ParseAddr(inner)
	return err == nil && a.Is4()
}

// words splits at spaces and tabs, and at nothing else that Unicode calls space.
func words(b []byte) [][]byte {
	return bytes.FieldsFunc(b, func(r rune) bool { return r == ' ' || r == '\t' })
}
