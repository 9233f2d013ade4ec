package crypto

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

func TestBase64IsNotCompressedTextIs(t *testing.T) {
	lines := func(s string) []byte { // of 76, as in mail
		var b bytes.Buffer
		for len(s) > 76 {
			b.WriteString(s[:76] + "\r\n")
			s = s[76:]
		}
		b.WriteString(s + "\r\n")
		return b.Bytes()
	}
	noise := make([]byte, 48<<10)
	for i := range noise {
		noise[i] = byte(i * i >> 3)
	}
	text := strings.Repeat("Dear Alice, the figures for March are in the attached sheet.\r\n", 1000)
	for name, c := range map[string]struct {
		chunk []byte
		want  bool
	}{
		"base64":     {lines(base64.StdEncoding.EncodeToString(noise)), false},
		"text":       {[]byte(text), true},
		"short":      {[]byte("hello"), false},
		"html":       {[]byte(strings.Repeat("<td><b>x</b></td>", 4000)), true},
		"header":     {append([]byte(text[:8000]), lines(base64.StdEncoding.EncodeToString(noise[:4000]))...), true},
		"zero bytes": {make([]byte, 64<<10), true},
	} {
		if got := worthwhile(c.chunk); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
