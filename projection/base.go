package projection

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/sabotage"
)

var (
	// ErrDisagree says that two folds of the same log came to different states, so
	// that no Base may be made of either. One of them is wrong: a fold that is not
	// pure, a damaged local database, or a program that was changed without a new
	// version of its projection.
	ErrDisagree = errors.New("two folds of the same log disagree")
	// ErrEnding says that a tenant ended while two folds were compared.
	ErrEnding = errors.New("a tenant has just ended; try again")
	// ErrRebuilding says that the projection has not reached the end of the log yet.
	ErrRebuilding = errors.New("projection is being rebuilt")
)

// memScratch is up to which size of its state a second fold is made in memory.
const memScratch = 32 << 20

// TakeBase makes a Base of a projection's present state: it folds the log a second
// time, from the newest Base or from the log's beginning, exactly as far as the
// state has it, and when both agree it stores the state in the bucket. It returns
// the fact to append, without its time; published is the Base only then, by
// [eventlog.Log.PublishBases]. [ErrDisagree] when the folds do not agree: nothing
// was stored. It may be called at any time, by one goroutine for each projection.
//
// The first fold may have seen mail that has expired since. So the state should
// not stand between the end of a day's keys and the event that says so:
// whoever moves the ratchet waits, before and after, until it is folded.
func (r *Runner) TakeBase(ctx context.Context, name string) (*event.BaseTaken, error) {
	f := r.fold(name)
	if f == nil {
		return nil, fmt.Errorf("take a Base of %s: %w", name, ErrUnknown)
	}
	if r.snaps == nil {
		return nil, errors.New("internal error: a runner without a place for Bases")
	}
	b, over, err := f.measure(ctx)
	if err == nil {
		err = f.takeAgain(ctx, b, over)
	}
	if err != nil {
		return nil, fmt.Errorf("take a Base of %s: %w", name, err)
	}
	return b, nil
}

// measure says what the state is, in one snapshot, and of how many tenants nothing
// is in it because they have ended. [ErrEnding] while one is being dropped.
func (f *fold) measure(ctx context.Context) (b *event.BaseTaken, over int, err error) {
	snap, err := f.r.store.Snapshot()
	if err != nil {
		return nil, 0, err
	}
	defer snap.Close()
	m, err := readMeta(snap, f.name)
	if err != nil {
		return nil, 0, err
	}
	s := f.slotNow()
	if m.Live != s || !m.Complete {
		return nil, 0, ErrRebuilding
	}
	marks, err := readMarks(snap, s, f.r.src.Partitions())
	if err != nil {
		return nil, 0, err
	}
	tenants, err := readEnded(snap, s)
	if err != nil {
		return nil, 0, err
	}
	for _, how := range tenants {
		if how != endedDropped {
			return nil, 0, ErrEnding
		}
	}
	b = &event.BaseTaken{Projection: f.name, Version: uint32(f.p.Version())}
	for _, m := range marks {
		b.Cursors = append(b.Cursors, event.BaseCursor{Seq: m.Cursor.Seq, Hash: m.Cursor.Hash, Prev: m.Prev})
	}
	b.Hash, b.Size, err = hashState(ctx, snap, s)
	return b, len(tenants), err
}

// takeAgain folds what b says a second time and stores it. over is how many ended
// tenants b knows: of one that ended since the second fold may see less.
func (f *fold) takeAgain(ctx context.Context, b *event.BaseTaken, over int) (err error) {
	store, err := f.r.scratchStore(b.Size)
	if err != nil {
		return fmt.Errorf("make room for a second fold: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	second, err := f.foldAgain(ctx, store, b)
	if err != nil {
		if errors.Is(err, ErrDisagree) && endings(f.r.src) > over {
			return ErrEnding
		}
		if errors.Is(err, ErrDisagree) {
			f.disagreed.Add(1)
			f.r.logger.Error("two folds of the same log disagree; no Base is taken. "+
				"If the other nodes agree with each other, stop this node and delete its local database, which is then built anew",
				"projection", f.name, "error", err)
		}
		return err
	}
	return second.store(ctx, b)
}

func (r *Runner) scratchStore(size int64) (Store, error) {
	if size <= memScratch || r.scratch == nil {
		return NewMemStore(), nil
	}
	return r.scratch()
}

// until is a source that ends at given marks.
type until struct {
	Source
	marks []mark
}

func (u until) TailAtLeast(p event.Partition) event.Seq {
	return min(u.Source.TailAtLeast(p), u.marks[p].Cursor.Seq)
}

func (u until) Segments(ctx context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return u.cut(p, u.Source.Segments(ctx, p, after))
}

// SegmentsOf makes it a selectiveSource, also of one that is none.
func (u until) SegmentsOf(ctx context.Context, p event.Partition, after eventlog.Cursor, classes event.Classes) iter.Seq2[*eventlog.Segment, error] {
	some, ok := u.Source.(selectiveSource)
	if !ok {
		return u.Segments(ctx, p, after)
	}
	return u.cut(p, some.SegmentsOf(ctx, p, after, classes))
}

// Ended makes it an ender.
func (u until) Ended(t event.Tenant) bool { return ended(u.Source, t) }

// Endings makes it an ender.
func (u until) Endings() int { return endings(u.Source) }

// Start makes it a startedSource.
func (u until) Start(p event.Partition) eventlog.Cursor {
	if s, ok := u.Source.(startedSource); ok {
		return s.Start(p)
	}
	return eventlog.Cursor{}
}

func (u until) cut(p event.Partition, segs iter.Seq2[*eventlog.Segment, error]) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		last := u.marks[p].Cursor.Seq
		for seg, err := range segs {
			if err == nil && seg.Seq > last {
				return
			}
			if !yield(seg, err) || err != nil || seg.Seq == last {
				return
			}
		}
	}
}

