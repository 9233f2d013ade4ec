package eventlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

const (
	// appendTimeout ends an Append whose context has no deadline.
	appendTimeout = 30 * time.Second
	// putTimeout ends one try of a put; it is then ambiguous and tried again.
	putTimeout = 20 * time.Second
	// The pause between tries of one put grows between these.
	minPause, maxPause = 20 * time.Millisecond, 2 * time.Second
	// maxQueue bounds what waits to join a put, in events of one partition.
	maxQueue = 20_000
	// After a lost race the winner of the next one pauses up to this long, so
	// that nodes take turns.
	maxYield = 10 * time.Millisecond
)

// item is what one Append call put into the queue: it goes into one segment as
// a whole. Its fields are guarded by the partition's mutex once it is queued.
type item struct {
	events    []sealedEvent
	bytes     int64
	joined    bool // its put may be out
	abandoned bool // the caller has left
	pos       event.Position
	err       error
	done      chan struct{}
}

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
		return event.Position{}, ErrReadOnly
	}
	if err := l.clockOK(); err != nil {
		return event.Position{}, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, appendTimeout)
		defer cancel()
	}
	it := &item{done: make(chan struct{})}
	part := l.PartitionOf(evs[0].Tenant)
	for _, ev := range evs {
		if l.PartitionOf(ev.Tenant) != part {
			panic("internal error: append to two partitions at once")
		}
		s, err := l.seal(ctx, ev)
		if err != nil {
			return event.Position{}, fmt.Errorf("append event %v: %w", ev.ID, err)
		}
		it.events = append(it.events, s)
		it.bytes += s.bytes()
	}
	l.park("append")
	return l.partitions[part].append(ctx, it)
}

func (p *partition) append(ctx context.Context, it *item) (event.Position, error) {
	if err := p.enqueue(it); err != nil {
		return event.Position{}, err
	}
	select {
	case <-it.done:
		return it.pos, it.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-it.done: // settled in the same moment: that is the truth
		return it.pos, it.err
	default:
	}
	it.abandoned = true
	if !it.joined {
		return event.Position{}, fmt.Errorf("append: never left the queue: %w", ErrTimeout)
	}
	return event.Position{}, ErrTimeout
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
	p.queue = append(p.queue, it)
	p.queued += len(it.events)
	p.wake.Signal()
	return nil
}

// commitLoop is the one writer of a partition in this process: it takes what
// has gathered, puts it, and takes again. There is no timer: a lone event goes
// at once, and while a put is out the next batch gathers.
func (p *partition) commitLoop() {
	for {
		batch := p.take()
		if batch == nil {
			return
		}
		p.commit(batch)
		if p.contended {
			p.contended = false
			pause(p.log.ctx, randomBelow(maxYield))
		}
	}
}

// take waits for something to append and returns as much of it as one segment
// holds; nil when the log is closed.
func (p *partition) take() []*item {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.queue) == 0 {
			if p.closed {
				return nil
			}
			p.wake.Wait()
		}
		var batch []*item
		var events int
		var size int64
		for len(p.queue) > 0 {
			it := p.queue[0]
			if !it.abandoned {
				if len(batch) > 0 && (events+len(it.events) > maxSegmentEvents || size+it.bytes > maxSegmentBytes) {
					break
				}
				it.joined = true
				batch = append(batch, it)
				events += len(it.events)
				size += it.bytes
			}
			p.queue[0] = nil
			p.queue = p.queue[1:]
			p.queued -= len(it.events)
		}
		if len(batch) > 0 {
			return batch
		}
	}
}

// commit puts a batch under the next free number and tells its items.
func (p *partition) commit(batch []*item) {
	for {
		start := time.Now()
		seg := p.build(batch)
		out, err := p.settle(seg)
		switch out {
		case landed:
			p.advance(seg.header.Seq, seg.hash)
			p.log.cache.keepRaw(p.number, seg.header.Seq, seg.raw)
			p.finish(batch, seg.header.Seq, nil)
			if p.log.opt.Observe != nil {
				p.log.opt.Observe(time.Since(start), len(seg.header.Events), int64(len(seg.raw)))
			}
			return
		case failed:
			p.finish(batch, 0, err)
			return
		case lost:
			p.contended = true
			if batch = p.dropAbandoned(batch); len(batch) == 0 {
				return
			}
			if err := p.catchUp(p.log.ctx); err != nil {
				p.finish(batch, 0, fmt.Errorf("append: read to the tail: %w", err))
				return
			}
		}
	}
}

