package smtpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc"
	"holdfast/delivery/smtpc/smtptest"
)

func target(s *smtptest.Server) smtpc.Target {
	host, port := s.HostPort()
	return smtpc.Target{Host: host, Port: port}
}

func envelope(to ...string) smtpc.Envelope {
	env := smtpc.Envelope{From: "sender@example.org"}
	for _, a := range to {
		env.Recipients = append(env.Recipients, smtpc.Recipient{To: a})
	}
	return env
}

func connect(t *testing.T, s *smtptest.Server, cfg smtpc.Config) *smtpc.Conn {
	t.Helper()
	if cfg.Dial == nil {
		cfg.Dial = s.Dial
	}
	c, err := smtpc.Connect(t.Context(), smtpc.Target{Host: "primary.test"}, cfg)
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func asError(t *testing.T, err error) *smtpc.Error {
	t.Helper()
	e, ok := errors.AsType[*smtpc.Error](err)
	if !ok {
		t.Fatalf("error is %T, want *smtpc.Error: %v", err, err)
	}
	return e
}

// bodies lists what is given and what a server must have afterwards, where that
// differs.
var bodies = []struct {
	name, in, want string
}{
	{name: "plain", in: "Subject: x\r\n\r\nhello\r\n"},
	{name: "dots", in: ".\r\n..\r\n.a\r\nb.\r\n...\r\n"},
	{name: "only a dot line", in: ".\r\n"},
	{name: "empty", in: ""},
	{name: "only CRLF", in: "\r\n"},
	{name: "eight bit and NUL", in: "a\x00\xff\xfe\r\n\x80\r\n"},
	{name: "long line", in: strings.Repeat("x", 100_000) + "\r\n"},
	{name: "smuggled end", in: "a\n.\nb\r\n", want: "a\r\n.\r\nb\r\n"},
	{name: "smuggled end with CR", in: "a\r.\rb\r\n", want: "a\r\n.\r\nb\r\n"},
	{name: "smuggled end, mixed", in: "a\n.\r\nMAIL FROM:<x>\r\n", want: "a\r\n.\r\nMAIL FROM:<x>\r\n"},
	{name: "bare LF", in: "a\nb\n", want: "a\r\nb\r\n"},
	{name: "bare CR", in: "a\rb\r", want: "a\r\nb\r\n"},
	{name: "CR CR LF", in: "a\r\r\nb\r\n", want: "a\r\n\r\nb\r\n"},
	{name: "LF CR", in: "a\n\rb\r\n", want: "a\r\n\r\nb\r\n"},
	{name: "no last CRLF", in: "a\r\nb", want: "a\r\nb\r\n"},
	{name: "last dot without CRLF", in: "a\r\n.", want: "a\r\n.\r\n"},
	{name: "many CRs", in: strings.Repeat("\r", 70_000) + "\n", want: strings.Repeat("\r\n", 70_000)},
}

func TestBodyArrivesExactly(t *testing.T) {
	s := smtptest.Start(t, smtptest.Options{})
	c, err := smtpc.Connect(t.Context(), target(s), smtpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	readers := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "data with EOF": iotest.DataErrReader,
	}
	for _, b := range bodies {
		for how, reader := range readers {
			t.Run(b.name+"/"+how, func(t *testing.T) {
				s.Forget()
				want := b.want
				if want == "" {
					want = b.in
				}
				res, err := c.Send(t.Context(), envelope("a@b.test"), reader(strings.NewReader(b.in)), nil)
				if err != nil {
					t.Fatal(err)
				}
				got := s.Transactions()
				if len(got) != 1 || string(got[0].Body) != want || got[0].BareCRLF {
					t.Fatalf("got %d transactions, body not as wanted (%q)", len(got), head(got))
				}
				if res.Normalised != (want != b.in) || res.Uncertain || !res.Recipients[0].Accepted || res.Final.Code != 250 {
					t.Errorf("result %+v", res)
				}
			})
		}
	}
	if s.Conns() != 1 {
		t.Errorf("%d connections, want one reused", s.Conns())
	}
}

func head(ts []smtptest.Transaction) string {
	if len(ts) == 0 {
		return ""
	}
	return string(ts[0].Body[:min(200, len(ts[0].Body))])
}

func TestLargeRandomBody(t *testing.T) {
	s := smtptest.Start(t, smtptest.Options{})
	c, err := smtpc.Connect(t.Context(), target(s), smtpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	var body bytes.Buffer
	for body.Len() < 3<<20 {
		for range rng.IntN(300) {
			body.WriteByte("ab.c\xf0 "[rng.IntN(6)])
		}
		body.WriteString("\r\n")
	}
	if _, err := c.Send(t.Context(), envelope("a@b.test"), bytes.NewReader(body.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	if got := s.Transactions(); !bytes.Equal(got[0].Body, body.Bytes()) {
		t.Error("body differs")
	}
}

func TestHookRunsBetweenBodyAndDot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := smtptest.New(smtptest.Options{})
		defer s.Stop()
		c := connect(t, s, smtpc.Config{})
		called := 0
		_, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), func(context.Context) error {
			called++
			if n := len(s.Transactions()); n != 0 {
				t.Errorf("%d messages recorded before the dot", n)
			}
			return nil
		})
		if err != nil || called != 1 || len(s.Transactions()) != 1 {
			t.Fatalf("err %v, hook called %d times, %d messages", err, called, len(s.Transactions()))
		}
		refuse := errors.New("no intent")
		res, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("y\r\n"), func(context.Context) error { return refuse })
		e := asError(t, err)
		if !errors.Is(err, refuse) || e.Phase != smtpc.PhaseBody || !e.Local || res.Uncertain || c.Alive() {
			t.Errorf("error %v (%+v), result %+v, alive %v", err, e, res, c.Alive())
		}
		synctest.Wait()
		if n := len(s.Transactions()); n != 1 {
			t.Errorf("%d messages after a refusing hook, want 1", n)
		}
	})
}

