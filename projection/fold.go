package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/turn"
)

// fold runs one projection.
type fold struct {
	r       *Runner
	p       Projection
	name    string
	obs     []Observer
	meta    meta // run's own
	caught  chan struct{}
	reached []bool                // run's own: partitions whose tail was reached once
	gone    map[event.Tenant]bool // run's own: tenants of which nothing is folded any more

	spare slot   // where a Base is loaded; 0 for none, and once that is done
	until []mark // of a second fold: where it ends
	// Of a fold that started from a Base: which, and its pieces, by their digests.
	loaded      *event.BaseTaken
	loadedNames []event.Snap
	pieces      map[[32]byte]event.Snap

	disagreed atomic.Uint64 // how often a second fold came to another state

	mu        sync.Mutex // guards what follows; never held over a seam
	slot      slot       // changes when a Base is loaded
	marks     []mark
	stopped   error // for good, at stoppedAt if that is an event
	stoppedAt event.Position
	over      error // what waiters are told once nothing more is folded
	trouble   error
	atTail    bool
	waiters   []*waiter
	interests map[event.ID]*interest
	urgent    chan struct{} // closed and replaced when somebody begins to wait
	committed []time.Time   // when a partition's last batch was
}

// errPoison is an event that Apply refused.
type errPoison struct {
	at  event.Position
	id  event.ID
	err error
}

func (e *errPoison) Error() string {
	return fmt.Sprintf("event %v at %v: %v", e.id, e.at, e.err)
}

func (e *errPoison) Unwrap() error { return e.err }

func newFold(r *Runner, p Projection, obs []Observer) (*fold, error) {
	m, s, err := claimSlot(r.store, p.Name(), p.Version())
	if err != nil {
		return nil, err
	}
	n := r.src.Partitions()
	f := &fold{
		r: r, p: p, name: p.Name(), obs: obs, slot: s, meta: m,
		caught: make(chan struct{}), reached: make([]bool, n),
		atTail:    m.Complete && m.Building == 0,
		interests: map[event.ID]*interest{},
		urgent:    make(chan struct{}), committed: make([]time.Time, n),
	}
	snap, err := r.store.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	if f.marks, err = readMarks(snap, s, n); err != nil {
		return nil, err
	}
	if err := f.readGone(snap, s); err != nil {
		return nil, err
	}
	return f, f.reserve()
}

func readMarks(snap Snapshot, s slot, partitions int) ([]mark, error) {
	marks := make([]mark, partitions)
	for i := range marks {
		b, err := snap.Get(cursorKey(s, event.Partition(i)))
		if err != nil {
			return nil, err
		}
		if b == nil {
			continue
		}
		if err := event.Unmarshal(b, &marks[i]); err != nil {
			return nil, err
		}
	}
	return marks, nil
}

func (f *fold) slotNow() slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slot
}

func (f *fold) readsVersion(v int) bool {
	o, ok := f.p.(OldReader)
	return !ok || o.ReadsVersion(v)
}

// run folds until ctx ends or the projection has to stop. Each partition has
// one token, which is in ready when there may be something to read, and with the
// partition's watcher otherwise.
func (f *fold) run(ctx context.Context) {
	turn.Take(ctx, "begin")
	n := len(f.marks)
	ready := make(chan event.Partition, n)
	idle := make([]chan event.Seq, n)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range n {
		idle[i] = make(chan event.Seq, 1)
		wg.Go(func() { f.watch(turn.Named(ctx, fmt.Sprintf("watch %d", i)), event.Partition(i), idle[i], ready) })
	}
	if !f.restored(ctx) || !f.verifyAll(ctx) {
		return
	}
	for i := range n {
		ready <- event.Partition(i)
	}
	var wait backoff
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-ready:
			if ctx.Err() != nil {
				return
			}
			more, err := f.pass(ctx, p)
			if err == nil && !more {
				err = f.tailReached(p)
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil && f.endsWith(err):
				if errors.Is(err, eventlog.ErrBeforeStart) {
					f.r.wake(fmt.Errorf("%s: %w: %w", f.name, ErrOverslept, err))
				}
				return
			case err != nil:
				f.setTrouble(err)
				sleep(ctx, wait.next())
				turn.Take(ctx, "again")
				ready <- p
				continue
			}
			wait = 0
			f.setTrouble(nil)
			if more {
				ready <- p
			} else {
				idle[p] <- f.markOf(p).Cursor.Seq
			}
		}
	}
}

// watch waits, whenever it is given how far partition p is folded, until there
// is more, and then puts p into ready.
func (f *fold) watch(ctx context.Context, p event.Partition, idle <-chan event.Seq, ready chan<- event.Partition) {
	var wait backoff
	for {
		select {
		case <-ctx.Done():
			return
		case after := <-idle:
			if ctx.Err() != nil {
				return
			}
			if err := f.r.src.Wait(ctx, p, after); err == nil {
				wait = 0
				f.linger(ctx, p)
			} else if sleep(ctx, wait.next()); ctx.Err() != nil {
				return
			}
			turn.Take(ctx, "ready")
			ready <- p // has room for every partition
		}
	}
}

