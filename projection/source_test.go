package projection

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
)

// memLog is a synthetic log. Its faults: Segments fails while err is set, and
// sealers fail while sealErr is.
type memLog struct {
	mu      sync.Mutex
	parts   [][]*eventlog.Segment
	changed chan struct{}
	err     error
	sealErr error
	sealer  *crypto.LocalSealer
}

func newMemLog(partitions int) *memLog {
	return &memLog{parts: make([][]*eventlog.Segment, partitions), changed: make(chan struct{})}
}

func (l *memLog) Partitions() int { return len(l.parts) }

// append adds one segment and returns the position of its first event.
func (l *memLog) append(p event.Partition, evs ...event.Event) event.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg := &eventlog.Segment{Partition: p, Seq: event.Seq(len(l.parts[p]) + 1)}
	h := sha256.New()
	if n := len(l.parts[p]); n > 0 {
		seg.Prev = l.parts[p][n-1].Hash
	}
	h.Write(seg.Prev[:])
	for i, e := range evs {
		h.Write(e.ID[:])
		seg.Events = append(seg.Events, eventlog.Recorded{
			Ref:    event.Ref{Position: event.Position{Partition: p, Seq: seg.Seq, Index: uint32(i)}, ID: e.ID},
			Tenant: e.Tenant, Class: e.Fact.Class(), Expiry: e.Expiry, Fact: e.Fact,
		})
	}
	h.Sum(seg.Hash[:0])
	l.parts[p] = append(l.parts[p], seg)
	close(l.changed)
	l.changed = make(chan struct{})
	return event.Position{Partition: p, Seq: seg.Seq}
}

func (l *memLog) setErr(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *memLog) Segments(_ context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for seq := int(after.Seq); ; seq++ {
			l.mu.Lock()
			segs, err := l.parts[p], l.err
			l.mu.Unlock()
			if err != nil {
				yield(nil, err)
				return
			}
			if seq >= len(segs) || !yield(segs[seq], nil) {
				return
			}
		}
	}
}

func (l *memLog) Wait(ctx context.Context, p event.Partition, after event.Seq) error {
	for {
		l.mu.Lock()
		n, changed := len(l.parts[p]), l.changed
		l.mu.Unlock()
		if event.Seq(n) > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *memLog) TailAtLeast(p event.Partition) event.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return event.Seq(len(l.parts[p]))
}

func (l *memLog) LocalSealer(context.Context, event.Tenant, event.Day) (*crypto.LocalSealer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealErr != nil {
		return nil, l.sealErr
	}
	return l.sealer, nil
}

const testDay = event.Day(20800)

func newSealer(t testing.TB) *crypto.LocalSealer {
	t.Helper()
	ctx, root, log := t.Context(), crypto.MemoryRoot(testDay-1), event.LogID{1}
	wrapped, err := root.NewTenant(ctx, event.Tenant{1}, log)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := root.OpenTenant(ctx, event.Tenant{1}, log, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := root.DayPair(ctx, keys, testDay)
	if err != nil {
		t.Fatal(err)
	}
	return pair.LocalSealer(crypto.NewCodec())
}

// note is an event of the tests: a topic and a number.
func note(topic string, n int) event.Event {
	return event.Event{ID: event.NewID(), Tenant: event.Tenant{1}, Expiry: testDay,
		Fact: &event.Posted{Topic: topic, Payload: binary.BigEndian.AppendUint32(nil, uint32(n))}}
}

// tally is a fold that uses all of Txn: per topic it counts, keeps the last
// events in order (deleting older ones), and seals a text. The topic "poison"
// cannot be folded.
type tally struct {
	name     string
	version  int
	keep     int
	sealed   bool
	ownReads *bool // what ReadsVersion says
}

var errPoisoned = errors.New("this event is poison")

func (y *tally) Name() string { return y.name }
func (y *tally) Version() int { return y.version }

func (y *tally) ReadsVersion(int) bool { return y.ownReads == nil || *y.ownReads }

func (y *tally) Apply(t Txn, r eventlog.Recorded) error {
	f := r.Fact.(*event.Posted)
	count := []byte("count/" + f.Topic)
	old, err := t.Get(count)
	if err != nil {
		return err
	}
	n := uint64(1)
	if len(old) == 8 {
		n += binary.BigEndian.Uint64(old)
	}
	t.Set(count, binary.BigEndian.AppendUint64(nil, n))
	list := []byte("list/" + f.Topic + "/")
	key := binary.BigEndian.AppendUint64(slices.Clone(list), n)
	t.Set(key, f.Payload)
	i := 0
	for it, err := range t.Scan(list, nil, true) {
		if err != nil {
			return err
		}
		if i++; i > y.keep {
			t.Delete(it.Key)
		}
	}
	if y.sealed {
		key := append([]byte("text/"), r.Ref.ID[:]...)
		if err := t.SetSealed(r.Tenant, r.Expiry, key, []byte("text of "+f.Topic)); err != nil {
			return err
		}
	}
	t.Emit(fmt.Sprint(f.Topic, n))
	if f.Topic == "poison" {
		return errPoisoned
	}
	return nil
}

// counts reads the state of a tally.
func counts(t testing.TB, r *Runner, name string) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	err := r.View(t.Context(), name, func(v View) error {
		for it, err := range v.Scan([]byte("count/"), nil, false) {
			if err != nil {
				return err
			}
			out[string(it.Key[6:])] = binary.BigEndian.Uint64(it.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// start runs a runner until the returned function is called, which waits for
// its end.
func start(t testing.TB, st Store, src Source, ps ...Projection) (*Runner, func()) {
	t.Helper()
	r, err := Open(Options{Store: st, Source: src})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if err := r.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	return r, runs(t, r)
}

func runs(t testing.TB, r *Runner) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func hash(t testing.TB, r *Runner, name string) [32]byte {
	t.Helper()
	h, err := r.Hash(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