func TestHookIsNotCalledInVain(t *testing.T) {
	for name, sc := range map[string]smtptest.Script{
		"mail refused":            {At: map[smtptest.Phase]smtptest.Action{smtptest.Mail: {Reply: "451 4.3.0 no"}}},
		"all recipients":          {At: map[smtptest.Phase]smtptest.Action{smtptest.Rcpt: {Reply: "550 5.1.1 no"}}},
		"all recipients, but 354": {At: map[smtptest.Phase]smtptest.Action{smtptest.Rcpt: {Reply: "550 5.1.1 no"}, smtptest.Data: {Reply: "354 go", Times: 1}}},
		"mail refused, but 354":   {At: map[smtptest.Phase]smtptest.Action{smtptest.Mail: {Reply: "451 4.3.0 no", Times: 1}, smtptest.Data: {Reply: "354 go", Times: 1}}},
		"data":                    {At: map[smtptest.Phase]smtptest.Action{smtptest.Data: {Reply: "452 4.3.1 full"}}},
	} {
		for _, ext := range [][]string{nil, {}} { // with and without PIPELINING
			t.Run(fmt.Sprint(name, len(ext) == 0 && ext != nil), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { refusedThenNext(t, ext, sc) })
			})
		}
	}
}

// refusedThenNext sends a message that is refused before its body, and another
// on the same connection.
func refusedThenNext(t *testing.T, ext []string, sc smtptest.Script) {
	s := smtptest.New(smtptest.Options{Extensions: ext})
	defer s.Stop()
	s.Script(sc)
	c := connect(t, s, smtpc.Config{})
	res, err := c.Send(t.Context(), envelope("a@b.test", "c@b.test"), strings.NewReader("x\r\n"), func(context.Context) error {
		t.Error("hook called")
		return nil
	})
	for _, r := range res.Recipients {
		if r.Accepted || r.Reply.Code < 400 || r.Phase == 0 {
			t.Errorf("recipient %+v", r)
		}
	}
	if _, all := sc.At[smtptest.Rcpt]; all != (err == nil) {
		t.Errorf("error %v", err)
	}
	s.Script(smtptest.Script{})
	if !c.Alive() {
		t.Fatal("connection is lost")
	}
	res, err = c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("next\r\n"), nil)
	if err != nil || !res.Recipients[0].Accepted {
		t.Fatalf("next message: %v", err)
	}
	if got := s.Transactions(); len(got) != 1 || string(got[0].Body) != "next\r\n" {
		t.Errorf("recorded %d messages", len(got))
	}
}

