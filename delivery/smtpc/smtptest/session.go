package smtptest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"time"
)

// session is one connection.
type session struct {
	s      *Server
	nc     net.Conn
	br     *bufio.Reader
	number int
	secure bool

	greeted bool
	open    bool // MAIL was accepted
	tx      Transaction
	count   int // transactions begun
	out     bytes.Buffer
}

// Serve talks to one client and closes the connection when the client leaves,
// the script says so, or the server is stopped.
func (s *Server) Serve(nc net.Conn) {
	s.mu.Lock()
	select {
	case <-s.stop:
		s.mu.Unlock()
		nc.Close()
		return
	default:
	}
	s.nconns++
	number := s.nconns
	s.conns[nc] = struct{}{}
	s.mu.Unlock()
	defer func() {
		nc.Close()
		s.mu.Lock()
		delete(s.conns, nc)
		s.mu.Unlock()
	}()
	c := &session{s: s, nc: nc, br: bufio.NewReaderSize(nc, 64<<10), number: number}
	if !c.answer(Banner, "", "220 "+s.opt.Hostname+" ESMTP") {
		c.flush()
		return
	}
	for {
		// Answers to a flight of commands leave together, as RFC 2920 §3.2 wishes.
		if c.br.Buffered() == 0 && !c.flush() {
			return
		}
		line, err := c.br.ReadString('\n')
		if err != nil || len(line) > 1<<16 {
			return
		}
		if !c.command(strings.TrimRight(line, "\r\n")) {
			c.flush()
			return
		}
	}
}

func (c *session) flush() bool {
	if c.out.Len() == 0 {
		return true // An empty write would wait for a reader on a net.Pipe.
	}
	_, err := c.nc.Write(c.out.Bytes())
	c.out.Reset()
	return err == nil
}

func (c *session) say(reply string) { c.out.WriteString(reply + "\r\n") }

// answer performs the action of a phase, with the usual reply if it names none.
// It returns false when the connection is to end.
func (c *session) answer(p Phase, to, usual string) bool {
	_, ok := c.act(p, to, usual, nil)
	return ok
}

// act performs the action of a phase. keep, if set, is called before the reply
// if the message is to be recorded. positive says what was answered.
func (c *session) act(p Phase, to, usual string, keep func()) (positive, ok bool) {
	a, stop := c.s.action(p, to)
	if a.Reply == "" {
		a.Reply = usual
	}
	positive = a.Reply[0] == '2' || a.Reply[0] == '3'
	if keep != nil && !a.Lose && positive {
		keep()
	}
	if a.Delay > 0 || a.Hang {
		if !c.flush() || !c.wait(a, stop) {
			return false, false
		}
	}
	if a.Drop {
		return false, false
	}
	c.say(a.Reply)
	return positive, !strings.HasPrefix(a.Reply, "421")
}

// wait lets the delay pass or hangs. A hanging session ends with the connection
// or the server; what the client still sends is thrown away.
func (c *session) wait(a Action, stop <-chan struct{}) bool {
	if a.Hang {
		_, _ = io.Copy(io.Discard, c.br)
		return false
	}
	t := time.NewTimer(a.Delay)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}

func (c *session) command(line string) bool {
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		return c.hello(true)
	case "HELO":
		return c.hello(false)
	case "STARTTLS":
		return c.startTLS()
	case "MAIL":
		return c.mail(arg)
	case "RCPT":
		return c.rcpt(arg)
	case "DATA":
		return c.data()
	case "RSET":
		c.open = false
		return c.answer(Rset, "", "250 2.0.0 Ok")
	case "NOOP":
		c.say("250 2.0.0 Ok")
	case "QUIT":
		c.answer(Quit, "", "221 2.0.0 Bye")
		return false
	default:
		c.say("500 5.5.2 unknown command")
	}
	return true
}

