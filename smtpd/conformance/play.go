package conformance

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// packetGap lets a server read one packet before the next comes.
	packetGap = 10 * time.Millisecond
	// quietTime is how long nothing must be said.
	quietTime = 50 * time.Millisecond
	// maxReplyLine is RFC 5321 §4.5.3.1.5.
	maxReplyLine = 512
	// maxReplyLines bounds what a server can make us read.
	maxReplyLines = 200
)

// deviation is what a server did otherwise.
type deviation struct{ text string }

func (d *deviation) Error() string { return d.text }

// errSilence is that the server says nothing.
var errSilence error = &deviation{"no answer"}

func deviates(format string, args ...any) error {
	return &deviation{fmt.Sprintf(format, args...)}
}

// player holds our end of one conversation.
type player struct {
	c       *Conversation
	words   *strings.Replacer
	timeout time.Duration
	raw     net.Conn
	conn    net.Conn
	in      *bufio.Reader
	packet  []byte
	drip    time.Duration
	last    []string // lines of the last reply, without CRLF
	ahead   []*event // read, but not yet looked at
	mute    bool     // we have closed our direction
	over    bool     // the connection has ended
	ending  *ending
	notes   []string // what was done otherwise, where that is allowed
}

// event is what a server does: it says something, or closes the connection.
type event struct {
	lines   []string // of a reply; nil at the end
	silence bool     // nothing happened
}

// fits says whether the step waits for this.
func (e *event) fits(s step) bool {
	switch s.verb {
	case "quiet":
		return e.silence
	case "eof":
		return !e.silence && (e.lines == nil || e.lines[0][:3] == "421")
	}
	return e.lines != nil && matches(before(s.arg), e.lines)
}

func (e *event) String() string {
	switch {
	case e.silence:
		return "nothing"
	case e.lines == nil:
		return "connection closed"
	}
	return strconv.Quote(e.lines[len(e.lines)-1])
}

// play holds the conversation and closes the connection. A deviation is one of
// the server; any other error is not the server's fault, as far as one can see.
func (p *player) play(ctx context.Context, addr string) error {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	p.raw, p.conn, p.in = raw, raw, bufio.NewReader(raw)
	for _, s := range p.c.steps {
		if err := p.step(s); err != nil {
			return err
		}
	}
	p.ending = &p.c.endings[0]
	if len(p.c.endings) > 1 {
		if err := p.choose(); err != nil {
			return err
		}
	}
	for _, s := range p.ending.steps {
		if err := p.step(s); err != nil {
			return err
		}
	}
	return p.leave()
}

// before returns what is wanted, without what is allowed besides.
func before(arg string) string {
	want, _, _ := strings.Cut(arg, " | ")
	return want
}

// leave says QUIT, and sees that no reply is left over.
func (p *player) leave() error {
	if err := p.send(); err != nil || p.over || p.mute {
		return err
	}
	p.packet = []byte("QUIT\r\n")
	if err := p.send(); err != nil {
		return err
	}
	e, err := p.next()
	if err != nil {
		return err
	}
	if e.lines != nil && e.lines[0][:3] != "221" && e.lines[0][:3] != "421" {
		return deviates("unexpected reply %v", e)
	}
	return nil
}

// step carries out one line.
func (p *player) step(s step) error {
	switch s.verb {
	case ">":
		p.packet = append(append(p.packet, p.words.Replace(s.arg)...), '\r', '\n')
		return nil
	case ">>":
		b, err := repeated(s.arg)
		p.packet = append(p.packet, p.words.Replace(string(b))...)
		return err
	case "chunk":
		b, rest, err := unquote(s.arg)
		text := p.words.Replace(string(b))
		if rest != "" {
			rest = " " + rest
		}
		p.packet = fmt.Appendf(p.packet, "BDAT %d%s\r\n%s", len(text), rest, text)
		return err
	}
	if err := p.send(); err != nil {
		return err
	}
	err := p.react(s)
	var d *deviation
	if errors.As(err, &d) {
		return deviates("line %d: %s", s.line, d.text)
	}
	return err
}

// react carries out a step that sends nothing.
func (p *player) react(s step) error {
	switch s.verb {
	case "--":
		return p.pause(s.arg)
	case "drip":
		var err error
		p.drip, err = time.ParseDuration(s.arg)
		return err
	case "<":
		return p.reply(s.arg)
	case "has", "hasnt":
		return p.has(s)
	case "enhanced":
		return p.enhanced()
	case "quiet":
		return p.quiet()
	case "eof":
		return p.eof()
	case "half":
		p.mute = true
		if half, ok := p.conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
		return nil
	case "drop":
		p.over = true
		if t, ok := p.raw.(*net.TCPConn); ok {
			t.SetLinger(0)
		}
		return p.raw.Close()
	case "close":
		p.over = true
		return p.conn.Close()
	case "tls":
		return p.handshake()
	}
	return fmt.Errorf("line %d: unknown step %q", s.line, s.verb)
}

// send sends the packet gathered so far. That the server has gone is found out
// by the next step.
func (p *player) send() error {
	packet := p.packet
	p.packet = nil
	if len(packet) == 0 || p.over || p.mute {
		return nil
	}
	p.conn.SetWriteDeadline(time.Now().Add(p.timeout))
	if p.drip == 0 {
		if _, err := p.conn.Write(packet); errors.Is(err, os.ErrDeadlineExceeded) {
			return deviates("the server reads nothing")
		}
		return nil
	}
	for i := range packet {
		p.conn.Write(packet[i : i+1])
		time.Sleep(p.drip)
	}
	return nil
}

