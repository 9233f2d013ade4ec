package smtpc

import (
	"context"
	"fmt"
	"io"
	"time"

	"holdfast/internal/failpoint"
)

// Send makes one transaction. body gives the exact bytes of the message; it is
// read to its end, and never closed.
//
// When at least one recipient was accepted and the body was sent, beforeDot (if
// it is not nil) is called, and only when it returns nil is the final dot sent.
// Otherwise, and when body cannot be read, the connection is broken off, so that
// the server cannot take the message, and the error says [PhaseBody].
//
// The error is nil when every recipient has its own verdict in the Result, even
// if all were refused. Otherwise it is an [*Error] that decides for all
// recipients that were not refused before, and the Result holds it for each of
// them as well. See [Result.Uncertain] for the one case in which an error does
// not mean that the message was not delivered.
//
// Extensions that the server does not offer are left away: SIZE, the DSN
// parameters (see [Result.DSN]), BODY and SMTPUTF8. A body with octets above 127
// goes out as it is even then, because an archive does not rewrite what others
// wrote; only an address that needs SMTPUTF8 is refused on the server's behalf,
// with 5.6.7 (RFC 6531 §3.5). Lines of any length pass.
//
// Cancelling ctx closes the connection. After an error the connection may still
// be fit for use; [Conn.Alive] says.
func (c *Conn) Send(ctx context.Context, env Envelope, body io.Reader, beforeDot func(context.Context) error) (Result, error) {
	if c.broken {
		return undecided(env, &Error{Phase: PhaseMail, Err: ErrClosed})
	}
	tx, err := c.plan(env)
	if err != nil {
		return undecided(env, err)
	}
	if len(tx.rcpts) == 0 {
		return tx.res, nil
	}
	c.transactions++
	stop := c.watch(ctx)
	e := tx.run(ctx, body, beforeDot)
	stop()
	if e != nil {
		_ = blameContext(ctx, e)
		tx.decideRest(e)
		return tx.res, e
	}
	return tx.res, nil
}

// undecided is the result of a transaction that was never begun.
func undecided(env Envelope, e *Error) (Result, error) {
	res := Result{Recipients: make([]RecipientResult, len(env.Recipients))}
	for i := range res.Recipients {
		res.Recipients[i] = RecipientResult{Phase: e.Phase, Reply: e.Reply, Local: e.Local}
	}
	return res, e
}

// transaction is one run through MAIL, RCPT, DATA, body and dot.
type transaction struct {
	c     *Conn
	cmds  []command
	rcpts []int  // the recipients asked for, as indexes into res.Recipients
	begun func() // see Envelope
	res   Result

	accepted int   // recipients the server said 2xx to
	taken    []int // which
	opened   bool  // MAIL was answered with 2xx
	refused  *Error
}

// command is one line of the envelope.
type command struct {
	line  string
	phase Phase
	rcpt  int // for PhaseRcpt: index into res.Recipients
	reset bool
}

// flightLimit is how many octets of commands may be under way without their
// replies having been read (RFC 2920 §3.1). A flight that fits into the read
// buffer of any server can be written to its end even if the server reads
// nothing while it writes, so client and server cannot wait for each other.
const flightLimit = 4096

// flight returns how many of the commands go out together.
func (c *Conn) flight(cmds []command) int {
	if !c.caps.pipelining {
		return 1
	}
	n, size := 0, 0
	for n < len(cmds) {
		size += len(cmds[n].line) + len(crlf)
		if n > 0 && size > flightLimit {
			break
		}
		n++
	}
	return n
}

