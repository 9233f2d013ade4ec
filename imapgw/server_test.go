package imapgw_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/imapgw"
)

func withTLS(t *testing.T) (cfg func(*imapgw.Config), client *tls.Config) {
	server, pool := testCert(t)
	return func(c *imapgw.Config) {
		c.AllowPlaintextAuth = false
		c.TLS = func() *tls.Config { return server }
	}, &tls.Config{RootCAs: pool, ServerName: "mx.holdfast.test"}
}

func TestPrivacyRequired(t *testing.T) {
	cfg, clientTLS := withTLS(t)
	f := start(t, cfg)
	c := dial(t, f.addr)
	if l := c.line(); !strings.Contains(l, "STARTTLS") || !strings.Contains(l, "LOGINDISABLED") || strings.Contains(l, "AUTH=") {
		t.Errorf("greeting: %s", l)
	}
	for _, cmd := range []string{"LOGIN alice secret", "AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA=="} {
		if _, tagged := c.cmd(cmd); !strings.HasPrefix(tagged, "NO [PRIVACYREQUIRED]") {
			t.Errorf("%s: %s", cmd, tagged)
		}
	}
	c.ok("STARTTLS")
	tc := tls.Client(c.c, clientTLS)
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	c = newClient(t, tc)
	caps := c.ok("CAPABILITY")
	if strings.Contains(caps[0], "STARTTLS") || !strings.Contains(caps[0], "AUTH=PLAIN") {
		t.Errorf("capabilities with TLS: %s", caps)
	}
	c.ok("LOGIN alice secret")
	c.ok("SELECT INBOX")
}

func TestImplicitTLS(t *testing.T) {
	cfg, clientTLS := withTLS(t)
	f := start(t, cfg)
	addr := f.listen(t, f.srv.ServeTLS)
	manyInInbox(f.alice, 2000)
	tc, err := tls.Dial("tcp", addr, clientTLS)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, tc)
	if l := c.line(); !strings.HasPrefix(l, "* OK [CAPABILITY") || strings.Contains(l, "STARTTLS") {
		t.Errorf("greeting: %s", l)
	}
	c.ok("LOGIN alice secret")
	c.ok("SELECT INBOX")
	if got := c.ok("UID FETCH 1:* (FLAGS)"); len(got) != 2000 {
		t.Errorf("%d lines", len(got))
	}
	if got := c.ok("FETCH 7 BODY.PEEK[TEXT]"); len(got) != 3 || got[1] != "body" {
		t.Errorf("body: %q", got)
	}
}

// TestLargeLiterals: messages beyond the limit are refused, and none of their
// lines is taken for a command, whether the client waits or not.
func TestLargeLiterals(t *testing.T) {
	const limit = 100_000
	f := start(t, func(c *imapgw.Config) { c.MaxMessageSize = limit })
	f.alice.Deliver([]byte("Subject: x\r\n\r\n"), time.Now())
	c := f.login(t)
	c.ok("SELECT INBOX")
	evil := "x STORE 1 +FLAGS (\\Deleted)\r\nx EXPUNGE\r\n"
	body := strings.Repeat(evil, 2*limit/len(evil))
	for _, plus := range []string{"+", ""} {
		c.send("x APPEND INBOX {" + strconv.Itoa(len(body)) + plus + "}\r\n")
		if plus == "" {
			if l := c.line(); !strings.HasPrefix(l, "+") {
				t.Fatalf("continuation: %s", l)
			}
		}
		c.send(body + "\r\n")
		if l := c.line(); !strings.HasPrefix(l, "x NO [TOOBIG]") {
			t.Fatalf("answer: %s", l)
		}
	}
	if got := c.ok("NOOP"); len(got) != 0 {
		t.Errorf("NOOP: %q", got)
	}
	if uids := f.alice.UIDs("INBOX"); len(uids) != 1 || len(f.alice.Flags("INBOX", 1)) != 0 {
		t.Errorf("INBOX has %v with flags %v", uids, f.alice.Flags("INBOX", 1))
	}
	caps := c.ok("CAPABILITY")
	if !strings.Contains(caps[0], fmt.Sprintf("APPENDLIMIT=%d", limit)) {
		t.Errorf("capabilities: %s", caps)
	}
	c.send("x APPEND INBOX {4000000000+}\r\n")
	if rest := c.eof(); strings.Contains(rest, "x OK") {
		t.Errorf("after a literal of gigabytes: %q", rest)
	}
}

