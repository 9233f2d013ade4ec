// Package dsn writes delivery status notifications (RFC 3464) that tell a sender
// which recipients did not get a message, and why.
//
// A notification is a pure function of its [Params]: the same parameters give
// the same bytes, so that a notification that may have been sent can be made
// again and recognised.
//
//	from, to, msg, err := dsn.Bounce(p)
//	if errors.Is(err, dsn.ErrNullSender) || errors.Is(err, dsn.ErrNotWanted) {
//		// nobody is to be told; only the log keeps the failure
//	}
//
// Whoever sends it must use the null reverse-path that Bounce returns
// (RFC 5321 §6.1), and SMTPUTF8 if [Params.SMTPUTF8] is set.
package dsn

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"strings"
	"time"
)

var (
	// ErrNullSender means that the message has the null reverse-path, to which
	// nothing is ever sent (RFC 5321 §4.5.5).
	ErrNullSender = errors.New("null reverse-path")
	// ErrNotWanted means that for no recipient a notice of failure was asked for.
	ErrNotWanted = errors.New("no recipient wants a notice of failure")
	// ErrParams is wrapped when the parameters cannot make a notification.
	ErrParams = errors.New("incomplete parameters")
)

// Params is everything a notification says.
type Params struct {
	ReportingMTA string    // our host name
	MessageID    string    // of the notification, without angle brackets
	Date         time.Time // of the notification
	Arrival      time.Time // of the message; zero: not said

	// ReversePath is where the notification goes, with or without angle brackets.
	ReversePath string
	EnvID       string // ENVID as received, in xtext; "" if none
	Ret         string // RET as received: "", FULL or HDRS
	SMTPUTF8    bool   // the message came with SMTPUTF8: write RFC 6533's form

	Recipients []Recipient

	// Header is the message's header section, with or without the empty line
	// after it.
	Header []byte
	// Full is the whole message; it is needed, and used, only if Ret is FULL. It
	// is not returned if it has bytes that cannot stand in a message part
	// (bare CR or LF, NUL, lines of more than 998 octets), or more than MaxFull;
	// the headers then are.
	Full []byte
}

// MaxFull is the largest message that is returned whole.
const MaxFull = 10 << 20

// Recipient is one that failed.
type Recipient struct {
	Address string // forward-path as received, with or without angle brackets
	Notify  string // NOTIFY as received; "" means FAILURE
	ORcpt   string // ORCPT as received, such as "rfc822;bob+40example.org"

	// Status is the enhanced code; if it is empty or malformed it follows from Code.
	Status string
	// Code and Text are the server's last answer; Code 0 means that there was none.
	Code int
	Text []string
	// RemoteMTA is the name of the server that answered; "" if none did.
	RemoteMTA   string
	LastAttempt time.Time // zero: not said
	// Expired says that the time for delivering ran out.
	Expired bool
}

// wantsFailure honours NOTIFY (RFC 3461 §4.1).
func (r Recipient) wantsFailure() bool {
	if r.Notify == "" {
		return true
	}
	for _, w := range strings.Split(r.Notify, ",") {
		if strings.EqualFold(strings.TrimSpace(w), "FAILURE") {
			return true
		}
	}
	return false
}

// Bounce returns the notification that the recipients have failed, and its
// envelope. Recipients that want no notice are left out. The error is
// [ErrNullSender], [ErrNotWanted], or wraps [ErrParams].
func Bounce(p Params) (from, to string, msg []byte, err error) {
	to = trimPath(p.ReversePath)
	if to == "" {
		return "", "", nil, ErrNullSender
	}
	var failed []Recipient
	for _, r := range p.Recipients {
		if r.wantsFailure() {
			failed = append(failed, r)
		}
	}
	switch {
	case len(p.Recipients) > 0 && len(failed) == 0:
		return "", "", nil, ErrNotWanted
	case len(failed) == 0:
		return "", "", nil, fmt.Errorf("%w: no recipients", ErrParams)
	case !token(p.ReportingMTA) || !token(p.MessageID) || p.Date.IsZero():
		return "", "", nil, fmt.Errorf("%w: host, message id and date must be set", ErrParams)
	case !onePath(to) || !p.SMTPUTF8 && !isASCII(to):
		return "", "", nil, fmt.Errorf("%w: the reverse-path cannot stand in a header", ErrParams)
	}
	p.Recipients = failed
	parts := []part{p.explanation(), p.status(), p.returned()}
	return "", to, p.assemble(to, parts), nil
}

// part is a body part that is ready to be written.
type part struct {
	contentType string
	encoding    string // "" is 7bit
	description string
	body        []byte // lines end in CRLF
}

// assemble writes the header and the parts (RFC 6522 §3).
func (p Params) assemble(to string, parts []part) []byte {
	boundary := p.boundary(parts)
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("From", "Mail Delivery System <MAILER-DAEMON@"+p.ReportingMTA+">")
	header("To", "<"+to+">")
	header("Subject", "Undelivered mail returned to sender")
	header("Date", p.Date.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	header("Message-ID", "<"+p.MessageID+">")
	header("Auto-Submitted", "auto-replied") // RFC 3834 §5
	header("MIME-Version", "1.0")
	header("Content-Type", "multipart/report; report-type="+p.reportType()+";\r\n\tboundary=\""+boundary+"\"")
	if encoding := overall(parts); encoding != "" {
		header("Content-Transfer-Encoding", encoding)
	}
	b.WriteString("\r\nThis is a delivery status notification in MIME format.\r\n")
	for _, pt := range parts {
		b.WriteString("\r\n--" + boundary + "\r\n")
		header("Content-Type", pt.contentType)
		header("Content-Description", pt.description)
		if pt.encoding != "" {
			header("Content-Transfer-Encoding", pt.encoding)
		}
		b.WriteString("\r\n")
		b.Write(pt.body)
	}
	b.WriteString("\r\n--" + boundary + "--\r\n")
	return b.Bytes()
}

func (p Params) reportType() string {
	if p.SMTPUTF8 {
		return "global-delivery-status" // RFC 6533 §5
	}
	return "delivery-status"
}

// overall is the encoding of the multipart, which is 8bit if any part's is
// (RFC 2045 §6.4).
func overall(parts []part) string {
	for _, pt := range parts {
		if pt.encoding == "8bit" {
			return "8bit"
		}
	}
	return ""
}

// boundary follows from the message id, and stands in no part.
func (p Params) boundary(parts []part) string {
	for n := 0; ; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", n, p.MessageID))
		boundary := "=_" + hex.EncodeToString(sum[:12])
		used := false
		for _, pt := range parts {
			used = used || bytes.Contains(pt.body, []byte(boundary))
		}
		if !used {
			return boundary
		}
	}
}

// contentType formats a media type with its charset.
func contentType(media, charset string) string {
	return mime.FormatMediaType(media, map[string]string{"charset": charset})
}
