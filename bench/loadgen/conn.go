package loadgen

import (
	"bufio"
	"context"
	"net"
	"time"
)

// Conn is one SMTP connection that its owner sends over. It is used by one
// goroutine at a time.
type Conn struct{ s *session }

// Dial connects and says EHLO. Every step of the conversation must be over within
// the timeout.
func Dial(ctx context.Context, addr string, timeout time.Duration) (*Conn, error) {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, r: bufio.NewReaderSize(conn, 512), timeout: timeout}
	if err := s.greet(); err != nil {
		conn.Close()
		return nil, err
	}
	return &Conn{s}, nil
}

// Send sends one message under a Message-ID, which is given with its angle
// brackets, and returns the time from the final dot to its answer. A refusal is
// an error.
func (c *Conn) Send(m *Message, id string) (time.Duration, error) {
	return c.s.send(m, "Message-ID: "+id+"\r\n")
}

// Quit ends the conversation and fails if the server does not answer any more.
func (c *Conn) Quit() error {
	c.s.conn.SetDeadline(time.Now().Add(c.s.timeout))
	err := c.s.quit()
	c.s.conn.Close()
	return err
}
