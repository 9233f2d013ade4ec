package dsn

import (
	"bytes"
	"fmt"
	"mime/quotedprintable"
	"strings"
	"time"
)

// explanation is the part for people.
func (p Params) explanation() part {
	var b strings.Builder
	b.WriteString("This is the mail system at " + p.ReportingMTA + ".\r\n\r\n")
	b.WriteString("Your message could not be delivered to the recipients below.\r\n")
	b.WriteString("It will not be tried again.\r\n")
	for _, r := range p.Recipients {
		b.WriteString("\r\n<" + shown(trimPath(r.Address)) + ">\r\n")
		switch {
		case r.Expired:
			b.WriteString("    The time for delivering it has run out.\r\n")
		case r.Code == 0:
			b.WriteString("    It could not be handed over.\r\n")
		}
		if r.Code != 0 {
			who := "The server"
			if r.RemoteMTA != "" {
				who = shown(r.RemoteMTA)
			}
			b.WriteString("    " + who + " answered:\r\n")
			for _, l := range r.reply() {
				b.WriteString("    " + l + "\r\n")
			}
		}
	}
	pt := part{description: "Notification", contentType: contentType("text/plain", "utf-8")}
	pt.body, pt.encoding = text(b.String())
	return pt
}

// status is the part for programs (RFC 3464 §2, RFC 6533 §3).
func (p Params) status() part {
	var b strings.Builder
	field := func(name, value string) { b.WriteString(fold(name + ": " + value)) }
	// RFC 3464 §2.2.1: decoded, since a field of this kind is no xtext.
	if id, ok := unxtext(p.EnvID); ok && id != "" && isASCII(id) {
		field("Original-Envelope-Id", id)
	}
	field("Reporting-MTA", "dns; "+p.ReportingMTA)
	if !p.Arrival.IsZero() {
		field("Arrival-Date", p.Arrival.Format(time.RFC1123Z))
	}
	for _, r := range p.Recipients {
		b.WriteString("\r\n")
		if o, ok := originalRecipient(r.ORcpt, p.SMTPUTF8); ok {
			field("Original-Recipient", o)
		}
		field("Final-Recipient", typedAddress(trimPath(r.Address), p.SMTPUTF8))
		field("Action", "failed")
		field("Status", r.status())
		if token(r.RemoteMTA) && isASCII(r.RemoteMTA) {
			field("Remote-MTA", "dns; "+r.RemoteMTA)
		}
		if r.Code != 0 {
			diagnostic := "smtp; " + strings.Join(r.reply(), " ")
			if !p.SMTPUTF8 {
				diagnostic = toASCII(diagnostic)
			}
			field("Diagnostic-Code", diagnostic)
		}
		if !r.LastAttempt.IsZero() {
			field("Last-Attempt-Date", r.LastAttempt.Format(time.RFC1123Z))
		}
	}
	pt := part{description: "Delivery report", contentType: "message/" + p.reportType(), body: []byte(b.String())}
	if p.SMTPUTF8 {
		pt.contentType = "message/global-delivery-status"
		if !isASCII(b.String()) {
			pt.encoding = "8bit"
		}
	}
	return pt
}

// status returns the recipient's enhanced code, which begins with 5, or with 4
// if time ran out.
func (r Recipient) status() string {
	if validStatus(r.Status) && (r.Status[0] == '5' || r.Status[0] == '4' && r.Expired) {
		return r.Status
	}
	switch {
	case r.Expired:
		return "4.4.7" // RFC 3463 §3.5: delivery time expired
	case r.Code == 0:
		return "5.4.0"
	}
	return "5.0.0"
}

// reply is the server's answer, a line each, fit to be shown.
func (r Recipient) reply() []string {
	code := fmt.Sprint(r.Code)
	if validStatus(r.Status) {
		code += " " + r.Status
	}
	if len(r.Text) == 0 {
		return []string{code}
	}
	lines := make([]string, 0, len(r.Text))
	for i, l := range r.Text {
		if i == maxReplyLines {
			break
		}
		l = shown(l)
		if len(l) > maxReplyLine {
			l = strings.ToValidUTF8(l[:maxReplyLine], "")
		}
		lines = append(lines, strings.TrimSpace(code+" "+l))
	}
	return lines
}

// A notice need not repeat all that a talkative server says.
const (
	maxReplyLines = 10
	maxReplyLine  = 500
)

// returned is what comes back of the message.
func (p Params) returned() part {
	if strings.EqualFold(p.Ret, "FULL") && len(p.Full) > 0 && len(p.Full) <= MaxFull && plainLines(p.Full) {
		pt := part{description: "Undelivered message", contentType: "message/rfc822", body: p.Full}
		if !isASCIIBytes(p.Full) {
			pt.encoding = "8bit"
		}
		if p.SMTPUTF8 {
			pt.contentType = "message/global" // RFC 6532 §3.7
		}
		return pt
	}
	head := bytes.TrimRight(headerOnly(p.Header), "\r\n")
	head = append(head[:len(head):len(head)], "\r\n"...)
	pt := part{description: "Undelivered message's header", contentType: "text/rfc822-headers", body: head}
	if p.SMTPUTF8 {
		pt.contentType = "message/global-headers" // RFC 6533 §6
		if plainLines(head) {
			if !isASCIIBytes(head) {
				pt.encoding = "8bit"
			}
			return pt
		}
	}
	if plainLines(head) && isASCIIBytes(head) {
		return pt
	}
	// A header that is no proper header travels encoded, so that what the sender
	// gets back is what he sent. Its charset is not known.
	pt.body, pt.encoding = quoted(head), "quoted-printable"
	return pt
}

// headerOnly cuts at the first empty line.
func headerOnly(h []byte) []byte {
	for i := 0; i < len(h); {
		end := bytes.IndexByte(h[i:], '\n')
		if end < 0 {
			break
		}
		line := bytes.TrimSuffix(h[i:i+end], []byte("\r"))
		if len(line) == 0 {
			return h[:i]
		}
		i += end + 1
	}
	return h
}

// text encodes a text if it has to be.
func text(s string) (body []byte, encoding string) {
	if isASCII(s) && plainLines([]byte(s)) {
		return []byte(s), ""
	}
	return quoted([]byte(s)), "quoted-printable"
}

// quoted encodes b as quoted-printable; CRLF stays a line end, and a bare CR or
// LF is encoded.
func quoted(b []byte) []byte {
	var out bytes.Buffer
	for len(b) > 0 {
		line, rest, found := bytes.Cut(b, []byte("\r\n"))
		w := quotedprintable.NewWriter(&out)
		w.Binary = true
		// Neither call fails: a bytes.Buffer takes everything.
		_, _ = w.Write(line)
		_ = w.Close()
		if found {
			out.WriteString("\r\n")
		}
		b = rest
	}
	return out.Bytes()
}
