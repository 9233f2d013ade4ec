package smtpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
	"unicode/utf8"
)

// session is one conversation.
type session struct {
	*wire
	server *Server
	cancel context.CancelFunc
	peer   Peer
	login  Login
	authed bool // login is valid, even if nil
	tls    bool

	tx         Transaction // nil outside a transaction
	recipients int         // accepted in tx
	utf8       bool        // SMTPUTF8 was given in MAIL
	chunking   bool        // tx is between the chunks of its message

	pending       []byte // a command read while a body was expected, or nil
	errors        int    // since the last accepted message
	unknowns      int    // recipients refused as unknown, likewise
	commands      int    // likewise
	erred         bool   // the command in hand was an error
	loginFailures int
	accepted      int
	ended         bool // nothing more is read
	linger        bool // input may be on its way that nobody will read
}

func newSession(s *Server, conn net.Conn, cancel context.CancelFunc) *session {
	return &session{server: s, cancel: cancel, wire: newWire(conn, s.buffers, &s.config.Limits, &s.closing)}
}

// run holds the conversation and closes the connection.
func (s *session) run(ctx context.Context) {
	defer func() { s.hangUp(s.linger) }()
	defer s.reset()
	if c, ok := s.conn.(*tls.Conn); ok && !s.handshake(ctx, c) {
		return
	}
	// RFC 5321 §4.2: no enhanced status code in the greeting.
	s.put(reply{code: 220, text: s.server.config.Hostname + " ESMTP Holdfast"})
	for !s.ended {
		line, err := s.next()
		if err != nil {
			s.badLine(err)
			continue
		}
		s.dispatch(ctx, line)
		s.slowDown(ctx)
	}
}

// next returns the next command line.
func (s *session) next() ([]byte, error) {
	if s.pending != nil {
		line := s.pending
		s.pending = nil
		return line, nil
	}
	limits := &s.server.config.Limits
	line, err := s.readLine(max(limits.CommandLine, limits.AuthLine))
	if err == nil && len(line)+2 > limits.CommandLine && !hasVerb(line, "AUTH") {
		copy(s.long[:], line)
		return nil, errTooLong
	}
	return line, err
}

// badLine answers a line that is none.
func (s *session) badLine(err error) {
	switch {
	case errors.Is(err, errTooLong):
		s.refuseBodyOf(s.long[:])
		s.answer(replyTooLong)
	case errors.Is(err, errBareLF):
		s.answer(replyBareLF)
	case errors.Is(err, ErrIncomplete):
		// The client has gone between two commands. That is no error of anybody's.
		s.ended = true
	default:
		s.answer(replyForEnd(err))
		s.linger = s.buffered() > 0
	}
}

// answer queues a reply, counts it, and ends the conversation where the reply
// says so.
func (s *session) answer(r reply) {
	s.put(r)
	if r.reason != "" {
		s.server.config.Observer.Refused(r.reason)
	}
	if r.close {
		s.ended = true
		s.linger = r.code >= 400
		return
	}
	// Temporary refusals are ours, not the sender's errors.
	if r.code < 500 {
		return
	}
	s.erred = true
	// A sender's list may hold many recipients that are gone; that slows the
	// conversation down but does not end it, or the others would never get
	// their mail.
	if r.reason == ReasonRecipient {
		s.unknowns++
		return
	}
	s.errors++
	if hard := s.limits.ErrorsHard; hard > 0 && s.errors >= hard {
		s.answer(replyErrors)
	}
}

