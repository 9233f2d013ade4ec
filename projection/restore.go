package projection

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"holdfast/event"
	"holdfast/eventlog"
)

// Snaps keeps Bases, the states of projections at points of the log:
// [*eventlog.Log]. Its methods say more.
type Snaps interface {
	Bases(ctx context.Context, projection string) ([]eventlog.Base, error) // the newest first
	BaseChunks(ctx context.Context, b eventlog.Base) ([]event.Snap, error)
	Snap(ctx context.Context, name event.Snap) ([]byte, error)
	PutSnap(ctx context.Context, piece []byte) (event.Snap, error)
	PutBaseIndex(ctx context.Context, pieces []event.Snap) (event.Snap, error)
}

// startedSource is a source whose partitions need not begin with the first
// segment: [*eventlog.Log].
type startedSource interface {
	// Start returns the cursor that stands before the first segment there is.
	Start(p event.Partition) eventlog.Cursor
}

// ErrNoBase says that the log begins behind what a projection has folded, and no
// Base of it can be loaded.
var ErrNoBase = errors.New("the log's beginning is gone, and there is no Base to start from")

// ErrOverslept says that the log's beginning was moved past what a running
// projection had folded: the process stood still for days while others went on. The
// next process starts from a Base.
var ErrOverslept = errors.New("this process stood still for so long that the log went on without it; start it again")

// errNotWhole says that a Base is not what it should be.
var errNotWhole = errors.New("the Base is not whole")

// startOf returns where partition p of the log begins.
func (r *Runner) startOf(p event.Partition) eventlog.Cursor {
	if s, ok := r.src.(startedSource); ok {
		return s.Start(p)
	}
	return eventlog.Cursor{}
}

// Restore loads the newest Base of each named projection that has no state yet.
// It is called after [Runner.Add] and before [Runner.Run], which does it for the
// others: for projections whose state is read before they run. The errors wrap
// [ErrNoBase], or are the store's.
func (r *Runner) Restore(ctx context.Context, names ...string) error {
	for _, name := range names {
		f := r.fold(name)
		if f == nil {
			return fmt.Errorf("restore %s: %w", name, ErrUnknown)
		}
		if err := f.restore(ctx); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
		f.spare = 0 // whoever has read the state need not fear that it is replaced
	}
	return nil
}

// needsBase reports whether the slot is empty, or stands where the log is gone.
func (f *fold) needsBase() bool {
	empty := true
	for p, m := range f.marks {
		if m.Cursor.Seq < f.r.startOf(event.Partition(p)).Seq {
			return true
		}
		empty = empty && m.Cursor.Seq == 0
	}
	return empty && f.r.snaps != nil
}

// restored loads a Base if there is need of one. It reports whether to go on.
func (f *fold) restored(ctx context.Context) bool {
	var wait backoff
	for {
		err := f.restore(ctx)
		if ctx.Err() != nil || err != nil && f.endsWith(err) {
			return false
		}
		f.setTrouble(err)
		if err == nil {
			return true
		}
		sleep(ctx, wait.next())
	}
}

// restore loads the newest Base that can be loaded. Where there is none the
// projection is folded from the log's beginning, or the error wraps [ErrNoBase].
func (f *fold) restore(ctx context.Context) error {
	if f.spare == 0 {
		return f.begun(nil)
	}
	var why []error
	bases, err := f.r.basesOf(ctx, f.name)
	if errors.Is(err, eventlog.ErrDamaged) {
		f.r.logger.Error("the list of Bases cannot be used", "projection", f.name, "error", err)
		why = append(why, err)
	} else if err != nil {
		return fmt.Errorf("look for a Base: %w", err)
	}
	for _, b := range bases {
		err := f.usable(b.Taken)
		if err == nil {
			err = f.load(ctx, b)
		}
		switch {
		case err == nil:
			f.r.logger.Info("projection starts from a Base", "projection", f.name, "bytes", b.Taken.Size)
			f.spare = 0
			return nil
		case errors.Is(err, errNotWhole):
			f.r.logger.Error("a Base cannot be loaded", "projection", f.name, "error", err)
		case !errors.Is(err, errUnusable):
			return fmt.Errorf("load a Base: %w", err)
		}
		why = append(why, err)
	}
	return f.begun(why)
}

func (r *Runner) basesOf(ctx context.Context, name string) ([]eventlog.Base, error) {
	if r.snaps == nil {
		return nil, nil
	}
	return r.snaps.Bases(ctx, name)
}

