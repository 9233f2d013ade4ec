package eventlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"holdfast/event"
	"holdfast/objstore"
)

// badPack is the error of a step of packing that has met a damaged pack.
type badPack struct {
	listedPack
	err error
}

func (b badPack) Error() string { return b.err.Error() }
func (b badPack) Unwrap() error { return b.err }

// spoiled says of an error that a pack is to blame, if it says that something is
// damaged.
func (w *packing) spoiled(k listedPack, err error) error {
	if errors.Is(err, ErrDamaged) {
		return badPack{k, err}
	}
	return err
}

// setAside leaves a pack alone from now on, and reports whether that is new.
func (w *packing) setAside(b badPack) bool {
	if _, ok := w.bad[b.packName]; ok {
		return false
	}
	if w.bad == nil {
		w.bad = map[packName]badPack{}
	}
	w.bad[b.packName] = b
	w.packs = slices.DeleteFunc(w.packs, func(k listedPack) bool { return k.packName == b.packName })
	w.res.Bad++
	w.log.spoil(w.p, b.packName, flaw{err: b.err})
	return true
}

// replaced returns the error of a pack that was left alone, if it is said to hold
// segments that no other pack does. Before the beginning of the log it may be alone
// once the days of its mail are over.
func (w *packing) replaced(ctx context.Context) error {
	f, err := w.log.readFloor(ctx, w.p)
	if err != nil {
		return err
	}
	list, err := w.list(ctx)
	if err != nil {
		return err
	}
	for n, bad := range w.bad {
		at := n.first - 1
		for _, k := range cover(list, at) {
			if k.first > at+1 && (k.first-1 > f.start.Seq || !w.outlived(ctx, n)) {
				break
			}
			at = k.last
		}
		if at < f.start.Seq && w.outlived(ctx, n) {
			at = f.start.Seq
		}
		if at < min(n.last, f.packed.Seq) {
			return fmt.Errorf("no other pack has segment %d: %w", at+1, bad.err)
		}
	}
	return nil
}

// outlived reports whether the index of a bad pack can be read, and knows of no mail
// whose day is not over.
func (w *packing) outlived(ctx context.Context, n packName) bool {
	_, alive, err := w.overIn(ctx, w.bad[n].listedPack)
	return err == nil && alive == 0
}

func (w *packing) open(ctx context.Context, k listedPack) (*packObject, error) {
	object, err := w.log.openPack(ctx, w.p, k, w.log.getRange)
	return object, w.spoiled(k, err)
}

// scan yields the segments of a pack from a number on, or from its first, checked.
// Parts may be missing of days only that the ratchet has passed: then all that is
// wanted of them was kept.
func (w *packing) scan(ctx context.Context, k listedPack, from event.Seq) iter.Seq2[*packedSegment, error] {
	return func(yield func(*packedSegment, error) bool) {
		object, err := w.open(ctx, k)
		if err != nil {
			yield(nil, err)
			return
		}
		for seg, err := range w.log.scan(ctx, object, max(from, object.first), w.log.verify) {
			if err == nil && seg.cut != 0 && !w.log.behind(ctx, seg.cut-1) {
				err = fmt.Errorf("pack %s leaves out mail of %v: %w", object.key, seg.cut-1, ErrNotOver)
			}
			if !yield(seg, w.spoiled(k, err)) || err != nil {
				return
			}
		}
	}
}

// verify reads a whole pack and checks all of it, and that the log goes on from its
// last segment.
func (w *packing) verify(ctx context.Context, k listedPack) error {
	if w.whole[k.packName] {
		return nil
	}
	var last Cursor
	for seg, err := range w.scan(ctx, k, k.first) {
		if err != nil {
			return err
		}
		last = Cursor{seg.h.Seq, seg.h.hash}
	}
	if err := w.goesOn(ctx, k, last); err != nil {
		return err
	}
	if w.whole == nil {
		w.whole = map[packName]bool{}
	}
	w.whole[k.packName] = true
	w.log.partitions[w.p].packs.mend(k.packName)
	return nil
}

// unsure is the error of a look at what follows a pack that finds nothing that can be
// read: nothing is wrong with the pack, and nothing is done that relies on its end.
type unsure struct{ error }

func (u unsure) Unwrap() error { return u.error }

// passOver reports whether an error is [unsure]. The step goes on with the next, and
// Pack fails in the end.
func (w *packing) passOver(err error) bool {
	u, ok := errors.AsType[unsure](err)
	if ok {
		w.fail(u)
	}
	return ok
}

// fail remembers the first error that does not stop Pack, but is its result.
func (w *packing) fail(err error) {
	if w.failed == nil {
		w.failed = err
	}
}

// goesOn checks that a segment of a pack is the one that the log goes on from: a put
// that came too late for its place is signed as well, and follows its predecessor.
// [unsure] when that cannot be said.
func (w *packing) goesOn(ctx context.Context, k listedPack, at Cursor) error {
	l := w.log
	f, err := l.readFloor(ctx, w.p)
	if err != nil {
		return err
	}
	tail, tailHash := l.partitions[w.p].tail()
	var want Hash
	switch at.Seq {
	case f.packed.Seq:
		want = f.packed.Hash
	case f.start.Seq:
		want = f.start.Hash
	case tail:
		want = tailHash
	default:
		next, err := l.readHeader(ctx, w.p, at.Seq+1)
		if errors.Is(err, objstore.ErrNotExist) && at.Seq < f.start.Seq {
			return nil // what stood there has expired, and nothing is read on from here
		}
		if errors.Is(err, objstore.ErrNotExist) {
			err = fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		if err != nil {
			err = fmt.Errorf("what follows segment %d: %w", at.Seq, err)
		}
		if errors.Is(err, ErrDamaged) {
			return unsure{err}
		}
		if err != nil {
			return err
		}
		want = next.Prev
	}
	if want != at.Hash {
		return w.spoiled(k, fmt.Errorf("the log does not go on from segment %d of pack %s: %w", at.Seq, k.key(w.p), ErrDamaged))
	}
	return nil
}
