// Package split makes one bucket of two: what lies under a prefix is kept in a
// bucket of its own. So key pages can be rewritten for good while everything else
// is under a lock that keeps what it once had.
package split

import (
	"context"
	"io"
	"iter"
	"strings"

	"holdfast/objstore"
)

// bucket routes by prefix.
type bucket struct {
	objstore.Bucket // of all other keys
	prefix          string
	apart           objstore.Bucket
}

// clocked is a bucket of which the main one has a clock.
type clocked struct {
	*bucket
	objstore.Clock
}

// New returns a bucket that keeps the keys which begin with prefix in apart, and
// all others in main. What main may hold under the prefix is not shown. Its
// clock, if it has one, is main's.
func New(main objstore.Bucket, prefix string, apart objstore.Bucket) objstore.Bucket {
	b := &bucket{Bucket: main, prefix: prefix, apart: apart}
	if c, ok := main.(objstore.Clock); ok {
		return &clocked{b, c}
	}
	return b
}

func (b *bucket) of(key string) objstore.Bucket {
	if strings.HasPrefix(key, b.prefix) {
		return b.apart
	}
	return b.Bucket
}

// Put implements objstore.Bucket.
func (b *bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	return b.of(key).Put(ctx, key, body, size, opt)
}

// Get implements objstore.Bucket.
func (b *bucket) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	return b.of(key).Get(ctx, key, off, n)
}

// Delete implements objstore.Bucket.
func (b *bucket) Delete(ctx context.Context, key string) error { return b.of(key).Delete(ctx, key) }

// List implements objstore.Bucket. Keys under the prefix stand together, so that
// the listing of the other bucket goes in between.
func (b *bucket) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	if strings.HasPrefix(prefix, b.prefix) {
		return b.apart.List(ctx, prefix, after)
	}
	if !strings.HasPrefix(b.prefix, prefix) {
		return b.Bucket.List(ctx, prefix, after)
	}
	return func(yield func(objstore.Info, error) bool) {
		between := func() bool {
			for info, err := range b.apart.List(ctx, b.prefix, after) {
				if !yield(info, err) || err != nil {
					return false
				}
			}
			return true
		}
		done := false
		for info, err := range b.Bucket.List(ctx, prefix, after) {
			if err == nil && strings.HasPrefix(info.Key, b.prefix) {
				continue
			}
			if err == nil && !done && info.Key > b.prefix {
				if done = true; !between() {
					return
				}
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
		if !done {
			between()
		}
	}
}

// History implements objstore.Historian for the keys under the prefix.
func (b *bucket) History(ctx context.Context) (objstore.History, error) {
	h, ok := b.apart.(objstore.Historian)
	if !ok {
		return objstore.History{}, nil
	}
	return h.History(ctx)
}
