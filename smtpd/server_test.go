package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newServer serves on a listener in memory until the returned function is
// called; that checks that everything has ended.
func newServer(t *testing.T, config Config, b Backend) (*Server, *simListener, func()) {
	t.Helper()
	if config.Hostname == "" {
		config.Hostname = "mx.example"
	}
	if config.Mode == 0 {
		config.Mode = MX
	}
	s, err := New(config, b)
	if err != nil {
		t.Fatal(err)
	}
	ln := newSimListener()
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), ln) }()
	return s, ln, func() {
		t.Helper()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
		if len(s.sessions) != 0 || len(s.perSource) != 0 {
			t.Errorf("left over: %d sessions, %d sources", len(s.sessions), len(s.perSource))
		}
	}
}

// expect reads one line and compares its beginning.
func expect(t *testing.T, in *bufio.Reader, want string) {
	t.Helper()
	got, err := in.ReadString('\n')
	if !strings.HasPrefix(got, want) || err != nil {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// client is a connection with what it receives.
type client struct {
	*simConn
	in *bufio.Reader
}

func dial(l *simListener, from string) *client {
	c := l.dial(from)
	c.SetReadDeadline(time.Now().Add(time.Hour))
	return &client{c, bufio.NewReader(c)}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]Config{
		"no hostname":   {Mode: MX},
		"bad hostname":  {Hostname: "a b", Mode: MX},
		"no mode":       {Hostname: "a"},
		"negative size": {Hostname: "a", Mode: MX, MaxMessageSize: -1},
		"short lines":   {Hostname: "a", Mode: MX, Limits: Limits{CommandLine: 100}},
		"long lines":    {Hostname: "a", Mode: MX, Limits: Limits{AuthLine: 1 << 20}},
	} {
		if _, err := New(c, &memory{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(Config{Hostname: "a", Mode: MX}, nil); err == nil {
		t.Error("no backend: no error")
	}
	if got := (Limits{}).withDefaults(); got != DefaultLimits() {
		t.Errorf("zero limits become %+v", got)
	}
}

func TestRegression9ConnectionsPerAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ln, stop := newServer(t, Config{Limits: Limits{ConnectionsPerAddress: 2, Connections: 4}}, &memory{})
		defer stop()
		var open []*client
		for _, step := range []struct{ from, want string }{
			{"192.0.2.1:1", "220"},
			{"192.0.2.1:2", "220"},
			{"192.0.2.1:3", "421 4.7.0"},
			{"[2001:db8::1]:1", "220"},
			{"[2001:db8::ffff]:1", "220"},
			{"[2001:db8:0:1::1]:1", "421 4.7.0"}, // four are open
		} {
			c := dial(ln, step.from)
			expect(t, c.in, step.want)
			open = append(open, c)
		}
		open[3].Close()
		synctest.Wait()
		c := dial(ln, "[2001:db8::2]:1") // same /64 as one still open
		expect(t, c.in, "220")
		open = append(open, c)
		open[0].Close()
		synctest.Wait()
		c = dial(ln, "[2001:db8::3]:1")
		expect(t, c.in, "421")
		c = dial(ln, "192.0.2.1:5")
		expect(t, c.in, "220")
		c.Close()
		for _, c := range open {
			c.Close()
		}
		synctest.Wait()
	})
}

func TestRegression9AllowSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := &counter{}
		_, ln, stop := newServer(t, Config{
			AllowSources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Observer: heard,
		}, &memory{})
		defer stop()
		c := dial(ln, "192.0.2.200:1")
		expect(t, c.in, "220")
		c.Close()
		c = dial(ln, "198.51.100.1:1")
		expect(t, c.in, "554 5.7.1")
		if _, err := c.in.ReadByte(); err != io.EOF {
			t.Errorf("not closed: %v", err)
		}
		synctest.Wait()
		if got := heard.String(); got != "opened closed refused:source-not-allowed" &&
			got != "opened refused:source-not-allowed closed" {
			t.Errorf("observer heard %q", got)
		}
	})
}

// counter is an Observer that remembers.
type counter struct {
	mu    sync.Mutex
	heard []string
}