func (p *player) pause(arg string) error {
	d := packetGap
	if arg != "" {
		var err error
		if d, err = time.ParseDuration(arg); err != nil {
			return err
		}
	}
	time.Sleep(d)
	return nil
}

// next waits for what the server does.
func (p *player) next() (*event, error) {
	if len(p.ahead) > 0 {
		e := p.ahead[0]
		p.ahead = p.ahead[1:]
		return e, nil
	}
	p.conn.SetReadDeadline(time.Now().Add(p.timeout))
	var lines []string
	for {
		l, err := p.in.ReadString('\n')
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errSilence
		case err != nil && l == "" && len(lines) == 0:
			p.over = true
			return &event{}, nil
		case err != nil:
			return nil, deviates("reply %q broken off: %v", l, err)
		}
		if err := checkLine(l, lines); err != nil {
			return nil, err
		}
		lines = append(lines, strings.TrimSuffix(l, "\r\n"))
		if len(l) < 6 || l[3] == ' ' {
			return &event{lines: lines}, nil
		}
	}
}

// checkLine checks a line of a reply (RFC 5321 §4.2, §4.5.3.1.5).
func checkLine(l string, earlier []string) error {
	text, ok := strings.CutSuffix(l, "\r\n")
	switch {
	case !ok || strings.ContainsAny(text, "\r\x00"):
		return deviates("line end of reply %q", l)
	case len(l) > maxReplyLine:
		return deviates("reply of %d octets", len(l))
	case len(earlier) >= maxReplyLines:
		return deviates("endless reply")
	case len(text) < 3 || text[0] < '2' || text[0] > '5' || text[1] < '0' || text[1] > '9' || text[2] < '0' || text[2] > '9':
		return deviates("malformed reply %q", l)
	case len(text) > 3 && text[3] != ' ' && text[3] != '-':
		return deviates("malformed reply %q", l)
	case len(earlier) > 0 && earlier[0][:3] != text[:3]:
		return deviates("codes differ within a reply: %q after %q", text, earlier[0])
	}
	return nil
}

// matches says whether a reply is one that the pattern wants: codes, and
// perhaps the beginning of its text.
func matches(pattern string, lines []string) bool {
	codes, text, _ := strings.Cut(pattern, " ")
	last := lines[len(lines)-1]
	return slices.ContainsFunc(strings.Split(codes, ","), func(c string) bool { return strings.HasPrefix(last, c) }) &&
		(text == "" || len(last) > 4 && strings.HasPrefix(last[4:], text))
}

// reply waits for one reply.
func (p *player) reply(arg string) error {
	e, err := p.next()
	if err != nil {
		return err
	}
	p.last = e.lines
	want, allowed, _ := strings.Cut(arg, " | ")
	switch {
	case e.lines != nil && matches(want, e.lines):
		return nil
	case e.lines != nil && allowed != "" && matches(allowed, e.lines):
		p.notes = append(p.notes, e.String()+" for "+want)
		return nil
	}
	return deviates("want %s, got %v", want, e)
}

func (p *player) has(s step) error {
	for _, l := range p.last {
		word, _, _ := strings.Cut(l[min(4, len(l)):], " ")
		if strings.EqualFold(word, s.arg) {
			if s.verb == "hasnt" {
				return deviates("the reply has %s", s.arg)
			}
			return nil
		}
	}
	if s.verb == "has" {
		return deviates("the reply has no %s", s.arg)
	}
	return nil
}

// enhanced checks RFC 2034 §4: each line has a code of the reply's class.
func (p *player) enhanced() error {
	for _, l := range p.last {
		status, _, _ := strings.Cut(l[min(4, len(l)):], " ")
		f := strings.Split(status, ".")
		if len(f) != 3 || f[0] != l[:1] || !number(f[1]) || !number(f[2]) {
			return deviates("no enhanced status code of its class in %q", l)
		}
	}
	return nil
}

// number is 1 to 3 digits (RFC 3463 §2).
func number(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil && len(s) <= 3
}

func (p *player) quiet() error {
	if len(p.ahead) > 0 {
		return deviates("want nothing, got %v", p.ahead[0])
	}
	p.conn.SetReadDeadline(time.Now().Add(quietTime))
	if _, err := p.in.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	e, err := p.next()
	if err != nil {
		return err
	}
	return deviates("want nothing, got %v", e)
}

// eof waits for the end. A 421 may come first (RFC 5321 §3.8); a server that
// says so and then waits for us to close differs, no more.
func (p *player) eof() error {
	defer func(whole time.Duration) { p.timeout = whole }(p.timeout)
	for said := false; ; said = true {
		e, err := p.next()
		switch {
		case err == errSilence && said:
			p.over = true
			p.notes = append(p.notes, "421, but the connection stays open")
			return nil
		case err != nil:
			return err
		case e.lines == nil:
			p.over = true
			return nil
		case e.lines[0][:3] != "421":
			return deviates("want the end, got %v", e)
		}
		p.timeout /= 10
	}
}

func (p *player) handshake() error {
	c := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10})
	c.SetDeadline(time.Now().Add(p.timeout))
	if p.in.Buffered() > 0 {
		return deviates("octets in the clear after 220")
	}
	if err := c.Handshake(); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("connection closed")
		}
		return deviates("TLS handshake: %v", err)
	}
	c.SetDeadline(time.Time{})
	p.conn, p.in = c, bufio.NewReader(c)
	return nil
}
