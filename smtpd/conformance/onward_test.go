package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/delivery/smtpc"
	"holdfast/smtpd"
)

// hostileEnds returns what somebody somewhere takes for the end of data, other
// than CRLF dot CRLF.
func hostileEnds() []string {
	eols := []string{"\r\n", "\n", "\r", "\r\r", "\n\r", "\n\n", "\r\r\n", "\r\n\n"}
	var ends []string
	for _, before := range eols {
		for _, after := range eols {
			if !strings.HasSuffix(before, "\r\n") || !strings.HasPrefix(after, "\r\n") {
				ends = append(ends, before+"."+after)
			}
		}
	}
	return append(ends, "\r\n\x00.\r\n", "\r\n.\x00\r\n", "\r\n\x00\x00.\x00\r\n", "\r\x00\n.\r\n", "\r\n.\r\x00\n", "\n\x00.\n",
		"\x00\n.\x00\n", "\r\x00.\r")
}

// hostileTails are what becomes one of them together with what follows it.
var hostileTails = []string{"\r\n.", "\n.", "\r.", "\r\n\x00.", "\r\n.\r", "\n.\r", "\x00."}

// relay is a Backend that hands each message to another server before it is
// answered, through our own client. Fault model: none.
type relay struct{ to string }

func (r relay) Auth(context.Context, smtpd.Peer, string, string, string) (smtpd.Login, error) {
	return nil, smtpd.ErrBadCredentials
}

func (r relay) Begin(_ context.Context, _ smtpd.Peer, _ smtpd.Login, from smtpd.ReversePath, _ smtpd.MailParams) (smtpd.Transaction, error) {
	return &relayed{to: r.to, env: smtpc.Envelope{From: from.Mailbox}}, nil
}

type relayed struct {
	to  string
	env smtpc.Envelope
}

func (t *relayed) Rcpt(_ context.Context, to smtpd.ForwardPath, _ smtpd.RcptParams) error {
	t.env.Recipients = append(t.env.Recipients, smtpc.Recipient{To: to.Mailbox})
	return nil
}

func (t *relayed) Data(ctx context.Context, body io.Reader) (string, error) {
	host, port, err := net.SplitHostPort(t.to)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return "", err
	}
	conn, err := smtpc.Connect(ctx, smtpc.Target{Host: host, Port: n, TLS: smtpc.None}, smtpc.Config{})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Send(ctx, t.env, body, nil); err != nil {
		return "", err
	}
	return "relayed", nil
}

func (t *relayed) Close() {}

// TestNothingIsSmuggledOnward sends messages with all that anybody might take for
// the end of data, in chunks and as data, through our server and our client to
// next hops that take all of it for the end, and sees that each is one message to
// them, whole.
func TestNothingIsSmuggledOnward(t *testing.T) {
	for _, next := range []*Sink{{Ends: hostileEnds()}, {Ends: hostileEnds(), DropNULs: true}} {
		t.Run(fmt.Sprintf("drops NULs %v", next.DropNULs), func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			ln := listen(t)
			done := make(chan error, 1)
			go func() { done <- next.Serve(ctx, ln) }()
			defer func() { cancel(); <-done }()
			server, err := smtpd.New(smtpd.Config{Hostname: "mx.example", Mode: smtpd.MX}, relay{to: ln.Addr().String()})
			if err != nil {
				t.Fatal(err)
			}
			front := listen(t)
			served := make(chan error, 1)
			go func() { served <- server.Serve(ctx, front) }()
			defer func() { server.Shutdown(ctx); <-served }()
			taken := 0
			for _, end := range append(hostileEnds(), hostileTails...) {
				for _, form := range []string{"Subject: x\r\n\r\nfirst%sMAIL FROM:<evil@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nlast\r\n", "%slast", "first%s"} {
					text := fmt.Sprintf(form, end)
					for _, chunks := range []int{1, 3, 0} {
						before := len(next.Messages())
						if !onward(t, front.Addr().String(), text, chunks) {
							if chunks > 0 {
								t.Fatalf("%q is refused as a chunk", text)
							}
							continue
						}
						taken++
						whole(t, text, next.Messages()[before:])
					}
				}
			}
			if taken < 2*3*len(hostileEnds()) {
				t.Errorf("only %d messages were taken", taken)
			}
		})
	}
}

// onward sends one message, as data if there are no chunks, and says whether it
// was taken.
func onward(t *testing.T, addr, text string, chunks int) bool {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	var b bytes.Buffer
	b.WriteString("EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n")
	switch chunks {
	case 0:
		fmt.Fprintf(&b, "DATA\r\n%s\r\n.\r\n", strings.ReplaceAll(text, "\r\n.", "\r\n.."))
	default:
		size := len(text)/chunks + 1
		for piece := range slices.Chunk([]byte(text), size) {
			fmt.Fprintf(&b, "BDAT %d\r\n%s", len(piece), piece)
		}
		b.WriteString("BDAT 0 LAST\r\n")
	}
	b.WriteString("QUIT\r\n")
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(said), "250 2.0.0 Kept as relayed\r\n")
}

// whole sees that a next hop has got one message, with its beginning and its end.
func whole(t *testing.T, text string, got []Message) {
	t.Helper()
	if len(got) != 1 {
		t.Fatalf("%q became %d messages: %q", text, len(got), got)
	}
	for _, word := range []string{"first", "last", "RCPT"} {
		if strings.Contains(text, word) && !bytes.Contains(got[0].Body, []byte(word)) {
			t.Errorf("%q became %q", text, got[0].Body)
		}
	}
	if got[0].From != "a@example.com" {
		t.Errorf("a message from %s", got[0].From)
	}
}
