package eventlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/objstore"
)

const (
	// putTimeout ends one try of a put; it is then ambiguous and tried again.
	putTimeout = 20 * time.Second
	// The pause between tries of one put grows between these.
	minPause, maxPause = 20 * time.Millisecond, 2 * time.Second
	// regretPause is waited before a repudiation that the store refused is put
	// again.
	regretPause = time.Second
	// After a lost race the winner of the next one pauses up to this long, so
	// that nodes take turns.
	maxYield = 10 * time.Millisecond
)

// commitLoop is the one writer of a partition in this process: it takes what
// has gathered, puts it, and takes again. There is no timer: a lone event goes
// at once, and while a put is out the next batch gathers.
func (p *partition) commitLoop(ctx context.Context) {
	for {
		batch := p.take(ctx)
		if batch == nil {
			return
		}
		p.puts.begin()
		again := p.commit(ctx, batch)
		p.puts.end()
		if ctx.Err() != nil {
			p.abandon()
			return
		}
		if again {
			pause(ctx, regretPause)
		}
		if p.contended {
			p.contended = false
			pause(ctx, randomBelow(maxYield))
		}
	}
}

// abandon gives up the repudiations that are left when the log is closed while
// the store refuses them. What they take back then counts as accepted, as after
// a crash.
func (p *partition) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.queued; n > 0 {
		p.log.logger.Error("closed before late acceptances could be repudiated", "partition", p.number, "events", n)
	}
	p.queue.Init()
	p.queued = 0
}

// commit puts a batch under the next free number and tells its items. It
// reports whether some of them have to be put again.
func (p *partition) commit(ctx context.Context, batch []*item) (again bool) {
	for {
		start := time.Now()
		// What stands up to this tail was noted before it was known as the tail.
		seq, hash, known := p.tailKnown()
		if batch = p.refuse(batch); len(batch) == 0 {
			return false
		}
		seg := p.build(batch, seq, hash)
		seg.known = known
		out, err := p.settle(ctx, seg)
		if out == landed {
			out, err = p.void(ctx, seg)
		}
		switch out {
		case landed:
			p.puts.answered()
			p.log.keepOwn(seg, batch)
			p.log.noteOwn(batch)
			p.advance(seg.header.Seq, seg.hash)
			p.isTail(seg.header.Seq, seg.at)
			failpoint.Hit(failpoint.SegmentSettled)
			p.finish(batch, seg.header.Seq, nil)
			if p.log.opt.Observe != nil {
				p.log.opt.Observe(time.Since(start), len(seg.header.Events), seg.image.size)
			}
			return false
		case failed:
			p.puts.refused(err)
			return p.finish(batch, 0, err)
		case lost:
			p.puts.answered()
			p.contended = true
			if batch, err = p.rebase(ctx, batch); err != nil {
				return p.finish(batch, 0, fmt.Errorf("append: read to the tail: %w", err))
			}
			if len(batch) == 0 {
				return false
			}
		}
	}
}

// rebase reads to the tail after a lost race, for as long as somebody waits,
// and returns the items whose callers still do.
func (p *partition) rebase(ctx context.Context, batch []*item) ([]*item, error) {
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		if batch = p.dropAbandoned(batch); len(batch) == 0 {
			return nil, nil
		}
		err := p.catchUp(ctx)
		if ctx.Err() != nil {
			return batch, ErrClosed
		}
		if err == nil || errors.Is(err, ErrDamaged) {
			return batch, err
		}
		p.puts.refused(err)
		p.log.logger.Warn("read to the tail, trying again", "partition", p.number, "error", err)
		pause(ctx, wait)
	}
}

// finish tells the items of a batch how it ended. What landed although its
// sender had been told otherwise is repudiated next. It reports whether it has
// put anything back into the queue because the store refused it.
func (p *partition) finish(batch []*item, seq event.Seq, err error) (again bool) {
	regrets := map[event.Tenant]*item{}
	p.mu.Lock()
	defer p.mu.Unlock()
	index := uint32(0)
	for _, it := range batch {
		if err != nil && it.must {
			p.requeueLocked(it)
			again = true
			continue
		}
		it.pos = event.Position{Partition: p.number, Seq: seq, Index: index}
		if it.abandoned && err == nil && !sabotage.On(sabotage.Unrepudiated) {
			p.log.repudiate(it, regrets)
		}
		index += uint32(len(it.events))
		p.doneLocked(it, err)
	}
	for _, t := range slices.SortedFunc(maps.Keys(regrets), func(a, b event.Tenant) int { return bytes.Compare(a[:], b[:]) }) {
		p.log.logger.Warn("late segment repudiated", "partition", p.number, "seq", seq, "tenant", t, "events", len(regrets[t].events))
		p.requeueLocked(regrets[t])
	}
	return again
}

