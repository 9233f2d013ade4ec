package projection

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"holdfast/event"
	"holdfast/eventlog"
)

// indexer writes keys small keys for each message, as an index does: a row, a
// counter, a posting under a random id, and so on.
type indexer struct {
	name string
	keys int
}

func (x *indexer) Name() string { return x.name }
func (x *indexer) Version() int { return 1 }
func (x *indexer) Apply(t Txn, r eventlog.Recorded) error {
	n, err := t.Get([]byte("n"))
	if err != nil {
		return err
	}
	var i uint64
	if len(n) == 8 {
		i = binary.BigEndian.Uint64(n)
	}
	t.Set([]byte("n"), binary.BigEndian.AppendUint64(nil, i+1))
	value := make([]byte, 60)
	for k := range x.keys - 1 {
		key := []byte{byte('a' + k)}
		if k%2 == 0 {
			key = binary.BigEndian.AppendUint64(key, i)
		} else {
			key = append(key, r.Ref.ID[:]...)
		}
		t.Set(key, value)
	}
	return nil
}

// BenchmarkRebuild folds a log of 100,000 messages, in segments of 50, into
// four projections with four keys a message each.
func BenchmarkRebuild(b *testing.B) {
	l := newMemLog(4)
	const messages = 100_000
	for i := range messages / 50 {
		var evs []event.Event
		for j := range 50 {
			evs = append(evs, note("t", i*50+j))
		}
		l.append(event.Partition(i%4), evs...)
	}
	for _, kind := range []string{"badger", "mem"} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				st := NewMemStore()
				if kind == "badger" {
					st = openBadgerT(b, filepath.Join(b.TempDir(), "db"))
				}
				var ps []Projection
				for i := range 4 {
					ps = append(ps, &indexer{fmt.Sprint("p", i), 4})
				}
				r, stop := start(b, st, l, ps...)
				if err := r.CaughtUp(b.Context()); err != nil {
					b.Fatal(err)
				}
				stop()
				if err := st.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(messages*b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// BenchmarkVerdict is one command at a time: append, fold, commit, release.
func BenchmarkVerdict(b *testing.B) {
	l := newMemLog(4)
	st := openBadgerT(b, filepath.Join(b.TempDir(), "db"))
	defer st.Close()
	r, stop := start(b, st, l, &indexer{"p", 4})
	defer stop()
	for b.Loop() {
		if err := r.WaitFor(b.Context(), "p", l.append(0, note("t", 1))); err != nil {
			b.Fatal(err)
		}
	}
}