// finish tells the items of a batch how it ended. What landed although its
// sender had been told otherwise is repudiated next.
func (p *partition) finish(batch []*item, seq event.Seq, err error) {
	var regret []event.Event
	p.mu.Lock()
	index := uint32(0)
	for _, it := range batch {
		it.pos = event.Position{Partition: p.number, Seq: seq, Index: index}
		it.err = err
		if it.abandoned && err == nil {
			regret = append(regret, repudiations(it)...)
		}
		index += uint32(len(it.events))
		close(it.done)
	}
	p.mu.Unlock()
	if len(regret) == 0 {
		return
	}
	p.log.logger.Warn("late segment repudiated", "partition", p.number, "seq", seq, "events", len(regret))
	it := &item{done: make(chan struct{})}
	for _, ev := range regret {
		s, err := p.log.seal(p.log.ctx, ev)
		if err != nil { // only when the log is closing: the state key is in memory
			p.log.logger.Error("late segment could not be repudiated", "event", ev.ID, "error", err)
			return
		}
		it.events = append(it.events, s)
		it.bytes += s.bytes()
	}
	p.mu.Lock()
	p.queue = append([]*item{it}, p.queue...)
	p.queued += len(it.events)
	p.mu.Unlock()
}

func repudiations(it *item) (evs []event.Event) {
	for _, s := range it.events {
		if s.retractable {
			evs = append(evs, event.Event{ID: event.NewID(), Tenant: s.entry.Tenant, Fact: &event.Repudiated{Message: s.entry.ID}})
		}
	}
	return evs
}

func (p *partition) dropAbandoned(batch []*item) []*item {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rest []*item
	for _, it := range batch {
		if it.abandoned {
			close(it.done)
			continue
		}
		rest = append(rest, it)
	}
	return rest
}

// built is a segment ready to be put.
type built struct {
	header *header
	hash   Hash
	raw    []byte
}

// build lays out a batch as the segment after the tail, with a fresh nonce.
func (p *partition) build(batch []*item) *built {
	seq, hash := p.tail()
	h := &header{
		Log: p.log.id, Partition: p.number, Seq: seq + 1, Prev: hash,
		Writer: p.log.writer, Time: p.log.Millis(), Pages: []pageEntry{},
	}
	cert := p.log.node.Certificate()
	h.Cert = cert[:]
	rand.Read(h.Nonce[:])
	pages := make(map[event.Page]uint32)
	var size int64
	for _, it := range batch {
		size += it.bytes
		for i := range it.events {
			s := &it.events[i]
			e := s.entry
			if s.page != nil {
				n, ok := pages[s.page.Page]
				if !ok {
					h.Pages = append(h.Pages, *s.page)
					n = uint32(len(h.Pages))
					pages[s.page.Page] = n
				}
				e.Page = n
			}
			h.Events = append(h.Events, e)
		}
	}
	front := encodeHeader(h, p.log.node.Sign)
	raw := make([]byte, 0, int64(len(front))+size)
	raw = append(raw, front...)
	for _, it := range batch {
		for i := range it.events {
			for _, b := range it.events[i].front {
				raw = append(raw, b...)
			}
		}
	}
	for _, it := range batch {
		for i := range it.events {
			raw = append(raw, it.events[i].inline...)
		}
	}
	return &built{header: h, hash: sha256.Sum256(front), raw: raw}
}

// outcome is how a put ended.
type outcome uint8

const (
	landed outcome = iota + 1 // the bytes are under the key
	lost                      // another segment is under the key
	failed                    // the bytes are not, and will not be, under the key
)

// settle puts a segment and returns only when it is certain whether it landed.
// Nothing else is put at the slot meanwhile. Closing the log gives up, with the
// outcome open.
func (p *partition) settle(seg *built) (outcome, error) {
	key := segmentKey(p.number, seg.header.Seq)
	open := false // an earlier try may still land
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		ctx, cancel := context.WithTimeout(p.log.ctx, putTimeout)
		start := time.Now()
		info, err := p.log.bucket.Put(ctx, key, bytes.NewReader(seg.raw), int64(len(seg.raw)), objstore.PutOptions{IfAbsent: true})
		cancel()
		switch {
		case err == nil:
			p.log.noteStoreTime(start, info.Modified)
			return landed, nil
		case errors.Is(err, objstore.ErrExists):
			if mine, err := p.isMine(seg); err == nil && mine {
				return landed, nil
			} else if err == nil {
				return lost, nil
			}
			// Whose it is could not be read yet; it may be ours.
			open = true
		case errors.Is(err, objstore.ErrAmbiguous):
			open = true
		case !open:
			return failed, fmt.Errorf("put segment: %w", err)
		}
		if p.log.ctx.Err() != nil {
			return failed, ErrTimeout
		}
		p.log.logger.Warn("segment not confirmed, trying again", "partition", p.number, "seq", seg.header.Seq, "error", err)
		pause(p.log.ctx, wait)
	}
}

// isMine reads the segment at seg's key and reports whether it is seg.
func (p *partition) isMine(seg *built) (bool, error) {
	ctx, cancel := context.WithTimeout(p.log.ctx, putTimeout)
	defer cancel()
	got, err := p.log.readHeader(ctx, p.number, seg.header.Seq)
	if err != nil {
		return false, err
	}
	return got.Nonce == seg.header.Nonce && got.Writer == seg.header.Writer, nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func randomBelow(d time.Duration) time.Duration {
	var b [1]byte
	rand.Read(b[:])
	return d * time.Duration(b[0]) / 256
}
