package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

const (
	// packAge is how long a segment lies under its own key at least.
	packAge = 10 * time.Minute
	// packMin is how many segments make a first pack, unless they fill one.
	packMin = 64
)

// PackOptions say what packs do not hold.
type PackOptions struct {
	// Before: metadata and bodies of the days before it are left out. The ratchet
	// must have passed them: [ErrNotOver]. 0 leaves nothing out.
	Before event.Day
}

// PackResult is what packing did.
type PackResult struct {
	Segments int   // packed for the first time
	Packs    int   // packs written, first ones and those that replace others
	Bytes    int64 // of them
	LeftOut  int64 // bytes of parts that were left out
	Replaced int   // packs removed since others have their segments
	Dead     int   // packs removed since all of their events have expired
	Keys     int   // keys of packed segments removed
	Notes    int   // checkpoints removed that are about what was before the beginning
	Bad      int   // packs that were found damaged, and left alone
}

// Pack merges the segments of a partition that are older than some minutes into
// packs, once they are many, and small packs into larger ones; rewrites packs of
// which much has expired; and removes what they replace: packs at once, keys of
// segments a day after the floor rose past them. The last segment keeps its key.
//
// It can be repeated, stopped anywhere, and run by several nodes at once: that
// costs work, and no harm comes of it. A pack is put under a name that its
// contents make, and is removed only when another one that has its segments was
// read back whole ([listedPack.supersedes]), with the segments that the log goes on
// from; the key of a segment only when its pack was, or when the segment lies before
// the beginning of the log, in no pack, and all days in its header are before o.Before.
// The floor only rises.
//
// A segment that is damaged under its key and in no pack stops it. A pack that is
// damaged is left alone, as if it were not there ([Log.BadPacks]), and so is one when
// what follows it cannot be read: what needs none of these goes on. For segments that
// are in no other pack all is kept, and Pack fails in the end with [ErrDamaged]; but not
// for a damaged pack before the beginning of the log whose index has no day from
// o.Before on.
func (l *Log) Pack(ctx context.Context, p event.Partition, o PackOptions) (PackResult, error) {
	w := &packing{log: l, p: p, o: o}
	err := w.run(ctx)
	if err != nil {
		err = fmt.Errorf("pack partition %d: %w", p, err)
	}
	return w.res, err
}

// packing is one run of Pack.
type packing struct {
	log *Log
	p   event.Partition
	o   PackOptions
	res PackResult

	packs  []listedPack // as last listed, without the bad ones
	listed bool         // and none was written or removed since
	bad    map[packName]badPack
	whole  map[packName]bool // read whole in this run
	failed error             // what Pack returns in the end
}

func (w *packing) run(ctx context.Context) error {
	l := w.log
	if l.readOnly.Load() {
		return l.refusal()
	}
	if err := l.AskTime(ctx); err != nil {
		return err
	}
	if err := w.mayLeaveOut(ctx); err != nil {
		return err
	}
	if _, err := l.readFloor(ctx, w.p); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{w.segments, w.clean, w.compact, w.merge, w.bury, w.forgetNotes, w.removeKeys} {
		for {
			err := step(ctx)
			if err == nil {
				break
			}
			// Every step can be repeated: again, without it.
			if b, ok := errors.AsType[badPack](err); !ok || !w.setAside(b) {
				return err
			}
		}
	}
	if err := w.replaced(ctx); err != nil {
		return err
	}
	return w.failed
}

// mayLeaveOut looks whether the ratchet has passed the days that are to be left
// out: it does so only after everything of them that is wanted was kept.
func (w *packing) mayLeaveOut(ctx context.Context) error {
	if w.o.Before == 0 {
		return nil
	}
	err := w.log.passed(ctx, w.o.Before-1)
	if err == nil && !w.log.over(w.o.Before-1) {
		err = ErrNotOver
	}
	if err != nil {
		return fmt.Errorf("leave out days before %v: %w", w.o.Before, err)
	}
	return nil
}

