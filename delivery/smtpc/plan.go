package smtpc

import (
	"strconv"
	"strings"
)

// plan turns the envelope into commands. Recipients that cannot be asked for on
// this connection get their verdict at once.
func (c *Conn) plan(env Envelope) (*transaction, *Error) {
	if len(env.Recipients) == 0 {
		return nil, &Error{Phase: PhaseMail, Err: ErrNoRecipients, Local: true}
	}
	from, err := barePath(env.From)
	if err != nil {
		return nil, &Error{Phase: PhaseMail, Reply: local(501, "5.1.7"), Err: err, Local: true}
	}
	if !c.caps.utf8 && !isASCII(from) {
		return nil, &Error{Phase: PhaseMail, Reply: local(550, "5.6.7"), Err: ErrNoSMTPUTF8, Local: true}
	}
	if c.caps.maxSize > 0 && env.Size > c.caps.maxSize {
		return nil, &Error{Phase: PhaseMail, Reply: local(552, "5.3.4"), Err: ErrTooLarge, Local: true}
	}
	t := &transaction{c: c, res: Result{Recipients: make([]RecipientResult, len(env.Recipients)), DSN: c.caps.dsn}, begun: env.Begun}
	if c.needReset {
		t.cmds = append(t.cmds, command{line: "RSET", phase: PhaseMail, reset: true})
	}
	mail := len(t.cmds)
	t.cmds = append(t.cmds, command{phase: PhaseMail})
	utf8 := env.SMTPUTF8 || !isASCII(from)
	for i, rcpt := range env.Recipients {
		to, err := barePath(rcpt.To)
		switch {
		case err != nil || to == "":
			t.res.Recipients[i] = RecipientResult{Phase: PhaseRcpt, Reply: local(501, "5.1.3"), Local: true}
			continue
		case !c.caps.utf8 && !isASCII(to):
			t.res.Recipients[i] = RecipientResult{Phase: PhaseRcpt, Reply: local(553, "5.6.7"), Local: true}
			continue
		}
		utf8 = utf8 || !isASCII(to)
		t.cmds = append(t.cmds, command{line: c.rcptLine(to, rcpt), phase: PhaseRcpt, rcpt: i})
		t.rcpts = append(t.rcpts, i)
	}
	t.cmds[mail].line = c.mailLine(from, env, utf8)
	t.cmds = append(t.cmds, command{line: "DATA", phase: PhaseData})
	return t, nil
}

// local is a refusal on behalf of a server.
func local(code int, enhanced string) Reply { return Reply{Code: code, Enhanced: enhanced} }

func (c *Conn) mailLine(from string, env Envelope, utf8 bool) string {
	var b strings.Builder
	b.WriteString("MAIL FROM:<")
	b.WriteString(from)
	b.WriteString(">")
	if c.caps.size && env.Size > 0 {
		b.WriteString(" SIZE=")
		b.WriteString(strconv.FormatInt(env.Size, 10))
	}
	if body := strings.ToUpper(env.Body); c.caps.eightBit && (body == "7BIT" || body == "8BITMIME") {
		b.WriteString(" BODY=")
		b.WriteString(body)
	}
	if c.caps.utf8 && utf8 {
		b.WriteString(" SMTPUTF8")
	}
	if c.caps.dsn {
		param(&b, "RET", env.Ret)
		// RFC 3461 §4.4: 100 characters, decoded. A longer one, which we took, is
		// not worth a refusal.
		if len(env.EnvID)-2*strings.Count(env.EnvID, "+") <= 100 {
			param(&b, "ENVID", env.EnvID)
		}
	}
	return b.String()
}

func (c *Conn) rcptLine(to string, rcpt Recipient) string {
	var b strings.Builder
	b.WriteString("RCPT TO:<")
	b.WriteString(to)
	b.WriteString(">")
	if c.caps.dsn {
		param(&b, "NOTIFY", rcpt.Notify)
		param(&b, "ORCPT", rcpt.ORcpt)
	}
	return b.String()
}

// param adds a parameter if it has a value that can be written; a malformed one
// is not worth the message.
func param(b *strings.Builder, name, value string) {
	if validParam(value) {
		b.WriteString(" " + name + "=" + value)
	}
}