func (t *transaction) run(ctx context.Context, body io.Reader, beforeDot func(context.Context) error) *Error {
	go354, err := t.envelope()
	if err != nil || !go354 {
		return err
	}
	if t.begun != nil {
		t.begun()
	}
	if err := t.body(body); err != nil {
		return err
	}
	// The server gets the body while the hook is at work.
	if err := t.c.bw.Flush(); err != nil {
		return t.c.bodyFailed(err)
	}
	if beforeDot != nil {
		if err := beforeDot(ctx); err != nil {
			t.c.abort()
			return &Error{Phase: PhaseBody, Err: fmt.Errorf("before the final dot: %w", err), Local: true}
		}
	}
	// A reply that came before the dot must not be taken for its answer, and a
	// connection that has gone meanwhile is a certain failure, not an uncertain
	// one.
	if err := t.c.silence(PhaseBody); err != nil {
		t.c.abort()
		return err
	}
	return t.finalDot()
}

// envelope sends the commands up to DATA and returns whether the body may follow.
func (t *transaction) envelope() (bool, *Error) {
	c := t.c
	for cmds := t.cmds; len(cmds) > 0; {
		if cmds[0].phase == PhaseData && t.accepted == 0 {
			c.needReset = t.opened
			return false, t.refused
		}
		n := c.flight(cmds)
		if err := c.write(cmds[:n]); err != nil {
			return false, err
		}
		for _, cmd := range cmds[:n] {
			r, err := c.reply(cmd.phase, c.timeout(cmd.phase))
			if err != nil {
				return false, err.(*Error)
			}
			if r.Code == 421 {
				if t.refused != nil {
					return false, t.refused
				}
				return false, &Error{Phase: cmd.phase, Reply: r}
			}
			if cmd.phase == PhaseData {
				return t.data(r)
			}
			if err := t.answer(cmd, r); err != nil {
				return false, err
			}
		}
		cmds = cmds[n:]
		if t.refused != nil && len(cmds) > 0 {
			return false, t.refused // MAIL was refused and DATA is not yet out.
		}
	}
	return false, t.refused
}

func (c *Conn) timeout(p Phase) time.Duration {
	switch p {
	case PhaseRcpt:
		return c.cfg.Timeouts.Rcpt
	case PhaseData:
		return c.cfg.Timeouts.DataInit
	}
	return c.cfg.Timeouts.Mail
}

func (c *Conn) write(cmds []command) *Error {
	c.wire.timeout = c.timeout(cmds[0].phase)
	for _, cmd := range cmds {
		c.bw.WriteString(cmd.line)
		c.bw.Write(crlf)
	}
	if err := c.bw.Flush(); err != nil {
		e := c.fail(cmds[0].phase, err)
		c.lastWords(e)
		return e
	}
	return nil
}

// answer takes note of the reply to RSET, MAIL or RCPT.
func (t *transaction) answer(cmd command, r Reply) *Error {
	switch {
	case r.Code/100 == 3:
		return t.c.fail(cmd.phase, fmt.Errorf("%w: %s", ErrMalformedReply, r.codes()))
	case cmd.reset:
		// A server that cannot reset will refuse MAIL, and that decides.
		t.c.needReset = false
	case cmd.phase == PhaseMail:
		t.opened = r.Positive()
		if !t.opened {
			t.refused = &Error{Phase: PhaseMail, Reply: r}
		}
	case t.refused != nil:
		// The refusal of MAIL decides, not the complaint that MAIL is missing.
	default:
		t.recipient(cmd.rcpt, r)
	}
	return nil
}

func (t *transaction) recipient(i int, r Reply) {
	rr := &t.res.Recipients[i]
	*rr = RecipientResult{Phase: PhaseRcpt, Reply: r}
	if r.Positive() {
		t.accepted++
		t.taken = append(t.taken, i)
		return
	}
	// RFC 5321 §4.5.3.1.10 has 452, and 552 from old servers. Both also mean a
	// full mailbox, so without the enhanced code they mean "too many" only after
	// others were accepted.
	full := r.Code == 452 || r.Code == 552
	rr.TooMany = full && t.accepted > 0 && (r.Enhanced == "" || r.Enhanced == "4.5.3" || r.Enhanced == "5.5.3")
}

