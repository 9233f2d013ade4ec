package smtpd

import (
	"bytes"
	"context"
)

// mail is MAIL (RFC 5321 §4.1.1.2).
func (s *session) mail(ctx context.Context, arg []byte) {
	c := &s.server.config
	switch {
	case s.peer.Helo == "":
		s.answer(replyHeloFirst)
		return
	case s.tx != nil && s.chunking:
		s.answer(replyMixed)
		return
	case s.tx != nil:
		s.answer(replyNested)
		return
	case c.Mode == Submission && !s.authed:
		s.answer(replyNeedLogin)
		return
	case c.Limits.Transactions > 0 && s.accepted >= c.Limits.Transactions:
		s.answer(replyTransactions)
		return
	}
	arg, ok := cutPrefixFold(arg, "FROM:")
	if !ok {
		s.answer(replyMailSyntax)
		return
	}
	path, rest, ok := parsePath(arg)
	if !ok || path.Raw != "" && path.Domain == "" {
		s.answer(replyBadSender)
		return
	}
	p, refusal := parseMailParams(rest, c.Mode == Submission)
	switch {
	case refusal.code != 0:
		s.answer(refusal)
		return
	case !p.SMTPUTF8 && !isASCII(path.Raw):
		s.answer(replyNeedUTF8)
		return
	case p.Size > c.MaxMessageSize:
		// RFC 1870 §6.1: told before a byte of it is sent.
		s.answer(replyFor(ErrTooBig))
		return
	}
	call, cancel := context.WithTimeout(ctx, s.limits.Answer)
	defer cancel()
	from := ReversePath{Path: path, Null: path.Raw == ""}
	tx, err := s.server.backend.Begin(call, s.peer, s.login, from, p)
	if err != nil {
		s.failed(ctx, "MAIL", err)
		return
	}
	s.tx, s.utf8 = tx, p.SMTPUTF8
	s.answer(replySenderOK)
}

// rcpt is RCPT (RFC 5321 §4.1.1.3).
func (s *session) rcpt(ctx context.Context, arg []byte) {
	switch {
	case s.tx == nil:
		s.answer(replyMailFirst)
		return
	case s.chunking:
		s.answer(replyMixed)
		return
	}
	arg, ok := cutPrefixFold(arg, "TO:")
	if !ok {
		s.answer(replyRcptSyntax)
		return
	}
	path, rest, ok := parsePath(arg)
	if !ok || path.Raw == "" || path.Domain == "" && !equalFold(path.Local, "postmaster") {
		s.answer(replyBadRcpt)
		return
	}
	p, refusal := parseRcptParams(rest, s.utf8)
	switch {
	case refusal.code != 0:
		s.answer(refusal)
		return
	case !s.utf8 && !isASCII(path.Raw):
		s.answer(replyNeedUTF8)
		return
	case s.recipients >= s.limits.Recipients:
		// RFC 5321 §4.5.3.1.10: the others are kept.
		s.answer(replyFor(ErrTooManyRecipients))
		return
	}
	call, cancel := context.WithTimeout(ctx, s.limits.Answer)
	defer cancel()
	if err := s.tx.Rcpt(call, ForwardPath{path}, p); err != nil {
		s.failed(ctx, "RCPT", err)
		return
	}
	s.recipients++
	s.answer(replyRcptOK)
}

// failed answers an error of the Backend. The log line holds the error only
// where it is ours; what a sender may cause at will stays out of it.
func (s *session) failed(ctx context.Context, command string, err error) {
	r := replyFor(err)
	if r.reason == ReasonTemporary {
		s.server.config.Logger.WarnContext(ctx, "temporary refusal", "command", command, "error", err, "conn", s.peer.ConnID)
	} else {
		s.logger(ctx, "refusal", "command", command, "reason", string(r.reason))
	}
	s.answer(r)
}

// cutPrefixFold cuts a keyword in any case, and the white space after it that
// many senders add.
func cutPrefixFold(b []byte, prefix string) ([]byte, bool) {
	if len(b) < len(prefix) || !bytes.EqualFold(b[:len(prefix)], []byte(prefix)) {
		return nil, false
	}
	return bytes.TrimLeft(b[len(prefix):], " \t"), true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
