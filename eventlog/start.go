package eventlog

import (
	"context"
	"errors"
	"fmt"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

// ErrBeforeStart says that a place lies before the beginning of the log: what
// stood there was folded into a base, and is removed once all of it has expired.
var ErrBeforeStart = errors.New("before the beginning of the log")

// errLeftOut says that a part is not in a pack because its day is over.
var errLeftOut = fmt.Errorf("left out of its pack: %w", crypto.ErrExpired)

// errTooEarly says that a part is not in a pack although its day is not over by this
// node's reckoning of the store's clock. That is damage, or the clock's mistake: the
// pack is passed over, and not said to be bad.
var errTooEarly = fmt.Errorf("left out of its pack before its day was over: %w", ErrDamaged)

func (l *Log) beforeStart(p event.Partition, s event.Seq) error {
	return fmt.Errorf("segment %d of partition %d, which begins after %d: %w", s, p, l.Start(p).Seq, ErrBeforeStart)
}

// Start returns the cursor at which a partition's log begins, as far as this node
// knows: zero until [Log.RaiseStart] has raised it. Reading from a cursor before
// it fails with [ErrBeforeStart].
func (l *Log) Start(n event.Partition) Cursor {
	p := l.partitions[n]
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.floor.start
}

// RaiseStart lets a partition's log begin after a cursor: the caller knows that
// whoever begins anew needs nothing before it. [Log.Pack] then removes packs from
// before it of which every event has expired. A cursor that is not one of this log
// is refused with [ErrRolledBack]; one before the beginning changes nothing. It
// may be called again, by several nodes at once.
func (l *Log) RaiseStart(ctx context.Context, p event.Partition, to Cursor) error {
	if l.readOnly.Load() {
		return l.refusal()
	}
	if to.Seq <= l.Start(p).Seq {
		return nil
	}
	at, err := l.CursorAt(ctx, p, to.Seq)
	if errors.Is(err, ErrTail) || err == nil && at != to {
		err = fmt.Errorf("it holds another segment %d: %w", to.Seq, ErrRolledBack)
	}
	if err == nil {
		_, err = l.changeFloor(ctx, p, func(f *floor) bool {
			if f.start.Seq >= to.Seq {
				return false
			}
			f.start = to
			return true
		})
	}
	if err != nil {
		return fmt.Errorf("let partition %d begin after segment %d: %w", p, to.Seq, err)
	}
	return nil
}

// tailKnown is tail, and says when that was known to be the tail.
func (p *partition) tailKnown() (event.Seq, Hash, moment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tailSeq, p.tailHash, p.tailAt
}

// isTail notes that a segment was the last one at a moment or later.
func (p *partition) isTail(s event.Seq, at moment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s == p.tailSeq {
		p.tailAt = at
	}
}

// void looks whether a segment that has landed stands in the log at all.
//
// A put if absent succeeds in a slot that was never taken, and in one whose key
// was removed since the segment there is in a pack. A writer that was halted for
// long, or whose request was, may hit the second. Then its events were not
// accepted: nobody reads a key at or below the floor. When can that be? The slot s
// was free when s-1 was last known to be the tail (seg.known, taken before the
// store was asked). To be removed from it, another segment s had to be put after
// that, the floor to rise past it, and keyRest to go by. So if less than floorAge
// has gone by since, by all three clocks, the slot was never taken. The store's
// clock was read from the answer to this very put. Otherwise the floor is read: it
// rose past s a day before the key was removed, so that it says so now.
//
// A put whose answer was lost and that was then found in its slot gave no such
// reading, so that the floor is read for it, too. What stays in a removed slot is
// removed with the next keys. Where the floor is past the slot, ours may also be
// the segment that was packed: then it stands.
func (p *partition) void(ctx context.Context, seg *built) (outcome, error) {
	if !seg.settled && p.log.within(seg.known, floorAge) {
		return landed, nil
	}
	s := seg.header.Seq
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		f, err := p.log.readFloor(ctx, p.number)
		if err == nil && s > f.packed.Seq {
			return landed, nil
		}
		var mine bool
		if err == nil {
			mine, err = p.packedMine(ctx, seg)
		}
		if mine {
			return landed, nil
		}
		if err == nil {
			p.log.logger.Warn("a segment came too late for its place, appending again", "partition", p.number, "seq", s)
			return lost, nil
		}
		// Nobody is told anything before it is certain.
		if ctx.Err() != nil {
			return failed, ErrTimeout
		}
		p.puts.refused(err)
		p.log.logger.Warn("segment not confirmed, trying again", "partition", p.number, "seq", s, "error", err)
		pause(ctx, wait)
	}
}

// packedMine reports whether a segment is the one that packs hold in its place.
func (p *partition) packedMine(ctx context.Context, seg *built) (bool, error) {
	at := slot{p.number, seg.header.Seq}
	p.log.cache.headers.dropOne(at, func(*parsed) bool { return true }) // read from under the key
	p.log.cache.fronts.dropOne(at, func(headed) bool { return true })
	r, err := p.log.readPacked(ctx, at.p, at.s, 0)
	if errors.Is(err, objstore.ErrNotExist) && at.s <= p.log.Start(at.p).Seq {
		return false, nil // whatever was there has expired
	}
	return err == nil && r.h.hash == seg.hash, err
}