func (c *session) hello(extended bool) bool {
	c.greeted, c.open = true, false
	reply := "250 " + c.s.opt.Hostname
	if extended {
		lines := append([]string{c.s.opt.Hostname}, c.s.opt.Extensions...)
		if c.s.opt.TLS != nil && !c.secure {
			lines = append(lines, "STARTTLS")
		}
		last := len(lines) - 1
		reply = ""
		for _, l := range lines[:last] {
			reply += "250-" + l + "\r\n"
		}
		reply += "250 " + lines[last]
	}
	return c.answer(Helo, "", reply)
}

func (c *session) startTLS() bool {
	if c.s.opt.TLS == nil || c.secure {
		c.say("502 5.5.1 no STARTTLS here")
		return true
	}
	positive, ok := c.act(StartTLS, "", "220 2.0.0 go ahead", nil)
	if !positive || !ok {
		return ok
	}
	if !c.flush() {
		return false
	}
	tc := tls.Server(c.nc, c.s.opt.TLS)
	if tc.Handshake() != nil {
		return false
	}
	c.nc, c.br, c.secure, c.greeted = tc, bufio.NewReaderSize(tc, 64<<10), true, false
	return true
}

func (c *session) mail(arg string) bool {
	if limit := c.s.limit(); limit > 0 && c.count >= limit {
		c.say("421 4.7.0 enough on this connection")
		return false
	}
	path, params, ok := cutPath(arg, "FROM:")
	if !ok || !c.greeted || c.open {
		c.say("503 5.5.1 not now")
		return true
	}
	positive, ok := c.act(Mail, "", "250 2.1.0 Ok", nil)
	if positive {
		c.open = true
		c.count++
		c.tx = Transaction{Conn: c.number, Secure: c.secure, From: path, Params: params}
	}
	return ok
}

func (c *session) rcpt(arg string) bool {
	path, params, ok := cutPath(arg, "TO:")
	if !ok || !c.open {
		c.say("503 5.5.1 not now")
		return true
	}
	positive, ok := c.act(Rcpt, path, "250 2.1.5 Ok", nil)
	if positive {
		c.tx.Recipients = append(c.tx.Recipients, Recipient{To: path, Params: params})
	}
	return ok
}

func (c *session) data() bool {
	usual := "354 go ahead"
	switch {
	case !c.open:
		usual = "503 5.5.1 not now"
	case len(c.tx.Recipients) == 0:
		usual = "554 5.5.1 no valid recipients"
	}
	positive, ok := c.act(Data, "", usual, nil)
	if !positive || !ok {
		return ok
	}
	if !c.flush() || !c.readBody() {
		return false // Half a message is none.
	}
	usual = "250 2.0.0 Ok: recorded"
	if len(c.tx.Recipients) == 0 {
		usual = "554 5.5.1 no valid recipients"
	}
	c.open = false
	_, ok = c.act(Dot, "", usual, func() {
		c.tx.At = time.Now()
		c.s.record(c.tx)
	})
	return ok
}

// readBody reads up to and including the final dot. Only CRLF ends a line.
func (c *session) readBody() bool {
	var body, line []byte
	for {
		part, err := c.br.ReadSlice('\n')
		line = append(line, part...)
		if err == bufio.ErrBufferFull || err == nil && !bytes.HasSuffix(line, []byte("\r\n")) {
			continue
		}
		if err != nil {
			return false
		}
		if string(line) == ".\r\n" {
			c.tx.Body = body
			return true
		}
		c.tx.BareCRLF = c.tx.BareCRLF || bytes.ContainsAny(line[:len(line)-2], "\r\n")
		body = append(body, bytes.TrimPrefix(line, []byte("."))...)
		line = line[:0]
	}
}

// cutPath splits "FROM:<path> params", with quoted strings in the path.
func cutPath(arg, prefix string) (path, params string, ok bool) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", "", false
	}
	arg = strings.TrimLeft(arg[len(prefix):], " ")
	if !strings.HasPrefix(arg, "<") {
		return "", "", false
	}
	quoted := false
	for i := 1; i < len(arg); i++ {
		switch {
		case quoted && arg[i] == '\\':
			i++
		case arg[i] == '"':
			quoted = !quoted
		case !quoted && arg[i] == '>':
			return arg[1:i], strings.TrimSpace(arg[i+1:]), true
		}
	}
	return "", "", false
}
