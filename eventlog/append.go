package eventlog

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
	"holdfast/objstore"
)

const (
	// appendTimeout ends an Append whose context ends later.
	appendTimeout = 30 * time.Second
	// maxQueue bounds what waits to join a put, in events of one partition.
	maxQueue = 20_000
	// maxPending bounds the bytes of sealed parts that wait for or are in a put,
	// on this node. Whoever finds no room waits, and so does its connection.
	maxPending = 64 << 20
	// maxAppend bounds the sealed parts of one Append, so that the segment made
	// of it stays below what readers refuse.
	maxAppend = 64 << 20
)

// ErrTooLarge says that the events of one Append are too large for a segment.
var ErrTooLarge = errors.New("events are too large for one segment")

// item is what one Append call put into the queue: it goes into one segment as
// a whole. Its fields are guarded by the partition's mutex once it is queued.
type item struct {
	events    []sealedEvent
	bytes     int64
	must      bool // a repudiation: nobody waits, it is put until it lands
	joined    bool // its put may be out
	abandoned bool // the caller has left
	place     *list.Element
	pos       event.Position
	err       error
	done      chan struct{}
}

// room is what the item takes of the node's budget of pending bytes.
func (it *item) room() int64 { return min(it.bytes, maxPending) }

// Append makes events durable, together and in this order, in one segment of
// their tenant's partition, and returns the position of the first. All must
// belong to tenants of one partition.
//
// It returns when the events are durable. ctx, or 30 s, ends the wait:
// [ErrTimeout] then says that it is not known whether they will be; should an
// acceptance turn out to have landed, its repudiation is appended. Any other
// error says that none of the events is or will be in the log.
func (l *Log) Append(ctx context.Context, evs ...event.Event) (event.Position, error) {
	if len(evs) == 0 || len(evs) > maxSegmentEvents {
		panic(fmt.Sprintf("internal error: append of %d events", len(evs)))
	}
	if l.readOnly.Load() {
		return event.Position{}, l.refusal()
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	if err := l.clockOK(ctx); err != nil {
		return event.Position{}, err
	}
	it := &item{done: make(chan struct{})}
	part := l.PartitionOf(evs[0].Tenant)
	for _, ev := range evs {
		if l.PartitionOf(ev.Tenant) != part {
			panic("internal error: append to two partitions at once")
		}
		if sabotage.On(sabotage.PlainBucket) {
			_, meta := event.Encode(ev.Fact)
			l.bucket.Put(ctx, "snap/"+ev.ID.String(), bytes.NewReader(meta), int64(len(meta)), objstore.PutOptions{})
		}
		s, err := l.seal(ctx, ev)
		if err != nil {
			return event.Position{}, fmt.Errorf("append event %v: %w", ev.ID, noAnswer(ctx, err))
		}
		it.events = append(it.events, s)
		it.bytes += s.bytes()
	}
	if it.bytes > maxAppend {
		return event.Position{}, fmt.Errorf("append %d bytes: %w", it.bytes, ErrTooLarge)
	}
	turn.Take(ctx, "append "+evs[0].ID.String())
	pos, err := l.partitions[part].append(ctx, it)
	if err == nil {
		failpoint.Hit(failpoint.AppendTold)
	}
	return pos, err
}

// noAnswer adds ErrTimeout to an error that stems from a silent store.
func noAnswer(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, objstore.ErrAmbiguous) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}

func (p *partition) append(ctx context.Context, it *item) (event.Position, error) {
	if err := p.log.pending.Acquire(ctx, it.room()); err != nil {
		return event.Position{}, fmt.Errorf("append: too much waits for storage: %w", ErrTimeout)
	}
	if err := p.enqueue(it); err != nil {
		p.log.pending.Release(it.room())
		return event.Position{}, err
	}
	select {
	case <-it.done:
	case <-ctx.Done():
	}
	turn.Take(ctx, "appended")
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-it.done: // settled in the same moment: that is the truth
		return it.pos, it.err
	default:
	}
	it.abandoned = true
	if it.joined {
		return event.Position{}, ErrTimeout
	}
	// Taken out at once, so that a store that hangs for hours does not fill the
	// memory with messages that were refused long ago.
	p.unqueueLocked(it)
	p.log.pending.Release(it.room())
	return event.Position{}, fmt.Errorf("append: never left the queue: %w", ErrTimeout)
}

func (p *partition) enqueue(it *item) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.queued+len(it.events) > maxQueue {
		return fmt.Errorf("append: %d events are waiting: %w", p.queued, ErrTimeout)
	}
	it.place = p.queue.PushBack(it)
	p.queued += len(it.events)
	if sabotage.Count(sabotage.LoseWakeUp)%5 != 4 {
		p.wake.Signal()
	}
	return nil
}

func (p *partition) unqueueLocked(it *item) {
	p.queue.Remove(it.place)
	p.queued -= len(it.events)
}

// requeueLocked puts an item at the front of the queue.
func (p *partition) requeueLocked(it *item) {
	it.joined = false
	it.place = p.queue.PushFront(it)
	p.queued += len(it.events)
}

// await returns when there is something to append, or the log is closed.
func (p *partition) await() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.queue.Len() == 0 && !p.closed {
		p.wake.Wait()
	}
}

// take waits for something to append and returns as much of it as one segment
// holds; nil when the log is closed.
func (p *partition) take(ctx context.Context) (batch []*item) {
	p.await()
	turn.Take(ctx, "take")
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.queue.Len() == 0 {
		if p.closed {
			return nil
		}
		p.wake.Wait()
	}
	var events int
	var size int64
	for p.queue.Len() > 0 {
		it := p.queue.Front().Value.(*item)
		if len(batch) > 0 && (events+len(it.events) > maxSegmentEvents || size+it.bytes > maxSegmentBytes) {
			break
		}
		it.joined = true
		batch = append(batch, it)
		events += len(it.events)
		size += it.bytes
		p.unqueueLocked(it)
		if it.condemns() {
			break
		}
	}
	return batch
}

// close ends the queue: what has not joined a put fails, but for repudiations,
// whose mail is in the log.
func (p *partition) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for el := p.queue.Front(); el != nil; {
		next := el.Next()
		if it := el.Value.(*item); !it.must {
			p.unqueueLocked(it)
			p.doneLocked(it, ErrClosed)
		}
		el = next
	}
	p.wake.Broadcast()
}

// doneLocked tells an item's caller, who may have left, how it ended.
func (p *partition) doneLocked(it *item, err error) {
	it.err = err
	close(it.done)
	if !it.must {
		p.log.pending.Release(it.room())
	}
}
