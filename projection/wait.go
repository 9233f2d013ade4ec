package projection

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/internal/turn"
)

// waiter is released when its position is folded, or never will be.
type waiter struct {
	pos  event.Position
	done chan error // has room for its one value
}

// interest is somebody who waits for the verdict on an event.
type interest struct {
	done    chan struct{}
	verdict []any
	err     error
}

// advance notes what a batch committed, and releases who waits for it.
func (f *fold) advance(b *batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marks[b.p], f.committed[b.p] = b.mark, time.Now()
	f.waiters = slices.DeleteFunc(f.waiters, func(w *waiter) bool {
		if w.pos.Partition != b.p || w.pos.Seq > b.mark.Cursor.Seq {
			return false
		}
		w.done <- nil
		return true
	})
	if len(f.interests) == 0 {
		return
	}
	verdicts := map[event.ID][]any{}
	for _, e := range b.txn.emitted {
		if id := e.Event.Ref.ID; f.interests[id] != nil {
			verdicts[id] = append(verdicts[id], e.Value)
		}
	}
	for _, seg := range b.segments {
		for _, rec := range seg.Events {
			if in := f.interests[rec.Ref.ID]; in != nil {
				in.verdict = verdicts[rec.Ref.ID]
				close(in.done)
				delete(f.interests, rec.Ref.ID)
			}
		}
	}
}

// release ends all waiting with err: the projection will fold no more.
func (f *fold) release(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over == nil {
		f.over = err
	}
	for _, w := range f.waiters {
		w.done <- err
	}
	f.waiters = nil
	for id, in := range f.interests {
		in.err = err
		close(in.done)
		delete(f.interests, id)
	}
}

// WaitFor returns when the projection has folded the event at pos and everything
// before it in that partition. The error wraps [ErrStopped] when it never will,
// [ErrClosed] when the runner has ended, or it is ctx's.
func (r *Runner) WaitFor(ctx context.Context, name string, pos event.Position) error {
	f := r.fold(name)
	if f == nil || int(pos.Partition) >= len(f.marks) {
		return fmt.Errorf("wait for %s at %v: %w", name, pos, ErrUnknown)
	}
	w := &waiter{pos: pos, done: make(chan error, 1)}
	f.mu.Lock()
	if pos.Seq <= f.marks[pos.Partition].Cursor.Seq {
		f.mu.Unlock()
		return nil
	}
	if err := f.over; err != nil {
		f.mu.Unlock()
		return err
	}
	f.waiters = append(f.waiters, w)
	f.hurryLocked()
	f.mu.Unlock()
	var err error
	left := false
	select {
	case err = <-w.done:
	case <-ctx.Done():
		left = true
	}
	turn.Take(ctx, "waited for "+name)
	if !left {
		return err
	}
	f.mu.Lock()
	f.waiters = slices.DeleteFunc(f.waiters, func(o *waiter) bool { return o == w })
	f.mu.Unlock()
	select {
	case err := <-w.done: // in the same moment
		return err
	default:
		return fmt.Errorf("wait for %s at %v: %w", name, pos, ctx.Err())
	}
}

// Do appends an event and returns what the fold emitted for it: the verdict.
// append makes the event with this id durable; Do then waits until this node has
// folded it. An error of append is returned as it is, and nothing is waited for.
// If ctx ends first, or the projection stops, the event is in the log all the
// same. A projection that is stopped already refuses before anything is
// appended. Observers have been told when Do returns.
func (r *Runner) Do(ctx context.Context, name string, id event.ID, append func(context.Context) (event.Position, error)) ([]any, error) {
	f := r.fold(name)
	if f == nil {
		return nil, fmt.Errorf("do in %s: %w", name, ErrUnknown)
	}
	in := &interest{done: make(chan struct{})}
	f.mu.Lock()
	if err := f.over; err != nil {
		f.mu.Unlock()
		return nil, err
	}
	if f.interests[id] != nil {
		f.mu.Unlock()
		panic("internal error: two commands with one event id")
	}
	f.interests[id] = in
	f.hurryLocked()
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		if f.interests[id] == in {
			delete(f.interests, id)
		}
		f.mu.Unlock()
	}()
	if _, err := append(ctx); err != nil {
		return nil, err
	}
	select {
	case <-in.done:
	case <-ctx.Done():
	}
	turn.Take(ctx, "done in "+name)
	select {
	case <-in.done: // if only in the same moment
		failpoint.Hit(failpoint.CommandFolded)
		return in.verdict, in.err
	default:
		return nil, fmt.Errorf("wait for the verdict of %s on %v: %w", name, id, ctx.Err())
	}
}

// CaughtUp returns when the named projections, or all when there are no names,
// have reached the tail of every partition once since Run began.
func (r *Runner) CaughtUp(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		for _, f := range r.folds {
			names = append(names, f.name)
		}
	}
	for _, name := range names {
		f := r.fold(name)
		if f == nil {
			return fmt.Errorf("wait for %s: %w", name, ErrUnknown)
		}
		if err := f.waitCaught(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) waitCaught(ctx context.Context) error {
	// A waiter for a position that never comes is released when the projection
	// ends, and only then.
	w := &waiter{pos: event.Position{Seq: ^event.Seq(0)}, done: make(chan error, 1)}
	f.mu.Lock()
	err := f.over
	if err == nil {
		f.waiters = append(f.waiters, w)
		f.hurryLocked()
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.waiters = slices.DeleteFunc(f.waiters, func(o *waiter) bool { return o == w })
		f.mu.Unlock()
	}()
	select {
	case <-f.caught:
		return nil
	default:
	}
	if err != nil {
		return err
	}
	select {
	case <-f.caught:
		turn.Take(ctx, "caught up with "+f.name)
		return nil
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait until %s has caught up: %w", f.name, ctx.Err())
	}
}
