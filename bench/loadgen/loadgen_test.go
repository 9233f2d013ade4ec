package loadgen

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var pool = sync.OnceValue(func() []Message {
	return Generate(Spec{Seed: 1, Count: 1000, Domain: "acme.test", Recipients: 200})
})

// TestPoolLooksLikeMail holds the pool to what the speed table says of it.
func TestPoolLooksLikeMail(t *testing.T) {
	var sizes []int
	total := 0
	for _, m := range pool() {
		sizes = append(sizes, m.Size)
		total += m.Size
	}
	slices.Sort(sizes)
	median, least, most := sizes[len(sizes)/2], sizes[0], sizes[len(sizes)-1]
	t.Logf("sizes: least %d, median %d, mean %d, p90 %d, p99 %d, most %d", least, median, total/len(sizes), sizes[len(sizes)*90/100], sizes[len(sizes)*99/100], most)
	if least < MinSize*8/10 || least > MinSize*13/10 || median < MedianSize*8/10 || median > MedianSize*12/10 || most < MaxSize*9/10 || most > MaxSize*11/10 {
		t.Errorf("sizes are not 2 KB to 5 MB around 12 KB")
	}
}

// TestTextCompressesLikeMail: two- to threefold, message by message.
func TestTextCompressesLikeMail(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	plain, packed := 0, 0
	for _, m := range pool() {
		if m.Size > 8<<10 && m.Size < attachmentSize {
			plain += len(m.Wire)
			packed += len(enc.EncodeAll(m.Wire, nil))
		}
	}
	ratio := float64(plain) / float64(packed)
	t.Logf("text messages of 8 to 32 KB compress %.2f-fold", ratio)
	if ratio < 2 || ratio > 3 {
		t.Errorf("ratio %.2f, want between 2 and 3", ratio)
	}
}

func TestMessagesAreWellFormed(t *testing.T) {
	for i, m := range pool() {
		if !bytes.HasSuffix(m.Wire, []byte("\r\n.\r\n")) {
			t.Fatalf("message %d does not end in CRLF . CRLF", i)
		}
		if bytes.Contains(bytes.TrimSuffix(m.Wire, []byte(".\r\n")), []byte("\n.\r\n")) {
			t.Fatalf("message %d ends early", i)
		}
		bare := bytes.ReplaceAll(m.Wire, []byte("\r\n"), nil)
		if bytes.ContainsAny(bare, "\r\n") {
			t.Fatalf("message %d has a bare CR or LF", i)
		}
		for line := range bytes.Lines(m.Wire) {
			if len(line) > 1000 { // RFC 5321 §4.5.3.1.6
				t.Fatalf("message %d has a line of %d bytes", i, len(line))
			}
		}
		if _, err := mail.ReadMessage(bytes.NewReader(m.Wire)); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

func TestSameSeedSameMessages(t *testing.T) {
	again := Generate(Spec{Seed: 1, Count: 1000, Domain: "acme.test", Recipients: 200})
	for i, m := range pool() {
		if !bytes.Equal(m.Wire, again[i].Wire) || m.From != again[i].From || !slices.Equal(m.To, again[i].To) {
			t.Fatalf("message %d differs", i)
		}
	}
}

// TestRun sends to a server that counts, refuses every recipient that it is told
// to, and breaks a connection now and then.
func TestRun(t *testing.T) {
	tests := []struct {
		name                    string
		refuse                  string // recipients beginning so get 550
		breakAfter              int    // messages on one connection
		pipelining              bool
		accepted, refused, lost int
	}{
		{name: "plain", accepted: 50},
		{name: "pipelining", pipelining: true, accepted: 50},
		{name: "all refused", refuse: "user", accepted: 0, refused: 50},
		{name: "all refused, pipelining", refuse: "user", pipelining: true, refused: 50},
		{name: "broken connections", breakAfter: 10, pipelining: true, accepted: 46, lost: 4},
	}
	messages := Generate(Spec{Seed: 2, Count: 10, Domain: "acme.test", Recipients: 3, FixedSize: 3000})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, tt.pipelining, tt.refuse, tt.breakAfter)
			r, err := Run(t.Context(), Load{Addr: s.addr, Messages: messages, Count: 50, Sessions: 1, Tag: "t"})
			if err != nil {
				t.Fatal(err)
			}
			if r.Accepted != tt.accepted || r.Refused["550"] != tt.refused || r.Refused["lost"] != tt.lost {
				t.Errorf("result %v, want %d accepted, %d refused, %d lost", r, tt.accepted, tt.refused, tt.lost)
			}
			if ids := s.messageIDs(); len(ids) != tt.accepted {
				t.Errorf("server has %d different Message-IDs, want %d", len(ids), tt.accepted)
			}
		})
	}
}

// server is the least SMTP server that a load can be tried on.
type server struct {
	addr       string
	pipelining bool
	refuse     string
	breakAfter int

	mu  sync.Mutex
	ids map[string]bool
}

func newServer(t *testing.T, pipelining bool, refuse string, breakAfter int) *server {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: ln.Addr().String(), pipelining: pipelining, refuse: refuse, breakAfter: breakAfter, ids: map[string]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return s
}

func (s *server) messageIDs() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids
}

func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	say := func(text string) { fmt.Fprintf(conn, "%s\r\n", text) }
	say("220 test")
	rcpts, messages := 0, 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb := strings.ToUpper(line[:4]); {
		case verb == "EHLO" && s.pipelining:
			say("250-test\r\n250 PIPELINING")
		case verb == "RCPT" && s.refuse != "" && strings.HasPrefix(line, "RCPT TO:<"+s.refuse):
			say("550 5.1.1 no")
		case verb == "RCPT":
			rcpts++
			say("250 ok")
		case verb == "DATA" && rcpts == 0:
			say("503 5.5.1 no recipients")
		case verb == "DATA":
			rcpts = 0
			say("354 go")
			for first := true; ; first = false {
				text, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if first {
					if messages++; s.breakAfter > 0 && messages > s.breakAfter {
						return
					}
					s.mu.Lock()
					s.ids[text] = true
					s.mu.Unlock()
				}
				if text == ".\r\n" {
					break
				}
			}
			say("250 kept")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}
