package imapgw_test

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/imapgw"
	"holdfast/imapgw/imapgwtest"
)

// pipes is a listener whose connections are in memory, so that time is that of
// the test.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(t *testing.T) *client {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return &client{t: t, c: ours, br: bufio.NewReader(ours)}
}

// inBubble runs a test against a server in a bubble of its own time.
func inBubble(t *testing.T, test func(t *testing.T, b *imapgwtest.Backend, srv *imapgw.Server, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		b := imapgwtest.New()
		b.AddAccount("alice", "secret")
		srv := imapgw.New(imapgw.Config{AllowPlaintextAuth: true}, b)
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(context.Background(), p) }()
		test(t, b, srv, p)
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// pass lets the time of the bubble go on.
func pass(d time.Duration) { time.Sleep(d) }

// readLine reads a line however long it takes.
func (c *client) readLine() (string, error) {
	_ = c.c.SetReadDeadline(time.Time{})
	s, err := c.br.ReadString('\n')
	return strings.TrimSuffix(s, "\r\n"), err
}

func TestFailedLoginsTakeLonger(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *imapgwtest.Backend, _ *imapgw.Server, p *pipes) {
		c := p.dial(t)
		if _, err := c.readLine(); err != nil {
			t.Fatal(err)
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 16} {
			began := time.Now()
			c.send("x LOGIN alice wrong\r\n")
			l, err := c.readLine()
			if err != nil || !strings.HasPrefix(l, "x NO [AUTHENTICATIONFAILED]") {
				t.Fatalf("failure %d: %q, %v", i+1, l, err)
			}
			if took := time.Since(began); took != want*time.Second {
				t.Errorf("failure %d took %v, want %ds", i+1, took, want)
			}
		}
		if l, err := c.readLine(); err == nil {
			t.Errorf("after five failures: %q", l)
		}
		// The right password is not delayed.
		c = p.dial(t)
		_, _ = c.readLine()
		began := time.Now()
		c.send("x LOGIN alice secret\r\n")
		if l, err := c.readLine(); err != nil || !strings.HasPrefix(l, "x OK") || time.Since(began) != 0 {
			t.Errorf("right password: %q, %v after %v", l, err, time.Since(began))
		}
		_ = c.c.Close()
	})
}

func TestStrangersHaveToLeave(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *imapgwtest.Backend, _ *imapgw.Server, p *pipes) {
		silent, chatty := p.dial(t), p.dial(t)
		began := time.Now()
		gone := make(chan time.Duration, 1)
		go func() {
			_, _ = silent.readLine()
			_, _ = silent.readLine()
			gone <- time.Since(began)
		}()
		_, _ = chatty.readLine()
		for {
			_, err := chatty.c.Write([]byte("x NOOP\r\n"))
			if err == nil {
				_, err = chatty.readLine()
			}
			if err != nil {
				break
			}
			pass(10 * time.Second)
		}
		if stayed := time.Since(began); stayed > 200*time.Second || stayed < 100*time.Second {
			t.Errorf("who chats without logging in stayed %v", stayed)
		}
		if stayed := <-gone; stayed > time.Minute {
			t.Errorf("who says nothing stayed %v", stayed)
		}
	})
}

// TestSlowLiteral: a literal may take as long as it keeps coming.
func TestSlowLiteral(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *imapgwtest.Backend, _ *imapgw.Server, p *pipes) {
		c := p.dial(t)
		_, _ = c.readLine()
		c.send("x LOGIN alice secret\r\n")
		_, _ = c.readLine()
		piece := strings.Repeat("0123456789abcde\n", 1<<12) // 64 KiB
		c.send("x APPEND INBOX {4194304+}\r\n")
		began := time.Now()
		for range 64 {
			c.send(piece)
			pass(20 * time.Second)
		}
		c.send("\r\n")
		if l, err := c.readLine(); err != nil || !strings.HasPrefix(l, "x OK [APPENDUID") {
			t.Errorf("after %v: %q, %v", time.Since(began), l, err)
		}
		c.send("x APPEND INBOX {4194304+}\r\n")
		c.send(piece)
		began = time.Now()
		if l, err := c.readLine(); err == nil {
			t.Errorf("a client that stopped in the middle heard %q", l)
		}
		if waited := time.Since(began); waited > 10*time.Minute {
			t.Errorf("it was waited for %v", waited)
		}
	})
}
