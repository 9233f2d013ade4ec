package message

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime/quotedprintable"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// readAll reads r and fails the test if that fails.
func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDecodeBody(t *testing.T) {
	for _, tt := range []struct{ encoding, body, want string }{
		{"7bit", "a=20\r\n", "a=20\r\n"},
		{"", "a=20", "a=20"},
		{"x-unknown", "a=20", "a=20"},
		{"base64", "", ""},
		{"base64", "YWJj\r\nZGVm\r\n", "abcdef"},
		{"BASE64", "YQ==", "a"},
		{"base64", "YQ", "a"},
		{"base64", "YWI", "ab"},
		{"base64", "Y", ""},
		{"base64", "Y W\tJ*j", "abc"},
		{"base64", "YQ==\r\nYg==", "ab"},
		{"base64", "YWJj====YQ==", "abca"},
		{"quoted-printable", "a=20b=3D\r\nc=\r\nd  \r\ne\t\n", "a b=\r\ncd\r\ne\n"},
		{"Quoted-Printable", "=c3=BC", "\u00fc"},
		{"quoted-printable", "a=zz=4 =", "a=zz=4 "},
		{"quoted-printable", "a= \t\r\nb=\nc", "abc"},
		{"quoted-printable", "a \r b", "a \r b"},
		{"quoted-printable", "a= b==3D", "a= b=="},
		{"quoted-printable", "==3D", "=="},
		{"quoted-printable", "=4=41", "=4A"},
		{"quoted-printable", "a \r\n", "a\r\n"},
		{"quoted-printable", "a ", "a"},
		{"quoted-printable", "a\r", "a"},
		{"quoted-printable", "a=\r", "a"},
		{"quoted-printable", "a" + strings.Repeat(" ", 3000) + "b", "a" + strings.Repeat(" ", 3000) + "b"},
	} {
		part := Part{Encoding: tt.encoding}
		for name, r := range map[string]io.Reader{
			"at once":  strings.NewReader(tt.body),
			"by bytes": iotest.OneByteReader(strings.NewReader(tt.body)),
			"with EOF": iotest.DataErrReader(strings.NewReader(tt.body)),
		} {
			if got := readAll(t, DecodeBody(part, r)); got != tt.want {
				t.Errorf("%s %.40q %s: got %.60q, want %.60q", tt.encoding, tt.body, name, got, tt.want)
			}
		}
	}
}

func TestDecodeBodyPassesErrorsOn(t *testing.T) {
	for _, encoding := range []string{"7bit", "base64", "quoted-printable"} {
		want := errors.New("broken source")
		r := io.MultiReader(strings.NewReader("YWJj"), iotest.ErrReader(want))
		b, err := io.ReadAll(DecodeBody(Part{Encoding: encoding}, r))
		if !errors.Is(err, want) || len(b) == 0 {
			t.Errorf("%s: %q, %v", encoding, b, err)
		}
	}
}

func TestTextReader(t *testing.T) {
	for _, tt := range []struct{ header, body, want string }{
		{"X: y", "plain", "plain"},
		{"X: y", "gr\xfc\xdfe, gr\u00fc\u00dfe", "gr\u00fc\u00dfe, gr\u00fc\u00dfe"},
		{"Content-Type: text/plain; charset=iso-8859-1", "gr\xfc\xdfe", "gr\u00fc\u00dfe"},
		{"Content-Type: text/plain; charset=utf-8", "\xc3", "\u00c3"},
		{"Content-Type: text/plain; charset=shift_jis", "\x93\xfa\x96{", "\u65e5\u672c"},
		{"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64", "w7w=", "\u00fc"},
		{"Content-Type: text/plain; charset=nonsense", "\xfc", "\u00fc"},
		{"Content-Type: image/png", "text", ""},
		{"Content-Type: message/delivery-status", "Action: failed", "Action: failed"},
		{"Content-Type: message/rfc822", "Subject: x\n\nbody", ""},
		{
			"Content-Type: text/html; charset=utf-8",
			"<html><head><title>T</title><style>no {}</style></head><body>one<br>two <b>th</b>ree&amp;&eacute;" +
				"<script>no()</script><a href=\"http://x/\">link</a><img alt=\"picture\"><!-- no --></body>",
			"T one two three&\u00e9 http://x/ link picture",
		},
		{"Content-Type: text/html", "<p>unclosed <b", "unclosed <b"},
		{"Content-Type: text/html", "a<style>x", "a"},
	} {
		ix := ReadIndex([]byte("MIME-Version: 1.0\n" + tt.header + "\n\n" + tt.body))
		for name, r := range map[string]io.Reader{
			"at once":  strings.NewReader(tt.body),
			"by bytes": iotest.OneByteReader(strings.NewReader(tt.body)),
		} {
			got := readAll(t, TextReader(ix.Root, r))
			if strings.Join(strings.Fields(got), " ") != tt.want {
				t.Errorf("%s %q %s: got %q, want %q", tt.header, tt.body, name, got, tt.want)
			}
		}
	}
}

// TestTextReaderLongToken checks that text which is longer than what is kept
// of it is not lost.
func TestTextReaderLongToken(t *testing.T) {
	const size = 3 << 20
	part := Part{Type: "text", Subtype: "html", Encoding: "8bit"}
	for _, unit := range []string{"x", "\u00fc", "word ", "<i>w</i>"} {
		body := "<p>" + strings.Repeat(unit, size/len(unit)) + "<p>end"
		text := readAll(t, TextReader(part, strings.NewReader(body)))
		letter := strings.Trim(unit, " </i>ord")
		if got, want := strings.Count(text, letter), size/len(unit); got != want || !strings.HasSuffix(text, "end") {
			t.Errorf("%q: %d of %d are left", unit, got, want)
		}
	}
}

