package smtpd

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLateInterruptIsOverslept calls interrupt's deadline down on a connection
// that has just gone over from waiting for a command to reading a body.
func TestLateInterruptIsOverslept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s, ln, stop := newServer(t, Config{}, m)
		c := dial(ln, "192.0.2.1:1")
		fmt.Fprint(c, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nx\r\n")
		synctest.Wait()
		for _, ses := range s.list() {
			ses.raw.SetReadDeadline(time.Unix(1, 0))
		}
		synctest.Wait()
		fmt.Fprint(c, "y\r\n.\r\nQUIT\r\n")
		said, _ := io.ReadAll(c.in)
		if !strings.Contains(string(said), "Kept as id1") {
			t.Errorf("said %q", said)
		}
		stop()
	})
}

// closingConn lets the server begin to close at the worst moment: after the
// session has looked, and before its deadline is set.
type closingConn struct {
	*simConn
	closing *atomic.Bool
}

func (c *closingConn) SetReadDeadline(t time.Time) error {
	c.closing.Store(true)
	return c.simConn.SetReadDeadline(t)
}

func TestShutdownIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closing atomic.Bool
		_, server := newSimPair("192.0.2.1:1", "192.0.2.25:25")
		limits := DefaultLimits()
		w := newWire(&closingConn{server, &closing}, newBuffers(), &limits, &closing)
		begin := time.Now()
		if _, err := w.readLine(512); !errors.Is(err, errShutdown) {
			t.Errorf("error %v", err)
		}
		if waited := time.Since(begin); waited > 0 {
			t.Errorf("noticed after %v", waited)
		}
	})
}

func TestLongLinesDoNotKeepTheLargeBuffer(t *testing.T) {
	var closing atomic.Bool
	client, server := newSimPair("192.0.2.1:1", "192.0.2.25:25")
	limits := DefaultLimits()
	w := newWire(server, newBuffers(), &limits, &closing)
	fmt.Fprintf(client, "%s\r\nshort\r\n", strings.Repeat("x", 5000))
	if l, err := w.readLine(limits.AuthLine); len(l) != 5000 || err != nil {
		t.Fatalf("%d octets, %v", len(l), err)
	}
	if w.large == nil {
		t.Error("a long line fitted into the small buffer")
	}
	if l, err := w.readLine(limits.AuthLine); string(l) != "short" || err != nil {
		t.Fatalf("%q, %v", l, err)
	}
	if w.large != nil {
		t.Error("the large buffer was kept")
	}
	client.Close()
	if _, err := w.readLine(512); !errors.Is(err, ErrIncomplete) {
		t.Errorf("error %v", err)
	}
}
