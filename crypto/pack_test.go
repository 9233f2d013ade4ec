package crypto

import (
	"bytes"
	"encoding/base64"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestPackingFollowsTheContent(t *testing.T) {
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
		want  packing
	}{
		"base64":     {lines(base64.StdEncoding.EncodeToString(noise)), asItIs},
		"text":       {[]byte(text), byRepeats},
		"prose":      {prose(30_000), byEntropy},
		"letter":     {prose(1500), byEntropy},
		"short":      {[]byte("hello"), asItIs},
		"html":       {[]byte(strings.Repeat("<td><b>x</b></td>", 4000)), byRepeats},
		"header":     {append([]byte(text[:8000]), lines(base64.StdEncoding.EncodeToString(noise[:4000]))...), byRepeats},
		"zero bytes": {make([]byte, 64<<10), byRepeats},
	} {
		if got := packingOf(c.chunk); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// prose is text as people write it: many words, few of them often.
func prose(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 5000)
	for i := range words {
		w := make([]byte, 2+rng.IntN(9))
		for j := range w {
			w[j] = "etaoinshrdlucmfwypvbgkqjxz"[min(rng.IntN(26), rng.IntN(26))]
		}
		words[i] = string(w)
	}
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(words[int(float64(len(words))*math.Pow(rng.Float64(), 3))])
		b.WriteString(" ")
	}
	return b.Bytes()[:n]
}

// TestHuffmanFramesAreZstd: what is coded by Huffman alone is read by whoever
// reads zstd, at every size that has a form of its own.
func TestHuffmanFramesAreZstd(t *testing.T) {
	c := NewCodec()
	all := prose(chunkSize)
	for _, n := range []int{minCompress, 1022, 1023, 1024, 5000, 1<<14 - 1, 1 << 14, 1<<14 + 1, 40_000, 1<<16 - 1, 1 << 16} {
		frame := c.huffman([]byte{flagZstd}, all[:n])
		if len(frame) < 10 || len(frame) > n*3/4 {
			t.Errorf("%d bytes became %d", n, len(frame))
			continue
		}
		got, err := c.decompress(make([]byte, 0, n), frame[1:])
		if err != nil || !bytes.Equal(got, all[:n]) {
			t.Errorf("%d bytes: got %d back, %v", n, len(got), err)
		}
		// A decoder that does not know the size beforehand.
		d, err := zstd.NewReader(bytes.NewReader(frame[1:]))
		if err != nil {
			t.Fatal(err)
		}
		got, err = io.ReadAll(d)
		d.Close()
		if err != nil || !bytes.Equal(got, all[:n]) {
			t.Errorf("%d bytes as a stream: got %d back, %v", n, len(got), err)
		}
	}
	noise := make([]byte, 5000)
	src := rand.NewChaCha8([32]byte{1})
	src.Read(noise)
	for what, plain := range map[string][]byte{"noise": noise, "one letter": bytes.Repeat([]byte("a"), 5000)} {
		if frame := c.huffman(nil, plain); len(frame) != 0 {
			t.Errorf("%s became a frame of %d bytes", what, len(frame))
		}
	}
}

func FuzzPacking(f *testing.F) {
	f.Add(prose(2000))
	f.Add(bytes.Repeat([]byte("ab"), 700))
	c := NewCodec()
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) < minCompress {
			plain = append(plain, prose(minCompress)...)
		}
		plain = plain[:min(len(plain), chunkSize)]
		packingOf(plain)
		frame := c.huffman(nil, plain)
		if len(frame) == 0 || len(frame) >= len(plain) {
			return // stored as it is
		}
		if got, err := c.decompress(make([]byte, 0, len(plain)), frame); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: got %d back, %v", len(plain), len(got), err)
		}
	})
}

func BenchmarkPacking(b *testing.B) {
	c := NewCodec()
	chunk := prose(10_000)
	for name, pack := range map[string]func(dst, plain []byte) []byte{"zstd": c.compress, "huffman": c.huffman} {
		b.Run(name, func(b *testing.B) {
			var out []byte
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				out = pack(out[:0], chunk)
			}
			b.ReportMetric(float64(len(chunk))/float64(len(out)), "ratio")
		})
	}
	b.Run("look", func(b *testing.B) {
		b.SetBytes(int64(len(chunk)))
		for b.Loop() {
			packingOf(chunk)
		}
	})
}