// lingerFor is at least between two commits of an unhurried projection for which
// nobody waits.
const lingerFor = 25 * time.Millisecond

// linger lets segments gather when the last commit was a moment ago, until
// somebody waits for them. What comes after a pause is folded at once.
func (f *fold) linger(ctx context.Context, p event.Partition) {
	if _, ok := f.p.(Unhurried); !ok {
		return
	}
	f.mu.Lock()
	urgent, left := f.urgent, lingerFor-time.Since(f.committed[p])
	waited := len(f.waiters) > 0 || len(f.interests) > 0
	f.mu.Unlock()
	if left <= 0 || waited {
		return
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
	case <-urgent:
	case <-ctx.Done():
	}
}

// hurryLocked ends all lingering: somebody waits.
func (f *fold) hurryLocked() {
	close(f.urgent)
	f.urgent = make(chan struct{})
}

// verifyAll checks that the log still holds the segments that the cursors stand
// on. It reports whether to go on.
func (f *fold) verifyAll(ctx context.Context) bool {
	var wait backoff
	for i := range f.marks {
		for {
			err := f.verify(ctx, event.Partition(i))
			if ctx.Err() != nil || err != nil && f.endsWith(err) {
				return false
			}
			f.setTrouble(err)
			if err == nil {
				break
			}
			sleep(ctx, wait.next())
		}
	}
	return true
}

func (f *fold) verify(ctx context.Context, p event.Partition) error {
	m := f.markOf(p)
	// At the log's beginning there is no segment to compare with, but its hash is
	// known.
	if start := f.r.startOf(p); m.Cursor.Seq == 0 || m.Cursor == start {
		return nil
	} else if m.Cursor.Seq == start.Seq {
		return fmt.Errorf("partition %d begins behind another segment %d than the one that was folded: %w", p, start.Seq, eventlog.ErrRolledBack)
	}
	before := eventlog.Cursor{Seq: m.Cursor.Seq - 1, Hash: m.Prev}
	for seg, err := range f.r.src.Segments(ctx, p, before) {
		if err != nil {
			return fmt.Errorf("read segment %d of partition %d again: %w", m.Cursor.Seq, p, err)
		}
		if seg.Seq != m.Cursor.Seq || seg.Hash != m.Cursor.Hash {
			return fmt.Errorf("segment %d of partition %d is not the one that was folded: %w", m.Cursor.Seq, p, eventlog.ErrRolledBack)
		}
		return nil
	}
	return fmt.Errorf("segment %d of partition %d, which was folded, is gone: %w", m.Cursor.Seq, p, eventlog.ErrRolledBack)
}

// endsWith stops the projection if err is one that no repetition can cure.
func (f *fold) endsWith(err error) bool {
	poison, isPoison := errors.AsType[*errPoison](err)
	hopeless := isPoison
	for _, e := range []error{eventlog.ErrRolledBack, eventlog.ErrDamaged, eventlog.ErrBeforeStart, event.ErrMalformed, ErrDamaged, ErrNoBase} {
		hopeless = hopeless || errors.Is(err, e)
	}
	if !hopeless {
		return false
	}
	f.mu.Lock()
	f.stopped = err
	if isPoison {
		f.stoppedAt = poison.at
	}
	f.mu.Unlock()
	f.r.logger.Error("projection stopped", "projection", f.name, "error", err)
	f.release(fmt.Errorf("%s: %w: %w", f.name, ErrStopped, err))
	return true
}

// setTrouble notes an operating error, and logs when it begins and ends.
func (f *fold) setTrouble(err error) {
	f.mu.Lock()
	had := f.trouble
	f.trouble = err
	f.mu.Unlock()
	switch {
	case had == nil && err != nil:
		f.r.logger.Warn("projection cannot go on; trying again", "projection", f.name, "error", err)
	case had != nil && err == nil:
		f.r.logger.Info("projection goes on", "projection", f.name)
	}
}

func (f *fold) markOf(p event.Partition) mark {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.marks[p]
}

// tailReached notes that partition p was folded to its tail. When all were, the
// version goes into service.
func (f *fold) tailReached(p event.Partition) error {
	if f.reached[p] {
		return nil
	}
	for i, r := range f.reached {
		if !r && event.Partition(i) != p {
			f.reached[p] = true
			return nil
		}
	}
	if err := f.complete(); err != nil {
		return err
	}
	f.reached[p] = true
	f.mu.Lock()
	f.atTail = true
	f.mu.Unlock()
	close(f.caught)
	return nil
}

func (f *fold) status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{
		Name: f.name, Version: f.p.Version(), Rebuilding: !f.atTail,
		Stopped: f.stopped, StoppedAt: f.stoppedAt, Trouble: f.trouble, Disagreed: f.disagreed.Load(),
	}
	for _, m := range f.marks {
		s.Partitions = append(s.Partitions, PartitionStatus{Cursor: m.Cursor})
	}
	return s
}

// backoff grows with each failure: 50 ms to 5 s.
type backoff time.Duration

func (b *backoff) next() time.Duration {
	*b = min(max(2**b, backoff(50*time.Millisecond)), backoff(5*time.Second))
	return time.Duration(*b)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
