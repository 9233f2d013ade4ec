package node

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/objstore"
)

const (
	// countEvery is how often the objects in the bucket are counted: a LIST of all
	// of them, one request for each thousand.
	countEvery = time.Hour
	// countShare bounds what that takes of the time.
	countShare = 50
)

// objectCount is the last count of the objects in the bucket.
type objectCount struct{ counted atomic.Pointer[BucketCount] }

// last returns the last count, or nil.
func (c *objectCount) last() *BucketCount { return c.counted.Load() }

// countObjects counts the objects in the bucket until ctx ends.
func (n *Node) countObjects(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		c, err := count(ctx, n.bucket, n.rebuildReads(ctx))
		if err == nil {
			n.objects.counted.Store(c)
		} else if ctx.Err() == nil {
			n.logger.Warn("count the objects in the bucket", "error", err)
		}
		t := time.NewTimer(max(countEvery, countShare*time.Since(began)))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// count lists a bucket; reads tells whether a rebuild reads an object.
func count(ctx context.Context, b objstore.Bucket, reads func(key string) bool) (*BucketCount, error) {
	c := &BucketCount{At: time.Now().UTC(), Kinds: map[string]ObjectCount{}}
	for info, err := range b.List(ctx, "", "") {
		if err != nil {
			return nil, err
		}
		size := uint64(max(info.Size, 0))
		kind, _, _ := strings.Cut(info.Key, "/")
		k := c.Kinds[kind]
		k.add(size)
		c.Kinds[kind] = k
		c.Objects++
		c.Bytes += size
		if reads(info.Key) {
			c.Rebuild.add(size)
		}
	}
	return c, nil
}

func (c *ObjectCount) add(size uint64) {
	c.Objects++
	c.Bytes += size
}

// rebuildReads tells which objects a node reads that has lost its local database.
func (n *Node) rebuildReads(context.Context) func(key string) bool {
	return func(key string) bool { return strings.HasPrefix(key, "log/") }
}
