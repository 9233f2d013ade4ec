package eventlog

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
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
	body := randomBytes(5000)
	body = append(body, make([]byte, 5000)...)
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
