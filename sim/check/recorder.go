package check

import (
	"context"
	"io"
	"sync"
	"time"

	"holdfast/objstore"
)

// Recorder passes everything on to a bucket and notes at which moment each key
// came into being. It stands below everything that misbehaves. Its fault model
// is that of the bucket below it.
type Recorder struct {
	objstore.Bucket
	order *Order

	mu    sync.Mutex // never held over a call to the bucket
	since map[string]Moment
}

// NewRecorder returns a Recorder over an empty bucket.
func NewRecorder(below objstore.Bucket, order *Order) *Recorder {
	return &Recorder{Bucket: below, order: order, since: map[string]Moment{}}
}

// Put implements objstore.Bucket.
func (r *Recorder) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	info, err := r.Bucket.Put(ctx, key, body, size, opt)
	if err != nil {
		return info, err
	}
	now := r.order.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.since[key]; !ok {
		r.since[key] = now
	}
	return info, nil
}

// Now implements objstore.Clock where the bucket below does.
func (r *Recorder) Now(ctx context.Context) (time.Time, error) {
	if c, ok := r.Bucket.(objstore.Clock); ok {
		return c.Now(ctx)
	}
	return time.Time{}, nil
}

// Since returns when a key came into being; 0 if it never did.
func (r *Recorder) Since(key string) Moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.since[key]
}
