package conformance

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/smtpd"
)

// TestTeeth holds the suite with servers that are wrong in one way each, and
// sees that the conversations about it notice.
func TestTeeth(t *testing.T) {
	all := load(t)
	for _, tt := range []struct {
		name      string
		toServer  func([]byte) []byte
		toClient  func([]byte) []byte
		endOfData bool // a client that goes away is taken to have finished
		fails     []string
	}{
		{
			name: "bare LF is made CRLF",
			toServer: func(b []byte) []byte {
				return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
			},
			fails: []string{"smuggling/in one packet: LF dot LF", "smuggling/at the very beginning: dot LF"},
		},
		{
			name:     "NUL is dropped",
			toServer: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\x00"), nil) },
			fails: []string{
				"smuggling/in one packet, no line end before or after the dot: CRLF NUL dot CRLF",
			},
		},
		{
			name:      "the end of the connection ends the data",
			endOfData: true,
			fails:     []string{"boundaries/half-closed in the data: inside a line", "boundaries/half-closed in the data: after CRLF"},
		},
		{
			name:     "replies without enhanced status codes",
			toClient: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("250 2.1.0"), []byte("250")) },
			fails:    []string{"enhanced/mail has one"},
		},
		{
			name:     "replies that end in LF",
			toClient: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("Bye\r\n"), []byte("Bye\n")) },
			fails:    []string{"commands/quit at once"},
		},
		{
			name:     "dots are unstuffed twice",
			toServer: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n..."), []byte("\r\n..")) },
			fails:    []string{"data/three dots at the beginning of a line"},
		},
		{
			name:     "a second mail is let through",
			toClient: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("503 5.5.1 A"), []byte("250 2.1.0 A")) },
			fails:    []string{"commands/a second mail inside a transaction"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := &keeper{}
			p := &proxy{to: serve(t, smtpd.MX, k, nil), toServer: tt.toServer, toClient: tt.toClient, endOfData: tt.endOfData}
			target := Target{Addr: p.start(t), Rcpt: "*@example.org", Kept: k, Timeout: time.Minute}
			only := func(c *Conversation) bool { return slices.Contains(tt.fails, c.Group()) }
			results, err := Run(t.Context(), target, all, Options{Only: only})
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != len(tt.fails) {
				t.Errorf("%d conversations held, want %d", len(results), len(tt.fails))
			}
			for _, r := range results {
				if r.Verdict != Fails {
					t.Errorf("%s: %s %s", r.Group(), r.Verdict, r.Detail)
				}
			}
		})
	}
}

// TestLenientSinks holds the smuggling conversations with servers that end the
// data where they must not.
func TestLenientSinks(t *testing.T) {
	all := load(t)
	for name, end := range map[string]string{
		"":               "",
		"LF dot LF":      "\n.\n",
		"LF dot CRLF":    "\n.\r\n",
		"CRLF dot LF":    "\r\n.\n",
		"CR dot CR":      "\r.\r",
		"CR dot CRLF":    "\r.\r\n",
		"LF CR dot LF":   "\n\r.\n",
		"CR CR dot CRLF": "\r\r.\r\n",
	} {
		t.Run("end "+name, func(t *testing.T) {
			t.Parallel()
			sink := &Sink{Quiet: 200 * time.Millisecond}
			if end != "" {
				sink.Ends = []string{end}
			}
			ctx, cancel := context.WithCancel(context.Background())
			ln := listen(t)
			done := make(chan error, 1)
			go func() { done <- sink.Serve(ctx, ln) }()
			defer func() { cancel(); <-done }()
			target := Target{Addr: ln.Addr().String(), Rcpt: "*@example.org", Kept: sink, Timeout: time.Minute}
			results, err := Run(t.Context(), target, all, Options{Only: func(c *Conversation) bool {
				return strings.HasPrefix(c.Group(), "smuggling/in one packet")
			}})
			if err != nil {
				t.Fatal(err)
			}
			failed := false
			for _, r := range results {
				switch {
				case strings.HasSuffix(r.Name, ": "+name) && name != "":
					failed = r.Verdict == Fails
				case r.Verdict == Fails && name == "", r.Verdict == Broken:
					t.Errorf("%s: %s %s", r.Group(), r.Verdict, r.Detail)
				}
			}
			if failed != (name != "") {
				t.Errorf("smuggling is not noticed")
			}
		})
	}
}

// proxy passes connections on. Its fault model: it changes what it passes on as
// it is told, packet by packet, and may finish a message whose sender has gone.
type proxy struct {
	to        string
	toServer  func([]byte) []byte
	toClient  func([]byte) []byte
	endOfData bool
}

func (p *proxy) start(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go p.pass(client)
		}
	}()
	return ln.Addr().String()
}

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		copyChanged(server, client, p.toServer)
		if p.endOfData {
			io.WriteString(server, "\r\n.\r\n")
		}
		server.(*net.TCPConn).CloseWrite()
	}()
	copyChanged(client, server, p.toClient)
}

func copyChanged(to io.Writer, from io.Reader, change func([]byte) []byte) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		out := buf[:n]
		if change != nil {
			out = change(out)
		}
		if _, werr := to.Write(out); err != nil || werr != nil {
			return
		}
	}
}
