package delivery

import (
	"context"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// BenchmarkSheet makes the balance sheet of 100,000 units that are due, from a
// local database on disk.
func BenchmarkSheet(b *testing.B) {
	const messages, each = 1000, 100
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	keys := crypto.MemoryRoot(event.DayOf(time.Now()))
	log, err := eventlog.Open(ctx, eventlog.Options{Bucket: mem.New(), URL: "mem:", Keys: keys, MayCreate: true, Partitions: 1})
	check(err)
	tenant, err := keys.TenantID(ctx, "acme")
	check(err)
	check(log.EnsureTenant(ctx, tenant))
	store, err := projection.OpenBadger(projection.BadgerOptions{Dir: b.TempDir(), Key: make([]byte, 32)})
	check(err)
	runner, err := projection.Open(projection.Options{Store: store, Source: log})
	check(err)
	check(runner.Add(newFold()))
	done := make(chan struct{})
	go func() { defer close(done); _ = runner.Run(ctx) }()
	defer func() { cancel(); <-done; store.Close(); log.Close(context.Background()) }()
	var last event.Position
	for range messages {
		last, err = log.Append(ctx, event.Event{ID: event.NewID(), Tenant: tenant, Fact: &event.MessageAccepted{
			Origin: event.OriginInbound, Recipients: each, Routes: []event.Route{{Domain: domain, N: each}},
		}})
		check(err)
	}
	check(runner.WaitFor(ctx, foldName, last))
	for b.Loop() {
		s, err := ReadSheet(ctx, runner)
		check(err)
		if n := total(s, false); n.Due != messages*each || !s.Balanced() {
			b.Fatalf("%+v", n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(messages*each), "ns/unit")
}
