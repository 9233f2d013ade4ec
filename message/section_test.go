package message

import (
	"fmt"
	"testing"
)

// TestSection uses a message of the structure that RFC 9051 §6.4.5.1 numbers
// as an example.
func TestSection(t *testing.T) {
	message := []byte(`Subject: whole
Content-Type: multipart/mixed; boundary=a

preamble
--a
X: 1

one
--a
Content-Type: application/octet-stream
X: 2

two
--a
Content-Type: message/rfc822
X: 3

Subject: three
Content-Type: multipart/mixed; boundary=b

--b
X: 3.1

three one
--b
Content-Type: application/octet-stream
X: 3.2

three two
--b--
--a
Content-Type: multipart/mixed; boundary=c
X: 4

--c
Content-Type: image/gif
X: 4.1

four one
--c
Content-Type: message/rfc822
X: 4.2

Subject: four two

four two one
--c--
--a--
epilogue
`)
	ix := ReadIndex(message)
	all := map[Specifier]string{Whole: "", Header: "HEADER", Text: "TEXT", MIME: "MIME"}
	for _, tt := range []struct {
		path []int
		spec Specifier
		want string // "-" if there is no such section
	}{
		{nil, Whole, string(message)},
		{nil, Header, "Subject: whole\nContent-Type: multipart/mixed; boundary=a\n\n"},
		{nil, Text, string(message[ix.Root.HeaderLen:])},
		{nil, MIME, "-"},
		{[]int{1}, Whole, "one"},
		{[]int{1}, MIME, "X: 1\n\n"},
		{[]int{1}, Header, "-"},
		{[]int{1}, Text, "-"},
		{[]int{1, 1}, Whole, "-"},
		{[]int{2}, Whole, "two"},
		{[]int{3}, Header, "Subject: three\nContent-Type: multipart/mixed; boundary=b\n\n"},
		{[]int{3}, MIME, "Content-Type: message/rfc822\nX: 3\n\n"},
		{[]int{3, 1}, Whole, "three one"},
		{[]int{3, 1}, MIME, "X: 3.1\n\n"},
		{[]int{3, 2}, Whole, "three two"},
		{[]int{3, 3}, Whole, "-"},
		{[]int{4}, MIME, "Content-Type: multipart/mixed; boundary=c\nX: 4\n\n"},
		{[]int{4, 1}, Whole, "four one"},
		{[]int{4, 2}, Whole, "Subject: four two\n\nfour two one"},
		{[]int{4, 2}, Header, "Subject: four two\n\n"},
		{[]int{4, 2}, Text, "four two one"},
		{[]int{4, 2, 1}, Whole, "four two one"},
		{[]int{4, 2, 1}, MIME, "Subject: four two\n\n"},
		{[]int{4, 2, 2}, Whole, "-"},
		{[]int{0}, Whole, "-"},
		{[]int{-1}, Whole, "-"},
		{[]int{5}, Whole, "-"},
		{[]int{1}, 0, "-"},
	} {
		t.Run(fmt.Sprint(tt.path, all[tt.spec]), func(t *testing.T) {
			off, n, ok := ix.Section(tt.path, tt.spec)
			got := "-"
			if ok {
				got = string(message[off : off+n])
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestSectionOfPlainMessage checks that a message without parts has one.
func TestSectionOfPlainMessage(t *testing.T) {
	message := []byte("Subject: plain\r\n\r\nbody\r\n")
	ix := ReadIndex(message)
	for _, tt := range []struct {
		spec Specifier
		want string
	}{{Whole, "body\r\n"}, {MIME, "Subject: plain\r\n\r\n"}} {
		off, n, ok := ix.Section([]int{1}, tt.spec)
		if !ok || string(message[off:off+n]) != tt.want {
			t.Errorf("part 1, %d: %q, %t", tt.spec, message[off:off+n], ok)
		}
	}
	if off, n := ix.HeaderRange(); off != 0 || n != 18 {
		t.Errorf("HeaderRange = %d, %d", off, n)
	}
}
