package projection

import (
	"context"
	"fmt"
	"iter"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
)

// A batch is committed when it has one of these, or the log has no more. A
// segment is never divided, so a batch may hold one more than this.
const (
	batchSegments = 64
	batchEvents   = 2000
	batchOps      = 6000
	batchBytes    = 512 << 10
	// passBatches bounds how long one partition is read before another has its
	// turn.
	passBatches = 16
)

// batch is some segments of one partition on their way into the store.
type batch struct {
	f        *fold
	p        event.Partition
	segments []*eventlog.Segment
	events   int
	txn      *txn
	mark     mark // after the last segment
}

func (f *fold) newBatch(ctx context.Context, p event.Partition) (*batch, error) {
	snap, err := f.r.store.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("read local database: %w", err)
	}
	return &batch{f: f, p: p, mark: f.markOf(p), txn: &txn{
		reader: reader{ctx: ctx, src: f.r.src, snap: snap, prefix: statePrefix(f.slot), name: f.name},
		over:   newOverlay(),
	}}, nil
}

func (b *batch) close() { b.txn.snap.Close() }

// full reports whether the batch should be committed now.
func (b *batch) full() bool {
	return len(b.segments) >= batchSegments || b.events >= batchEvents ||
		b.txn.over.n >= batchOps || b.txn.over.bytes >= batchBytes
}

// farBehind is from how many segments on a projection that folds some classes
// only reads them apart: near the tail it shares what the others read.
const farBehind = 64

// segments reads on after a cursor.
func (f *fold) segments(ctx context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	some, ok := f.p.(Selective)
	src, can := f.r.src.(selectiveSource)
	if ok && can && f.r.src.TailAtLeast(p) > after.Seq+farBehind {
		return src.SegmentsOf(ctx, p, after, some.Classes()|event.ClassesOf(event.ClassRetention)) // by which tenants end
	}
	return f.r.src.Segments(ctx, p, after)
}

// pass folds what partition p has. It reports whether there may be more.
func (f *fold) pass(ctx context.Context, p event.Partition) (more bool, err error) {
	b, err := f.newBatch(ctx, p)
	if err != nil {
		return false, err
	}
	defer func() { b.close() }()
	commits := 0
	for seg, err := range f.segments(ctx, p, b.mark.Cursor) {
		if err != nil {
			if cerr := b.commit(); cerr != nil {
				return false, cerr
			}
			return false, fmt.Errorf("read partition %d: %w", p, err)
		}
		if err := b.add(ctx, seg); err != nil {
			return false, err
		}
		// At the known tail somebody may be waiting, and to look for more first
		// could take a round trip to the store.
		if !b.full() && seg.Seq < f.r.src.TailAtLeast(p) {
			continue
		}
		if err := b.commit(); err != nil {
			return false, err
		}
		if commits++; commits == passBatches {
			return true, nil
		}
		b.close()
		if b, err = f.newBatch(ctx, p); err != nil {
			b = &batch{txn: &txn{reader: reader{snap: memSnapshot{}}}} // for the deferred close
			return false, err
		}
	}
	return false, b.commit()
}

// add folds one segment into the batch. When one of its events is poison, the
// segments before it are committed.
func (b *batch) add(ctx context.Context, seg *eventlog.Segment) error {
	if seg.Seq != b.mark.Cursor.Seq+1 || seg.Prev != b.mark.Cursor.Hash {
		return fmt.Errorf("segment %d of partition %d does not follow segment %d, which was folded: %w", seg.Seq, b.p, b.mark.Cursor.Seq, eventlog.ErrRolledBack)
	}
	if err := b.dropBefore(ctx, seg); err != nil {
		return err
	}
	err := b.apply(seg)
	if err == nil || b.txn.trouble != nil || len(b.segments) == 0 {
		return err
	}
	again, nerr := b.f.newBatch(ctx, b.p)
	if nerr != nil {
		return nerr
	}
	defer again.close()
	for _, s := range b.segments {
		if err := again.apply(s); err != nil {
			return err
		}
	}
	if cerr := again.commit(); cerr != nil {
		return cerr
	}
	return err
}

func (b *batch) apply(seg *eventlog.Segment) error {
	for _, rec := range seg.Events {
		if b.f.gone[rec.Tenant] || ended(b.f.r.src, rec.Tenant) {
			continue
		}
		b.txn.current = rec
		err := b.end(rec)
		if err == nil {
			err = b.f.p.Apply(b.txn, rec)
		}
		if err != nil {
			if b.txn.trouble != nil {
				return b.txn.trouble
			}
			return &errPoison{at: rec.Ref.Position, id: rec.Ref.ID, err: err}
		}
	}
	// A fold that overlooks a failed read has folded something else than what is
	// in the database.
	if b.txn.trouble != nil {
		return b.txn.trouble
	}
	b.segments = append(b.segments, seg)
	b.events += len(seg.Events)
	b.mark = mark{Cursor: eventlog.Cursor{Seq: seg.Seq, Hash: seg.Hash}, Prev: seg.Prev}
	return nil
}

// commit makes the batch's effect and its cursor durable together, and tells
// observers and waiters. Nothing of it happens again.
func (b *batch) commit() error {
	if len(b.segments) == 0 {
		return nil
	}
	f := b.f
	ops := append(b.txn.over.ops(1), Op{Key: cursorKey(f.slot, b.p), Value: event.Marshal(b.mark)})
	if b.txn.purge {
		last := b.segments[len(b.segments)-1]
		ops = append(ops, f.r.purgeOps(f.slot, b.p, last.Seq, b.txn.current.Time)...)
	}
	failpoint.Hit(failpoint.FoldCommit)
	if err := f.r.store.Commit(ops); err != nil {
		return fmt.Errorf("commit to segment %d of partition %d: %w", b.mark.Cursor.Seq, b.p, err)
	}
	failpoint.Hit(failpoint.FoldCommitted)
	if len(b.txn.emitted) > 0 {
		for _, o := range f.obs {
			o(b.txn.emitted)
		}
	}
	if b.txn.purge {
		f.r.mustPurge()
	}
	f.advance(b)
	b.segments, b.events = nil, 0
	return nil
}
