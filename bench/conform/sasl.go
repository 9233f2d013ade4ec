package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
)

// sasl is as much of Dovecot's authentication server (its client protocol,
// version 1.1) as Postfix needs to ask about PLAIN and LOGIN.
type sasl struct {
	ln   net.Listener
	work sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]bool
}

func startSasl() (*sasl, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sasl{ln: ln, open: map[net.Conn]bool{}}
	s.work.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open[conn] = true
			s.mu.Unlock()
			s.work.Go(func() {
				defer conn.Close()
				s.converse(conn)
			})
		}
	})
	return s, nil
}

func (s *sasl) addr() string { return s.ln.Addr().String() }

func (s *sasl) stop() error {
	err := s.ln.Close()
	s.mu.Lock()
	for c := range s.open {
		err = errors.Join(err, ignoreClosed(c.Close()))
	}
	s.mu.Unlock()
	s.work.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// converse answers one Postfix process.
func (s *sasl) converse(conn net.Conn) {
	fmt.Fprint(conn, "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0123456789abcdef0123456789abcdef\nDONE\n")
	in := bufio.NewReaderSize(conn, 64<<10)
	exchanges := map[string]*exchange{}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case f[0] == "AUTH" && len(f) > 2:
			e := &exchange{mechanism: strings.ToUpper(f[2])}
			exchanges[f[1]] = e
			response, given := "", false
			for _, p := range f[3:] {
				if r, ok := strings.CutPrefix(p, "resp="); ok {
					response, given = r, true
				}
			}
			fmt.Fprint(conn, e.next(f[1], response, given))
		case f[0] == "CONT" && len(f) > 2 && exchanges[f[1]] != nil:
			fmt.Fprint(conn, exchanges[f[1]].next(f[1], f[2], true))
		}
	}
}

// exchange is one attempt to log in.
type exchange struct {
	mechanism string
	asked     bool
	name      string
}

// next returns the line that answers a response.
func (e *exchange) next(id, response string, given bool) string {
	ask := func(question string) string {
		return fmt.Sprintf("CONT\t%s\t%s\n", id, base64.StdEncoding.EncodeToString([]byte(question)))
	}
	text, err := base64.StdEncoding.DecodeString(response)
	if err != nil {
		return fmt.Sprintf("FAIL\t%s\treason=Invalid base64 data\n", id)
	}
	name, secret := e.name, string(text)
	switch {
	case e.mechanism == "PLAIN" && !given:
		return ask("")
	case e.mechanism == "PLAIN":
		f := strings.Split(string(text), "\x00")
		if len(f) != 3 {
			return fmt.Sprintf("FAIL\t%s\n", id)
		}
		name, secret = f[1], f[2]
	case !given:
		return ask("Username:")
	case !e.asked:
		e.asked, e.name = true, string(text)
		return ask("Password:")
	}
	if name != user || secret != password {
		return fmt.Sprintf("FAIL\t%s\tuser=%s\n", id, name)
	}
	return fmt.Sprintf("OK\t%s\tuser=%s\n", id, name)
}
