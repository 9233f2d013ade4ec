package smtpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
)

// tlsConfig returns the server's side of the next handshake, or nil.
func (s *session) tlsConfig() *tls.Config {
	if s.server.config.TLS == nil {
		return nil
	}
	c := s.server.config.TLS()
	if c == nil {
		return nil
	}
	c = c.Clone()
	// Large senders break on session tickets made by crypto/tls and then never
	// deliver over TLS.
	c.SessionTicketsDisabled = true
	return c
}

// startTLS is STARTTLS (RFC 3207).
func (s *session) startTLS(ctx context.Context, arg []byte) {
	config := s.tlsConfig()
	switch {
	case len(arg) > 0:
		s.answer(replyNoArgument)
		return
	case s.tls:
		s.answer(replyTLSActive)
		return
	case config == nil:
		s.answer(replyNoTLS)
		return
	case s.tx != nil:
		s.answer(replyNested)
		return
	}
	s.answer(replyReadyTLS)
	s.flush()
	// What was sent in the clear after STARTTLS may come from somebody in the
	// middle and must not be read as if it had come through TLS.
	s.discard()
	if s.handshake(ctx, tls.Server(s.raw, config)) {
		s.logger(ctx, "tls established")
	}
}

// handshake makes TLS the connection's transport, and forgets what was learnt
// before it (RFC 3207 §4.2).
func (s *session) handshake(ctx context.Context, c *tls.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Command)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		s.logger(ctx, "tls handshake failed")
		s.ended, s.broken = true, true
		return false
	}
	state := c.ConnectionState()
	s.reset()
	s.conn, s.tls = c, true
	s.peer.TLS, s.peer.Helo, s.peer.ESMTP = &state, "", false
	s.login, s.authed = nil, false
	return true
}

// logger writes a debug line about the connection.
func (s *session) logger(ctx context.Context, msg string, args ...any) {
	s.server.config.Logger.DebugContext(ctx, msg, append(args, "conn", s.peer.ConnID)...)
}

// mayAuth says whether passwords may be sent over this connection.
func (s *session) mayAuth() bool { return s.tls || s.server.config.AllowPlaintextAuth }

// auth is AUTH (RFC 4954).
func (s *session) auth(ctx context.Context, arg []byte) {
	mechanism, initial, hasInitial := bytes.Cut(arg, []byte(" "))
	switch {
	case s.server.config.Mode != Submission:
		s.answer(replyNotHere)
	case s.peer.Helo == "":
		s.answer(replyHeloFirst)
	case s.authed:
		s.answer(replyLoggedIn)
	case s.tx != nil:
		s.answer(replyNested)
	case len(mechanism) == 0:
		s.answer(replyNeedArgument)
	case !bytes.EqualFold(mechanism, []byte("PLAIN")) && !bytes.EqualFold(mechanism, []byte("LOGIN")):
		s.answer(replyMechanism)
	case !s.mayAuth():
		s.answer(replyNeedTLS)
	case bytes.EqualFold(mechanism, []byte("PLAIN")):
		s.authPlain(ctx, initial, hasInitial)
	default:
		s.authLogin(ctx, initial, hasInitial)
	}
}

// errCancelled is the client's "*".
var errCancelled = errors.New("authentication cancelled")

// authPlain is PLAIN (RFC 4616): identity NUL user NUL password.
func (s *session) authPlain(ctx context.Context, initial []byte, hasInitial bool) {
	response, err := s.response("", initial, hasInitial)
	if err != nil {
		s.authFailed(err)
		return
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 {
		s.answer(replyAuthSyntax)
		return
	}
	s.check(ctx, string(parts[0]), string(parts[1]), string(parts[2]))
}

// authLogin is LOGIN, which was never more than a draft: two questions.
func (s *session) authLogin(ctx context.Context, initial []byte, hasInitial bool) {
	user, err := s.response("VXNlcm5hbWU6", initial, hasInitial) // "Username:"
	if err != nil {
		s.authFailed(err)
		return
	}
	name := string(user)
	password, err := s.response("UGFzc3dvcmQ6", nil, false) // "Password:"
	if err != nil {
		s.authFailed(err)
		return
	}
	if name == "" {
		s.answer(replyAuthSyntax)
		return
	}
	s.check(ctx, "", name, string(password))
}

// response returns the client's decoded answer to a challenge, or the initial
// response, where "=" stands for an empty one (RFC 4954 §4).
func (s *session) response(challenge string, initial []byte, hasInitial bool) ([]byte, error) {
	line := initial
	if !hasInitial {
		s.put(reply{code: 334, text: challenge})
		var err error
		if line, err = s.readLine(s.limits.AuthLine); err != nil {
			return nil, err
		}
		if string(line) == "*" {
			return nil, errCancelled
		}
	} else if string(line) == "=" {
		return nil, nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	// The decoder skips CR and LF, which no line here may hold.
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, base64.CorruptInputError(0)
	}
	n, err := base64.StdEncoding.Strict().Decode(out, line)
	return out[:n], err
}

// authFailed answers an exchange that did not get as far as a login.
func (s *session) authFailed(err error) {
	var corrupt base64.CorruptInputError
	switch {
	case errors.Is(err, errCancelled):
		s.answer(replyAuthCancel)
	case errors.As(err, &corrupt):
		s.answer(replyAuthSyntax)
	case errors.Is(err, errTooLong):
		s.answer(replyAuthLong)
	default:
		s.badLine(err)
	}
}

// check asks the Backend about a login.
func (s *session) check(ctx context.Context, identity, user, password string) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Answer)
	defer cancel()
	login, err := s.server.backend.Auth(ctx, s.peer, identity, user, password)
	if err == nil {
		s.login, s.authed = login, true
		s.server.config.Observer.LoginTried(LoginOK)
		s.answer(replyLoginOK)
		return
	}
	r, result := replyForLogin(err)
	s.server.config.Observer.LoginTried(result)
	s.answer(r)
	if result != LoginBad {
		return
	}
	s.loginFailures++
	if max := s.limits.LoginFailures; max > 0 && s.loginFailures >= max && !s.ended {
		s.answer(replyErrors)
	}
}
