package projection

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"

	"holdfast/event"
	"holdfast/eventlog"
)

var _ Snaps = (*eventlog.Log)(nil)

// memSnaps keeps Bases in memory. Its faults: whatever a test does to its maps
// while no call runs, and err, which everything returns while it is set.
type memSnaps struct {
	mu     sync.Mutex
	bases  []eventlog.Base // the newest first
	pieces map[event.Snap][]byte
	names  map[event.Snap][]event.Snap // of indexes
	err    error
	next   uint64
}

func newMemSnaps() *memSnaps {
	return &memSnaps{pieces: map[event.Snap][]byte{}, names: map[event.Snap][]event.Snap{}}
}

func (m *memSnaps) name() (s event.Snap) {
	m.next++
	binary.BigEndian.PutUint64(s[:], m.next)
	return s
}

func (m *memSnaps) Bases(_ context.Context, projection string) ([]eventlog.Base, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.bases), func(b eventlog.Base) bool { return b.Taken.Projection != projection }), m.err
}

func (m *memSnaps) BaseChunks(_ context.Context, b eventlog.Base) ([]event.Snap, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names, ok := m.names[b.Taken.Index]
	if !ok {
		return nil, fmt.Errorf("no index: %w", eventlog.ErrDamaged)
	}
	return names, m.err
}

func (m *memSnaps) Snap(_ context.Context, name event.Snap) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	piece, ok := m.pieces[name]
	if !ok {
		return nil, fmt.Errorf("no piece: %w", eventlog.ErrDamaged)
	}
	return piece, m.err
}

func (m *memSnaps) PutSnap(_ context.Context, piece []byte) (event.Snap, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := m.name()
	if len(piece) == 0 || len(piece) > eventlog.MaxSnap {
		panic("a piece of the wrong size")
	}
	m.pieces[name] = slices.Clone(piece)
	return name, m.err
}

func (m *memSnaps) PutBaseIndex(_ context.Context, pieces []event.Snap) (event.Snap, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := m.name()
	m.names[name] = slices.Clone(pieces)
	return name, m.err
}

// publish makes a Base the newest one.
func (m *memSnaps) publish(b *event.BaseTaken) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bases = slices.Insert(m.bases, 0, eventlog.Base{Taken: b, Ref: event.Ref{Position: event.Position{Seq: event.Seq(len(m.bases) + 1)}}})
}

// clone copies what a test is about to harm.
func (m *memSnaps) clone() *memSnaps {
	return &memSnaps{bases: slices.Clone(m.bases), pieces: maps.Clone(m.pieces), names: maps.Clone(m.names), next: m.next}
}

// cutLog is a log without its beginning.
type cutLog struct {
	*memLog
	start []eventlog.Cursor
}

// from cuts off what a Base has folded.
func from(l *memLog, b *event.BaseTaken) cutLog {
	c := cutLog{memLog: l}
	for _, at := range b.Cursors {
		c.start = append(c.start, eventlog.Cursor{Seq: at.Seq, Hash: at.Hash})
	}
	return c
}

func (c cutLog) Start(p event.Partition) eventlog.Cursor { return c.start[p] }

func (c cutLog) Segments(ctx context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	if after.Seq < c.start[p].Seq {
		return func(yield func(*eventlog.Segment, error) bool) {
			yield(nil, fmt.Errorf("what is before the log's beginning was read: %w", eventlog.ErrDamaged))
		}
	}
	return c.memLog.Segments(ctx, p, after)
}

// open returns a runner with one projection, which does not run yet.
func open(t testing.TB, st Store, src Source, snaps Snaps, p Projection) *Runner {
	t.Helper()
	r, err := Open(Options{Store: st, Source: src, Snaps: snaps})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Add(p); err != nil {
		t.Fatal(err)
	}
	return r
}

// caughtUp runs a runner to the end of the log, and returns the state's hash.
func caughtUp(t testing.TB, r *Runner, name string) [32]byte {
	t.Helper()
	stop := runs(t, r)
	defer stop()
	if err := r.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	return hash(t, r, name)
}

func takeBase(t testing.TB, r *Runner, m *memSnaps, name string) *event.BaseTaken {
	t.Helper()
	b, err := r.TakeBase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	m.publish(b)
	return b
}
