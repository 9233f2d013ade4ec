package conformance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Sink is a server that takes everything and keeps it in memory: let the server
// under test relay to it. It is a [Keeper].
//
// It is no conforming server. Its fault model: it takes a bare LF for the end of
// a command line; it ends the data at CRLF dot CRLF and at whatever else Ends
// says, as a lenient server might; it reads no further than a message of 64 MiB.
type Sink struct {
	// Ends are further ends of data, such as "\n.\n".
	Ends []string
	// DropNULs is what some servers do, before they look for the end.
	DropNULs bool
	// Quiet is how long no message must have come for Settle to return; 1 s if
	// zero.
	Quiet time.Duration

	mu   sync.Mutex
	mail []Message
	last time.Time
}

const maxSinkMessage = 64 << 20

// Serve takes connections until ctx ends, and closes the listener.
func (s *Sink) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var work sync.WaitGroup
	defer work.Wait()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("sink: accept: %w", err)
		}
		work.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			s.Converse(conn)
		})
	}
}

// Messages implements [Keeper].
func (s *Sink) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.mail...)
}

// Settle implements [Keeper].
func (s *Sink) Settle(ctx context.Context) error {
	quiet := s.Quiet
	if quiet == 0 {
		quiet = time.Second
	}
	begin := time.Now()
	for {
		s.mu.Lock()
		since := time.Since(s.last)
		s.mu.Unlock()
		wait := quiet - min(since, time.Since(begin))
		if wait <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// Converse holds one conversation as the server.
func (s *Sink) Converse(conn net.Conn) {
	in := bufio.NewReader(conn)
	say := func(text string) { fmt.Fprintf(conn, "%s\r\n", text) }
	say("220 sink.example ESMTP")
	var m Message
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, arg, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-sink.example\r\n250-PIPELINING\r\n250-SIZE 67108864\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8")
		case "MAIL":
			m = Message{From: inBrackets(arg)}
			say("250 2.1.0 OK")
		case "RCPT":
			m.To = append(m.To, inBrackets(arg))
			say("250 2.1.5 OK")
		case "DATA":
			say("354 go on")
			if m.Body, err = s.data(in); err != nil {
				return
			}
			s.keep(m)
			m = Message{}
			say("250 2.0.0 OK")
		case "QUIT":
			say("221 2.0.0 bye")
			return
		case "HELO", "RSET", "NOOP":
			say("250 OK")
		default:
			say("500 5.5.1 what?")
		}
	}
}

func (s *Sink) keep(m Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mail = append(s.mail, m)
	s.last = time.Now()
}

// data reads the octets of a message, dots unstuffed.
func (s *Sink) data(in *bufio.Reader) ([]byte, error) {
	ends := append([]string{"\r\n.\r\n"}, s.Ends...)
	b := []byte("\r\n") // The data begins as after a line.
	for len(b) < maxSinkMessage {
		c, err := in.ReadByte()
		if err != nil {
			return nil, err
		}
		if c == 0 && s.DropNULs {
			continue
		}
		b = append(b, c)
		for _, end := range ends {
			if c == end[len(end)-1] && bytes.HasSuffix(b, []byte(end)) {
				keep := b[:len(b)-len(end)]
				if strings.HasPrefix(end, "\r\n") {
					keep = b[:len(b)-len(end)+2]
				}
				return bytes.ReplaceAll(keep, []byte("\r\n."), []byte("\r\n"))[min(2, len(keep)):], nil
			}
		}
	}
	return nil, errors.New("message too big")
}

// inBrackets returns a path without what is around it.
func inBrackets(arg string) string {
	_, arg, _ = strings.Cut(arg, "<")
	if i := strings.LastIndexByte(arg, '>'); i >= 0 {
		arg = arg[:i]
	}
	return arg
}
