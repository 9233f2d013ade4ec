package node

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/event"
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
		c, err := n.count(ctx)
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

// count lists the bucket.
func (n *Node) count(ctx context.Context) (*BucketCount, error) {
	reads, err := n.rebuildReads(ctx)
	if err != nil {
		return nil, err
	}
	return countIn(ctx, n.bucket, reads)
}

func countIn(ctx context.Context, b objstore.Bucket, reads *rebuild) (*BucketCount, error) {
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
		reads.see(info.Key, size)
	}
	c.Rebuild = reads.sum()
	return c, nil
}

func (c *ObjectCount) add(size uint64) {
	c.Objects++
	c.Bytes += size
}

// rebuild tells what a node reads that has lost its local database: the newest
// Bases, and of each partition what comes after the earliest of them.
type rebuild struct {
	bases    ObjectCount
	from     map[event.Partition]event.Seq
	segments []span
	packs    []span
}

// span is an object of the log that holds some segments.
type span struct {
	part        event.Partition
	first, last event.Seq
	size        uint64
}

// rebuildReads begins a count of what a rebuild reads.
func (n *Node) rebuildReads(ctx context.Context) (*rebuild, error) {
	r := &rebuild{from: map[event.Partition]event.Seq{}}
	for i, p := range n.runner.Status() {
		bases, err := n.log.Bases(ctx, p.Name)
		if err != nil {
			return nil, err
		}
		var cursors []event.BaseCursor
		for _, b := range bases {
			if int(b.Taken.Version) == p.Version {
				cursors = b.Taken.Cursors
				r.bases.Objects += uint64(b.Taken.Chunks) + 1
				r.bases.Bytes += uint64(b.Taken.Size)
				break
			}
		}
		for j := range n.log.Partitions() {
			part, at := event.Partition(j), event.Seq(0)
			if j < len(cursors) {
				at = cursors[j].Seq
			}
			if was, ok := r.from[part]; !ok && i == 0 || ok && at < was {
				r.from[part] = at
			}
		}
	}
	return r, nil
}

// see takes note of an object in the bucket.
func (r *rebuild) see(key string, size uint64) {
	kind, rest, _ := strings.Cut(key, "/")
	number, name, _ := strings.Cut(rest, "/")
	part, err := strconv.ParseUint(number, 16, 8)
	if err != nil || kind != "log" && kind != "pack" {
		return
	}
	// log/PP/SEGMENT and pack/PP/LAST-FIRST-..., docs/format.md.
	last, rest, _ := strings.Cut(name, "-")
	first, _, _ := strings.Cut(rest, "-")
	s := span{part: event.Partition(part), size: size}
	s.last, err = parseSeq(last)
	if err != nil || s.last <= r.from[s.part] {
		return
	}
	if kind == "log" {
		s.first = s.last
		r.segments = append(r.segments, s)
	} else if s.first, err = parseSeq(first); err == nil {
		r.packs = append(r.packs, s)
	}
}

func parseSeq(s string) (event.Seq, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	return event.Seq(n), err
}

// sum returns what is read. A segment that is in a pack, too, is read from there.
func (r *rebuild) sum() ObjectCount {
	c := r.bases
	packed := map[event.Partition][]span{}
	for _, p := range r.packs {
		c.add(p.size)
		packed[p.part] = append(packed[p.part], p)
	}
	for _, s := range r.segments {
		if !slices.ContainsFunc(packed[s.part], func(p span) bool { return p.first <= s.first && s.last <= p.last }) {
			c.add(s.size)
		}
	}
	return c
}
