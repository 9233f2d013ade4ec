package world

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"holdfast/sim/check"
)

// sender sends its letters one after the other.
type sender struct {
	inhabitant
	number int
	said   []check.Transaction
}

func newSender(w *World, number int) *sender {
	return &sender{inhabitant: w.inhabitant(fmt.Sprintf("sender%d", number)), number: number}
}

func (s *sender) run(ctx context.Context) {
	for range s.world.cfg.Size.Letters {
		if !s.pause(ctx, s.between(0, 40*time.Second)) || !s.misbehaves() {
			return
		}
		s.deliver(ctx, s.newLetter(s.from(), s.recipients(), s.size()), login{})
	}
}

// probe sends a lone message to everybody of one customer.
func (s *sender) probe(ctx context.Context) {
	to := residents[:3]
	if s.number%2 == 1 {
		to = residents[3:]
	}
	s.deliver(ctx, s.newLetter(s.from(), slices.Clone(to), 500), login{})
	s.pause(ctx, s.between(time.Second, 3*time.Second))
}

func (s *sender) from() string {
	if s.chance(10) {
		return "" // a bounce of somebody's
	}
	return fmt.Sprintf("%s-%d@%s", senderWords, s.number, far)
}

func (s *sender) recipients() []string {
	to := slices.Clone(residents)
	s.rng.Shuffle(len(to), func(a, b int) { to[a], to[b] = to[b], to[a] })
	to = to[:1+s.rng.IntN(len(to))]
	if s.chance(10) {
		to = append(to, "nobody-here@"+acme)
	}
	return to
}

// login is who submits; the zero login is a sender from the network.
type login struct{ user string }

// courier is whoever hands letters in.
type courier struct {
	*inhabitant
	said  *[]check.Transaction
	serve func(node string) string // the address to dial
	login login
}

func (s *sender) deliver(ctx context.Context, l *letter, who login) {
	c := &courier{inhabitant: &s.inhabitant, said: &s.said, serve: func(n string) string { return n + ":25" }, login: who}
	c.deliver(ctx, l)
}

// deliver tries until every recipient has been accepted or refused, or patience
// ends. A calm world is tried for as long as it takes.
func (c *courier) deliver(ctx context.Context, l *letter) {
	stubborn := c.chance(80)
	for len(l.to) > 0 {
		l.tries++
		c.attempt(ctx, l)
		// Users may not be admitted for as long as their primary is up.
		if len(l.to) == 0 || !stubborn && l.tries > 2 && c.misbehaves() || c.login.user != "" && l.tries > 4 {
			return
		}
		most := 90 * time.Second
		if !c.misbehaves() {
			most = 5 * time.Second
		}
		if !c.pause(ctx, c.between(time.Second, most)) {
			return
		}
	}
}

// attempt makes one connection with one transaction.
func (c *courier) attempt(ctx context.Context, l *letter) {
	node := c.node()
	p := c.plan(l)
	began := time.Now()
	conn, err := c.net.Dial(ctx, "tcp", c.serve(node))
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	tx := check.Transaction{
		Sender: c.name, Node: node, Mark: fmt.Sprintf("%s.%s.%d.%d", c.name, l.token, len(*c.said), l.tries),
		Letter: l.token, From: l.from, Body: l.body, Submission: c.login.user != "", Began: began, Calm: c.world.probing.Load(),
	}
	t := &transfer{courier: c, ctx: ctx, wire: newWire(conn, p.patience), plan: p, letter: l, tx: &tx}
	if t.envelope() {
		t.text()
		if t.polite() {
			t.wire.ask("QUIT")
		}
	}
	if len(tx.To) > 0 {
		*c.said = append(*c.said, tx)
	}
}

// plan is what goes wrong in an attempt, decided before.
type plan struct {
	style    int // 0: DATA, 1: pipelined, 2: BDAT
	cut      int // where the line is cut; see below
	at       float64
	patience time.Duration
	stall    time.Duration
}

// Where a line is cut.
const (
	cutNowhere  = iota
	cutEnvelope // after a command
	cutText     // in the text
	cutBefore   // before the final dot
	cutMiddle   // in the middle of the final dot's line
	cutBehind   // behind it, without waiting
	cutUnread   // when the answer has come, unread
	cuts
)

func (c *courier) plan(*letter) plan {
	p := plan{style: c.rng.IntN(3), at: c.rng.Float64(), patience: 5 * time.Minute}
	if !c.misbehaves() {
		return p
	}
	if c.chance(40) {
		p.cut = 1 + c.rng.IntN(cuts-1)
	}
	if c.chance(30) {
		p.patience = pick(c.inhabitant, []time.Duration{5 * time.Second, 28 * time.Second, 32 * time.Second, time.Minute}) + time.Duration(c.rng.IntN(1e9))
	}
	if c.chance(10) {
		p.stall = c.between(time.Second, 40*time.Second)
	}
	return p
}

// transfer is one transaction under way.
type transfer struct {
	*courier
	ctx    context.Context
	wire   *wire
	plan   plan
	letter *letter
	tx     *check.Transaction
}

func (t *transfer) polite() bool { return t.plan.cut == cutNowhere && t.tx.Code != 0 }

