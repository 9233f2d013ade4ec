package eventlog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fs"
	"holdfast/objstore/mem"
)

func benchmarkAppend(b *testing.B, bucket objstore.Bucket, sessions int) {
	ctx := context.Background()
	keys := crypto.MemoryRoot(event.DayOf(time.Now()))
	l, err := Open(ctx, Options{Bucket: bucket, URL: "x", Keys: keys, MayCreate: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close(ctx)
	tenant, _ := keys.TenantID(ctx, "acme")
	if err := l.EnsureTenant(ctx, tenant); err != nil {
		b.Fatal(err)
	}
	f := &fixture{Log: l, tenant: tenant, day: event.DayOf(l.Now()) + 30}
	body := halfCompressible()
	b.SetBytes(int64(len(body)))
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range sessions {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				ev, err := f.tryMessage(ctx, body)
				if err == nil {
					_, err = f.Append(ctx, ev)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// halfCompressible is a body of 10 KB of which half compresses away.
func halfCompressible() []byte { return append(randomBytes(5000), make([]byte, 5000)...) }

func BenchmarkAppendOnFiles(b *testing.B) {
	for _, sessions := range []int{1, 20} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			bucket, err := fs.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer bucket.Close()
			benchmarkAppend(b, bucket, sessions)
		})
	}
}

// BenchmarkSegments reads a log from its beginning, as a rebuild does: fetching,
// checking, opening and decoding messages of 10 KB.
func BenchmarkSegments(b *testing.B) {
	for _, each := range []int{1, 20, 200} {
		b.Run(fmt.Sprintf("each=%d", each), func(b *testing.B) { benchmarkSegments(b, each) })
	}
}

func benchmarkSegments(b *testing.B, each int) {
	const messages = 4000
	ctx := context.Background()
	keys := crypto.MemoryRoot(event.DayOf(time.Now()))
	opt := Options{Bucket: mem.New(), URL: "x", Keys: keys, MayCreate: true, Logger: slog.New(slog.DiscardHandler)}
	l, err := Open(ctx, opt)
	if err != nil {
		b.Fatal(err)
	}
	f := &fixture{Log: l, tenant: event.SystemTenant, day: event.DayOf(l.Now()) + 30}
	body, index := halfCompressible(), event.Marshal(randomBytes(700))
	for range messages / each {
		var evs []event.Event
		for range each {
			ev, err := f.tryMessage(ctx, body)
			if err != nil {
				b.Fatal(err)
			}
			m := ev.Fact.(*event.MessageAccepted)
			m.Allotments = []event.Allotment{{Account: event.NewAccount(), Place: event.PlaceInbox}}
			m.Meta = &event.MessageMeta{
				From: "sender@example.org", Recipients: []event.Recipient{{Path: "someone@example.com", Domain: "example.com", Account: event.NewAccount()}},
				Helo: "mx.example.org", Peer: "192.0.2.1", TLS: "TLS1.3", Trace: make([]byte, 200), Index: index,
			}
			evs = append(evs, ev)
		}
		if _, err := l.Append(ctx, evs...); err != nil {
			b.Fatal(err)
		}
	}
	l.Close(ctx)
	b.ResetTimer()
	b.ReportAllocs()
	read := 0
	began := cpuTime(b)
	for read < b.N {
		l, err := Open(ctx, opt)
		if err != nil {
			b.Fatal(err)
		}
		for seg, err := range l.Segments(ctx, 0, Cursor{}) {
			if err != nil {
				b.Fatal(err)
			}
			if read += len(seg.Events); read >= b.N {
				break
			}
		}
		l.Close(ctx)
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64(cpuTime(b)-began)/float64(read), "cpu-ns/op")
}

// cpuTime returns what the process has used of its processors: on a machine that
// others use, the one figure that means something.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
