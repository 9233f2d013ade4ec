package directory

import (
	"strings"
	"unicode/utf8"
)

// SplitAddress divides an address at its domain and takes the quotes off the
// local part, which mean nothing (RFC 5321 §4.1.2): "a.b"@x is a.b@x. The domain
// is made lower case.
func SplitAddress(address string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(address, '@')
	if i <= 0 || i == len(address)-1 {
		return "", "", false
	}
	local, domain = address[:i], asciiLower(address[i+1:])
	if local[0] == '"' {
		local, ok = unquote(local)
		return local, domain, ok
	}
	return local, domain, !strings.ContainsAny(local, "\" \t\r\n")
}

// unquote reads a quoted string (RFC 5321 §4.1.2).
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[len(s)-1] != '"' {
		return "", false
	}
	s = s[1 : len(s)-1]
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"', s[i] == '\\' && i+1 == len(s):
			return "", false
		case s[i] == '\\':
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), true
}

// localKey is what local parts of listed users are compared by: without regard
// to case.
func localKey(local string) string {
	if !utf8.ValidString(local) {
		// Lowering would make all invalid bytes the same.
		return asciiLower(local)
	}
	return strings.ToLower(local)
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// addressKey is what addresses are compared by.
func addressKey(address string) (string, bool) {
	local, domain, ok := SplitAddress(address)
	if !ok {
		return "", false
	}
	return joinKey(local, domain), true
}

func joinKey(local, domain string) string { return localKey(local) + "@" + domain }

func isPostmaster(local string) bool { return strings.EqualFold(local, "postmaster") }
