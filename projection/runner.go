package projection

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/turn"
)

// Errors of the runner.
var (
	// ErrStopped says that a projection stopped at an event that it cannot fold,
	// or at a log that is not the one it has folded.
	ErrStopped = errors.New("projection is stopped")
	// ErrClosed says that the runner has ended.
	ErrClosed = errors.New("projections are closed")
	// ErrUnknown says that no projection of that name was added.
	ErrUnknown = errors.New("no such projection")
)

// Source is what the runner reads: [*eventlog.Log], or a synthetic log in tests.
type Source interface {
	// Partitions returns their number, which is constant.
	Partitions() int
	// Segments yields the segments behind after, in order, and ends at the tail.
	Segments(ctx context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error]
	// Wait returns nil when a segment behind after may exist, or ctx's error.
	Wait(ctx context.Context, p event.Partition, after event.Seq) error
	// TailAtLeast returns the highest segment that is known to exist.
	TailAtLeast(p event.Partition) event.Seq
	// LocalSealer returns what seals local values under a tenant's expiry day. The
	// error wraps crypto.ErrExpired once the day's key is gone.
	LocalSealer(ctx context.Context, t event.Tenant, d event.Day) (*crypto.LocalSealer, error)
}

// selectiveSource is a source that can leave out what is not wanted:
// [*eventlog.Log].
type selectiveSource interface {
	// SegmentsOf is as Segments, but only events of the classes are in them.
	SegmentsOf(ctx context.Context, p event.Partition, after eventlog.Cursor, classes event.Classes) iter.Seq2[*eventlog.Segment, error]
}

// Options are what a [Runner] is made of.
type Options struct {
	Store  Store // the caller closes it, after Run has ended
	Source Source
	Logger *slog.Logger // nil: none
	// Snaps keeps Bases, from which a projection without a state starts. Nil: none.
	Snaps Snaps
	// Scratch opens an empty store for the second fold of a large state. Nil: such
	// a fold is made in memory as well.
	Scratch func() (Store, error)
}

// Runner folds the log into projections, each in a goroutine of its own. All
// methods but Add and Run may be called at any time, by any goroutine.
type Runner struct {
	store   Store
	src     Source
	snaps   Snaps
	scratch func() (Store, error)
	logger  *slog.Logger
	folds   []*fold // constant once Run is called
	swept   chan struct{}
	purges  chan struct{}
	done    chan struct{}
	once    sync.Once
	wake    context.CancelCauseFunc // Run's own

	purgeTrouble atomic.Pointer[error]
}

// Open returns a runner without projections.
func Open(o Options) (*Runner, error) {
	if o.Store == nil || o.Source == nil {
		return nil, errors.New("internal error: a runner needs a store and a source")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := dropLoading(o.Store); err != nil {
		return nil, fmt.Errorf("open projections: %w", err)
	}
	return &Runner{
		store: o.Store, src: o.Source, snaps: o.Snaps, scratch: o.Scratch, logger: o.Logger,
		swept: make(chan struct{}, 1), purges: make(chan struct{}, 1), done: make(chan struct{}),
	}, nil
}

// Add makes the runner fold p, and tell obs what it emits. It is called before
// anything else, by one goroutine, once for each name. An error is one of the
// store's; the projection is then not there.
func (r *Runner) Add(p Projection, obs ...Observer) error {
	if r.fold(p.Name()) != nil {
		panic("internal error: projection " + p.Name() + " was added twice")
	}
	f, err := newFold(r, p, obs)
	if err != nil {
		return fmt.Errorf("add projection %s: %w", p.Name(), err)
	}
	r.folds = append(r.folds, f)
	return nil
}

// Run folds until ctx ends, then waits for what it started. It is called once.
// A projection that stops or meets trouble says so in [Runner.Status]; the others
// go on, and so does Run. Only when the log's beginning was moved past what is folded
// it ends by itself, with [ErrOverslept].
func (r *Runner) Run(ctx context.Context) error {
	ctx, r.wake = context.WithCancelCause(ctx)
	defer r.wake(nil)
	var wg sync.WaitGroup
	for _, f := range r.folds {
		wg.Go(func() { f.run(turn.Named(ctx, f.name)) })
	}
	wg.Go(func() { r.sweep(turn.Named(ctx, "sweep")) })
	if st, ok := r.store.(Purger); ok {
		wg.Go(func() { r.purge(ctx, st) })
	}
	wg.Wait()
	r.once.Do(func() { close(r.done) })
	for _, f := range r.folds {
		f.release(ErrClosed)
	}
	if err := context.Cause(ctx); errors.Is(err, ErrOverslept) {
		return err
	}
	return nil
}

func (r *Runner) fold(name string) *fold {
	for _, f := range r.folds {
		if f.name == name {
			return f
		}
	}
	return nil
}

// View calls fn with a consistent snapshot of the projection's live version. It
// returns fn's error. While a new version is being built that is the old one,
// unless the projection is an [OldReader] that cannot read it.
func (r *Runner) View(ctx context.Context, name string, fn func(View) error) error {
	f := r.fold(name)
	if f == nil {
		return fmt.Errorf("view %s: %w", name, ErrUnknown)
	}
	snap, err := r.store.Snapshot()
	if err != nil {
		return fmt.Errorf("view %s: %w", name, err)
	}
	defer snap.Close()
	// The version is looked up in the snapshot, so that one which is replaced
	// meanwhile is still whole.
	m, err := readMeta(snap, name)
	if err != nil {
		return fmt.Errorf("view %s: %w", name, err)
	}
	slot := m.Live
	if m.Building != 0 && !f.readsVersion(m.LiveVersion) {
		slot = m.Building
	}
	return fn(&reader{ctx: ctx, src: r.src, snap: snap, prefix: statePrefix(slot), name: name})
}

// Hash returns the SHA-256 over all keys and values of the version that is being
// folded, in order. Two nodes that have folded the same log have the same hash.
func (r *Runner) Hash(ctx context.Context, name string) (sum [32]byte, err error) {
	f := r.fold(name)
	if f == nil {
		return sum, fmt.Errorf("hash %s: %w", name, ErrUnknown)
	}
	snap, err := r.store.Snapshot()
	if err != nil {
		return sum, fmt.Errorf("hash %s: %w", name, err)
	}
	defer snap.Close()
	if sum, _, err = hashState(ctx, snap, f.slotNow()); err != nil {
		return sum, fmt.Errorf("hash %s: %w", name, err)
	}
	return sum, nil
}

// Status is how one projection stands.
type Status struct {
	Name       string
	Version    int
	Rebuilding bool // has not yet reached the tail of the log for the first time
	Partitions []PartitionStatus
	Stopped    error          // why it stopped for good, without anything from mail
	StoppedAt  event.Position // at which event, when it was an event
	Trouble    error          // an operating error that it is trying to get over
	Disagreed  uint64         // how often a second fold came to another state; see [ErrDisagree]
}

// PartitionStatus is how far a projection is in one partition.
type PartitionStatus struct {
	Cursor eventlog.Cursor
	Lag    uint64 // segments known to exist that it has not folded
}

// Status returns how each projection stands, in the order in which they were
// added.
func (r *Runner) Status() []Status {
	out := make([]Status, 0, len(r.folds))
	for _, f := range r.folds {
		out = append(out, f.status())
	}
	for i := range out {
		for p := range out[i].Partitions {
			ps := &out[i].Partitions[p]
			if tail := r.src.TailAtLeast(event.Partition(p)); tail > ps.Cursor.Seq {
				ps.Lag = uint64(tail - ps.Cursor.Seq)
			}
		}
	}
	return out
}