func TestLostAnswers(t *testing.T) {
	act := func(a smtptest.Action) smtptest.Script {
		return smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Dot: a}}
	}
	for _, tc := range []struct {
		name      string
		script    smtptest.Script
		uncertain bool
		timeout   bool
		recorded  int
		code      int
	}{
		{"hang after recording", act(smtptest.Action{Hang: true}), true, true, 1, 0},
		{"hang, lost", act(smtptest.Action{Hang: true, Lose: true}), true, true, 0, 0},
		{"drop after recording", act(smtptest.Action{Drop: true}), true, false, 1, 0},
		{"drop, lost", act(smtptest.Action{Drop: true, Lose: true}), true, false, 0, 0},
		{"too slow", act(smtptest.Action{Delay: 2 * time.Minute}), true, true, 1, 0},
		{"slow", act(smtptest.Action{Delay: 59 * time.Second}), false, false, 1, 250},
		{"garbage", act(smtptest.Action{Reply: "3xx what"}), true, false, 1, 0},
		{"354", act(smtptest.Action{Reply: "354 more"}), true, false, 1, 0},
		{"temporary", act(smtptest.Action{Reply: "451 4.3.0 later"}), false, false, 0, 451},
		{"permanent", act(smtptest.Action{Reply: "554 5.7.1 no"}), false, false, 0, 554},
		{"closing", act(smtptest.Action{Reply: "421 4.3.2 bye"}), false, false, 0, 421},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := smtptest.New(smtptest.Options{})
				defer s.Stop()
				s.Script(tc.script)
				c := connect(t, s, smtpc.Config{})
				res, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), nil)
				if res.Uncertain != tc.uncertain || res.Recipients[0].Reply.Code != tc.code || res.Recipients[0].Phase != smtpc.PhaseDot {
					t.Errorf("result %+v", res)
				}
				if tc.code == 250 {
					if err != nil || !res.Recipients[0].Accepted {
						t.Errorf("error %v", err)
					}
				} else if e := asError(t, err); e.Phase != smtpc.PhaseDot || e.Timeout != tc.timeout || res.Recipients[0].Accepted {
					t.Errorf("error %+v", e)
				}
				if tc.uncertain && c.Alive() {
					t.Error("connection still counts as alive")
				}
				if n := len(s.Transactions()); n != tc.recorded {
					t.Errorf("%d recorded, want %d", n, tc.recorded)
				}
			})
		})
	}
}

func TestConnectionLostBeforeTheDotIsCertain(t *testing.T) {
	s := smtptest.Start(t, smtptest.Options{})
	c, err := smtpc.Connect(t.Context(), target(s), smtpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	res, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), func(context.Context) error {
		s.Stop()
		return nil
	})
	if e := asError(t, err); e.Phase != smtpc.PhaseBody || res.Uncertain || e.Local {
		t.Errorf("error %v, uncertain %v", err, res.Uncertain)
	}
	if len(s.Transactions()) != 0 {
		t.Error("half a message was recorded")
	}
}

