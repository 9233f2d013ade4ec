package smtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
)

// data is DATA (RFC 5321 §4.1.1.4).
func (s *session) data(ctx context.Context, arg []byte) {
	var refusal reply
	switch {
	case len(arg) > 0:
		refusal = replyNoArgument
	case s.peer.Helo == "":
		refusal = replyHeloFirst
	case s.tx == nil:
		refusal = replyMailFirst
	case s.chunking:
		refusal = replyMixed // RFC 3030 §2
	case s.recipients == 0:
		refusal = replyRcptFirst // RFC 5321 §3.3
	}
	if refusal.code != 0 {
		// DATA is the last of its group (RFC 2920 §3.1). What follows already is
		// the body of a client that does not wait for our answer, and a body is
		// never read as commands.
		refusal.close = s.buffered() > 0
		s.answer(refusal)
		return
	}
	s.put(replyGoAhead)
	s.receive(ctx, newDotSource(s))
}

// bdat is the first BDAT of a message (RFC 3030 §2); the others are read by
// chunkSource.
func (s *session) bdat(ctx context.Context, arg []byte) {
	size, last, ok := parseChunk(arg)
	if !ok {
		// Nobody knows how many octets follow.
		s.answer(replyBadChunk)
		return
	}
	src := &chunkSource{s: s, ctx: ctx, pace: newPace(s.limits)}
	src.announce(size, last)
	var refusal reply
	switch {
	case s.peer.Helo == "":
		refusal = replyHeloFirst
	case s.tx == nil:
		refusal = replyMailFirst
	case s.recipients == 0:
		refusal = replyRcptFirst
	}
	if refusal.code == 0 {
		s.chunking = true
		s.receive(ctx, src)
		return
	}
	switch err := src.drain(); {
	case errors.Is(err, errFlood):
		refusal.close = true
	case err != io.EOF:
		s.answer(replyForEnd(err))
		return
	}
	// The first part of the message is gone, so the transaction is, too: a later
	// chunk must not pass for the whole of it.
	s.reset()
	s.answer(refusal)
}

// parseChunk reads "size [LAST]".
func parseChunk(arg []byte) (size int64, last, ok bool) {
	f := words(arg)
	if len(f) == 0 || len(f) > 2 || len(f[0]) > 20 || !digits(string(f[0])) {
		return 0, false, false
	}
	size, err := strconv.ParseInt(string(f[0]), 10, 64)
	if err != nil || len(f) == 2 && !bytes.EqualFold(f[1], []byte("LAST")) {
		return 0, false, false
	}
	return size, len(f) == 2, true
}

// receive hands a message to the transaction, drains what the transaction left
// unread, ends the transaction and answers.
func (s *session) receive(ctx context.Context, src source) {
	b := &body{src: src, max: s.server.config.MaxMessageSize}
	b.hops.max = s.limits.Hops
	call, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var answerBy *time.Timer
	b.ended = func() {
		b.at = time.Now()
		answerBy = time.AfterFunc(s.limits.Answer, func() { cancel(context.DeadlineExceeded) })
	}
	id, err := s.tx.Data(call, b)
	if answerBy != nil {
		answerBy.Stop()
	}
	if err == nil && (b.end != io.EOF || b.refused != nil) && !sabotage.On(sabotage.CutAccepted) {
		panic("internal error: smtpd: backend kept a message that it did not read to its end")
	}
	if b.end == nil {
		b.end = src.drain()
	}
	s.reset()
	if refused := src.refusal(); refused != nil {
		b.refused = refused
	}
	switch {
	case errors.Is(b.end, errAborted):
		// Answered already, or the pending command will be.
	case errors.Is(b.end, errFlood) && b.refused != nil:
		r := replyFor(b.refused)
		r.close = true
		s.answer(r)
	case errors.Is(b.end, errTimeout) && errors.Is(b.refused, ErrBareLineEnd):
		s.answer(replyFor(ErrBareLineEnd))
	case b.end != io.EOF:
		s.answer(replyForEnd(b.end))
	case b.refused != nil:
		s.answer(replyFor(b.refused))
	case err != nil:
		s.failed(ctx, "DATA", err)
	default:
		s.kept(id, b)
	}
}

// kept says 250.
func (s *session) kept(id string, b *body) {
	if !printable(id) {
		panic("internal error: smtpd: message id is not printable")
	}
	failpoint.Hit(failpoint.AcceptedUnsaid)
	s.accepted++
	s.errors, s.unknowns, s.commands = 0, 0, 0
	s.put(reply{code: 250, status: "2.0.0", text: "Kept as " + id})
	s.server.config.Observer.Accepted(b.size, time.Since(b.at))
}

// printable says whether s can stand in a reply.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) < 256
}

// errAborted ends a message whose sender turned to something else between two
// chunks.
var errAborted = fmt.Errorf("%w: between two chunks", ErrIncomplete)

// source yields the bytes of one message from the connection.
type source interface {
	// next returns some bytes (none, perhaps), valid until the next call, or
	// io.EOF at the message's end. Any other error means that the message has none.
	next() ([]byte, error)
	// drain drops the bytes up to where commands begin again, and returns io.EOF
	// there. Any other error means that the conversation is over.
	drain() error
	// refusal says why the message cannot be taken, as far as its transfer shows
	// that by now: ErrBareLineEnd, ErrTooBig, or nil.
	refusal() error
}

// body is what a Transaction reads: the bytes of a source within the limits. It
// holds none of them itself.
type body struct {
	src     source
	rest    []byte // not yet given to the Transaction; lies in the input buffer
	size    int64
	max     int64
	hops    hopCounter
	refused error // a limit was reached, or the message is not acceptable
	end     error // what the source ended with, nil before that
	ended   func()
	at      time.Time // of the end
}

// fetch gets the next bytes.
func (b *body) fetch() error {
	switch {
	case b.refused != nil:
		return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, b.refused)
	case b.end == io.EOF:
		return io.EOF
	case b.end != nil && sabotage.On(sabotage.CutAccepted):
		return io.EOF
	case b.end != nil:
		return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, b.end)
	}
	if b.refused = b.src.refusal(); b.refused != nil {
		return b.fetch()
	}
	chunk, err := b.src.next()
	b.size += int64(len(chunk))
	b.refused = b.src.refusal()
	switch {
	case b.refused != nil:
	case b.size > b.max:
		b.refused = ErrTooBig
	case !b.hops.feed(chunk):
		b.refused = ErrTooManyHops
	}
	if err != nil {
		b.end = err
		if err == io.EOF {
			b.ended()
		}
	}
	if b.refused != nil || err != nil {
		return b.fetch()
	}
	b.rest = chunk
	return nil
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(b.rest) == 0 {
		if err := b.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo, so that io.Copy copies nothing twice.
func (b *body) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(b.rest) > 0 {
			n, err := w.Write(b.rest)
			total += int64(n)
			b.rest = b.rest[n:]
			if err != nil {
				return total, err
			}
			if len(b.rest) > 0 {
				return total, io.ErrShortWrite
			}
		}
		if err := b.fetch(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
	}
}
