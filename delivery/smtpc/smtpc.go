// Package smtpc is the SMTP client that hands messages to a domain's primary
// server or smart host.
//
// It differs from an ordinary client in three ways. A hook runs between the
// body and the final dot, so that the intent to deliver can be made durable
// before the point of no return. A transaction whose answer was lost after the
// final dot is reported as uncertain (RFC 1047) and never as failed. And the
// bytes of a message go out exactly as they are given, but for what a next hop
// could take for the end of the message: bare CR and LF, which SMTP cannot carry,
// become CRLF, and NULs between the beginning of a line and a dot are left out.
//
//	conn, err := smtpc.Connect(ctx, target, cfg)
//	...
//	res, err := conn.Send(ctx, env, body, recordIntent)
//	for i, rcpt := range res.Recipients { /* one verdict each */ }
//	conn.Close()
//
// Everything a server may send is bounded: the length of a reply line, the
// number of lines, and the time for each reply as a whole. Reply texts may
// quote addresses, so no error text of this package contains them; they are
// only in [Reply.Text].
package smtpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strconv"
	"time"
)

// Policy says how a connection is protected.
type Policy uint8

const (
	// Opportunistic uses STARTTLS when it is offered, without verifying the
	// certificate, and goes on in clear when it is not offered, is refused, or
	// the handshake fails (RFC 7435). It protects from listeners only.
	Opportunistic Policy = iota
	// Required uses STARTTLS, verifies the certificate and fails otherwise.
	Required
	// None never uses TLS.
	None
)

// Target is one server to talk to.
type Target struct {
	Host string
	Port int // 0 means 25
	TLS  Policy
	// ServerName is the name the certificate must have; Host when empty.
	ServerName string
	// TLSConfig is the base of the TLS configuration, or nil. It is cloned;
	// ServerName and verification are set from the fields above.
	TLSConfig *tls.Config
}

func (t Target) address() string {
	port := t.Port
	if port == 0 {
		port = 25
	}
	return net.JoinHostPort(t.Host, strconv.Itoa(port))
}

// Dialer opens network connections; it is the package's only seam.
// [net.Dialer.DialContext] is one.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// Config says how to talk to any server. The zero value is ready for use.
type Config struct {
	Hello    string // name in EHLO; "localhost" when empty
	Dial     Dialer // nil: a plain [net.Dialer]
	Timeouts Timeouts
	RootCAs  *x509.CertPool // for [Required]; nil: those of the system
}

// Timeouts limits each step. A zero field takes its default, which is shorter
// than RFC 5321 §4.5.3.2 asks of senders to strangers: the peer is a known
// server near by, and what it does not take in time stays safely in the log.
type Timeouts struct {
	Connect   time.Duration // 10 s
	Banner    time.Duration // 30 s
	Helo      time.Duration // 30 s, also for STARTTLS and the handshake
	Mail      time.Duration // 60 s
	Rcpt      time.Duration // 60 s
	DataInit  time.Duration // 60 s
	DataBlock time.Duration // 60 s for each write of at most 32 KiB
	Dot       time.Duration // 60 s
	Quit      time.Duration // 2 s
}

func (t Timeouts) withDefaults() Timeouts {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&t.Connect, 10*time.Second)
	def(&t.Banner, 30*time.Second)
	def(&t.Helo, 30*time.Second)
	def(&t.Mail, time.Minute)
	def(&t.Rcpt, time.Minute)
	def(&t.DataInit, time.Minute)
	def(&t.DataBlock, time.Minute)
	def(&t.Dot, time.Minute)
	def(&t.Quit, 2*time.Second)
	return t
}

func (c Config) withDefaults() Config {
	c.Timeouts = c.Timeouts.withDefaults()
	if c.Hello == "" {
		c.Hello = "localhost"
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	return c
}

// Envelope is what is said about a message before its bytes.
type Envelope struct {
	// From is the reverse-path as received, with or without angle brackets;
	// "" (or "<>") is the null reverse-path.
	From       string
	Recipients []Recipient

	Ret      string // "", FULL or HDRS (RFC 3461 §4.3)
	EnvID    string // xtext (RFC 3461 §4.4); left away if longer than that allows
	Body     string // "", 7BIT or 8BITMIME (RFC 6152)
	SMTPUTF8 bool   // the message came with SMTPUTF8 (RFC 6531)
	Size     int64  // octets, 0 if unknown (RFC 1870)

	// Begun, if not nil, is called when the server has asked for the body, before
	// that is read.
	Begun func()
}

// Recipient is one forward-path and its notification wishes.
type Recipient struct {
	To     string // as received, with or without angle brackets
	Notify string // NOTIFY as received (RFC 3461 §4.1)
	ORcpt  string // ORCPT as received (RFC 3461 §4.2)
}

// Result is what became of one transaction.
type Result struct {
	// Recipients has one verdict for each recipient of the envelope, in its order.
	Recipients []RecipientResult
	// Final is the answer to the final dot; its Code is 0 if there was none.
	Final Reply
	// Normalised says that the server has bytes that differ from those given:
	// a bare CR or LF became CRLF, or NULs before a dot that begins a line were
	// left out, or a missing CRLF at the very end was added, without which the
	// final dot cannot be sent.
	Normalised bool
	// Uncertain says that the final dot may have been sent and no valid answer
	// to it was received: the server may have accepted the message or not.
	Uncertain bool
	// DSN says that the server was told RET, ENVID, NOTIFY and ORCPT. If it was
	// not, notices that the sender asked for are the caller's to send.
	DSN bool
}

// RecipientResult is the verdict on one recipient.
type RecipientResult struct {
	// Accepted says that the server has taken responsibility: both the
	// recipient and the final dot were answered with 2xx.
	Accepted bool
	// Phase is where the verdict fell.
	Phase Phase
	// Reply is the answer that decided; its Code is 0 if none was received.
	Reply Reply
	// TooMany says that the server refused the recipient only because there are
	// too many in this transaction; another transaction may take it at once
	// (RFC 5321 §4.5.3.1.10).
	TooMany bool
	// Local says that the reply was not the server's: this client refused to
	// ask, because the path is malformed or needs SMTPUTF8.
	Local bool
}

// Permanent says that asking again is useless.
func (r RecipientResult) Permanent() bool {
	return !r.Accepted && !r.TooMany && r.Reply.Permanent()
}