func TestUnreadableBodyIsNeverSentWhole(t *testing.T) {
	s := smtptest.Start(t, smtptest.Options{})
	c, err := smtpc.Connect(t.Context(), target(s), smtpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	broken := errors.New("storage")
	_, err = c.Send(t.Context(), envelope("a@b.test"), io.MultiReader(strings.NewReader("x\r\n"), iotest.ErrReader(broken)), nil)
	if e := asError(t, err); !errors.Is(err, broken) || !e.Local || e.Phase != smtpc.PhaseBody {
		t.Errorf("error %+v", e)
	}
	s.Stop()
	if len(s.Transactions()) != 0 {
		t.Error("half a message was recorded")
	}
}

func TestCancelledContextClosesTheConnection(t *testing.T) {
	for _, phase := range []smtptest.Phase{smtptest.Mail, smtptest.Rcpt, smtptest.Data, smtptest.Dot} {
		t.Run(string(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := smtptest.New(smtptest.Options{})
				defer s.Stop()
				s.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{phase: {Hang: true}}})
				c := connect(t, s, smtpc.Config{})
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				began := time.Now()
				res, err := c.Send(ctx, envelope("a@b.test"), strings.NewReader("x\r\n"), nil)
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second || c.Alive() {
					t.Errorf("error %v after %v, alive %v", err, time.Since(began), c.Alive())
				}
				if res.Uncertain != (phase == smtptest.Dot) {
					t.Errorf("uncertain %v", res.Uncertain)
				}
			})
		})
	}
}

func TestSmallMessageLeavesInFewWrites(t *testing.T) {
	s := smtptest.Start(t, smtptest.Options{})
	var writes int
	cfg := smtpc.Config{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &countingConn{nc, &writes}, err
	}}
	c, err := smtpc.Connect(t.Context(), target(s), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	writes = 0
	body := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 140)
	if _, err := c.Send(t.Context(), envelope("a@b.test", "b@b.test"), strings.NewReader(body), nil); err != nil {
		t.Fatal(err)
	}
	if writes != 3 { // envelope, body, dot
		t.Errorf("%d writes, want 3", writes)
	}
}

// TestFlightsAreBounded: whoever writes more than the other side can take while
// it is itself writing waits for ever.
func TestFlightsAreBounded(t *testing.T) {
	s := smtptest.Start(t, smtptest.Options{})
	longest := 0
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &writeHook{nc, func(p []byte) (int, error) { longest = max(longest, len(p)); return nc.Write(p) }}, err
	}
	c, err := smtpc.Connect(t.Context(), target(s), smtpc.Config{Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var to []string
	for i := range 1000 {
		to = append(to, fmt.Sprintf("user%d@b.test", i))
	}
	if _, err := c.Send(t.Context(), envelope(to...), strings.NewReader("x\r\n"), nil); err != nil {
		t.Fatal(err)
	}
	if longest > 4096 || longest < 3000 {
		t.Errorf("the longest flight had %d octets", longest)
	}
}

func TestDotThatCannotBeWritten(t *testing.T) {
	cert, _ := selfSigned(t)
	broken := errors.New("broken")
	for _, tc := range []struct {
		name      string
		tls       smtpc.Policy
		written   int // octets of the dot that get through
		uncertain bool
	}{
		{"nothing", smtpc.None, 0, false},
		{"a dot", smtpc.None, 1, false},
		{"all but LF", smtpc.None, 2, false},
		{"all", smtpc.None, 3, true},
		{"nothing, as TLS says", smtpc.Opportunistic, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Options{TLS: cert})
			cut := false
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, network, addr)
				return &writeHook{nc, func(p []byte) (int, error) {
					if cut {
						n, _ := nc.Write(p[:tc.written])
						return n, broken
					}
					return nc.Write(p)
				}}, err
			}
			to := target(s)
			to.TLS = tc.tls
			c, err := smtpc.Connect(t.Context(), to, smtpc.Config{Dial: dial})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			res, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), func(context.Context) error { cut = true; return nil })
			if e := asError(t, err); e.Phase != smtpc.PhaseDot || !errors.Is(err, broken) || res.Uncertain != tc.uncertain || c.Alive() {
				t.Errorf("error %v, uncertain %v", err, res.Uncertain)
			}
		})
	}
}

type countingConn struct {
	net.Conn
	writes *int
}

func (c *countingConn) Write(p []byte) (int, error) {
	*c.writes++
	return c.Conn.Write(p)
}

// writeHook is a connection whose writes are done by a function.
type writeHook struct {
	net.Conn
	write func([]byte) (int, error)
}

func (c *writeHook) Write(p []byte) (int, error) { return c.write(p) }
