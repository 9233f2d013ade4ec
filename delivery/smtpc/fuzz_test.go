package smtpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"250 ok\r\n", "250\r\n", "250-a\r\n250 b\n", "250-2.1.0 a\r\n250 2.1.0 b\r\n", "550 5.1.1 x\r\n", "550 5.1.1\r\n", "550 4.1.1 x\r\n",
		"250-a\r\n251 b\r\n", "199 x\r\n", "600 x\r\n", "25", "250x\r\n", "250-", "\r\n", "250 \xff\x00\r\n", "550 5.1.1.1 x\r\n", "550 5.1234.1 x\r\n",
		strings.Repeat("250-x\r\n", 130), "250 " + strings.Repeat("x", 3000) + "\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := readReply(bufio.NewReaderSize(bytes.NewReader(in), maxReplyLine))
		if err != nil {
			if !errors.Is(err, ErrMalformedReply) && err != io.EOF {
				t.Errorf("error %v", err)
			}
			return
		}
		if r.Code < 200 || r.Code > 599 || len(r.Text) == 0 || len(r.Text) > maxReplyLines {
			t.Errorf("reply with code %d of %d lines", r.Code, len(r.Text))
		}
		if r.Enhanced != "" && int(r.Enhanced[0]-'0') != r.Code/100 {
			t.Errorf("enhanced code %q in %d", r.Enhanced, r.Code)
		}
		for _, l := range r.Text {
			if !utf8.ValidString(l) || strings.ContainsFunc(l, unicode.IsControl) || len(l) > 3*maxReplyLine {
				t.Errorf("line %q", l)
			}
		}
	})
}

// normalise is the specification of what bodyWriter does but for the dots.
func normalise(in []byte) []byte {
	var out []byte
	for i := 0; i < len(in); i++ {
		switch {
		case in[i] == '\r' && i+1 < len(in) && in[i+1] == '\n':
			out = append(out, "\r\n"...)
			i++
		case in[i] == '\r' || in[i] == '\n':
			out = append(out, "\r\n"...)
		default:
			out = append(out, in[i])
		}
	}
	if len(out) > 0 && !bytes.HasSuffix(out, crlf) {
		out = append(out, "\r\n"...)
	}
	// A line that some would see as beginning with a dot does so.
	var lines []byte
	for line := range bytes.SplitAfterSeq(out, crlf) {
		if bare := bytes.TrimLeft(line, "\x00"); bytes.HasPrefix(bare, dot) {
			line = bare
		}
		lines = append(lines, line...)
	}
	return lines
}

func FuzzBody(f *testing.F) {
	for _, s := range []string{"", ".", "\r\n.\r\n", "a\n.\nb", "a\r.\rb", "\r\r\n", "\n\r", "..\r\n", ".\r", "a\r\n.b", "\x00.", "\r\n\x00\x00.\x00\r\n", "\x00", "\x00\r\x00.\n", "a\x00."} {
		f.Add([]byte(s), uint8(1))
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		var wire bytes.Buffer
		w := &bodyWriter{w: &wire}
		for rest := in; len(rest) > 0; {
			n := min(len(rest), int(piece)%16+1)
			if k, err := w.Write(rest[:n]); k != n || err != nil {
				t.Fatal(k, err)
			}
			rest = rest[n:]
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for line := range bytes.SplitAfterSeq(wire.Bytes(), crlf) {
			if string(bytes.ReplaceAll(line, []byte("\x00"), nil)) == ".\r\n" || bytes.ContainsAny(bytes.TrimSuffix(line, crlf), "\r\n") {
				t.Fatalf("line %q on the wire", line)
			}
			got = append(got, bytes.TrimPrefix(line, dot)...)
		}
		want := normalise(in)
		if !bytes.Equal(got, want) {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
		if w.normalised == bytes.Equal(in, want) {
			t.Errorf("normalised %v for %q", w.normalised, in)
		}
	})
}

// deaf is a connection that says what it was made with and hears nothing.
type deaf struct {
	net.Conn // nil: no other method may be called
	says     *bytes.Reader
}

func (d deaf) Read(p []byte) (int, error)       { return d.says.Read(p) }
func (d deaf) Write(p []byte) (int, error)      { return len(p), nil }
func (d deaf) Close() error                     { return nil }
func (d deaf) SetReadDeadline(time.Time) error  { return nil }
func (d deaf) SetWriteDeadline(time.Time) error { return nil }

// FuzzServer meets a server that says anything at all.
func FuzzServer(f *testing.F) {
	hello := "220 a\r\n250-b\r\n250 PIPELINING\r\n"
	f.Add([]byte(hello + "250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n250 ok\r\n"))
	f.Add([]byte(hello + "250 ok\r\n550 no\r\n550 no\r\n354 go\r\n250 ok\r\n"))
	f.Add([]byte(hello + "421 bye\r\n"))
	f.Add([]byte("220 a\r\n502 b\r\n250 c\r\n250 ok\r\n250 ok\r\n250 ok\r\n451 x\r\n"))
	f.Fuzz(func(t *testing.T, says []byte) {
		dial := func(context.Context, string, string) (net.Conn, error) { return deaf{says: bytes.NewReader(says)}, nil }
		c, err := Connect(t.Context(), Target{Host: "h", TLS: None}, Config{Dial: dial})
		if err != nil {
			return
		}
		hooked := false
		res, err := c.Send(t.Context(), Envelope{Recipients: []Recipient{{To: "a@b"}, {To: "c@d"}}}, strings.NewReader("x"),
			func(context.Context) error { hooked = true; return nil })
		accepted := res.Recipients[0].Accepted || res.Recipients[1].Accepted
		switch {
		case accepted != res.Final.Positive() || accepted && (err != nil || !hooked):
			t.Errorf("accepted %v, final %d, hook %v, error %v", accepted, res.Final.Code, hooked, err)
		case res.Uncertain && (err == nil || !hooked):
			t.Errorf("uncertain with error %v, hook %v", err, hooked)
		case err == nil && !accepted && (res.Recipients[0].Reply.Code < 400 || res.Recipients[1].Reply.Code < 400):
			t.Errorf("no verdict: %+v", res)
		}
	})
}

func BenchmarkBodyWriter(b *testing.B) {
	body := []byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 32<<10/72))
	bw := bufio.NewWriterSize(io.Discard, writeBuffer)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		w := &bodyWriter{w: bw}
		if _, err := w.Write(body); err != nil {
			b.Fatal(err)
		}
	}
}
