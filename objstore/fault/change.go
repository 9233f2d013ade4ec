package fault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"holdfast/objstore"
)

// maxPending bounds the late landings that wait for Release; more than these
// fail before they take effect.
const maxPending = 4096

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	r := b.fate(Put, key)
	switch r.Kind {
	case Full:
		return objstore.Info{}, fmt.Errorf("put: %w", ErrFull)
	case LateLanding:
		return objstore.Info{}, b.putLate(r, key, body, size, opt)
	case Unconditional:
		opt = objstore.PutOptions{}
	}
	if err := r.hold(ctx); err != nil {
		if r.Kind == Hang {
			err = fmt.Errorf("%w: %w", objstore.ErrAmbiguous, err)
		}
		return objstore.Info{}, err
	}
	info, err := b.next.Put(ctx, key, body, size, opt)
	switch r.Kind {
	case FailAfter:
		return objstore.Info{}, r.ambiguous("failed after it reached the store")
	case LostAnswer:
		return objstore.Info{}, r.ambiguous("answer lost")
	}
	return info, err
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	r := b.fate(Delete, key)
	if r.Kind == LateLanding {
		return b.late(r, func(ctx context.Context) { _ = b.next.Delete(ctx, key) })
	}
	if err := r.hold(ctx); err != nil {
		return err
	}
	err := b.next.Delete(ctx, key)
	switch r.Kind {
	case FailAfter:
		return r.fault("failed after it reached the store")
	case LostAnswer:
		return r.fault("answer lost")
	}
	return err
}

// landing is a call that its caller has given up and that is still on its way.
type landing struct {
	carryOut func(ctx context.Context)
}

func (b *Bucket) putLate(r Rule, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) error {
	// The caller may use the body again as soon as it has its error.
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind body: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(body, size+1))
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	return b.late(r, func(ctx context.Context) {
		// Nobody waits for the outcome: that is the fault.
		_, _ = b.next.Put(ctx, key, bytes.NewReader(data), size, opt)
	})
}

// late arranges for a landing and returns the error that its caller gets.
func (b *Bucket) late(r Rule, carryOut func(context.Context)) error {
	if r.Delay > 0 {
		b.wg.Go(func() {
			timer := time.NewTimer(r.Delay)
			defer timer.Stop()
			select {
			case <-timer.C:
				carryOut(b.ctx)
			case <-b.ctx.Done():
			}
		})
		return r.ambiguous("answer lost before it landed")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending) == maxPending {
		return r.fault("failed before it took effect: too many late landings")
	}
	b.pending = append(b.pending, &landing{carryOut: carryOut})
	return r.ambiguous("answer lost before it landed")
}

// Pending returns how many late landings wait for Release.
func (b *Bucket) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending)
}

// Release carries out the late landings that wait for it, in the order of their
// calls, and returns how many there were. They have all landed, or come to
// nothing, when it returns.
func (b *Bucket) Release() int {
	b.mu.Lock()
	pending := b.pending
	b.pending = nil
	b.mu.Unlock()
	for _, l := range pending {
		l.carryOut(b.ctx)
	}
	return len(pending)
}
