package intake

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/message"
)

// trace makes our one Received line (RFC 5321 §4.4), without a for clause: it
// would tell one recipient about another.
func (t *Tx) trace(id event.ID, now time.Time) []byte {
	with := "SMTP"
	switch {
	case t.env.UTF8:
		with = "UTF8SMTP" // RFC 6531 §4.3
	case t.peer.ESMTP:
		with = "ESMTP"
	}
	if t.peer.TLS != "" && t.peer.ESMTP {
		with += "S" // RFC 3848
	}
	if t.submit && t.peer.ESMTP {
		with += "A"
	}
	return fmt.Appendf(nil, "Received: from %s%s\r\n\tby %s with %s id %s;\r\n\t%s\r\n",
		heloName(t.peer.Helo), tcpInfo(t.peer.Addr), t.svc.cfg.Hostname, with, id, message.FormatDate(now.UTC()))
}

// heloName is the name a client gave, as the line's grammar allows it: a domain
// or an address literal. What is neither could be read as something else in the
// line, and stands in the event only.
func heloName(helo string) string {
	if isName(helo) || isAddressLiteral(helo) {
		return helo
	}
	return "unknown"
}

// isName reports whether s is a domain; underscores are no part of one, but
// stand in many names of machines and do no harm.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// isAddressLiteral reports whether s is one of RFC 5321 §4.1.3.
func isAddressLiteral(s string) bool {
	inner, ok := strings.CutPrefix(s, "[")
	if !ok || !strings.HasSuffix(inner, "]") {
		return false
	}
	inner = strings.TrimSuffix(inner, "]")
	rest, six := strings.CutPrefix(inner, "IPv6:")
	a, err := netip.ParseAddr(rest)
	return err == nil && a.Is6() == six && a.Zone() == ""
}

// tcpInfo is the client's address as the connection tells it, or nothing.
func tcpInfo(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return ""
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return " ([IPv6:" + a.String() + "])" // RFC 5321 §4.1.3
	}
	return " ([" + a.String() + "])"
}