func (c *counter) add(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, s)
}
func (c *counter) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.heard, " ")
}
func (c *counter) ConnOpened()              { c.add("opened") }
func (c *counter) ConnClosed()              { c.add("closed") }
func (c *counter) Refused(r Reason)         { c.add("refused:" + string(r)) }
func (c *counter) LoginTried(r LoginResult) { c.add("login:" + string(r)) }
func (c *counter) Accepted(n int64, wait time.Duration) {
	c.add(fmt.Sprintf("accepted:%d:%s", n, wait))
}

// slowBackend keeps messages, but takes a while to answer for them.
type slowBackend struct {
	memory
	delay time.Duration
}

func (b *slowBackend) Begin(ctx context.Context, p Peer, l Login, f ReversePath, m MailParams) (Transaction, error) {
	tx, err := b.memory.Begin(ctx, p, l, f, m)
	return &slowTransaction{tx, b.delay}, err
}

type slowTransaction struct {
	Transaction
	delay time.Duration
}

func (s *slowTransaction) Data(ctx context.Context, body io.Reader) (string, error) {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return "", err
	}
	select {
	case <-time.After(s.delay):
		return s.Transaction.Data(ctx, bytes.NewReader(nil))
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func TestObserverHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := &counter{}
		_, ln, stop := newServer(t, Config{Mode: Submission, AllowPlaintextAuth: true, Observer: heard}, &slowBackend{delay: 3 * time.Second})
		c := dial(ln, "192.0.2.1:1")
		fmt.Fprint(c, "EHLO x\r\nAUTH PLAIN AGFsaWNlAHdyb25n\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"+
			"MAIL FROM:<a@b.example>\r\nRCPT TO:<unknown@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
		io.Copy(io.Discard, c.in)
		stop()
		want := "opened login:bad refused:login login:ok refused:unknown-recipient accepted:3:3s closed"
		if got := heard.String(); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	})
}

func TestAnswerDeadlineIsTemporary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slowBackend{delay: time.Hour}
		_, ln, stop := newServer(t, Config{}, b)
		defer stop()
		c := dial(ln, "192.0.2.1:1")
		defer c.Close()
		fmt.Fprint(c, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 1 LAST\r\nx")
		begin := time.Now()
		for l := ""; !strings.HasPrefix(l, "451 4.3.0"); {
			var err error
			if l, err = c.in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took != DefaultLimits().Answer {
			t.Errorf("answered after %v", took)
		}
	})
}

func TestShutdownFinishesWhatIsInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slowBackend{delay: 5 * time.Second}
		_, ln, stop := newServer(t, Config{}, b)
		idle, busy, half := dial(ln, "192.0.2.1:1"), dial(ln, "192.0.2.2:1"), dial(ln, "192.0.2.3:1")
		expect(t, idle.in, "220")
		for _, c := range []*client{busy, half} {
			fmt.Fprint(c, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
			for l := ""; !strings.HasPrefix(l, "354"); l, _ = c.in.ReadString('\n') {
			}
		}
		fmt.Fprint(busy, "x\r\n.\r\n")
		fmt.Fprint(half, "x\r\n")
		synctest.Wait()
		stopped := make(chan struct{})
		go func() {
			stop()
			close(stopped)
		}()
		expect(t, idle.in, "421 4.3.2")
		expect(t, busy.in, "250 2.0.0")
		expect(t, busy.in, "421 4.3.2")
		time.Sleep(time.Minute)
		select {
		case <-stopped:
			t.Fatal("a body in hand was cut off")
		default:
		}
		fmt.Fprint(half, "more\r\n.\r\n")
		expect(t, half.in, "250 2.0.0")
		expect(t, half.in, "421 4.3.2")
		<-stopped
		if n := len(b.all()); n != 2 {
			t.Errorf("%d messages", n)
		}
		if b.open != 0 {
			t.Errorf("%d transactions open", b.open)
		}
	})
}

func TestShutdownDeadlineCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s, err := New(Config{Hostname: "mx.example", Mode: MX}, m)
		if err != nil {
			t.Fatal(err)
		}
		ln := newSimListener()
		served := make(chan error, 1)
		go func() { served <- s.Serve(context.Background(), ln) }()
		c := dial(ln, "192.0.2.1:1")
		fmt.Fprint(c, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nx\r\n")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
		if len(m.all()) != 0 || m.partial != 1 || m.open != 0 {
			t.Errorf("%d kept, %d partial, %d open", len(m.all()), m.partial, m.open)
		}
		if err := s.Serve(t.Context(), newSimListener()); !errors.Is(err, ErrServerClosed) {
			t.Errorf("serve after shutdown: %v", err)
		}
	})
}

func TestServeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s, err := New(Config{Hostname: "mx.example", Mode: MX}, m)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ln := newSimListener()
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, ln) }()
		c := dial(ln, "192.0.2.1:1")
		fmt.Fprint(c, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nx\r\n")
		synctest.Wait()
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Errorf("serve: %v", err)
		}
		if m.partial != 1 || m.open != 0 {
			t.Errorf("%d partial, %d open", m.partial, m.open)
		}
	})
}

func TestSessionTicketsAreOff(t *testing.T) {
	config := testTLS(t)
	s, err := New(Config{Hostname: "mx.example", Mode: MX, TLS: func() *tls.Config { return config }}, &memory{})
	if err != nil {
		t.Fatal(err)
	}
	ses := newSession(s, nil, func() {})
	if !ses.tlsConfig().SessionTicketsDisabled {
		t.Error("session tickets are on")
	}
	if config.SessionTicketsDisabled {
		t.Error("the caller's configuration was changed")
	}
}

func TestBackendThatLiesPanics(t *testing.T) {
	for name, feed := range map[string]string{"unread": "x\r\n.\r\n", "broken off": "x\r\n"} {
		t.Run(name, func(t *testing.T) {
			client, server := newSimPair("192.0.2.1:1", "192.0.2.25:25")
			s, err := New(Config{Hostname: "mx.example", Mode: MX}, &memory{})
			if err != nil {
				t.Fatal(err)
			}
			ses := newSession(s, server, func() {})
			ses.tx = &liar{}
			client.Write([]byte(feed))
			client.CloseWrite()
			defer func() {
				if r, _ := recover().(string); !strings.HasPrefix(r, "internal error:") {
					t.Errorf("no panic, but %q", r)
				}
			}()
			ses.receive(t.Context(), newDotSource(ses))
		})
	}
}

// liar says that it has kept what it has not read.
type liar struct{}

func (liar) Rcpt(context.Context, ForwardPath, RcptParams) error { return nil }
func (liar) Data(_ context.Context, body io.Reader) (string, error) {
	body.Read(make([]byte, 1))
	return "id", nil
}
func (liar) Close() {}

func TestNothingLegibleInLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		_, ln, stop := newServer(t, Config{
			Mode: Submission, AllowPlaintextAuth: true, Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
		}, &memory{})
		c := dial(ln, "192.0.2.1:1")
		fmt.Fprint(c, "EHLO secrethost\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL FROM:<secretfrom@b.example>\r\nRCPT TO:<odd@secretdomain.example>\r\n"+
			"RCPT TO:<secret@d.example>\r\nDATA\r\nsecret text\r\n.\r\nsecretcommand\r\nQUIT\r\n")
		io.Copy(io.Discard, c.in)
		stop()
		for _, word := range []string{"secretfrom", "secretdomain", "secret text", "secretcommand", "alice", "secrethost"} {
			if strings.Contains(out.String(), word) {
				t.Errorf("log says %q: %s", word, out.String())
			}
		}
		if !strings.Contains(out.String(), "temporary refusal") {
			t.Errorf("log does not say why mail was put off: %s", out.String())
		}
	})
}

func TestAcceptErrorsArePutUpWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Hostname: "mx.example", Mode: MX}, &memory{})
		if err != nil {
			t.Fatal(err)
		}
		ln := &failingListener{simListener: newSimListener(), left: 10}
		served := make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), ln) }()
		c := dial(ln.simListener, "192.0.2.1:1")
		expect(t, c.in, "220")
		c.Close()
		s.Shutdown(t.Context())
		<-served
	})
}

// failingListener fails to accept so many times.
type failingListener struct {
	*simListener
	left int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.left--; l.left >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.simListener.Accept()
}
