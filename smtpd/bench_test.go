package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// null is a Backend that reads everything and keeps nothing.
type null struct{}

func (null) Auth(context.Context, Peer, string, string, string) (Login, error) { return nil, nil }
func (null) Begin(context.Context, Peer, Login, ReversePath, MailParams) (Transaction, error) {
	return null{}, nil
}
func (null) Rcpt(context.Context, ForwardPath, RcptParams) error { return nil }
func (null) Close()                                              {}
func (null) Data(_ context.Context, body io.Reader) (string, error) {
	_, err := io.Copy(struct{ io.Writer }{io.Discard}, body)
	return "0123456789abcdef0123456789abcdef", err
}

// serveTCP serves on a loopback port until the test ends.
func serveTCP(t testing.TB, c Config, b Backend) string {
	t.Helper()
	c.Hostname, c.Mode = "mx.example", MX
	c.Limits.ConnectionsPerAddress = -1
	c.Limits.Connections = 100_000
	s, err := New(c, b)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		<-done
	})
	return ln.Addr().String()
}

// sampleMessage looks like mail: lines of text, some with dots in front.
func sampleMessage(size int) []byte {
	var b bytes.Buffer
	b.WriteString("From: a@example.com\r\nTo: b@example.org\r\nSubject: a sample\r\nReceived: from x by y; today\r\n\r\n")
	for b.Len() < size-100 {
		b.WriteString("The quick brown fox jumps over the lazy dog. www.example.com/a/b?c=d.\r\n")
	}
	b.WriteString(strings.Repeat("x", max(0, size-b.Len()-2)) + "\r\n")
	return b.Bytes()
}

// BenchmarkAccept sends messages over loopback with 20 sessions, the sender's
// work included.
func BenchmarkAccept(b *testing.B) {
	for _, size := range []int{10 << 10, 1 << 20} {
		for _, how := range []string{"DATA", "BDAT"} {
			b.Run(fmt.Sprintf("%s/%dKiB", how, size>>10), func(b *testing.B) { benchmarkAccept(b, size, how) })
		}
	}
}

func benchmarkAccept(b *testing.B, size int, how string) {
	addr := serveTCP(b, Config{}, null{})
	message := sampleMessage(size)
	next := make(chan struct{}, 20)
	var senders sync.WaitGroup
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for range 20 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		senders.Go(func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			io.WriteString(conn, "EHLO bench.example\r\n")
			for l := ""; !strings.HasPrefix(l, "250 "); l, _ = in.ReadString('\n') {
			}
			for range next {
				if err := sendOne(conn, in, message, how); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.ResetTimer()
	for range b.N {
		next <- struct{}{}
	}
	close(next)
	senders.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// sendOne sends a message with pipelining.
func sendOne(conn net.Conn, in *bufio.Reader, message []byte, how string) error {
	const envelope = "MAIL FROM:<sender@example.com>\r\nRCPT TO:<recipient@example.org>\r\n"
	replies := func(n int) error {
		for range n {
			l, err := in.ReadSlice('\n')
			if err != nil || l[0] > '3' {
				return fmt.Errorf("reply %q: %w", l, err)
			}
		}
		return nil
	}
	if how == "BDAT" {
		fmt.Fprintf(conn, "%sBDAT %d LAST\r\n", envelope, len(message))
		if _, err := conn.Write(message); err != nil {
			return err
		}
		return replies(3)
	}
	io.WriteString(conn, envelope+"DATA\r\n")
	if err := replies(3); err != nil {
		return err
	}
	parts := net.Buffers{message, []byte(".\r\n")}
	if _, err := parts.WriteTo(conn); err != nil {
		return err
	}
	return replies(1)
}

// BenchmarkDots measures the search for the end of data in hostile text.
func BenchmarkDots(b *testing.B) {
	for name, unit := range map[string]string{
		"text": "The quick brown fox jumps over the lazy dog. And again.\r\n", "stuffed": "..\r\n", "lf": "\n.x", "cr": "\r.x",
		"mixed": "\n.x\r.x..\r\n", "base64": strings.Repeat("QUJD", 19) + "\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			text := []byte(strings.Repeat(unit, 1<<20/len(unit)) + "\r\n.\r\n")
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				client, server := newSimPair("192.0.2.1:1", "192.0.2.25:25")
				s, err := New(Config{Hostname: "mx.example", Mode: MX}, null{})
				if err != nil {
					b.Fatal(err)
				}
				client.Write(text)
				ses := newSession(s, server, func() {})
				if err := newDotSource(ses).drain(); err != io.EOF {
					b.Fatal(err)
				}
				server.SetReadDeadline(time.Time{})
			}
		})
	}
}

// TestIdleConnectionsAreCheap measures what a connection costs that waits for a
// command after a message, both ends in this process.
func TestIdleConnectionsAreCheap(t *testing.T) {
	const n = 1000
	addr := serveTCP(t, Config{}, null{})
	message := sampleMessage(20 << 10)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := memory()
	in := bufio.NewReader(nil)
	for range n {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		in.Reset(conn)
		io.WriteString(conn, "EHLO idle.example\r\n")
		for l := ""; !strings.HasPrefix(l, "250 "); {
			if l, err = in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if err := sendOne(conn, in, message, "DATA"); err != nil {
			t.Fatal(err)
		}
	}
	each := (memory() - before) / n
	t.Logf("%d bytes per idle connection", each)
	if each > 16<<10 {
		t.Errorf("%d bytes per idle connection", each)
	}
}