// TestTextReaderMemory checks that the readers of bodies keep little of them.
func TestTextReaderMemory(t *testing.T) {
	const size = 6 << 20
	for name, unit := range map[string]string{
		"plain": "text and more text\r\n", "tag": "<a b", "text": "x", "comment": "<!-- ",
		"attributes": "<a b=c d=e f=g>", "script": "<script>x",
	} {
		t.Run(name, func(t *testing.T) {
			part := Part{Type: "text", Subtype: "html", Encoding: "quoted-printable"}
			source := io.LimitReader(&repeater{text: unit}, size)
			r := TextReader(part, source)
			buf := make([]byte, 32<<10)
			var most uint64
			var stats runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&stats)
			base := stats.HeapAlloc
			for i := 0; ; i++ {
				_, err := r.Read(buf)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if i%512 == 0 {
					runtime.GC()
					runtime.ReadMemStats(&stats)
					most = max(most, stats.HeapAlloc-min(base, stats.HeapAlloc))
				}
			}
			if most > size/3 {
				t.Errorf("%d bytes held for %d", most, size)
			}
		})
	}
}

// repeater is an endless reader of one text.
type repeater struct {
	text string
	at   int
}

func (r *repeater) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.text[r.at]
		r.at = (r.at + 1) % len(r.text)
	}
	return len(p), nil
}

func TestCRLFNormaliser(t *testing.T) {
	for _, tt := range []struct {
		in, want        string
		changed, is8bit bool
		inLine          bool
	}{
		{in: ""},
		{in: "a\r\nb\r\n", want: "a\r\nb\r\n"},
		{in: "a\nb\r\n", want: "a\r\nb\r\n", changed: true},
		{in: "a\rb", want: "a\r\nb", changed: true, inLine: true},
		{in: "a\r", want: "a\r\n", changed: true},
		{in: "\r\r\n\n", want: "\r\n\r\n\r\n", changed: true},
		{in: "\xe9", want: "\xe9", is8bit: true, inLine: true},
		{in: "\n\r", want: "\r\n\r\n", changed: true},
	} {
		for name, r := range map[string]io.Reader{
			"at once":  strings.NewReader(tt.in),
			"by bytes": iotest.OneByteReader(strings.NewReader(tt.in)),
			"with EOF": iotest.DataErrReader(strings.NewReader(tt.in)),
		} {
			c := NewCRLFNormaliser(r)
			got := readAll(t, c)
			if got != tt.want || c.Changed() != tt.changed || c.Is8bit() != tt.is8bit || c.EndsInLine() != tt.inLine {
				t.Errorf("%q %s: got %q, changed %t, 8bit %t, in line %t", tt.in, name, got, c.Changed(), c.Is8bit(), c.EndsInLine())
			}
		}
	}
}

// FuzzBody checks that bodies decode the same in any pieces, never grow out of
// proportion, and that what Go's encoders write is read back.
func FuzzBody(f *testing.F) {
	f.Add([]byte("a=20b=\r\nc  \r\n=="), uint8(1))
	f.Add([]byte("YWJj\r\nZA=="), uint8(2))
	f.Add([]byte("<a href=x>y</a>\xfc<!--"), uint8(3))
	f.Add([]byte("\r\n\r\r\n\n"), uint8(4))
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		pieces := func() io.Reader { return &smallReader{bytes.NewReader(body), int(size) + 1} }
		for _, encoding := range []string{"base64", "quoted-printable"} {
			part := Part{Encoding: encoding, Type: "text", Subtype: "html"}
			whole := readAll(t, DecodeBody(part, bytes.NewReader(body)))
			if got := readAll(t, DecodeBody(part, pieces())); got != whole || len(got) > len(body) {
				t.Fatalf("%s of %q: %q in pieces, %q at once", encoding, body, got, whole)
			}
			if got := readAll(t, TextReader(part, pieces())); len(got) > 8*len(body)+64 {
				t.Fatalf("the text of %d bytes is %d long", len(body), len(got))
			}
		}
		encoded := base64.StdEncoding.EncodeToString(body)
		if got := readAll(t, DecodeBody(Part{Encoding: "base64"}, strings.NewReader(encoded))); got != string(body) {
			t.Fatalf("base64 of %q: %q", body, got)
		}
		var quoted bytes.Buffer
		w := quotedprintable.NewWriter(&quoted)
		w.Binary = true
		_, _ = w.Write(body)
		_ = w.Close()
		if got := readAll(t, DecodeBody(Part{Encoding: "quoted-printable"}, &quoted)); got != string(body) {
			t.Fatalf("quoted-printable of %q: %q", body, got)
		}
		c := NewCRLFNormaliser(pieces())
		normal := readAll(t, c)
		if c.Changed() != (normal != string(body)) {
			t.Fatalf("%q became %q, Changed is %t", body, normal, c.Changed())
		}
		again := NewCRLFNormaliser(strings.NewReader(normal))
		if readAll(t, again) != normal || again.Changed() {
			t.Fatalf("%q is not normal", normal)
		}
	})
}

// smallReader reads at most n bytes at a time.
type smallReader struct {
	r io.Reader
	n int
}

func (s *smallReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.n)]) }

func BenchmarkDecodeBody(b *testing.B) {
	line := strings.Repeat("QUJD", 19) + "\r\n"
	for _, encoding := range []string{"base64", "quoted-printable"} {
		body := strings.Repeat(line, 1<<20/len(line))
		b.Run(encoding, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := io.Copy(io.Discard, DecodeBody(Part{Encoding: encoding}, strings.NewReader(body))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