// begun returns ErrNoBase when the log begins behind what was folded.
func (f *fold) begun(why []error) error {
	for i := range f.marks {
		p := event.Partition(i)
		if start, at := f.r.startOf(p), f.markOf(p).Cursor; at.Seq < start.Seq {
			text := make([]string, 0, len(why))
			for _, e := range why {
				text = append(text, e.Error())
			}
			return fmt.Errorf("version %d of %s stands at segment %d of partition %d, which begins behind segment %d (%s); start the program's version that was in use before, or bring back snap/ from a copy of the bucket: %w",
				f.p.Version(), f.name, at.Seq, p, start.Seq, strings.Join(text, "; "), ErrNoBase)
		}
	}
	return nil
}

// errUnusable says that a Base does not serve this projection here.
var errUnusable = errors.New("the Base does not fit")

// usable returns nil if a Base is of this version, and the log goes on from it.
func (f *fold) usable(b *event.BaseTaken) error {
	switch {
	case int(b.Version) != f.p.Version() && !f.upgrades(b):
		return fmt.Errorf("a Base is of version %d: %w", b.Version, errUnusable)
	case len(b.Cursors) != len(f.marks):
		return fmt.Errorf("a Base is of %d partitions: %w", len(b.Cursors), errUnusable)
	}
	for i, c := range b.Cursors {
		p := event.Partition(i)
		if start := f.r.startOf(p).Seq; c.Seq < start {
			return fmt.Errorf("a Base ends at segment %d of partition %d, which begins behind segment %d: %w", c.Seq, p, start, errUnusable)
		}
		if f.until != nil && c.Seq > f.until[i].Cursor.Seq {
			return fmt.Errorf("a Base is newer than the state: %w", errUnusable)
		}
	}
	return nil
}

// upgrades says whether a Base of another version can and has to be upgraded.
func (f *fold) upgrades(b *event.BaseTaken) bool {
	u, ok := f.p.(Upgrader)
	return ok && u.UpgradesFrom(int(b.Version)) && f.begun(nil) != nil
}

// load puts a Base into the spare slot, and the spare slot into the place of the
// one that is folded into. A process that dies before that has changed nothing:
// what is in the spare slot is deleted by the next.
func (f *fold) load(ctx context.Context, b eventlog.Base) error {
	if err := f.clearSpare(ctx); err != nil {
		return err
	}
	names, err := f.r.snaps.BaseChunks(ctx, b)
	if err != nil {
		return notWhole(err)
	}
	f.loaded, f.loadedNames = nil, nil
	f.pieces = make(map[[32]byte]event.Snap, len(names))
	next, stop := f.r.readPieces(ctx, names, f.pieces)
	defer stop()
	u := newUncutter(b.Taken.Size, next)
	for {
		ops, err := f.loadSome(ctx, u, int(b.Taken.Version))
		if err != nil && err != io.EOF {
			return notWhole(err)
		}
		if cerr := f.r.store.Commit(ops); cerr != nil {
			return fmt.Errorf("write what a Base has: %w", cerr)
		}
		if err == io.EOF {
			break
		}
	}
	if [32]byte(u.sum.Sum(nil)) != b.Taken.Hash {
		return fmt.Errorf("%w: its state has another hash", errNotWhole)
	}
	f.loaded, f.loadedNames = b.Taken, names
	return f.adopt(b.Taken)
}

// loadSome returns what some items of a Base make of the spare slot, with io.EOF
// when they are the last.
func (f *fold) loadSome(ctx context.Context, u *uncutter, version int) ([]Op, error) {
	snap, err := f.r.store.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("read local database: %w", err)
	}
	defer snap.Close()
	t := &txn{reader: reader{ctx: ctx, src: f.r.src, snap: snap, prefix: statePrefix(f.spare), name: f.name}, over: newOverlay()}
	for t.over.n < batchOps && t.over.bytes < batchBytes {
		it, err := u.item()
		if err != nil {
			return t.over.ops(0), err
		}
		if version == f.p.Version() || isEndedKey(it.Key) {
			t.over.put(t.full(it.Key), it.Value, false)
			continue
		}
		if err := f.p.(Upgrader).Upgrade(t, version, it); err != nil || t.trouble != nil {
			return nil, fmt.Errorf("upgrade a Base of version %d: %w", version, errors.Join(err, t.trouble))
		}
	}
	return t.over.ops(0), nil
}

// notWhole tells what is wrong with a Base from what is wrong with the store.
func notWhole(err error) error {
	if errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, event.ErrMalformed) {
		return fmt.Errorf("%w: %w", errNotWhole, err)
	}
	return err
}

