package smtpd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Mode says what a server is for.
type Mode int

const (
	_          Mode = iota
	MX              // takes mail from other servers; offers no AUTH
	Submission      // takes mail from users; MAIL needs a login (RFC 6409 §4.3)
)

// Config says how a Server behaves.
type Config struct {
	Hostname string // in the greeting; required
	Mode     Mode   // required
	// TLS returns the configuration for the next handshake, nil where STARTTLS
	// is not offered. It may be nil itself. The server disables session tickets
	// in its own copy, because some senders fail on them.
	// A connection that a TLS listener has accepted is served over TLS at once.
	TLS                func() *tls.Config
	AllowPlaintextAuth bool           // AUTH without TLS
	Limits             Limits         // the zero value means DefaultLimits()
	MaxMessageSize     int64          // bytes of the message, CRLF counted; 0 means 64 MiB
	AllowSources       []netip.Prefix // who may connect; empty means everybody
	Observer           Observer       // counts what happens; may be nil
	Logger             *slog.Logger   // may be nil
}

// Observer hears what a server does, for metrics. Its methods are called from
// many goroutines and must not block.
type Observer interface {
	ConnOpened()
	ConnClosed()
	Refused(Reason)
	LoginTried(LoginResult)
	// Accepted reports a kept message, its size in bytes, and how long the
	// sender waited from the end of data to the answer.
	Accepted(size int64, wait time.Duration)
}

// LoginResult is how a login ended.
type LoginResult string

const (
	LoginOK          LoginResult = "ok"
	LoginBad         LoginResult = "bad"
	LoginUnavailable LoginResult = "unavailable"
	LoginError       LoginResult = "error"
)

// Limits bound what one sender can take. A zero field is replaced by its
// default; a negative number means no limit where that makes sense.
type Limits struct {
	Connections           int           // at one time, in all: 10,000
	ConnectionsPerAddress int           // at one time, from one IPv4 address or IPv6 /64: 50
	Transactions          int           // accepted messages per connection: no limit
	Recipients            int           // accepted per transaction: 1000; RFC 5321 §4.5.3.1.8 asks for 100
	CommandLine           int           // octets with CRLF: 2048, room for every extension's growth over 512
	AuthLine              int           // octets with CRLF: 12,288 (RFC 4954 §4)
	Command               time.Duration // for one whole command line: 300 s (RFC 5321 §4.5.3.2.7)
	Data                  time.Duration // for one read of a body: 300 s
	MinDataRate           int           // octets per second of a body, beyond the first Data seconds: 500
	Answer                time.Duration // for one call of the Backend: 120 s
	ErrorsSoft            int           // errors of a connection before each further one is answered ErrorDelay later: 10
	ErrorsHard            int           // errors before it is closed: 20
	ErrorDelay            time.Duration // 1 s
	LoginFailures         int           // of a connection before it is closed: 5
	Hops                  int           // Received fields: 50 (RFC 5321 §6.3)
}

// DefaultLimits returns the limits that suit a server on the open Internet.
func DefaultLimits() Limits {
	return Limits{
		Connections:           10_000,
		ConnectionsPerAddress: 50,
		Transactions:          -1,
		Recipients:            1000,
		CommandLine:           2048,
		AuthLine:              12_288,
		Command:               300 * time.Second,
		Data:                  300 * time.Second,
		MinDataRate:           500,
		Answer:                120 * time.Second,
		ErrorsSoft:            10,
		ErrorsHard:            20,
		ErrorDelay:            time.Second,
		LoginFailures:         5,
		Hops:                  50,
	}
}

const defaultMaxMessageSize = 64 << 20

// withDefaults replaces zero fields.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ v, d *int }{
		{&l.Connections, &d.Connections}, {&l.ConnectionsPerAddress, &d.ConnectionsPerAddress},
		{&l.Transactions, &d.Transactions}, {&l.Recipients, &d.Recipients},
		{&l.CommandLine, &d.CommandLine}, {&l.AuthLine, &d.AuthLine},
		{&l.MinDataRate, &d.MinDataRate}, {&l.ErrorsSoft, &d.ErrorsSoft},
		{&l.ErrorsHard, &d.ErrorsHard}, {&l.LoginFailures, &d.LoginFailures}, {&l.Hops, &d.Hops},
	} {
		if *f.v == 0 {
			*f.v = *f.d
		}
	}
	for _, f := range []struct{ v, d *time.Duration }{
		{&l.Command, &d.Command}, {&l.Data, &d.Data}, {&l.Answer, &d.Answer}, {&l.ErrorDelay, &d.ErrorDelay},
	} {
		if *f.v == 0 {
			*f.v = *f.d
		}
	}
	return l
}

// complete checks a Config and fills in its defaults.
func (c Config) complete() (Config, error) {
	if c.Hostname == "" {
		return c, errors.New("smtpd: no hostname")
	}
	if !validHelo(c.Hostname) {
		return c, errors.New("smtpd: hostname is not one")
	}
	if c.Mode != MX && c.Mode != Submission {
		return c, fmt.Errorf("smtpd: unknown mode %d", c.Mode)
	}
	c.Limits = c.Limits.withDefaults()
	if c.Limits.CommandLine < 512 || c.Limits.CommandLine > bodyBuffer || c.Limits.AuthLine > bodyBuffer {
		return c, fmt.Errorf("smtpd: line limits must lie between 512 and %d octets", bodyBuffer)
	}
	if c.Limits.Recipients < 1 || c.Limits.Command < 0 || c.Limits.Data < 0 || c.Limits.Answer < 0 {
		return c, errors.New("smtpd: a limit that must not be negative is")
	}
	if c.MaxMessageSize == 0 {
		c.MaxMessageSize = defaultMaxMessageSize
	}
	if c.MaxMessageSize < 0 || c.MaxMessageSize > 1<<50 {
		return c, errors.New("smtpd: message size limit out of range")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	return c, nil
}

// noObserver hears nothing.
type noObserver struct{}

func (noObserver) ConnOpened()                   {}
func (noObserver) ConnClosed()                   {}
func (noObserver) Refused(Reason)                {}
func (noObserver) LoginTried(LoginResult)        {}
func (noObserver) Accepted(int64, time.Duration) {}
