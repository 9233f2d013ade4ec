package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Conversations are kept as text in testdata/*.smtp. A file holds many:
//
//	== name of the conversation
//	set mode=submission max=1000     how the server is set up
//	greet                            220, EHLO client.example, 250
//	mail                             greet, and a transaction with one recipient
//	data                             mail, and DATA up to 354
//	> text                           send text and CRLF; lines that follow each other are one packet
//	--                               end of a packet
//	>> "go string" 10                send these octets, ten times over
//	< 250 2.1.0                      the next reply begins so
//	drain 4000                       so many replies are read, of any kind
//	has SIZE 1000                    a line of the last reply says so
//	hasnt AUTH                       none begins so
//	eof                              the server has closed the connection
//	quiet                            nothing has been said
//	half                             we close our direction
//	drop                             we close both
//	tls                              we do a TLS handshake
//	wait 5m                          time passes
//	stored 1                         so many messages were kept
//	partial 1                        so many bodies ended badly
//	body "go string" 1               the body of the last message; the count multiplies
//	size 1000                        and its length
//	from/to/local/domain/param/login/helo  what the Backend got with it
//
// At the end no reply may be left over, and every transaction must be closed.
type conversation struct {
	file  string
	line  int
	name  string
	steps []step
}

type step struct {
	line     int
	verb     string
	argument string
}

// loadConversations reads all files.
func loadConversations(t testing.TB) []conversation {
	files, err := filepath.Glob("testdata/*.smtp")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	var all []conversation
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range strings.Split(string(text), "\n") {
			verb, argument, _ := strings.Cut(l, " ")
			switch {
			case l == "" || strings.HasPrefix(l, "#"):
			case verb == "==":
				all = append(all, conversation{file: filepath.Base(f), line: i + 1, name: argument})
			case len(all) == 0:
				t.Fatalf("%s:%d: no conversation yet", f, i+1)
			default:
				c := &all[len(all)-1]
				c.steps = append(c.steps, expand(step{i + 1, verb, argument})...)
			}
		}
	}
	return all
}

// expand replaces a step that stands for several.
func expand(s step) []step {
	var lines []string
	switch s.verb {
	case "greet":
		lines = []string{"< 220", "> EHLO client.example", "< 250"}
	case "mail":
		lines = []string{
			"greet", "> MAIL FROM:<a@example.com>", "< 250 2.1.0", "> RCPT TO:<b@example.org>", "< 250 2.1.5",
		}
	case "data":
		lines = []string{"mail", "> DATA", "< 354"}
	default:
		return []step{s}
	}
	var out []step
	for _, l := range lines {
		verb, argument, _ := strings.Cut(l, " ")
		out = append(out, expand(step{s.line, verb, argument})...)
	}
	return out
}

func TestConversations(t *testing.T) {
	all := loadConversations(t)
	names := map[string]bool{}
	for _, c := range all {
		if names[c.name] {
			t.Errorf("%s:%d: name is taken", c.file, c.line)
		}
		names[c.name] = true
		t.Run(strings.TrimSuffix(c.file, ".smtp")+"/"+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, c) })
		})
	}
	if len(all) < 100 {
		t.Errorf("only %d conversations", len(all))
	}
}

// player holds the client's end of a conversation.
type player struct {
	t      *testing.T
	c      conversation
	s      step
	conn   net.Conn
	in     *bufio.Reader
	packet []byte
	last   []string
	m      *memory
}

func (p *player) fatalf(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("%s:%d: %s", p.c.file, p.s.line, fmt.Sprintf(format, args...))
}

// play runs one conversation against a server of its own.
func play(t *testing.T, c conversation) {
	config := Config{Hostname: "mx.example", Mode: MX, Limits: DefaultLimits()}
	for _, s := range c.steps {
		if s.verb == "set" {
			setUp(t, &config, s)
		}
	}
	m := &memory{}
	server, err := New(config, m)
	if err != nil {
		t.Fatal(err)
	}
	ln := newSimListener()
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), ln) }()
	raw := ln.dial("192.0.2.1:1025")
	p := &player{t: t, c: c, conn: raw, m: m}
	p.in = bufio.NewReader(p.conn)
	defer func() {
		p.conn.Close()
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != ErrServerClosed {
			t.Errorf("serve: %v", err)
		}
		if m.open != 0 {
			t.Errorf("%d transactions left open", m.open)
		}
	}()
	for _, s := range c.steps {
		p.s = s
		p.step()
	}
	p.send()
	synctest.Wait()
	p.conn.SetReadDeadline(time.Now())
	if rest, err := p.in.ReadString('\n'); err == nil {
		p.fatalf("unexpected reply %q", rest)
	}
}

// send sends the packet gathered so far.
func (p *player) send() {
	if len(p.packet) > 0 {
		// The server may have hung up, which the next step will find out.
		p.conn.Write(p.packet)
		p.packet = nil
		synctest.Wait()
	}
}

// step carries out one line.
func (p *player) step() {
	switch p.s.verb {
	case ">":
		p.packet = append(append(p.packet, p.s.argument...), '\r', '\n')
		return
	case ">>":
		p.packet = append(p.packet, p.quoted()...)
		return
	}
	p.send()
	switch p.s.verb {
	case "--", "set":
	case "<":
		p.reply()
	case "drain":
		n, _ := strconv.Atoi(p.s.argument)
		for p.s.argument = ""; n > 0; n-- {
			p.reply()
		}
	case "has", "hasnt":
		p.lastHas()
	case "eof":
		p.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		if l, err := p.in.ReadString('\n'); err == nil || os.IsTimeout(err) {
			p.fatalf("not closed, but %q, %v", l, err)
		}
	case "quiet":
		p.conn.SetReadDeadline(time.Now())
		if l, err := p.in.ReadString('\n'); err == nil {
			p.fatalf("early reply %q", l)
		}
	case "half":
		p.conn.(*simConn).CloseWrite()
		synctest.Wait()
	case "drop":
		p.conn.Close()
		synctest.Wait()
	case "tls":
		c := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			p.fatalf("handshake: %v", err)
		}
		p.conn, p.in = c, bufio.NewReader(c)
	case "wait":
		d, err := time.ParseDuration(p.s.argument)
		if err != nil {
			p.fatalf("%v", err)
		}
		time.Sleep(d)
		synctest.Wait()
	default:
		p.check()
	}
}

// quoted returns the octets of "go string" [count].
func (p *player) quoted() []byte {
	text, count := p.s.argument, 1
	if i := strings.LastIndexByte(text, '"'); i+1 < len(text) {
		n, err := strconv.Atoi(strings.TrimSpace(text[i+1:]))
		if err != nil {
			p.fatalf("%v", err)
		}
		text, count = text[:i+1], n
	}
	s, err := strconv.Unquote(text)
	if err != nil {
		p.fatalf("%s: %v", text, err)
	}
	return []byte(strings.Repeat(s, count))
}

// reply reads one reply.
func (p *player) reply() {
	p.last = nil
	// All that is due has been said, but for the delay of an error or two.
	p.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	for {
		l, err := p.in.ReadString('\n')
		if err != nil {
			p.fatalf("want %q, but %q, %v", p.s.argument, l, err)
		}
		if len(l) < 6 || !strings.HasSuffix(l, "\r\n") || len(l) > 512 {
			p.fatalf("malformed reply %q", l)
		}
		p.last = append(p.last, strings.TrimSuffix(l, "\r\n"))
		if l[3] == ' ' {
			break
		}
	}
	if l := p.last[len(p.last)-1]; !strings.HasPrefix(l, p.s.argument) {
		p.fatalf("want %q, got %q", p.s.argument, l)
	}
}

func (p *player) lastHas() {
	found := false
	for _, l := range p.last {
		found = found || l[4:] == p.s.argument || p.s.verb == "hasnt" && strings.HasPrefix(l[4:], p.s.argument)
	}
	if found != (p.s.verb == "has") {
		p.fatalf("reply %q", p.last)
	}
}

// check compares what the Backend has got.
func (p *player) check() {
	synctest.Wait()
	all := p.m.all()
	switch p.s.verb {
	case "stored":
		p.equal(strconv.Itoa(len(all)))
		return
	case "partial":
		p.equal(strconv.Itoa(p.m.partial))
		return
	case "logins":
		p.equal(strings.Join(p.m.logins, " "))
		return
	}
	if len(all) == 0 {
		p.fatalf("nothing was kept")
	}
	k := all[len(all)-1]
	switch p.s.verb {
	case "body":
		if want := p.quoted(); string(want) != string(k.body) {
			p.fatalf("kept %.300q (%d octets), want %.300q (%d octets)", k.body, len(k.body), want, len(want))
		}
	case "size":
		p.equal(strconv.Itoa(len(k.body)))
	case "from":
		p.equal("<" + k.from.Raw + ">")
	case "to":
		var to []string
		for _, r := range k.to {
			to = append(to, "<"+r.Raw+">")
		}
		p.equal(strings.Join(to, " "))
	case "local":
		p.equal(k.to[0].Local)
	case "domain":
		p.equal(k.to[0].Domain)
	case "mailbox":
		p.equal(k.to[0].Mailbox)
	case "param":
		p.equal(fmt.Sprintf("%+v", k.params))
	case "rcptparam":
		p.equal(fmt.Sprintf("%+v", k.rcpts))
	case "login":
		p.equal(fmt.Sprint(k.login))
	case "peer":
		p.equal(fmt.Sprintf("%s %s esmtp=%t tls=%t", k.peer.Addr, k.peer.Helo, k.peer.ESMTP, k.peer.TLS != nil))
	default:
		p.fatalf("unknown step %q", p.s.verb)
	}
}

func (p *player) equal(got string) {
	if got != p.s.argument {
		p.fatalf("%s is %q, want %q", p.s.verb, got, p.s.argument)
	}
}

// setUp applies a "set" line.
func setUp(t *testing.T, c *Config, s step) {
	for _, f := range strings.Fields(s.argument) {
		key, value, _ := strings.Cut(f, "=")
		n, _ := strconv.Atoi(value)
		d, _ := time.ParseDuration(value)
		switch key {
		case "mode":
			c.Mode = map[string]Mode{"mx": MX, "submission": Submission}[value]
		case "plaintext":
			c.AllowPlaintextAuth = true
		case "tls":
			config := testTLS(t)
			c.TLS = func() *tls.Config { return config }
		case "max":
			c.MaxMessageSize = int64(n)
		case "recipients":
			c.Limits.Recipients = n
		case "transactions":
			c.Limits.Transactions = n
		case "hops":
			c.Limits.Hops = n
		case "soft":
			c.Limits.ErrorsSoft = n
		case "hard":
			c.Limits.ErrorsHard = n
		case "rate":
			c.Limits.MinDataRate = n
		case "command":
			c.Limits.Command = d
		case "data":
			c.Limits.Data = d
		default:
			t.Fatalf("%d: unknown setting %q", s.line, key)
		}
	}
}