// adopt makes the spare slot the one that is folded into, at once.
func (f *fold) adopt(b *event.BaseTaken) error {
	m, old := f.meta, f.slot
	if m.Building == old {
		m.Building = f.spare
	} else {
		m.Live = f.spare
	}
	ops := []Op{
		setMeta(f.name, m),
		{Key: slotKey(tagLoading, f.spare), Delete: true},
		{Key: slotKey(tagDrop, old), Value: []byte{}},
	}
	marks := make([]mark, len(b.Cursors))
	for i, c := range b.Cursors {
		if c.Seq == 0 {
			continue
		}
		marks[i] = mark{Cursor: eventlog.Cursor{Seq: c.Seq, Hash: c.Hash}, Prev: c.Prev}
		ops = append(ops, Op{Key: cursorKey(f.spare, event.Partition(i)), Value: event.Marshal(marks[i])})
	}
	if err := f.r.store.Commit(ops); err != nil {
		return fmt.Errorf("put a Base into service: %w", err)
	}
	snap, err := f.r.store.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	if err := f.readGone(snap, f.spare); err != nil {
		return err
	}
	f.mu.Lock()
	f.slot, f.meta, f.marks = f.spare, m, marks
	f.mu.Unlock()
	f.passOver()
	select {
	case f.r.swept <- struct{}{}:
	default: // it is about to look anyway, or this is a second fold
	}
	return nil
}

// passOver releases who waits for what the loaded state has already. What the
// fold thought of their events is not known any more.
func (f *fold) passOver() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters = slices.DeleteFunc(f.waiters, func(w *waiter) bool {
		if int(w.pos.Partition) >= len(f.marks) || w.pos.Seq > f.marks[w.pos.Partition].Cursor.Seq {
			return false
		}
		w.done <- nil
		return true
	})
	for id, in := range f.interests {
		in.err = fmt.Errorf("%s was loaded from a Base while event %v was folded, and its verdict is not known: %w", f.name, id, ErrClosed)
		close(in.done)
		delete(f.interests, id)
	}
}

// clearSpare deletes what an attempt that failed has left in the spare slot.
func (f *fold) clearSpare(ctx context.Context) error {
	for ctx.Err() == nil {
		snap, err := f.r.store.Snapshot()
		if err != nil {
			return err
		}
		var ops []Op
		for it, err := range snap.Scan(statePrefix(f.spare), nil, false) {
			if err != nil {
				snap.Close()
				return err
			}
			if ops = append(ops, Op{Key: it.Key, Delete: true}); len(ops) == 4096 {
				break
			}
		}
		if len(ops) > 0 {
			err = f.r.store.Commit(ops)
		}
		snap.Close()
		if err != nil || len(ops) == 0 {
			return err
		}
	}
	return ctx.Err()
}

// readPieces reads pieces ahead. It notes the digest of each under its name.
func (r *Runner) readPieces(ctx context.Context, names []event.Snap, digests map[[32]byte]event.Snap) (next func() ([]byte, error), stop func()) {
	ahead := newReadAhead(ctx, r.snaps, names)
	at := 0
	return func() ([]byte, error) {
		if at == len(names) {
			return nil, io.EOF
		}
		piece, err := ahead.next()
		if err != nil {
			return nil, err
		}
		digests[sha256.Sum256(piece)] = names[at]
		at++
		return piece, nil
	}, ahead.stop
}

// reserve makes a slot for a Base, if one is needed. It is dropped by the next
// start unless it comes into service.
func (f *fold) reserve() error {
	if f.r.snaps == nil || !f.needsBase() {
		return nil
	}
	snap, err := f.r.store.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	b, err := snap.Get([]byte{tagSlots})
	if err != nil {
		return err
	}
	var s slot
	if len(b) == 4 {
		s = slot(binary.BigEndian.Uint32(b))
	}
	s++
	f.spare = s
	return f.r.store.Commit([]Op{
		{Key: []byte{tagSlots}, Value: binary.BigEndian.AppendUint32(nil, uint32(s))},
		{Key: slotKey(tagLoading, s), Value: []byte{}},
	})
}

// dropLoading lets the slots be deleted into which an earlier process was loading.
func dropLoading(st Store) error {
	snap, err := st.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	var ops []Op
	for it, err := range snap.Scan([]byte{tagLoading}, nil, false) {
		if err != nil {
			return err
		}
		if len(it.Key) != 5 {
			return fmt.Errorf("slot key of %d bytes: %w", len(it.Key), event.ErrMalformed)
		}
		ops = append(ops, Op{Key: it.Key, Delete: true}, Op{Key: slotKey(tagDrop, slot(binary.BigEndian.Uint32(it.Key[1:]))), Value: []byte{}})
	}
	if len(ops) == 0 {
		return nil
	}
	return st.Commit(ops)
}
