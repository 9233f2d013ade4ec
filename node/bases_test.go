package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/directory"
	"holdfast/event"
	"holdfast/intake"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// folder is a node that only folds, for measurements.
type folder struct {
	*Node
	stop func()
}

func beginFolder(b testing.TB, bucket objstore.Bucket, keys crypto.KeyService, store projection.Store) *folder {
	b.Helper()
	cfg := DefaultConfig()
	cfg.Roles = nil
	n, err := New(b.Context(), cfg, Seams{
		Bucket: bucket, Store: store, Keys: keys,
		Listen: func(context.Context, string, string) (net.Listener, error) {
			return nil, errors.New("nothing listens here")
		},
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody is there") },
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, left := make(chan struct{}), make(chan error, 1)
	go func() { left <- n.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-left:
		b.Fatal(err)
	}
	return &folder{n, func() {
		stop()
		if err := <-left; err != nil {
			b.Error(err)
		}
	}}
}

// accept takes n messages in, as fast as it can.
func (f *folder) accept(b testing.TB, from, n int) {
	b.Helper()
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for i := from + w; i < from+n; i += 50 {
				user := fmt.Sprintf("user%d", i%100)
				tx := f.intake.Begin(intake.Peer{}, intake.Envelope{From: fmt.Sprintf("sender%d@elsewhere.test", i)})
				err := tx.Rcpt(intake.Rcpt{Path: user + "@acme.test", Local: user, Domain: "acme.test"})
				if err == nil {
					_, err = tx.Data(b.Context(), strings.NewReader(fmt.Sprintf("From: sender%d@elsewhere.test\r\nTo: %s@acme.test\r\nMessage-ID: <%d@elsewhere.test>\r\nSubject: the subject of number %d\r\n\r\n%s", i, user, i, i, strings.Repeat("a line of some text\r\n", 100))))
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := f.runner.CaughtUp(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// tail waits until everything that this node knows of is folded.
func (f *folder) tail(b testing.TB) {
	b.Helper()
	for p := range f.log.Partitions() {
		pos := event.Position{Partition: event.Partition(p), Seq: f.log.TailAtLeast(event.Partition(p))}
		for _, s := range f.runner.Status() {
			if err := f.runner.WaitFor(b.Context(), s.Name, pos); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func (f *folder) users(b testing.TB, n int) {
	b.Helper()
	file := directory.File{Domains: []directory.FileDomain{{Name: "acme.test", Tenant: "acme", Primary: []string{"smtp://primary.test:25"}}}}
	for i := range n {
		file.Users = append(file.Users, directory.FileUser{Address: fmt.Sprintf("user%d@acme.test", i)})
	}
	if _, err := f.apply(b.Context(), ApplyRequest{File: file}); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStartFromBase starts a node without a local database: on a log of one
// day (fold), on a Base of it (base), and on a Base and another day (both), which
// should take no more than one and a half times the other two together.
func BenchmarkStartFromBase(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		keys := crypto.MemoryRoot(event.DayOf(time.Now()))
		one, withBase, both := mem.New(), mem.New(), mem.New()
		for bucket, days := range map[*mem.Bucket]int{one: 0, withBase: 1, both: 2} {
			f := beginFolder(b, bucket, keys, projection.NewMemStore())
			f.users(b, 100)
			f.accept(b, 0, n)
			f.tail(b)
			if days > 0 {
				if err := f.TakeBases(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			if days > 1 {
				f.accept(b, n, n)
			}
			f.stop()
		}
		for _, c := range []struct {
			name   string
			bucket *mem.Bucket
		}{{"fold", one}, {"base", withBase}, {"both", both}} {
			b.Run(fmt.Sprintf("%d/%s", n, c.name), func(b *testing.B) {
				var cpu time.Duration
				for b.Loop() {
					b.StopTimer()
					store, err := projection.OpenBadger(projection.BadgerOptions{Dir: filepath.Join(b.TempDir(), "db"), Key: make([]byte, 32)})
					if err != nil {
						b.Fatal(err)
					}
					began := cpuTime(b)
					b.StartTimer()
					f := beginFolder(b, c.bucket, keys, store)
					b.StopTimer()
					cpu += cpuTime(b) - began
					f.stop()
					b.StartTimer()
				}
				b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
			})
		}
	}
}

// cpuTime is what this process has used, which is less disturbed by others than
// the time that passes.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
