package dsn

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

func trimPath(p string) string {
	if strings.HasPrefix(p, "<") && strings.HasSuffix(p, ">") {
		return p[1 : len(p)-1]
	}
	return p
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func isASCIIBytes(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

func hasControl(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, isControl)
}

// onePath says whether p can stand between angle brackets in a header field
// without being taken for anything but one address.
func onePath(p string) bool {
	if hasControl(p) || len(p) > 900 {
		return false
	}
	quoted := false
	for i := 0; i < len(p); i++ {
		switch {
		case quoted && p[i] == '\\':
			i++
		case p[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(" <>(),;\\", p[i]) >= 0:
			return false
		}
	}
	return !quoted
}

// token says whether s can stand by itself in a header field.
func token(s string) bool {
	return s != "" && len(s) <= 255 && !hasControl(s) && !strings.ContainsAny(s, " <>()\";,")
}

// shown makes a stranger's text fit to stand in a notice.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if isControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func toASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '?'
		}
		return r
	}, s)
}

// plainLines says whether b has only what a 7bit or 8bit part may have
// (RFC 2045 §2.7, §2.8).
func plainLines(b []byte) bool {
	for len(b) > 0 {
		line, rest, found := bytes.Cut(b, []byte("\r\n"))
		if len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00") {
			return false
		}
		if !found {
			break
		}
		b = rest
	}
	return true
}

// fold breaks a field into lines of at most 76 octets where it has spaces, and of
// at most 998 where it has none (RFC 5322 §2.1.1, §2.2.3).
func fold(field string) string {
	const soft, hard = 76, 900
	var b strings.Builder
	for len(field) > soft {
		// The first space belongs to the name; a line of nothing but space is none.
		cut := strings.LastIndexByte(field[:soft+1], ' ')
		if cut <= 0 || strings.TrimSpace(field[:cut]) == "" || strings.HasSuffix(field[:cut], ":") {
			cut = strings.IndexByte(field[soft:], ' ')
			if cut >= 0 {
				cut += soft
			} else {
				cut = len(field)
			}
		}
		if cut > hard {
			for cut = hard; !utf8.RuneStart(field[cut]); cut-- {
			}
		}
		b.WriteString(field[:cut])
		b.WriteString("\r\n")
		field = " " + strings.TrimLeft(field[cut:], " ")
		if field == " " {
			return b.String()
		}
	}
	b.WriteString(field)
	b.WriteString("\r\n")
	return b.String()
}

// unxtext decodes xtext (RFC 3461 §4). What decodes to control characters is not
// fit for a field, and reported as malformed.
func unxtext(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '+' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	if len(s) > 998 || hasControl(b.String()) {
		return "", false
	}
	return b.String(), true
}

// hexDigit reads upper-case hexadecimal, as xtext has it.
func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// originalRecipient turns ORCPT into the value of Original-Recipient
// (RFC 3464 §2.3.1, RFC 6533 §3).
func originalRecipient(orcpt string, global bool) (string, bool) {
	kind, addr, found := strings.Cut(orcpt, ";")
	if !found || !token(kind) || !isASCII(kind) || addr == "" {
		return "", false
	}
	if strings.EqualFold(kind, "utf-8") {
		// Its own encoding is as good in a field as in a command.
		if hasControl(addr) || !global && !isASCII(addr) {
			return "", false
		}
		return "utf-8; " + addr, true
	}
	addr, ok := unxtext(addr)
	if !ok || addr == "" || !isASCII(addr) {
		return "", false
	}
	return kind + "; " + addr, true
}

// typedAddress is an address as Final-Recipient has it. Where the notification
// must be ASCII, other characters are written as utf-8-addr-xtext (RFC 6533 §3).
func typedAddress(addr string, global bool) string {
	addr = shown(addr)
	if isASCII(addr) {
		return "rfc822; " + addr
	}
	if global {
		return "utf-8; " + addr
	}
	var b strings.Builder
	for _, r := range addr {
		if r >= utf8.RuneSelf || r == '\\' || r == '+' || r == '=' || r == ' ' {
			fmt.Fprintf(&b, "\\x{%X}", r)
		} else {
			b.WriteRune(r)
		}
	}
	return "utf-8; " + b.String()
}

// validStatus says whether s is an enhanced status code (RFC 3463 §2).
func validStatus(s string) bool {
	var class, subject, detail int
	if n, err := fmt.Sscanf(s, "%1d.%3d.%3d", &class, &subject, &detail); n != 3 || err != nil {
		return false
	}
	return fmt.Sprintf("%d.%d.%d", class, subject, detail) == s && (class == 2 || class == 4 || class == 5)
}