// envelope says everything up to the message. It reports whether to go on.
func (t *transfer) envelope() bool {
	if code, _, err := t.wire.reply(); err != nil || code != 220 {
		return false
	}
	if code, err := t.wire.ask("EHLO %s.%s", t.name, far); err != nil || code != 250 {
		return false
	}
	if t.login.user != "" {
		plain := base64.StdEncoding.EncodeToString([]byte("\x00" + t.login.user + "\x00" + password))
		if code, err := t.wire.ask("AUTH PLAIN %s", plain); err != nil || code != 235 {
			return false
		}
	}
	mail := fmt.Sprintf("MAIL FROM:<%s> BODY=8BITMIME ENVID=%s", t.letter.from, t.tx.Mark)
	if t.plan.style == 1 {
		return t.pipelined(mail)
	}
	if code, err := t.wire.ask("%s", mail); err != nil || code != 250 {
		return false
	}
	cut := int(t.plan.at * float64(len(t.letter.to)+1))
	for i, to := range slices.Clone(t.letter.to) {
		if t.plan.cut == cutEnvelope && i == cut {
			return false
		}
		code, err := t.wire.ask("RCPT TO:<%s>", to)
		if err != nil {
			t.tx.To = nil // nothing follows
			return false
		}
		t.answered(to, code)
	}
	return len(t.tx.To) > 0 && t.plan.cut != cutEnvelope
}

// answered takes the answer to a recipient: one that is refused for good is
// given up, one of another customer's comes next time.
func (t *transfer) answered(to string, code int) {
	switch code / 100 {
	case 2:
		t.tx.To = append(t.tx.To, to)
	case 5:
		t.letter.to = slices.DeleteFunc(t.letter.to, func(o string) bool { return o == to })
	}
}

// pipelined sends MAIL, all RCPT and DATA at once (RFC 2920).
func (t *transfer) pipelined(mail string) bool {
	flight := []byte(mail + "\r\n")
	for _, to := range t.letter.to {
		flight = fmt.Appendf(flight, "RCPT TO:<%s>\r\n", to)
	}
	flight = append(flight, "DATA\r\n"...)
	if t.plan.cut == cutEnvelope {
		t.wire.send(flight[:int(t.plan.at*float64(len(flight)))])
		return false
	}
	if t.wire.send(flight) != nil {
		return false
	}
	if code, _, err := t.wire.reply(); err != nil || code != 250 {
		return false
	}
	for _, to := range slices.Clone(t.letter.to) {
		code, _, err := t.wire.reply()
		if err != nil {
			return false
		}
		t.answered(to, code)
	}
	code, _, err := t.wire.reply()
	return err == nil && code == 354
}

// text sends the message and hears the answer.
func (t *transfer) text() {
	var text, end []byte
	switch t.plan.style {
	case 2:
		text, end = t.chunks()
	default:
		if t.plan.style == 0 {
			if code, err := t.wire.ask("DATA"); err != nil || code != 354 {
				t.tx.To = nil
				return
			}
		}
		text, end = stuffed(t.letter.body), []byte(".\r\n")
	}
	if !t.body(text) {
		return
	}
	switch t.plan.cut {
	case cutBefore:
		return
	case cutMiddle:
		t.wire.send(end[:1+int(t.plan.at*float64(len(end)-1))%(len(end)-1)])
		return
	}
	t.tx.Sent = t.world.cfg.Order.Now()
	t.tx.Dot = check.DotPerhaps
	sent := time.Now()
	if t.wire.send(end) != nil || t.plan.cut == cutBehind {
		t.tx.At = t.world.cfg.Order.Now()
		return
	}
	t.hear(sent)
}

// body sends the text in pieces. It reports whether all of it went out.
func (t *transfer) body(text []byte) bool {
	at := int(t.plan.at * float64(len(text)))
	if t.plan.cut == cutText {
		t.wire.send(text[:at])
		return false
	}
	if t.plan.stall > 0 {
		if t.wire.send(text[:at]) != nil || !t.pause(t.ctx, t.plan.stall) {
			return false
		}
		text = text[at:]
	}
	return len(text) == 0 || t.wire.send(text) == nil
}

// hear waits for the answer to the message.
func (t *transfer) hear(sent time.Time) {
	defer func() { t.tx.Waited = time.Since(sent) }()
	if t.plan.cut == cutUnread {
		t.wire.peek()
		t.tx.At = t.world.cfg.Order.Now()
		return
	}
	replies := 1
	if t.plan.style == 2 {
		replies = 2 // the first chunk has one of its own
	}
	for range replies {
		code, text, err := t.wire.reply()
		t.tx.At = t.world.cfg.Order.Now()
		if err != nil {
			t.tx.Code = 0
			return
		}
		t.tx.Code, t.tx.Reply, t.tx.Dot = code, text, check.DotSent
		if code/100 != 2 {
			break // what follows is only about the sequence
		}
	}
	if t.tx.Code/100 == 2 || t.tx.Code/100 == 5 {
		t.letter.to = slices.DeleteFunc(t.letter.to, func(o string) bool { return slices.Contains(t.tx.To, o) })
	}
}

// chunks are the message in two BDAT commands (RFC 3030 §2); the end is the
// second, which is empty or holds the last octets.
func (t *transfer) chunks() (text, end []byte) {
	b := t.letter.body
	first := len(b) - min(len(b), int(t.plan.at*10))
	text = append(fmt.Appendf(nil, "BDAT %d\r\n", first), b[:first]...)
	end = append(fmt.Appendf(nil, "BDAT %d LAST\r\n", len(b)-first), b[first:]...)
	return text, end
}

// stuffed is a message as DATA carries it, without the final dot. Its lines end
// in CRLF.
func stuffed(b []byte) []byte {
	out := bytes.ReplaceAll(b, []byte("\r\n."), []byte("\r\n.."))
	if len(out) > 0 && out[0] == '.' {
		out = append([]byte("."), out...)
	}
	return out
}
