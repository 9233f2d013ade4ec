package delivery

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore/fault"
	"holdfast/objstore/fs"
	"holdfast/projection"
)

// BenchmarkDrain queues b.N messages of some 10 KB for 200 recipients and then
// drains them, on a bucket and a local database on disk, to a server over TCP
// that counts them.
func BenchmarkDrain(b *testing.B) {
	var got atomic.Int64
	arrived := make(chan struct{}, 1)
	s := smtptest.Start(b, smtptest.Options{OnMessage: func(smtptest.Transaction) {
		if got.Add(1) == int64(b.N) {
			arrived <- struct{}{}
		}
	}})
	n, dir := benchNode(b, s)
	fillQueue(b, n)
	b.ResetTimer()
	began := time.Now()
	dir.mu.Lock()
	dir.site.Failover = "auto"
	dir.mu.Unlock()
	n.svc.Reload()
	<-arrived
	sent := time.Since(began)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/sent.Seconds(), "msg/s")
	b.ReportMetric(float64(s.Conns()), "conns")
}

// oneSite is a directory of one domain.
type oneSite struct {
	*world
	mu   sync.Mutex
	site Site
}

func (d *oneSite) Sites() []Site {
	d.mu.Lock()
	defer d.mu.Unlock()
	return []Site{d.site}
}

func benchNode(b *testing.B, s *smtptest.Server) (*node, *oneSite) {
	b.Helper()
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	bucket, err := fs.Open(b.TempDir())
	check(err)
	keys := crypto.MemoryRoot(event.DayOf(time.Now()))
	log, err := eventlog.Open(ctx, eventlog.Options{Bucket: bucket, URL: "file:", Keys: keys, MayCreate: true, Partitions: 1})
	check(err)
	tenant, err := keys.TenantID(ctx, "acme")
	check(err)
	check(log.EnsureTenant(ctx, tenant))
	store, err := projection.OpenBadger(projection.BadgerOptions{Dir: b.TempDir(), Key: make([]byte, 32)})
	check(err)
	runner, err := projection.Open(projection.Options{Store: store, Source: log})
	check(err)
	dir := &oneSite{site: Site{
		Domain: domain, Tenant: tenant, Primary: []string{"smtp://" + s.Addr() + "?tls=none"}, ShadowDays: 30, Failover: "on",
	}}
	svc, err := New(Config{Log: log, Runner: runner, Directory: dir, Hostname: "holdfast.test", Logger: slog.New(slog.DiscardHandler), Exclusive: true})
	check(err)
	n := &node{w: &world{tenant: tenant, days: 30}, bucket: fault.Wrap(bucket), log: log, runner: runner, svc: svc}
	dir.world = n.w
	var wg sync.WaitGroup
	foldCtx, stopFold := context.WithCancel(context.Background())
	var folding sync.WaitGroup
	folding.Go(func() { runner.Run(foldCtx) })
	wg.Go(func() { svc.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		wg.Wait()
		stopFold()
		folding.Wait()
		log.Close(context.Background())
		check(store.Close())
		check(bucket.Close())
	})
	return n, dir
}

// fillQueue accepts b.N messages.
func fillQueue(b *testing.B, n *node) {
	words := []string{"the", "delivery", "of", "mail", "is", "a", "matter", "of", "patience", "and", "order", "4711", "Zürich"}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				rng := rand.New(rand.NewPCG(uint64(i), 0))
				var body bytes.Buffer
				fmt.Fprintf(&body, "From: s@far.test\r\nSubject: %d\r\n\r\n", i)
				for body.Len() < 10<<10 {
					for range 10 {
						fmt.Fprintf(&body, "%s%x ", words[rng.IntN(len(words))], rng.Uint32()%256)
					}
					body.WriteString("\r\n")
				}
				if _, err := n.offer("s@far.test", body.String(), fmt.Sprintf("u%d@%s", i%200, domain)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