// segments packs what lies under keys of its own.
func (w *packing) segments(ctx context.Context) error {
	l := w.log
	f, err := l.readFloor(ctx, w.p)
	if err != nil {
		return err
	}
	run := &gathering{w: w, at: f.packed}
	old := l.Now().Add(-l.Shift() - packAge)
	found := 0
	var batch []event.Seq // found, and not read: a few are not worth it
	var last event.Seq    // found, and perhaps the newest
	for info, err := range l.bucket.List(ctx, segmentPrefix(w.p), segmentKey(w.p, f.packed.Seq)) {
		if err != nil {
			return fmt.Errorf("look for segments: %w", err)
		}
		s, ok := parseSegmentKey(info.Key)
		if !ok {
			continue
		}
		if last != 0 {
			batch = append(batch, last)
			found++
		}
		if last = s; info.Modified.After(old) {
			break
		}
		if len(batch) >= packMin {
			if err := run.take(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if found < packMin {
		return nil
	}
	if err := run.take(ctx, batch); err != nil {
		return err
	}
	if k := run.k; k != nil && len(k.index.Segments) < packMin && k.bytes < maxPackBytes/2 {
		return nil // the next time
	}
	return run.flush(ctx)
}

// gathering is segments on their way into their first packs.
type gathering struct {
	w  *packing
	at Cursor // behind the last one that was taken
	k  *packer
}

// take reads segments and adds them to a pack; what is full is written.
func (g *gathering) take(ctx context.Context, batch []event.Seq) error {
	for _, s := range batch {
		seg, err := g.w.log.loadSegment(ctx, g.w.p, s)
		if err != nil {
			return err
		}
		if s != g.at.Seq+1 || seg.h.Prev != g.at.Hash {
			return fmt.Errorf("segment %s does not follow its predecessor: %w", segmentKey(g.w.p, s), ErrDamaged)
		}
		if g.k != nil && !g.k.fits(seg.h.end) {
			if err := g.flush(ctx); err != nil {
				return err
			}
		}
		if g.k == nil {
			g.k = newPacker(g.w.log, g.w.p)
		}
		if err := g.k.add(seg, g.w.o.Before); err != nil {
			return err
		}
		g.at = Cursor{s, seg.h.hash}
	}
	return nil
}

func (g *gathering) flush(ctx context.Context) error {
	k := g.k
	if g.k = nil; k == nil {
		return nil
	}
	return g.w.raise(ctx, k)
}

// raise writes a pack and lets the floor rise to its end.
func (w *packing) raise(ctx context.Context, k *packer) error {
	listed, err := k.write(ctx, w.log)
	if err != nil {
		return err
	}
	w.wrote(k, listed)
	w.res.Segments += len(k.index.Segments)
	_, err = w.log.changeFloor(ctx, w.p, func(f *floor) bool {
		if f.packed.Seq >= k.last.Seq || f.packed.Seq+1 < listed.first {
			return false // another packer was faster, or something is not as it was
		}
		f.raise(k.last, w.log.Now())
		return true
	})
	return err
}

func (w *packing) wrote(k *packer, listed listedPack) {
	w.listed = false
	w.res.Packs++
	w.res.Bytes += listed.size
	w.res.LeftOut += k.left
}

// list returns all packs of the partition, by their first segments, but for those
// that were found bad.
func (w *packing) list(ctx context.Context) ([]listedPack, error) {
	if w.listed {
		return w.packs, nil
	}
	list, err := w.log.listPacks(ctx, w.p, 1, -1)
	if err == nil {
		w.log.partitions[w.p].packs.keepBad(list)
	}
	list = slices.DeleteFunc(list, func(k listedPack) bool { _, bad := w.bad[k.packName]; return bad })
	slices.SortFunc(list, func(a, b listedPack) int { return int(a.first) - int(b.first) })
	w.packs, w.listed = list, err == nil
	return list, err
}

// cover chooses packs, sorted by their first segments, through which all segments
// after one can be read that are in any, each pack beginning where the one before
// it ends, or before.
func cover(list []listedPack, after event.Seq) (chosen []listedPack) {
	at := after
	for i := 0; i < len(list); {
		var next listedPack
		found := false
		for ; i < len(list) && list[i].first <= at+1; i++ {
			if list[i].last > at && (!found || list[i].better(next)) {
				next, found = list[i], true
			}
		}
		if !found {
			if i == len(list) {
				break
			}
			at = list[i].first - 1 // a gap
			continue
		}
		chosen = append(chosen, next)
		at = next.last
	}
	return chosen
}

// remove removes a pack that is not needed any more.
func (w *packing) remove(ctx context.Context, k listedPack, at failpoint.Point) error {
	failpoint.Hit(at)
	w.listed = false
	key := k.key(w.p)
	if err := w.log.bucket.Delete(ctx, key); err != nil && !errors.Is(err, objstore.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	w.log.partitions[w.p].packs.forget(k.packName)
	return nil
}