// data acts on the reply to DATA. RFC 2920 §3.1: with pipelining DATA may have
// been accepted although nothing before it was.
func (t *transaction) data(r Reply) (bool, *Error) {
	c := t.c
	proceed := t.refused == nil && t.accepted > 0
	switch {
	case r.Code == 354 && proceed:
		return true, nil
	case r.Code == 354:
		// The only way back to commands is an empty message for nobody.
		if _, err := c.command(PhaseData, c.cfg.Timeouts.Dot, "."); err != nil {
			c.abort()
		}
		return false, t.refused
	case r.Positive() || r.Code/100 == 3:
		return false, c.fail(PhaseData, fmt.Errorf("%w: %s", ErrMalformedReply, r.codes()))
	}
	c.needReset = t.opened
	if !proceed {
		return false, t.refused
	}
	return false, &Error{Phase: PhaseData, Reply: r}
}

// body sends the message without the final dot.
func (t *transaction) body(body io.Reader) *Error {
	c := t.c
	c.wire.timeout = c.cfg.Timeouts.DataBlock
	w := &bodyWriter{w: c.bw}
	if c.scratch == nil {
		c.scratch = make([]byte, writeBuffer)
	}
	for {
		n, readErr := body.Read(c.scratch)
		if _, err := w.Write(c.scratch[:n]); err != nil {
			return c.bodyFailed(err)
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			c.abort()
			return &Error{Phase: PhaseBody, Err: fmt.Errorf("read message: %w", readErr), Local: true}
		}
	}
	if err := w.finish(); err != nil {
		return c.bodyFailed(err)
	}
	t.res.Normalised = w.normalised
	return nil
}

// bodyFailed closes the connection, so that no part of a message is taken for
// the whole, and asks what the server said last.
func (c *Conn) bodyFailed(err error) *Error {
	e := c.fail(PhaseBody, err)
	c.lastWords(e)
	c.abort()
	return e
}

// lastWords adds the refusal that a server may have sent before it stopped
// listening.
func (c *Conn) lastWords(e *Error) {
	if c.nc.SetReadDeadline(time.Now().Add(250*time.Millisecond)) != nil {
		return
	}
	if r, err := readReply(c.br); err == nil && (r.Temporary() || r.Permanent()) {
		e.Reply = r
	}
}

// finalDot is the point of no return.
func (t *transaction) finalDot() *Error {
	c := t.c
	c.wire.timeout = c.cfg.Timeouts.Dot
	before := c.wire.written
	failpoint.Hit(failpoint.DotUnsent)
	c.bw.WriteString(".\r\n")
	if err := c.bw.Flush(); err != nil {
		// Without encryption it is known how much of the dot left; part of it
		// ends nothing. TLS may have sent what it reports as failed.
		t.res.Uncertain = c.secure || c.wire.written-before == int64(len(".\r\n"))
		e := c.fail(PhaseDot, err)
		c.abort()
		return e
	}
	failpoint.Hit(failpoint.DotSent)
	r, err := c.reply(PhaseDot, c.cfg.Timeouts.Dot)
	if err == nil && r.Code/100 == 3 {
		err = c.fail(PhaseDot, fmt.Errorf("%w: %s", ErrMalformedReply, r.codes()))
	}
	if err != nil {
		t.res.Uncertain = true // RFC 1047
		c.abort()
		return err.(*Error)
	}
	failpoint.Hit(failpoint.DotAnswered)
	t.res.Final = r
	if !r.Positive() {
		return &Error{Phase: PhaseDot, Reply: r}
	}
	for _, i := range t.taken {
		t.res.Recipients[i] = RecipientResult{Accepted: true, Phase: PhaseDot, Reply: r}
	}
	return nil
}

// decideRest gives the error's verdict to all recipients that were not refused
// one by one.
func (t *transaction) decideRest(e *Error) {
	for _, i := range t.rcpts {
		rr := &t.res.Recipients[i]
		if rr.Phase != PhaseRcpt || rr.Reply.Positive() {
			*rr = RecipientResult{Phase: e.Phase, Reply: e.Reply, Local: e.Local}
		}
	}
}