func TestConnectionLimits(t *testing.T) {
	f := start(t, func(c *imapgw.Config) { c.Limits = imapgw.Limits{ConnsPerAddr: 4, StrangersPerAddr: 2} })
	dialLine := func() (string, *client) {
		c := dial(t, f.addr)
		return c.line(), c
	}
	var open []*client
	for range 2 {
		l, c := dialLine()
		if !strings.HasPrefix(l, "* OK") {
			t.Fatal(l)
		}
		open = append(open, c)
	}
	if l, c := dialLine(); !strings.HasPrefix(l, "* BYE [LIMIT]") || c.eof() != "" {
		t.Fatalf("third stranger: %s", l)
	}
	for _, c := range open {
		c.ok("LOGIN alice secret")
	}
	for range 2 {
		l, c := dialLine()
		if !strings.HasPrefix(l, "* OK") {
			t.Fatalf("after the others have logged in: %s", l)
		}
		open = append(open, c)
	}
	if l, _ := dialLine(); !strings.HasPrefix(l, "* BYE [LIMIT]") {
		t.Fatalf("fifth connection: %s", l)
	}
	open[2].ok("LOGIN bob secret")
	_, _ = open[0].cmd("LOGOUT")
	open[0].eof()
	// The place is free a moment after the client sees the end.
	for deadline := time.Now().Add(patience); ; {
		l, _ := dialLine()
		if strings.HasPrefix(l, "* OK") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place was not given back")
		}
	}
}

func TestShutdown(t *testing.T) {
	f := start(t, nil)
	idle, quiet, stranger := f.login(t), f.login(t), dial(t, f.addr)
	stranger.line()
	idle.ok("SELECT INBOX")
	idle.send("x IDLE\r\n")
	idle.line()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.srv.Shutdown(ctx) }()
	for name, c := range map[string]*client{"in IDLE": idle, "between commands": quiet} {
		if rest := c.eof(); !strings.HasPrefix(rest, "* BYE ") || strings.Count(rest, "\r\n") != 1 {
			t.Errorf("client %s heard %q", name, rest)
		}
	}
	if rest := stranger.eof(); rest != "" {
		t.Errorf("stranger heard %q", rest)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", f.addr); err == nil {
		_ = c.Close()
		t.Error("the port is still open")
	}
}

// TestShutdownCuts: a client that does not read its answer cannot hold up the
// end.
func TestShutdownCuts(t *testing.T) {
	f := start(t, nil)
	manyInInbox(f.alice, 20_000)
	c := f.login(t)
	c.ok("SELECT INBOX")
	for range 20 {
		c.send("x UID FETCH 1:* (FLAGS INTERNALDATE RFC822.SIZE)\r\n")
	}
	c.line() // the server is at work, and will be stuck before it is done
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := f.srv.Shutdown(ctx); err == nil {
		t.Error("shutdown waited for a client that does not read")
	}
}

type counts struct {
	mu     sync.Mutex
	conns  int
	logins map[imapgw.LoginResult]int
}

func (c *counts) Connected(d int) { c.mu.Lock(); c.conns += d; c.mu.Unlock() }
func (c *counts) Refused()        {}
func (c *counts) LoggedIn(r imapgw.LoginResult) {
	c.mu.Lock()
	c.logins[r]++
	c.mu.Unlock()
}

