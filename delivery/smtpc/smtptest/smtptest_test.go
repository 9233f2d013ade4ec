package smtptest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// talk sends lines on a new connection and returns the codes of the answers,
// one for each answer, until the server has nothing more to say.
func talk(t *testing.T, s *Server, lines ...string) string {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(nc, strings.Join(lines, "\r\n")+"\r\n")
	_ = nc.(*net.TCPConn).CloseWrite() // An error, too, is the connection being cut.
	answers, _ := io.ReadAll(nc)       // Likewise.
	var codes []string
	sc := bufio.NewScanner(strings.NewReader(string(answers)))
	for sc.Scan() {
		if l := sc.Text(); len(l) > 3 && l[3] == ' ' {
			codes = append(codes, l[:3])
		}
	}
	return strings.Join(codes, " ")
}

var whole = []string{"EHLO c", "MAIL FROM:<a@b> SIZE=3", "RCPT TO:<\"x> y\"@d> NOTIFY=NEVER", "DATA", "..a\x00\n.", ".", "QUIT"}

func TestScripts(t *testing.T) {
	one := func(p Phase, a Action) Script { return Script{At: map[Phase]Action{p: a}} }
	for _, tc := range []struct {
		name     string
		script   Script
		lines    []string
		codes    string
		recorded int
	}{
		{"usual", Script{}, whole, "220 250 250 250 354 250 221", 1},
		{"half a message", Script{}, whole[:5], "220 250 250 250 354", 0},
		{"wrong order", Script{}, []string{"MAIL FROM:<a@b>", "EHLO c", "RCPT TO:<a@b>", "DATA", "MAIL FROM:<>", "DATA", "RSET", "NOOP", "FOO", "STARTTLS", "QUIT"}, "220 503 250 503 503 250 554 250 250 500 502 221", 0},
		{"drop at banner", one(Banner, Action{Drop: true}), whole, "", 0},
		{"drop before recording", one(Dot, Action{Drop: true, Lose: true}), whole, "220 250 250 250 354", 0},
		{"drop after recording", one(Dot, Action{Drop: true}), whole, "220 250 250 250 354", 1},
		{"refused at the dot", one(Dot, Action{Reply: "451 no"}), whole, "220 250 250 250 354 451 221", 0},
		{"once", one(Mail, Action{Reply: "451 no", Times: 1}), []string{"EHLO c", "MAIL FROM:<a@b>", "MAIL FROM:<a@b>", "QUIT"}, "220 250 451 250 221", 0},
		{"closing", one(Rcpt, Action{Reply: "421 no"}), whole, "220 250 250 421", 0},
		{"slow", one(Helo, Action{Delay: 20 * time.Millisecond}), whole, "220 250 250 250 354 250 221", 1},
		{"enough", Script{MaxPerConn: 1}, append(whole[:6:6], "MAIL FROM:<a@b>"), "220 250 250 250 354 250 421", 1},
		{"by recipient", Script{Rcpt: func(to string) Action {
			if to == "no@b" {
				return Action{Reply: "550 no"}
			}
			return Action{}
		}}, []string{"HELO c", "MAIL FROM:<>", "RCPT TO:<no@b>", "RCPT TO:<yes@b>", "QUIT"}, "220 250 250 550 250 221", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := Start(t, Options{})
			s.Script(tc.script)
			if got := talk(t, s, tc.lines...); got != tc.codes {
				t.Errorf("answers %q, want %q", got, tc.codes)
			}
			s.Stop()
			if got := s.Transactions(); len(got) != tc.recorded {
				t.Errorf("%d recorded, want %d", len(got), tc.recorded)
			}
		})
	}
}

func TestRecordIsExact(t *testing.T) {
	s := Start(t, Options{})
	talk(t, s, whole...)
	got := s.Transactions()[0]
	if got.From != "a@b" || got.Params != "SIZE=3" || len(got.Recipients) != 1 || got.Recipients[0] != (Recipient{`"x> y"@d`, "NOTIFY=NEVER"}) {
		t.Errorf("envelope %+v", got)
	}
	if string(got.Body) != ".a\x00\n.\r\n" || !got.BareCRLF || got.Conn != 1 || got.Secure {
		t.Errorf("body %q, %+v", got.Body, got)
	}
}

func TestStopAndStartAgain(t *testing.T) {
	s := Start(t, Options{})
	talk(t, s, whole...)
	addr := s.Addr()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := bufio.NewReader(nc).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Stop()
	if _, err := io.ReadAll(nc); err == nil && s.Conns() != 2 {
		t.Errorf("%d connections", s.Conns())
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a stopped server takes connections")
	}
	if _, err := s.Dial(t.Context(), "", ""); err == nil {
		t.Error("a stopped server can be dialled")
	}
	if err := s.Start(); err != nil || s.Addr() != addr {
		t.Fatalf("start again: %v, at %s, was %s", err, s.Addr(), addr)
	}
	if s.Start() == nil {
		t.Error("started twice")
	}
	talk(t, s, whole...)
	if n := len(s.Transactions()); n != 2 {
		t.Errorf("%d recorded, want 2", n)
	}
	s.Forget()
	if len(s.Transactions()) != 0 {
		t.Error("not forgotten")
	}
	s.Stop()
	s.Resume()
	c, err := s.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestStopEndsHangingSessions(t *testing.T) {
	s := New(Options{})
	s.Listen("127.0.0.1:0")
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	s.Script(Script{At: map[Phase]Action{Banner: {Hang: true}, Helo: {Delay: time.Hour}}})
	nc, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for s.Conns() == 0 {
		runtime.Gosched() // until the server has taken the connection
	}
	done := make(chan struct{})
	go func() { s.Stop(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Stop hangs")
	}
}