// repudiate adds the repudiations of an item's acceptances to those of their tenants:
// what is refused of one that has ended takes no other's with it. It needs nothing but
// memory.
func (l *Log) repudiate(it *item, regrets map[event.Tenant]*item) {
	for i := range it.events {
		s := &it.events[i]
		fact := repudiation(s.entry.ID, s.fact)
		if fact == nil {
			continue
		}
		state, _ := event.Encode(fact)
		r := l.sealState(s.keys, event.Event{ID: event.NewID(), Tenant: s.entry.Tenant, Fact: fact}, state)
		regret := regrets[s.entry.Tenant]
		if regret == nil {
			regret = &item{must: true, done: make(chan struct{})}
			regrets[s.entry.Tenant] = regret
		}
		regret.events = append(regret.events, r)
		regret.bytes += r.bytes()
	}
}

// repudiation returns what takes an acceptance back; nil for other facts.
func repudiation(id event.ID, f event.Fact) event.Fact {
	switch f := f.(type) {
	case *event.MessageAccepted:
		r := &event.Repudiated{Message: id}
		for _, a := range f.Allotments {
			r.Accounts = append(r.Accounts, a.Account)
		}
		return r
	case *event.Appended:
		return &event.Repudiated{Message: id, Accounts: []event.Account{f.Account}}
	}
	return nil
}

func (p *partition) dropAbandoned(batch []*item) []*item {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rest []*item
	for _, it := range batch {
		if it.abandoned {
			p.doneLocked(it, ErrTimeout)
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
	front  int64 // bytes of header and signature
	image  *image

	known   moment // when the segment before it was known to be the tail
	at      moment // before it was first put
	settled bool   // it was found in its slot, after a put without an answer
}

// build lays out a batch as the segment after seq, with a fresh nonce.
func (p *partition) build(batch []*item, seq event.Seq, hash Hash) *built {
	h := &header{
		Log: p.log.id, Partition: p.number, Seq: seq + 1, Prev: hash,
		Writer: p.log.writer, Time: p.log.Millis(), Pages: []pageEntry{},
	}
	cert := p.log.node.Certificate()
	h.Cert = cert[:]
	rand.Read(h.Nonce[:])
	pages := make(map[event.Page]uint32)
	var parts int
	for _, it := range batch {
		for i := range it.events {
			s := &it.events[i]
			e := s.entry
			for _, b := range s.front {
				parts += len(b)
			}
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
	head := encodeHeader(h, p.log.node.Sign)
	front := append(make([]byte, 0, len(head)+parts), head...)
	for _, it := range batch {
		for i := range it.events {
			for _, b := range it.events[i].front {
				front = append(front, b...)
			}
		}
	}
	whole := newImage(front)
	for _, it := range batch {
		for i := range it.events {
			whole.add(it.events[i].inline)
		}
	}
	return &built{header: h, hash: sha256.Sum256(head), front: int64(len(head)), image: whole}
}

// outcome is how a put ended.
type outcome uint8

const (
	landed outcome = iota + 1 // the bytes are under the key
	lost                      // another segment is under the key
	failed                    // the bytes are not, and will not be, under the key
)

// settle puts a segment and returns only when it is certain whether it landed.
// Nothing else is put at the slot meanwhile. Closing the log gives up, with
// ErrTimeout and the outcome open.
func (p *partition) settle(ctx context.Context, seg *built) (outcome, error) {
	key := segmentKey(p.number, seg.header.Seq)
	seg.at = p.log.moment()
	open := false // an earlier try may still land
	failpoint.Hit(failpoint.SegmentPut)
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		try, cancel := context.WithTimeout(ctx, putTimeout)
		start := time.Now()
		info, err := p.log.bucket.Put(try, key, seg.image.reader(), seg.image.size, objstore.PutOptions{IfAbsent: true})
		cancel()
		switch {
		case err == nil:
			failpoint.Hit(failpoint.SegmentDurable)
			p.log.noteStoreTime(start, info.Modified)
			return landed, nil
		case errors.Is(err, objstore.ErrExists):
			var mine bool
			if mine, err = p.isMine(ctx, seg); err == nil && (mine || sabotage.On(sabotage.LostRace)) {
				seg.settled = true
				return landed, nil
			} else if err == nil {
				return lost, nil
			}
			// Something that is no segment of this log holds the slot, so ours
			// will not: keys of the log are never removed.
			if errors.Is(err, ErrDamaged) {
				return failed, fmt.Errorf("append after the tail: %w", err)
			}
			// Whose it is could not be read yet; it may be ours.
			open = true
		case errors.Is(err, objstore.ErrAmbiguous):
			open = true
			if sabotage.On(sabotage.AmbiguousLanded) {
				return landed, nil
			}
		case !open:
			return failed, fmt.Errorf("put segment: %w", err)
		}
		if ctx.Err() != nil {
			return failed, ErrTimeout
		}
		p.puts.refused(err)
		p.log.logger.Warn("segment not confirmed, trying again", "partition", p.number, "seq", seg.header.Seq, "error", err)
		pause(ctx, wait)
		failpoint.Hit(failpoint.SegmentAgain)
	}
}

// isMine reads the segment at seg's key and reports whether it is seg.
func (p *partition) isMine(ctx context.Context, seg *built) (bool, error) {
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
