package smtpd

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxEnvID is above the 100 of RFC 3461 §4.4, which nobody enforces and some
	// senders exceed.
	maxEnvID = 500
	maxORcpt = 500 // RFC 3461 §4.2, with its type
	maxAuth  = 500 // RFC 4954 §3
)

// params walks over esmtp-keyword[=value] (RFC 5321 §4.1.2). The function
// returns the refusal of a parameter, or the zero reply. No keyword may come
// twice.
func params(b []byte, each func(key, value string, hasValue bool) reply) reply {
	var seen []string
	for _, f := range words(b) {
		k, v, hasValue := bytes.Cut(f, []byte("="))
		key := strings.ToUpper(string(k))
		if !validKeyword(key) || hasValue && !validValue(v) {
			return replyBadParam
		}
		for _, s := range seen {
			if s == key {
				return replyBadParam
			}
		}
		seen = append(seen, key)
		if r := each(key, string(v), hasValue); r.code != 0 {
			return r
		}
	}
	return reply{}
}

func validKeyword(k string) bool {
	for i := range len(k) {
		c := k[i]
		if !('A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return k != ""
}

// validValue is esmtp-value: printable without "=", one octet at least. UTF-8
// may come with SMTPUTF8 (RFC 6531 §3.3).
func validValue(v []byte) bool {
	for _, c := range v {
		if c <= ' ' || c == '=' || c == 0x7f {
			return false
		}
	}
	return len(v) > 0
}

// parseMailParams reads the parameters of MAIL.
func parseMailParams(b []byte, withAuth bool) (MailParams, reply) {
	var p MailParams
	r := params(b, func(key, value string, hasValue bool) reply {
		ok := hasValue
		switch key {
		case "SIZE": // RFC 1870 §4: up to 20 digits
			if len(value) > 20 || !digits(value) {
				return replyBadParam
			}
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return replyFor(ErrTooBig)
			}
			p.Size = n
		case "BODY": // RFC 6152 §2
			p.Body = strings.ToUpper(value)
			ok = p.Body == "7BIT" || p.Body == "8BITMIME"
		case "SMTPUTF8": // RFC 6531 §3.4
			p.SMTPUTF8, ok = true, !hasValue
		case "RET":
			p.Ret = strings.ToUpper(value)
			ok = p.Ret == "FULL" || p.Ret == "HDRS"
		case "ENVID":
			var n int
			p.EnvID, n, ok = xtext(value)
			ok = ok && n <= maxEnvID
		case "AUTH":
			if !withAuth {
				return replyUnknownParam
			}
			if p.Auth, ok = value, value == "<>"; !ok {
				p.Auth, _, ok = xtext(value)
				ok = ok && len(value) <= maxAuth
			}
		default:
			return replyUnknownParam
		}
		if !ok {
			return replyBadParam
		}
		return reply{}
	})
	return p, r
}

// parseRcptParams reads the parameters of RCPT.
func parseRcptParams(b []byte, utf8 bool) (RcptParams, reply) {
	var p RcptParams
	r := params(b, func(key, value string, _ bool) reply {
		ok := false
		switch key {
		case "NOTIFY":
			p.Notify, ok = parseNotify(value)
		case "ORCPT":
			p.ORcpt, ok = parseORcpt(value, utf8)
		default:
			return replyUnknownParam
		}
		if !ok {
			return replyBadParam
		}
		return reply{}
	})
	return p, r
}

// parseNotify reads the value of NOTIFY. One named twice, or a comma too many,
// is passed over: every server takes it, and it can mean only one thing.
func parseNotify(v string) ([]string, bool) {
	var list []string
	for n := range strings.SplitSeq(strings.ToUpper(v), ",") {
		switch {
		case n == "" || slices.Contains(list, n):
			continue
		case n != "NEVER" && n != "SUCCESS" && n != "FAILURE" && n != "DELAY":
			return nil, false
		}
		list = append(list, n)
	}
	return list, len(list) == 1 || len(list) > 1 && !slices.Contains(list, "NEVER")
}

// parseORcpt checks "type;xtext", and "utf-8;" with raw UTF-8 where the
// transaction has SMTPUTF8 (RFC 6533 §3). An address that is empty says nothing,
// and is as good as none.
func parseORcpt(v string, utf8 bool) (string, bool) {
	kind, addr, ok := strings.Cut(v, ";")
	switch {
	case !ok || len(v) > maxORcpt || !validKeyword(strings.ToUpper(kind)):
		return "", false
	case addr == "":
		return "", true
	case !isASCII(addr):
		return v, utf8 && equalFold(kind, "utf-8")
	}
	addr, _, ok = xtext(addr)
	return kind + ";" + addr, ok
}

// xtext checks RFC 3461 §4: printable but "+" and "=", or "+" and two
// hexadecimal digits. They have to be upper case; that other senders do not know
// that is mended in the text returned. It also returns the length of the decoded
// value, which is not empty.
func xtext(v string) (text string, decoded int, ok bool) {
	var b []byte
	for i := 0; i < len(v); i++ {
		c := v[i]
		switch {
		case c < '!' || c > '~' || c == '=':
			return "", 0, false
		case c == '+':
			hex := strings.ToUpper(v[i:min(i+3, len(v))])
			if len(hex) < 3 || !upperHex(hex[1]) || !upperHex(hex[2]) {
				return "", 0, false
			}
			b = append(b, hex...)
			i += 2
		default:
			b = append(b, c)
		}
		decoded++
	}
	return string(b), decoded, v != ""
}

func upperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func digits(v string) bool {
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return false
		}
	}
	return v != ""
}
