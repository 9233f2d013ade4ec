package intake

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/objstore"
	"holdfast/objstore/fs"
	"holdfast/objstore/mem"
)

// letter is a message of about n bytes that compresses as text does.
func letter(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 3000)
	for i := range words {
		b := make([]byte, 2+r.IntN(9))
		for j := range b {
			b[j] = "etaoinshrdlucmfwypvbgkqjxz"[min(r.IntN(26), r.IntN(26))]
		}
		words[i] = string(b)
	}
	var m strings.Builder
	m.WriteString("Received: from a.example by b.example; Sat, 21 Nov 2026 10:00:00 +0000\r\n" +
		"From: Some Body <somebody@elsewhere.example>\r\nTo: alice@acme.example, bob@acme.example\r\nSubject: about many things\r\n" +
		"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1234567890@elsewhere.example>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/alternative; boundary=next\r\n\r\n--next\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
	for line := 0; m.Len() < n; {
		w := words[r.IntN(len(words))]
		if line += len(w) + 1; line > 72 {
			m.WriteString("\r\n")
			line = 0
		}
		m.WriteString(w + " ")
	}
	m.WriteString("\r\n--next--\r\n")
	return []byte(m.String())
}

// BenchmarkData lets messages of 10 KB in over 20 sessions.
func BenchmarkData(b *testing.B) {
	buckets := map[string]func(*testing.B) objstore.Bucket{
		"mem": func(*testing.B) objstore.Bucket { return mem.New() },
		"fs": func(b *testing.B) objstore.Bucket {
			bucket, err := fs.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { bucket.Close() })
			return bucket
		},
	}
	text := letter(10_000)
	for _, name := range []string{"mem", "fs"} {
		b.Run(name, func(b *testing.B) {
			h := newHouse(b, buckets[name](b))
			h.keepOne(text)
			const sessions = 20
			b.SetBytes(int64(len(text)))
			b.ResetTimer()
			begin := cpuTime()
			var wg sync.WaitGroup
			for s := range sessions {
				wg.Go(func() {
					for i := s; i < b.N; i += sessions {
						h.keepOne(text)
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((cpuTime()-begin).Microseconds())/float64(b.N), "cpu-µs/message")
		})
	}
}

func (h *house) keepOne(text []byte) {
	tx := h.begin("alice@acme.example", "bob@acme.example")
	if _, err := tx.Data(context.Background(), bytes.NewReader(text)); err != nil {
		h.t.Error(err)
	}
}

// cpuTime is what this process has used of all cores, which other work on the
// machine disturbs less than the clock.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
