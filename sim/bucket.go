package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/turn"
	"holdfast/objstore"
)

// maxLate bounds how much later a call lands that was given up.
const maxLate = 40 * time.Second

// bucket is the store that all nodes share. Fault model: a call fails before it
// takes effect; a change takes effect and its answer is lost, at once or after a
// wait; a change that was given up lands later, judged by its condition then; a
// call hangs, or all of them do for a while; a read breaks off; a list misses the
// newest keys. What a node put
// and got answered is there for every later Get. Bytes are never altered.
type bucket struct {
	bus    *Bus
	faults *faults
	store  objstore.Bucket // does as it is told
	flying atomic.Int32    // late landings that are still to come

	mu      sync.Mutex
	flights map[string]int // late landings so far, by label
}

func newBucket(b *Bus, f *faults, inner objstore.Bucket) *bucket {
	return &bucket{bus: b, faults: f, store: inner, flights: map[string]int{}}
}

// view is the bucket as one node sees it.
type view struct {
	b    *bucket
	host *host
	skew *atomic.Int64 // the store's clock minus the node's, in nanoseconds
}

var (
	_ objstore.Bucket = (*view)(nil)
	_ objstore.Clock  = (*view)(nil)
)

// enter parks a call. An error means that it has had no effect.
func (v *view) enter(ctx context.Context, what string) (label string, r *rand.Rand, err error) {
	label = turn.Who(ctx)
	if label == "" {
		label = v.host.name
	}
	label += " " + what
	r, err = v.b.bus.ParkCtx(ctx, label)
	switch {
	case v.host.isDead():
		return label, r, errDead
	case err != nil:
		return label, r, fmt.Errorf("%s: %w", what, err)
	case v.b.faults.strikes(r, v.b.faults.before):
		v.b.bus.Note(label + ": fails before")
		return label, r, fmt.Errorf("%s: %w", what, errFault)
	}
	return label, r, nil
}

// maxHang is when the connection of a call that hangs breaks at last.
const maxHang = 2 * time.Minute

// await lets a call hang until ctx ends.
func (v *view) await(ctx context.Context, label string) error {
	v.b.bus.Note(label + ": hangs")
	ctx, cancel := context.WithTimeoutCause(ctx, maxHang, errFault)
	defer cancel()
	<-ctx.Done()
	v.b.bus.Park(label + " given up")
	return context.Cause(ctx)
}

// change carries out a Put or Delete. do takes effect.
func (v *view) change(ctx context.Context, what string, do func(context.Context) error) error {
	b, f := v.b, v.b.faults
	label, r, err := v.enter(ctx, what)
	if err != nil {
		return err
	}
	ambiguous := func(why string) error {
		b.bus.Note(label + ": " + why)
		return fmt.Errorf("%s: %w: %w: %s", what, objstore.ErrAmbiguous, errFault, why)
	}
	switch {
	case f.strikes(r, f.hang), f.silent():
		switch r.IntN(3) {
		case 0:
			_ = do(context.Background()) // nobody learns how it ended
		case 1:
			b.fly(label, time.Duration(r.Int64N(int64(maxLate))), do)
		}
		return fmt.Errorf("%s: %w: %w", what, objstore.ErrAmbiguous, v.await(ctx, label))
	case f.strikes(r, f.late):
		b.fly(label, time.Duration(r.Int64N(int64(maxLate))), do)
		return ambiguous("lands late")
	case f.strikes(r, f.lost):
		_ = do(context.Background()) // nobody learns how it ended
		return ambiguous("answer lost")
	}
	err = do(context.Background())
	// What it did is done; the answer travels.
	if _, cerr := b.bus.ParkCtx(ctx, label+" answer"); cerr != nil || v.host.isDead() {
		return ambiguous("nobody waits for the answer")
	}
	return err
}

// fly carries out a change later, whatever has become of its node.
func (b *bucket) fly(label string, d time.Duration, do func(context.Context) error) {
	b.mu.Lock()
	b.flights[label]++
	label = fmt.Sprintf("late %d of %s", b.flights[label], label)
	b.mu.Unlock()
	b.flying.Add(1)
	go func() {
		defer b.flying.Add(-1)
		time.Sleep(d)
		b.bus.Park(label)
		if err := do(context.Background()); err != nil {
			b.bus.Note(label + ": came to nothing")
		}
	}()
}

// Put implements objstore.Bucket.
func (v *view) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (info objstore.Info, err error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return info, err
	}
	data, err := io.ReadAll(io.LimitReader(body, size+1))
	if err != nil {
		return info, err
	}
	var got objstore.Info
	err = v.change(ctx, "put "+key, func(ctx context.Context) (err error) {
		got, err = v.b.store.Put(ctx, key, bytes.NewReader(data), size, opt)
		if err == nil {
			v.b.bus.Note(fmt.Sprintf("%s holds %d bytes, %s", key, size, digest(data)))
		}
		return err
	})
	if err != nil {
		return info, err
	}
	got.Modified = got.Modified.Add(v.off())
	return got, nil
}

// Delete implements objstore.Bucket.
func (v *view) Delete(ctx context.Context, key string) error {
	return v.change(ctx, "delete "+key, func(ctx context.Context) error { return v.b.store.Delete(ctx, key) })
}

// Get implements objstore.Bucket.
func (v *view) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	f := v.b.faults
	label, r, err := v.enter(ctx, fmt.Sprintf("get %s %d %d", key, off, n))
	if err != nil {
		return nil, objstore.Info{}, err
	}
	if f.strikes(r, f.hang) || f.silent() {
		return nil, objstore.Info{}, v.await(ctx, label)
	}
	body, info, err := v.b.store.Get(ctx, key, off, n)
	if err != nil {
		return nil, info, err
	}
	info.Modified = info.Modified.Add(v.off())
	if f.strikes(r, f.torn) {
		v.b.bus.Note(label + ": torn")
		data, _ := io.ReadAll(body)
		return io.NopCloser(io.MultiReader(bytes.NewReader(data[:r.IntN(len(data)+1)]), brokenReader{})), info, nil
	}
	return body, info, nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) {
	return 0, fmt.Errorf("%w: %w", errFault, io.ErrUnexpectedEOF)
}

// List implements objstore.Bucket.
func (v *view) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		f := v.b.faults
		label, r, err := v.enter(ctx, "list "+prefix+" after "+after)
		if err == nil && (f.strikes(r, f.hang) || f.silent()) {
			err = v.await(ctx, label)
		}
		if err != nil {
			yield(objstore.Info{}, err)
			return
		}
		var all []objstore.Info
		for info, err := range v.b.store.List(ctx, prefix, after) {
			if err != nil {
				yield(objstore.Info{}, err)
				return
			}
			all = append(all, info)
		}
		if n := 1 + r.IntN(3); f.strikes(r, f.stale) && len(all) > 0 {
			v.b.bus.Note(label + ": stale")
			all = all[:max(len(all)-n, 0)]
		}
		for _, info := range all {
			info.Modified = info.Modified.Add(v.off())
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Now implements objstore.Clock.
func (v *view) Now(ctx context.Context) (time.Time, error) {
	label, _, err := v.enter(ctx, "clock")
	if err == nil && v.b.faults.silent() {
		err = v.await(ctx, label)
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(v.off()), nil
}

// InMemory says that values are held in memory.
func (v *view) InMemory() bool { return true }

func (v *view) off() time.Duration { return time.Duration(v.skew.Load()) }