// foldAgain folds as far as b into a store of its own, from the newest Base that
// is older, and compares. It shares nothing with the first fold but the log and
// the code.
func (f *fold) foldAgain(ctx context.Context, store Store, b *event.BaseTaken) (*fold, error) {
	marks := make([]mark, len(b.Cursors))
	for i, c := range b.Cursors {
		marks[i] = mark{Cursor: eventlog.Cursor{Seq: c.Seq, Hash: c.Hash}, Prev: c.Prev}
	}
	r := &Runner{store: store, src: until{f.r.src, marks}, logger: f.r.logger, snaps: f.r.snaps}
	second, err := newFold(r, f.p, nil)
	if err != nil {
		return nil, err
	}
	second.until = marks
	if err := second.restore(ctx); err != nil {
		return nil, err
	}
	for i := range marks {
		if i == 0 && sabotage.On(sabotage.BaseUnchecked) {
			continue
		}
		if err := second.foldTo(ctx, event.Partition(i), marks[i]); err != nil {
			return nil, err
		}
	}
	snap, err := store.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	sum, size, err := hashState(ctx, snap, second.slot)
	if sabotage.On(sabotage.BaseUnchecked) {
		b.Hash, b.Size = sum, size
	}
	if err == nil && (sum != b.Hash || size != b.Size) {
		err = fmt.Errorf("%d bytes of state %x…, and again %d bytes %x…: %w", b.Size, b.Hash[:8], size, sum[:8], ErrDisagree)
	}
	return second, err
}

// foldTo folds a partition up to a mark.
func (f *fold) foldTo(ctx context.Context, p event.Partition, to mark) error {
	for f.markOf(p).Cursor.Seq < to.Cursor.Seq {
		at := f.markOf(p)
		_, err := f.pass(ctx, p)
		if _, ok := errors.AsType[*errPoison](err); ok {
			err = fmt.Errorf("%w: %w", ErrDisagree, err) // the first fold took it
		}
		if err != nil {
			return err
		}
		if f.markOf(p) == at {
			return fmt.Errorf("partition %d ends before segment %d, which was folded: %w", p, to.Cursor.Seq, eventlog.ErrRolledBack)
		}
	}
	if f.markOf(p) != to {
		return fmt.Errorf("segment %d of partition %d is not the one that was folded: %w", to.Cursor.Seq, p, eventlog.ErrRolledBack)
	}
	return nil
}

// store stores the pieces of the state that the Base from which this fold started
// does not have, and completes b.
func (f *fold) store(ctx context.Context, b *event.BaseTaken) error {
	snap, err := f.r.store.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	var names []event.Snap
	var stored int64
	sum := sha256.New()
	c := &cutter{put: func(piece []byte) error {
		sum.Write(piece)
		name, ok := f.pieces[sha256.Sum256(piece)]
		if !ok {
			var err error
			if name, err = f.r.snaps.PutSnap(ctx, piece); err != nil {
				return err
			}
			stored += int64(len(piece))
		}
		names = append(names, name)
		return nil
	}}
	if err := scanState(ctx, snap, f.slot, c.add); err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return err
	}
	if [32]byte(sum.Sum(nil)) != b.Hash {
		return fmt.Errorf("what was stored has another hash than what was folded: %w", ErrDisagree)
	}
	b.Chunks = uint32(len(names))
	if f.loaded != nil && slices.Equal(names, f.loadedNames) {
		b.Index = f.loaded.Index
	} else if b.Index, err = f.r.snaps.PutBaseIndex(ctx, names); err != nil {
		return err
	}
	f.r.logger.Info("a Base is stored", "projection", f.name, "bytes", b.Size, "new", stored, "pieces", len(names))
	return nil
}

// OpenScratch opens an empty database in a directory of its own, which is deleted
// before and when it is closed. Its key is forgotten with it.
func OpenScratch(dir string) (Store, error) {
	if err := DeleteScratch(dir); err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	st, err := OpenBadger(BadgerOptions{Dir: dir, Key: key})
	if err != nil {
		return nil, err
	}
	return scratch{st, dir}, nil
}

// DeleteScratch deletes what a process left that died while it had a scratch store
// open. It must not be open.
func DeleteScratch(dir string) (err error) {
	for _, name := range []string{dir, dir + ".lock", dir + ".boot", dir + ".opening"} {
		err = errors.Join(err, os.RemoveAll(name))
	}
	if err != nil {
		return fmt.Errorf("delete the store of a second fold: %w", err)
	}
	return nil
}

type scratch struct {
	Store
	dir string
}

func (s scratch) Close() error { return errors.Join(s.Store.Close(), DeleteScratch(s.dir)) }
