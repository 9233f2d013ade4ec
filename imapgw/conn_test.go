package imapgw

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a network connection that notes each write.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes []string
	in     chan []byte
	closed chan struct{}
	once   sync.Once
}

func newRecorder() *recorder { return &recorder{in: make(chan []byte), closed: make(chan struct{})} }

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, string(p))
	return len(p), nil
}

func (r *recorder) Read(p []byte) (int, error) {
	select {
	case b := <-r.in:
		return copy(p, b), nil
	case <-r.closed:
		return 0, io.EOF
	}
}

func (r *recorder) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func (r *recorder) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.writes
	r.writes = nil
	return w
}

func TestConnGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder()
		c := newConn(r, nil)
		for range 1000 {
			fmt.Fprint(c, "* line\r\n")
		}
		if w := r.taken(); w != nil {
			t.Fatalf("%d writes before anybody waits", len(w))
		}
		quiet := c.whenQuiet()
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 10))
			read <- err
		}()
		synctest.Wait()
		<-quiet
		if w := r.taken(); len(w) != 1 || len(w[0]) != 8000 {
			t.Fatalf("%d writes when the server waits", len(w))
		}
		fmt.Fprint(c, "at once")
		if w := r.taken(); len(w) != 1 {
			t.Fatalf("%q while the server waits", w)
		}
		c.hold()
		fmt.Fprint(c, "a")
		fmt.Fprint(c, "b")
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
		if w := r.taken(); len(w) != 1 || w[0] != "ab" {
			t.Fatalf("%q while held", w)
		}
		r.in <- []byte("x")
		<-read
		big := make([]byte, coalesce)
		_, _ = c.Write(big)
		if w := r.taken(); len(w) != 1 {
			t.Fatalf("%d writes of a large piece", len(w))
		}
		fmt.Fprint(c, "last words")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if w := r.taken(); len(w) != 1 || w[0] != "last words" {
			t.Fatalf("%q at the end", w)
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("writing after the end")
		}
		<-c.whenQuiet()
	})
}

func TestConnEndsAfterReply(t *testing.T) {
	r := newRecorder()
	c := newConn(r, nil)
	c.endAfterReply()
	fmt.Fprint(c, "no")
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	if w := r.taken(); len(w) != 1 {
		t.Errorf("%q", w)
	}
}

func TestConnAbort(t *testing.T) {
	r := newRecorder()
	c := newConn(r, nil)
	fmt.Fprint(c, "half")
	c.abort()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if w := r.taken(); w != nil {
		t.Errorf("%q was written", w)
	}
}

func TestPenalties(t *testing.T) {
	p := newPenalties()
	now := time.Unix(0, 0)
	a := netip.MustParseAddr("192.0.2.1")
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 16, 16} {
		d, ok := p.failed(a, now)
		if !ok || d != want*time.Second {
			t.Errorf("failure %d: %v, want %ds", i+1, d, want)
		}
		p.done()
	}
	if d, _ := p.failed(netip.MustParseAddr("192.0.2.2"), now); d != time.Second {
		t.Errorf("another address: %v", d)
	}
	x, y := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	p.failed(x, now)
	if d, _ := p.failed(y, now); d != 2*time.Second {
		t.Errorf("a neighbour in the same /64: %v", d)
	}
	if d, _ := p.failed(a, now.Add(time.Hour)); d != time.Second {
		t.Errorf("after an hour: %v", d)
	}
}

func TestPenaltiesAreBounded(t *testing.T) {
	p := newPenalties()
	now := time.Unix(0, 0)
	refused := 0
	const failures = 3 * maxOffenders
	for i := range failures {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if _, ok := p.failed(a, now); !ok {
			refused++
		}
	}
	if len(p.offenders) > maxOffenders || refused != failures-maxPenitents {
		t.Errorf("%d offenders, %d not made to wait", len(p.offenders), refused)
	}
	p.failed(netip.MustParseAddr("192.0.2.1"), now.Add(time.Hour))
	if len(p.offenders) != 1 {
		t.Errorf("%d offenders an hour later", len(p.offenders))
	}
}