func TestObserver(t *testing.T) {
	seen := &counts{logins: map[imapgw.LoginResult]int{}}
	f := start(t, func(c *imapgw.Config) { c.Observer = seen })
	c := dial(t, f.addr)
	c.line()
	f.alice.Refuse("not now")
	c.cmd("LOGIN alice secret")
	c.cmd("LOGIN alice wrong")
	f.alice.Refuse("")
	c.ok("LOGIN alice secret")
	seen.mu.Lock()
	if seen.conns != 1 || seen.logins[imapgw.LoginOK] != 1 || seen.logins[imapgw.LoginFailed] != 1 || seen.logins[imapgw.LoginNotAdmitted] != 1 {
		t.Errorf("observed %d connections and logins %v", seen.conns, seen.logins)
	}
	seen.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.srv.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if seen.conns != 0 {
		t.Errorf("%d connections after the end", seen.conns)
	}
}

// TestBrokenLiteral: when storage fails in the middle of a message whose length
// was announced, the connection ends, and nothing comes after the half message.
func TestBrokenLiteral(t *testing.T) {
	f := start(t, nil)
	big := "Subject: big\r\n\r\n" + strings.Repeat("0123456789abcde\n", 1<<16)
	f.alice.Deliver([]byte(big), time.Now())
	c := f.login(t)
	c.ok("SELECT INBOX")
	f.alice.Break(fmt.Errorf("lost"))
	c.send("x FETCH 1 BODY.PEEK[]\r\n")
	rest := c.eof()
	_, sent, _ := strings.Cut(rest, "}\r\n")
	if !strings.HasPrefix(big, sent) {
		t.Errorf("what came after the announcement is not the message: ...%q", sent[max(0, len(sent)-40):])
	}
}

// TestCorpus: every hard message comes out byte for byte, in whole, by sections,
// and in pieces.
func TestCorpus(t *testing.T) {
	f := start(t, nil)
	c := f.login(t)
	want := map[int]string{}
	n := 0
	for _, data := range corpus(t) {
		n++
		f.alice.Deliver(data, time.Now())
		want[n] = string(data)
	}
	c.ok("SELECT INBOX")
	for i, data := range want {
		if got := c.literals(fmt.Sprintf("FETCH %d BODY.PEEK[]", i)); len(got) != 1 || got[0] != data {
			t.Errorf("message %d: BODY[] differs", i)
		}
		if got := c.literals(fmt.Sprintf("FETCH %d (BODY.PEEK[HEADER] BODY.PEEK[TEXT])", i)); len(got) != 2 || got[0]+got[1] != data {
			t.Errorf("message %d: HEADER and TEXT are not the message", i)
		}
		mid := len(data) / 2
		if got := c.literals(fmt.Sprintf("FETCH %d (BODY.PEEK[]<0.%d> BODY.PEEK[]<%d.%d>)", i, mid, mid, len(data))); len(got) != 2 || got[0]+got[1] != data {
			t.Errorf("message %d: two pieces are not the message", i)
		}
		if got := c.literals(fmt.Sprintf("FETCH %d (ENVELOPE BODYSTRUCTURE BODY)", i)); got == nil {
			t.Errorf("message %d: no structure", i)
		}
	}
	c.ok("SEARCH TEXT zzzzzz")
}

// literals sends a command and returns the literals of its untagged answers.
func (c *client) literals(command string) []string {
	c.t.Helper()
	c.send("x " + command + "\r\n")
	out := []string{}
	for {
		l := c.line()
		if strings.HasPrefix(l, "x ") {
			if !strings.HasPrefix(l, "x OK") {
				c.t.Fatalf("%s: %s", command, l)
			}
			return out
		}
		for strings.HasSuffix(l, "}") {
			n, err := strconv.Atoi(l[strings.LastIndexByte(l, '{')+1 : len(l)-1])
			if err != nil {
				break
			}
			b := make([]byte, n)
			for got := 0; got < n; {
				k, err := c.br.Read(b[got:])
				if err != nil {
					c.t.Fatal(err)
				}
				got += k
			}
			out = append(out, string(b))
			l = c.line()
		}
	}
}
