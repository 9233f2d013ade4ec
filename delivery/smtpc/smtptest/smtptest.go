// Package smtptest is a pretend primary: an SMTP server that can be told to
// misbehave and that records exactly what it was given.
//
// Fault model. Each phase can be told to answer with another reply, to wait
// first, to hang, or to drop the connection without an answer; at the final dot
// the message is recorded before or is not. The server as a whole can be
// stopped, which cuts all connections, and started again on the same port. It
// never alters, reorders or loses what it recorded. It is no conforming server:
// it checks only the order of commands, as far as a client needs it.
//
// It uses real TCP through [Server.Start], or any connection through
// [Server.Serve], for example one end of a net.Pipe in a synctest bubble.
package smtptest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// Phase names the moment at which an [Action] applies.
type Phase string

// The phases.
const (
	Banner   Phase = "banner" // before anything is said
	Helo     Phase = "helo"
	StartTLS Phase = "starttls"
	Mail     Phase = "mail"
	Rcpt     Phase = "rcpt"
	Data     Phase = "data" // the command
	Dot      Phase = "dot"  // after the final dot
	Rset     Phase = "rset"
	Quit     Phase = "quit"
)

// Action is what to do at a phase instead of the usual. The zero Action is the
// usual.
type Action struct {
	// Delay passes first.
	Delay time.Duration
	// Hang answers nothing until the connection or the server ends.
	Hang bool
	// Drop closes the connection without an answer.
	Drop bool
	// Reply is the whole answer without the last CRLF, such as "451 4.3.0 later";
	// "" is the usual answer. 421 closes the connection.
	Reply string
	// Lose keeps the message from being recorded at [Dot]. A message that is
	// answered with anything but 2xx is not recorded either.
	Lose bool
	// Times limits the Action to its first uses; 0 means always.
	Times int
}

// Script is the behaviour of a server. It may be changed at any time with
// [Server.Script] and is never altered by the server.
type Script struct {
	At map[Phase]Action
	// Rcpt, if set, chooses the action for a recipient, given its path without
	// angle brackets. The zero Action falls back to At[Rcpt]. It may be called
	// concurrently.
	Rcpt func(to string) Action
	// MaxPerConn is how many transactions a connection may make before MAIL is
	// answered 421; 0 means any number.
	MaxPerConn int
}

// Recipient is one accepted RCPT.
type Recipient struct {
	To     string // without angle brackets
	Params string // all after the path, as it came
}

// Transaction is one message that was recorded.
type Transaction struct {
	Conn       int // the connection's number, from 1
	Secure     bool
	From       string // without angle brackets
	Params     string // of MAIL, as they came
	Recipients []Recipient
	Body       []byte // dot-stuffing removed
	BareCRLF   bool   // the client sent a bare CR or LF
	At         time.Time
}

// Options are fixed for the life of a server. The zero Options are usual.
type Options struct {
	Hostname string // "primary.test" when empty
	// Extensions are the EHLO lines; nil means PIPELINING, 8BITMIME, SMTPUTF8,
	// DSN, ENHANCEDSTATUSCODES and SIZE. STARTTLS is added when TLS is set.
	Extensions []string
	TLS        *tls.Config
	// OnMessage, if set, is called with each message when it is recorded, and the
	// server keeps none itself. It may be called concurrently.
	OnMessage func(Transaction)
}

// Server is a pretend primary. Its methods may be called concurrently, but for
// Start and Stop, of which one may be called at a time.
type Server struct {
	opt Options

	mu     sync.Mutex
	script Script
	used   map[Phase]int
	addr   string
	ln     net.Listener
	conns  map[net.Conn]struct{}
	nconns int
	stop   chan struct{} // closed by Stop; nil before the first Start or Serve
	got    []Transaction

	wg sync.WaitGroup
}

// New returns a server that is not started.
func New(opt Options) *Server {
	if opt.Hostname == "" {
		opt.Hostname = "primary.test"
	}
	if opt.Extensions == nil {
		opt.Extensions = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "SIZE"}
	}
	return &Server{opt: opt, used: map[Phase]int{}, conns: map[net.Conn]struct{}{}, stop: make(chan struct{})}
}

// TB is the part of testing.TB that is needed, so that programs can use this
// package without the testing package.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start returns a server that runs until the test ends.
func Start(tb TB, opt Options) *Server {
	tb.Helper()
	s := New(opt)
	if err := s.Start(); err != nil {
		tb.Fatalf("start pretend primary: %v", err)
	}
	tb.Cleanup(s.Stop)
	return s
}

// Listen sets the address of the next Start; without it a free loopback port is
// chosen.
func (s *Server) Listen(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr = addr
}

// Start listens, on the same address as before if it was started before.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != nil {
		return errors.New("pretend primary already runs")
	}
	addr := s.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("start pretend primary: %w", err)
	}
	s.addr, s.ln = ln.Addr().String(), ln
	s.reopen()
	s.wg.Add(1)
	go s.accept(ln)
	return nil
}

// reopen makes a stopped server usable. s.mu is held.
func (s *Server) reopen() {
	select {
	case <-s.stop:
		s.stop = make(chan struct{})
	default:
	}
}

// Stop closes the listener and cuts all connections, as a crash would, and waits
// until nothing runs. What was recorded stays. It may be called again.
func (s *Server) Stop() {
	s.mu.Lock()
	if s.ln != nil {
		s.ln.Close()
		s.ln = nil
	}
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Addr returns host and port, also while the server is stopped.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// HostPort returns the parts of Addr.
func (s *Server) HostPort() (host string, port int) {
	ap, err := net.ResolveTCPAddr("tcp", s.Addr())
	if err != nil {
		panic("internal error: pretend primary has no address: " + err.Error())
	}
	return ap.IP.String(), ap.Port
}

// Script replaces the behaviour from the next phase of every connection on.
func (s *Server) Script(sc Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script, s.used = sc, map[Phase]int{}
}

// Transactions returns what was recorded, oldest first.
func (s *Server) Transactions() []Transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Transaction(nil), s.got...)
}

// Forget drops what was recorded.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = nil
}

// Conns returns how many connections were ever made.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nconns
}

// action takes the action for a phase and counts its use.
func (s *Server) action(p Phase, to string) (a Action, stop <-chan struct{}) {
	s.mu.Lock()
	sc, stop := s.script, s.stop
	s.mu.Unlock()
	if p == Rcpt && sc.Rcpt != nil {
		if a := sc.Rcpt(to); a != (Action{}) {
			return a, stop
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a = sc.At[p]
	if a.Times > 0 {
		if s.used[p] >= a.Times {
			return Action{}, stop
		}
		s.used[p]++
	}
	return a, stop
}

func (s *Server) limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.script.MaxPerConn
}

func (s *Server) record(t Transaction) {
	if s.opt.OnMessage != nil {
		s.opt.OnMessage(t)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, t)
}

// Dial connects to the server in memory, whatever the address, until it is
// stopped. It has the signature of a dialer and needs no network, so it works in
// a synctest bubble.
func (s *Server) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stop:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: syscall.ECONNREFUSED}
	default:
	}
	ours, theirs := net.Pipe()
	s.wg.Go(func() { s.Serve(theirs) })
	return ours, nil
}

// Resume makes a stopped server answer [Server.Dial] again, without listening.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reopen()
}

func (s *Server) accept(ln net.Listener) {
	defer s.wg.Done()
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.Serve(nc) })
	}
}
