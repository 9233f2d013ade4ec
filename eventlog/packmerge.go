package eventlog

import (
	"context"
	"fmt"
	"sort"

	"holdfast/event"
	"holdfast/internal/failpoint"
)

// mergeTier says how many packs of some sizes it takes for them to be merged, with
// smaller ones among them. A byte is so written again about once for each tier,
// until its pack is full.
type mergeTier struct {
	from, below int64
	many        int
}

func mergeTiers() []mergeTier {
	return []mergeTier{{0, 128 << 10, 8}, {128 << 10, 1 << 20, 8}, {1 << 20, 8 << 20, 8}, {8 << 20, maxPackBytes / 2, 3}}
}

// A pack is written again when one in expiredPart bytes of its mail is over, and
// one in expiredBytes of all its bytes.
const expiredPart, expiredBytes = 4, 16

// clean removes packs that others made needless and whose packer did not live to
// remove them.
func (w *packing) clean(ctx context.Context) error {
	list, err := w.list(ctx)
	if err != nil {
		return err
	}
	chosen := cover(list, 0)
	for _, k := range list {
		at := sort.Search(len(chosen), func(i int) bool { return chosen[i].last >= k.last })
		if at == len(chosen) || !chosen[at].supersedes(k) {
			continue
		}
		if err := w.verify(ctx, chosen[at]); w.passOver(err) {
			continue
		} else if err != nil {
			return err
		}
		if err := w.remove(ctx, k, failpoint.PackReplaced); err != nil {
			return err
		}
		w.res.Replaced++
	}
	return nil
}

// compact writes packs again of which much is over.
func (w *packing) compact(ctx context.Context) error {
	if w.o.Before == 0 {
		return nil
	}
	list, err := w.list(ctx)
	if err != nil {
		return err
	}
	for _, k := range cover(list, 0) {
		over, alive, err := w.overIn(ctx, k)
		if err != nil {
			return err
		}
		if over*expiredPart < over+alive || over*expiredBytes < k.size {
			continue
		}
		if err := w.rewrite(ctx, []listedPack{k}); err != nil && !w.passOver(err) {
			return err
		}
	}
	return nil
}

// overIn returns how many bytes of a pack are over, and how many are not, as its
// index says.
func (w *packing) overIn(ctx context.Context, k listedPack) (over, alive int64, err error) {
	object, err := w.log.cache.packs.get(ctx, k.key(w.p), func(ctx context.Context) (*packObject, error) { return w.open(ctx, k) })
	if err != nil {
		return 0, 0, err
	}
	for _, d := range object.index.Days {
		if d.Day < w.o.Before {
			over += d.Bytes
		} else {
			alive += d.Bytes
		}
	}
	return over, alive, nil
}

// merge makes large packs of small ones.
func (w *packing) merge(ctx context.Context) error {
	start := w.log.Start(w.p).Seq
	for _, tier := range mergeTiers() {
		list, err := w.list(ctx)
		if err != nil {
			return err
		}
		for _, run := range mergeable(cover(list, 0), start, tier) {
			if err := w.rewrite(ctx, run); err != nil && !w.passOver(err) {
				return err
			}
		}
	}
	return nil
}

// mergeable returns runs of packs that follow each other, none larger than a tier
// and enough of them in it, that fit into one pack. What lies before the
// beginning of the log is not merged with what lies behind it: it can go.
func mergeable(list []listedPack, start event.Seq, tier mergeTier) (runs [][]listedPack) {
	var run []listedPack
	var size int64
	var segments event.Seq
	many := 0
	end := func() {
		if many >= tier.many {
			runs = append(runs, run)
		}
		run, size, segments, many = nil, 0, 0, 0
	}
	for _, k := range list {
		n := k.last - k.first + 1
		if k.size >= tier.below {
			end()
			continue
		}
		if len(run) > 0 {
			prev := run[len(run)-1]
			if k.first > prev.last+1 || (prev.last <= start) != (k.last <= start) || size+k.size > maxPackBytes || segments+n > maxPackSegments {
				end()
			}
		}
		if k.size >= tier.from {
			many++
		}
		run, size, segments = append(run, k), size+k.size, segments+n
	}
	end()
	return runs
}

// rewrite makes one pack of several that follow each other, or of one, and removes
// these.
func (w *packing) rewrite(ctx context.Context, run []listedPack) error {
	k := newPacker(w.log, w.p)
	for i, from := range run {
		for seg, err := range w.scan(ctx, from, k.last.Seq+1) {
			if err == nil && i > 0 && seg.h.Seq == k.last.Seq+1 && seg.h.Prev != k.last.Hash {
				err = w.spoiled(run[i-1], fmt.Errorf("the log does not go on from the end of pack %s: %w", run[i-1].key(w.p), ErrDamaged))
			}
			if err == nil {
				err = k.add(seg, w.o.Before)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := w.goesOn(ctx, run[len(run)-1], k.last); err != nil {
		return err
	}
	if len(run) == 1 && k.left == 0 {
		return nil // its index promised more than there is
	}
	made, err := k.write(ctx, w.log)
	if err != nil {
		return err
	}
	w.wrote(k, made)
	w.log.partitions[w.p].packs.learn([]listedPack{made})
	for _, old := range run {
		if !made.supersedes(old) {
			continue
		}
		if err := w.remove(ctx, old, failpoint.PackReplaced); err != nil {
			return err
		}
		w.res.Replaced++
	}
	return nil
}

// bury removes packs from before the beginning of the log of which every event has
// expired. Their signed headers say so, not their indexes.
func (w *packing) bury(ctx context.Context) error {
	f, err := w.log.readFloor(ctx, w.p)
	if err != nil || f.start.Seq == 0 {
		return err
	}
	list, err := w.list(ctx)
	if err != nil {
		return err
	}
	for _, k := range list {
		// The end of what is packed stays, so that something is there to go on from.
		if k.last > f.start.Seq || k.last >= f.packed.Seq {
			continue
		}
		dead, err := w.dead(ctx, k)
		if err != nil {
			return fmt.Errorf("look what is alive: %w", err)
		}
		if !dead {
			continue
		}
		if err := w.remove(ctx, k, failpoint.PackDead); err != nil {
			return err
		}
		w.res.Dead++
	}
	return nil
}

// dead reports whether all events of a pack that ever expire have done so.
func (w *packing) dead(ctx context.Context, k listedPack) (bool, error) {
	_, alive, err := w.overIn(ctx, k)
	if err != nil || alive > 0 {
		return false, err
	}
	for seg, err := range w.scan(ctx, k, k.first) {
		if err != nil {
			return false, err
		}
		for _, page := range seg.h.Pages {
			if page.Day >= w.o.Before {
				return false, nil
			}
		}
	}
	return true, nil
}

// forgetNotes removes checkpoints that are about segments before the beginning of
// the log, once there is one about a later segment.
func (w *packing) forgetNotes(ctx context.Context) error {
	start := w.log.Start(w.p).Seq
	if start == 0 {
		return nil
	}
	var old []string
	later := false
	for info, err := range w.log.bucket.List(ctx, checkpointPrefix(w.p), "") {
		if err != nil {
			return fmt.Errorf("look for checkpoints: %w", err)
		}
		s, ok := parseCheckpointKey(info.Key)
		if later = ok && s >= start; later {
			break
		}
		if ok {
			old = append(old, info.Key)
		}
	}
	if !later {
		return nil
	}
	for _, key := range old {
		if err := w.log.bucket.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove %s: %w", key, err)
		}
		w.res.Notes++
	}
	return nil
}
