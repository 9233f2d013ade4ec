package outside

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// TestResidueFinds shows that the search finds a needle in every disguise it
// claims to see through; one that finds nothing proves nothing.
func TestResidueFinds(t *testing.T) {
	const secret = "Quarterly-Zebra-7391"
	text := strings.Repeat("some text before ", 40) + secret + strings.Repeat(" and some after", 40)
	compress := func(f func(*bytes.Buffer)) []byte {
		b := bytes.NewBufferString("leading bytes of another kind ")
		f(b)
		return b.Bytes()
	}
	tests := map[string][]byte{
		"plain":           []byte(text),
		"other case":      []byte(strings.ToUpper(text)),
		"base64, shift 0": []byte(base64.StdEncoding.EncodeToString([]byte("abc" + secret + "xyz"))),
		"base64, shift 1": []byte(base64.StdEncoding.EncodeToString([]byte("abcd" + secret + "xyz"))),
		"base64, shift 2": []byte(base64.StdEncoding.EncodeToString([]byte("abcde" + secret + "xyz"))),
		"hex":             []byte(hex.EncodeToString([]byte(text))),
		"utf-16":          []byte(strings.Join(strings.Split(text, ""), "\x00")),
		"zstd": compress(func(b *bytes.Buffer) {
			w, _ := zstd.NewWriter(b)
			w.Write([]byte(text))
			w.Close()
		}),
		"gzip": compress(func(b *bytes.Buffer) { w := gzip.NewWriter(b); w.Write([]byte(text)); w.Close() }),
		"zlib": compress(func(b *bytes.Buffer) { w := zlib.NewWriter(b); w.Write([]byte(text)); w.Close() }),
		"s2":   compress(func(b *bytes.Buffer) { w := s2.NewWriter(b); w.Write([]byte(text)); w.Close() }),
		"snappy": compress(func(b *bytes.Buffer) {
			w := s2.NewWriter(b, s2.WriterSnappyCompat())
			w.Write([]byte(text))
			w.Close()
		}),
	}
	r, err := NewResidue(secret)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range tests {
		if found := r.Bytes(name, data); len(found) == 0 {
			t.Errorf("%s: nothing found", name)
		}
	}
	if found := r.Bytes("clean", []byte(strings.ReplaceAll(text, secret, "nothing"))); len(found) > 0 {
		t.Errorf("found %v where nothing is", found)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a-"+secret), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := r.Files(dir); len(found) != 1 || err != nil {
		t.Errorf("found %v, %v; want the file's name", found, err)
	}
	if _, err := NewResidue("short"); err == nil {
		t.Error("a needle of five bytes is accepted")
	}
}

func TestWireForms(t *testing.T) {
	tests := []struct{ message, sent, delivered, stuffed string }{
		{"a\r\n", "a\r\n", "a\r\n", "a\r\n"},
		{"a", "a\r\n", "a\r\n", "a\r\n"},
		{".a\r\n.b\r\n", ".a\r\n.b\r\n", ".a\r\n.b\r\n", "..a\r\n..b\r\n"},
		{"a\n.b\r\n", "a\n.b\r\n", "a\r\n.b\r\n", "a\n.b\r\n"},
		{"a\rb\n", "a\rb\n\r\n", "a\r\nb\r\n\r\n", "a\rb\n\r\n"},
		{"a\r\r\nb\r\n", "a\r\r\nb\r\n", "a\r\n\r\nb\r\n", "a\r\r\nb\r\n"},
	}
	for _, tt := range tests {
		if got := string(AsSent([]byte(tt.message))); got != tt.sent {
			t.Errorf("AsSent(%q) = %q, want %q", tt.message, got, tt.sent)
		}
		if got := string(AsDelivered([]byte(tt.message))); got != tt.delivered {
			t.Errorf("AsDelivered(%q) = %q, want %q", tt.message, got, tt.delivered)
		}
		if got := string(stuff(AsSent([]byte(tt.message)))); got != tt.stuffed {
			t.Errorf("stuff(%q) = %q, want %q", tt.message, got, tt.stuffed)
		}
	}
}

func TestCutReceived(t *testing.T) {
	tests := []struct {
		message, rest string
		ok            bool
	}{
		{"Received: from a\r\n\tby b;\r\n  date\r\nSubject: x\r\n", "Subject: x\r\n", true},
		{"Received: a\r\nReceived: b\r\n", "Received: b\r\n", true},
		{"Received: a\r\n", "", true},
		{"Subject: x\r\n", "Subject: x\r\n", false},
		{"Received: without an end", "Received: without an end", false},
	}
	for _, tt := range tests {
		rest, ok := CutReceived([]byte(tt.message))
		if string(rest) != tt.rest || ok != tt.ok {
			t.Errorf("CutReceived(%q) = %q, %v", tt.message, rest, ok)
		}
	}
}