// slowDown delays the reply to an error of a sender that has made many.
func (s *session) slowDown(ctx context.Context) {
	erred := s.erred
	s.erred = false
	soft, delay := s.limits.ErrorsSoft, s.limits.ErrorDelay
	if !erred || s.ended || soft < 0 || s.errors+s.unknowns <= soft || delay <= 0 || s.closing.Load() {
		return
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// command returns what carries out a verb, given in upper case, or nil.
func command(verb string) func(*session, context.Context, []byte) {
	switch verb {
	case "HELO":
		return (*session).helo
	case "EHLO":
		return (*session).ehlo
	case "MAIL":
		return (*session).mail
	case "RCPT":
		return (*session).rcpt
	case "DATA":
		return (*session).data
	case "BDAT":
		return (*session).bdat
	case "RSET":
		return (*session).rset
	case "VRFY":
		return (*session).vrfy
	case "QUIT":
		return (*session).quit
	case "STARTTLS":
		return (*session).startTLS
	case "AUTH":
		return (*session).auth
	case "NOOP":
		return always(replyOK)
	case "HELP":
		return always(replyHelp)
	case "EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML":
		return always(replyNotHere)
	case "GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS":
		// Somebody makes a browser or another program talk to us: its body could
		// hold commands (cross-protocol injection).
		return always(replyNotMail)
	}
	return nil
}

// always answers the same whatever the argument.
func always(r reply) func(*session, context.Context, []byte) {
	return func(s *session, _ context.Context, _ []byte) { s.answer(r) }
}

// maxCommands is how many commands may come before a message does. It is more
// than any sender with many recipients needs, and less than endless.
const maxCommands = 5000

// dispatch carries out one command line.
func (s *session) dispatch(ctx context.Context, line []byte) {
	if s.commands++; s.commands > maxCommands {
		s.answer(replyCommands)
		return
	}
	// RFC 5321 §4.1.1: white space before the CRLF is tolerated.
	line = bytes.TrimRight(line, " \t")
	if !cleanLine(line) {
		s.refuseBodyOf(line)
		s.answer(replyBadByte)
		return
	}
	verb, arg := cutVerb(line)
	do := command(verb)
	if do == nil {
		s.unknown(line)
		return
	}
	do(s, ctx, arg)
}

// maxVerb is longer than any verb.
const maxVerb = 10

// cutVerb splits a line at its first space, after white space at its end was cut
// (RFC 5321 §4.1.1). The verb is in upper case, and empty if it is longer than
// any there is.
func cutVerb(line []byte) (verb string, arg []byte) {
	word, arg, _ := bytes.Cut(bytes.TrimRight(line, " \t"), []byte(" "))
	if len(word) > maxVerb {
		return "", arg
	}
	var upper [maxVerb]byte
	n := copy(upper[:], word)
	for i := range upper[:n] {
		if c := upper[i]; 'a' <= c && c <= 'z' {
			upper[i] = c - 'a' + 'A'
		}
	}
	return string(upper[:n]), arg
}

// unknown answers a verb that is none. A header field's name means that a
// message is being read as commands, which must end here.
func (s *session) unknown(line []byte) {
	verb, _, _ := bytes.Cut(line, []byte(" "))
	s.refuseBodyOf(line)
	if len(verb) > 1 && verb[len(verb)-1] == ':' {
		s.answer(replyNotMail)
		return
	}
	s.answer(replyUnknown)
}

// refuseBodyOf ends the conversation if a line that cannot be understood may
// announce a chunk, because nobody knows then where the next command begins, or
// if it may be DATA and what a client that does not wait sends behind it is there.
func (s *session) refuseBodyOf(line []byte) {
	if hasVerb(line, "BDAT") || hasVerb(line, "DATA") && s.buffered() > 0 {
		s.ended, s.linger = true, true
	}
}

// hasVerb says whether a line's first word is the (upper-case) verb.
func hasVerb(line []byte, verb string) bool {
	return len(line) >= len(verb) && bytes.EqualFold(line[:len(verb)], []byte(verb)) &&
		(len(line) == len(verb) || !('A' <= line[len(verb)]&^0x20 && line[len(verb)]&^0x20 <= 'Z'))
}

// cleanLine says whether a line holds nothing but printable characters, spaces
// and tabs, ASCII or UTF-8 (RFC 6531 §3.7.1 lets UTF-8 into few commands, which
// look for themselves).
func cleanLine(line []byte) bool {
	ascii := true
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
		ascii = ascii && c < 0x80
	}
	return ascii || utf8.Valid(line)
}

// helo is HELO (RFC 5321 §4.1.1.1).
func (s *session) helo(_ context.Context, arg []byte) {
	if !validHelo(string(arg)) {
		s.answer(replyBadHelo)
		return
	}
	s.reset()
	s.peer.Helo, s.peer.ESMTP = string(arg), false
	s.put(reply{code: 250, text: s.server.config.Hostname})
}

// ehlo is EHLO (RFC 5321 §4.1.1.1). Like HELO it ends an open transaction.
func (s *session) ehlo(_ context.Context, arg []byte) {
	if !validHelo(string(arg)) {
		s.answer(replyBadHelo)
		return
	}
	s.reset()
	s.peer.Helo, s.peer.ESMTP = string(arg), true
	c := &s.server.config
	lines := []string{
		c.Hostname, "PIPELINING", "SIZE " + strconv.FormatInt(c.MaxMessageSize, 10), "8BITMIME",
		"SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "DSN",
	}
	if !s.tls && s.tlsConfig() != nil {
		lines = append(lines, "STARTTLS")
	}
	if c.Mode == Submission && s.mayAuth() && !s.authed {
		lines = append(lines, "AUTH PLAIN LOGIN")
	}
	for _, l := range lines {
		s.out = fmt.Appendf(s.out, "250-%s\r\n", l)
	}
	s.out = append(s.out, "250 HELP\r\n"...)
}

// validHelo takes what senders give as their name, as long as it is one
// printable ASCII word that cannot break out of a Received line.
func validHelo(name string) bool {
	if name == "" || len(name) > 255 {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c <= ' ' || c > '~':
			return false
		case c == '(' || c == ')' || c == '<' || c == '>' || c == ',' || c == ';' || c == '"' || c == '\\' || c == '@':
			return false
		}
	}
	return true
}

// rset is RSET (RFC 5321 §4.1.1.5).
func (s *session) rset(_ context.Context, arg []byte) {
	if len(arg) > 0 {
		s.answer(replyNoArgument)
		return
	}
	s.reset()
	s.answer(replyOK)
}

// reset ends the open transaction, if any.
func (s *session) reset() {
	tx := s.tx
	s.tx, s.recipients, s.utf8, s.chunking = nil, 0, false, false
	if tx != nil {
		tx.Close()
	}
}

// vrfy is VRFY (RFC 5321 §3.5.3): we never say who exists here.
func (s *session) vrfy(_ context.Context, arg []byte) {
	if len(arg) == 0 {
		s.answer(replyNeedArgument)
		return
	}
	s.answer(replyVerify)
}

// quit is QUIT (RFC 5321 §4.1.1.10).
func (s *session) quit(_ context.Context, arg []byte) {
	if len(arg) > 0 {
		s.answer(replyNoArgument)
		return
	}
	s.reset()
	s.answer(replyBye)
	s.linger = s.buffered() > 0
}
