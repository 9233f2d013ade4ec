package eventlog

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/event"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
	"holdfast/objstore"
)

// partition is one totally ordered sequence of segments.
type partition struct {
	log    *Log
	number event.Partition

	mu     sync.Mutex // never held across a call through a seam
	wake   *sync.Cond // queue or closed changed
	queue  *list.List // of *item
	queued int        // events in queue
	closed bool

	polled   time.Time     // when a waiting reader last began to look for segments
	tailSeq  event.Seq     // the last segment known
	tailHash Hash          // and its hash
	changed  chan struct{} // closed and replaced when the tail moves

	tailAt  moment // when the tail was known to be the tail
	floor   *floor
	floorAt moment // when it was read
	packs   shelf

	recent []Hash  // of the last segments known, that of the tail last
	keeper *keeper // of the checkpoints

	broken    bool // the tail could not be read when the log was opened; constant
	contended bool // the last commit lost a race; used by commitLoop only
	puts      puts
}

func newPartition(l *Log, n event.Partition) *partition {
	p := &partition{log: l, number: n, queue: list.New(), changed: make(chan struct{}), keeper: newKeeper(), floor: &floor{}}
	p.wake = sync.NewCond(&p.mu)
	return p
}

func (p *partition) tail() (event.Seq, Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tailSeq, p.tailHash
}

// advance moves the known tail forward; it never goes back.
func (p *partition) advance(s event.Seq, h Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s <= p.tailSeq {
		return
	}
	if s != p.tailSeq+1 || len(p.recent) == maxRecent {
		kept := p.recent[:0]
		if s == p.tailSeq+1 {
			kept = append(kept, p.recent[maxRecent/2:]...)
		}
		p.recent = kept
	}
	p.recent = append(p.recent, h)
	p.tailSeq, p.tailHash = s, h
	if sabotage.Count(sabotage.LoseTail)%3 == 2 {
		return
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// maxRecent bounds what is remembered of the last segments, 32 bytes each.
const maxRecent = 2 * maxSpan

// recentHashes returns the hashes of the segments after from up to to; nil when
// they are not remembered.
func (p *partition) recentHashes(from, to event.Seq) []Hash {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.tailSeq - event.Seq(len(p.recent)) // the one before what is remembered
	if from < first || to > p.tailSeq || to <= from {
		return nil
	}
	return slices.Clone(p.recent[from-first : to-first])
}

// catchUp reads headers from the known tail to the end of the partition, and what
// they say of destruction.
func (p *partition) catchUp(ctx context.Context) error {
	for {
		at := p.log.moment()
		seq, hash := p.tail()
		next, err := p.log.readHeader(ctx, p.number, seq+1)
		if errors.Is(err, objstore.ErrNotExist) {
			p.isTail(seq, at)
			return nil
		}
		if err != nil {
			return err
		}
		if next.Prev != hash {
			return fmt.Errorf("segment %s does not follow its predecessor: %w", segmentKey(p.number, seq+1), ErrDamaged)
		}
		if err := p.learn(ctx, next); err != nil {
			return err
		}
		p.advance(seq+1, next.hash)
	}
}

// findTail finds the last segment with a number of lists that grows with the
// logarithm of its number. Numbers are dense, so that a segment exists exactly
// when one after it does.
func (p *partition) findTail(ctx context.Context) error {
	if _, err := p.log.readFloor(ctx, p.number); errors.Is(err, ErrDamaged) {
		p.log.logger.Error("a floor is damaged; run holdfast log verify", "partition", p.number, "error", err)
	} else if err != nil {
		return err
	}
	at := p.log.moment()
	low, step := event.Seq(0), event.Seq(1) // low exists, or is 0
	for grow := true; grow || step > 1; {
		if !grow {
			step /= 2
		}
		ok, err := p.existsFrom(ctx, low+step)
		if err != nil {
			return fmt.Errorf("find the tail of partition %d: %w", p.number, err)
		}
		if ok {
			low += step
		}
		if grow = grow && ok; grow {
			step *= 2
		}
	}
	if low > 0 {
		h, err := p.log.readHeader(ctx, p.number, low)
		if errors.Is(err, objstore.ErrNotExist) {
			err = fmt.Errorf("segment %s is missing: %w", segmentKey(p.number, low), ErrDamaged)
		}
		if err != nil {
			return fmt.Errorf("read the tail of partition %d: %w", p.number, err)
		}
		if err := p.learn(ctx, h); err != nil {
			return fmt.Errorf("read the tail of partition %d: %w", p.number, err)
		}
		p.advance(low, h.hash)
	}
	p.isTail(low, at)
	return p.catchUp(ctx) // a list may be stale, a get is not
}

// existsFrom reports whether there is a segment with the number s or a higher
// one.
func (p *partition) existsFrom(ctx context.Context, s event.Seq) (bool, error) {
	after := ""
	if s > 1 {
		after = segmentKey(p.number, s-1)
	}
	for info, err := range p.log.bucket.List(ctx, segmentPrefix(p.number), after) {
		if err != nil {
			return false, err
		}
		// Whatever else somebody has put there is no segment.
		if _, ok := parseSegmentKey(info.Key); ok {
			return true, nil
		}
	}
	return false, nil
}

// TailAtLeast returns the number of the last segment that is known to exist.
func (l *Log) TailAtLeast(p event.Partition) event.Seq {
	s, _ := l.partitions[p].tail()
	return s
}

// Wait returns when a segment after the given one may exist.
func (l *Log) Wait(ctx context.Context, n event.Partition, after event.Seq) error {
	p := l.partitions[n]
	for {
		p.mu.Lock()
		seq, changed := p.tailSeq, p.changed
		p.mu.Unlock()
		if seq > after {
			return nil
		}
		if err := p.waitChange(ctx, changed); err != nil {
			return err
		}
	}
}

// waitChange returns when the tail has moved, or after it has looked for
// segments of other nodes.
func (p *partition) waitChange(ctx context.Context, changed <-chan struct{}) error {
	var tick <-chan time.Time
	if p.log.opt.Poll > 0 {
		t := time.NewTimer(p.log.opt.Poll)
		defer t.Stop()
		tick = t.C
	}
	timeout := false
	select {
	case <-changed:
	case <-tick:
		timeout = true
	case <-ctx.Done():
	case <-p.log.ctx.Done():
	}
	turn.Take(ctx, fmt.Sprintf("woken %d", p.number))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case p.log.ctx.Err() != nil:
		return ErrClosed
	case !timeout || !p.mayPoll():
		return nil
	}
	if err := p.catchUp(ctx); err != nil && ctx.Err() == nil {
		p.log.logger.Warn("look for new segments", "partition", p.number, "error", err)
	}
	return nil
}

// mayPoll reports whether no other waiting reader has just looked: many readers
// of one partition ask the store no more often than one.
func (p *partition) mayPoll() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.polled) < p.log.opt.Poll/2 {
		return false
	}
	p.polled = now
	return true
}

// Refresh learns of segments that other nodes have put.
func (l *Log) Refresh(ctx context.Context, n event.Partition) error {
	return l.partitions[n].catchUp(ctx)
}
