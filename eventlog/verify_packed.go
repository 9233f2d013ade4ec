package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/objstore"
)

// packed reads the segment from its pack, as it was before parts were left out; from
// elsewhere, where the log can be read although that pack is damaged. It returns
// false when it cannot be believed.
func (w *verifying) packed(ctx context.Context) (bool, error) {
	k := w.pack
	got, err := w.fromPack(ctx, k)
	for range packTries {
		if !errors.Is(err, objstore.ErrNotExist) {
			break
		}
		// It was replaced meanwhile, and its index no longer counts.
		w.moved = true
		w.v.log.partitions[w.p].packs.forget(k.packName)
		if k, err = w.anyPack(ctx, nil); err == nil {
			got, err = w.fromPack(ctx, k)
		}
	}
	if errors.Is(err, objstore.ErrNotExist) {
		return false, w.found(-1, w.key(), MissingSegment, ErrDamaged)
	}
	if bad := cmp.Or(err, got.flaw); bad != nil && errors.Is(bad, ErrDamaged) && !w.aside {
		other, better := w.elsewhere(ctx, k)
		if better != nil && !damaging(better) {
			return false, better
		}
		if better == nil {
			w.moved = true
			if w.v.firstBad(k.key) {
				w.findings = append(w.findings, Finding{Partition: w.p, Seq: w.seq, Index: -1, Key: k.key, What: DamagedPack,
					Err: fmt.Errorf("the segment is whole in %s: %w", other.from, bad)})
			}
			got, err = other, nil
		}
	}
	if err != nil {
		return false, w.found(-1, w.key(), DamagedHeader, err)
	}
	w.raw, w.h, w.from, w.cut, w.sound = got.raw, got.h, got.from, got.cut, got.flaw == nil
	return true, nil
}

// packedImage is a segment out of a pack, as it was put but for zeros where parts
// were left out.
type packedImage struct {
	h    *parsed
	raw  []byte
	cut  event.Day
	from string
	flaw error // nil when all parts that are there have their digests, and none is missing that should not
}

// elsewhere reads a segment whole from another pack, or from under its key. An error
// that says damage when there is none.
func (w *verifying) elsewhere(ctx context.Context, not *packObject) (packedImage, error) {
	tried := []packName{not.packName}
	for {
		k, err := w.anyPack(ctx, tried)
		if errors.Is(err, objstore.ErrNotExist) {
			break
		}
		var got packedImage
		if err == nil {
			got, err = w.fromPack(ctx, k)
		}
		if err = cmp.Or(err, got.flaw); err == nil || !damaging(err) || k == nil {
			return got, err
		}
		tried = append(tried, k.packName)
	}
	key := segmentKey(w.p, w.seq)
	raw, err := w.v.read(ctx, key, maxSegmentObject+maxHeaderBytes)
	if err != nil {
		return packedImage{}, err
	}
	w.sum.Bytes += uint64(len(raw))
	h, err := w.v.log.parse(raw, w.p, w.seq, w.v.log.verify)
	if err == nil && int64(len(raw)) != h.end {
		err = fmt.Errorf("of another length: %w", ErrDamaged)
	}
	if err != nil {
		return packedImage{}, err
	}
	seg := packedSegment{h: h, front: raw[:h.bodies], bodies: raw[h.bodies:]}
	return packedImage{h: h, raw: raw, from: key}, seg.check(w.v.log)
}

// anyPack returns a pack that has the segment, other than some.
func (w *verifying) anyPack(ctx context.Context, not []packName) (*packObject, error) {
	tried := slices.Clone(not)
	for {
		k, err := w.v.log.findPack(ctx, w.p, w.seq, func(n packName) bool { return !slices.Contains(tried, n) })
		if err != nil {
			return nil, err
		}
		object, err := w.v.log.openPack(ctx, w.p, k, w.v.get)
		if err == nil || !errors.Is(err, ErrDamaged) {
			return object, err
		}
		tried = append(tried, k.packName)
	}
}

// firstBad reports whether a pack was not reported before.
func (v *verifier) firstBad(key string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	first := !v.badPacks[key]
	v.badPacks[key] = true
	return first
}

// fromPack reads the segment from a pack.
func (w *verifying) fromPack(ctx context.Context, k *packObject) (packedImage, error) {
	e, n := k.entry(w.seq), w.seq-k.first
	front, err := w.v.stretch(ctx, k, k.fronts[n], e.Front)
	if err != nil {
		return packedImage{}, err
	}
	h, err := w.v.log.parse(front[:e.Header], w.p, w.seq, w.v.log.verify)
	if err != nil {
		return packedImage{}, err
	}
	bodies, err := w.v.stretch(ctx, k, k.bodies[n], e.Bodies)
	if err != nil {
		return packedImage{}, err
	}
	w.sum.Bytes += uint64(e.Front + e.Bodies)
	wantFront, wantBodies := h.packedLengths(e.Cut)
	if h.front != e.Header || wantFront != e.Front || wantBodies != e.Bodies || e.Cut != 0 && h.cut(e.Cut) != e.Cut {
		return packedImage{}, fmt.Errorf("the index of pack %s says otherwise: %w", k.key, ErrDamaged)
	}
	seg := packedSegment{h: h, cut: e.Cut, front: front, bodies: bodies}
	got := packedImage{h: h, raw: make([]byte, h.end), cut: e.Cut, from: k.key, flaw: seg.check(w.v.log)}
	copy(got.raw, h.spread(front, e.Cut))
	at := int64(0)
	h.inside(true, func(i, j int) {
		if n := h.Events[i].Parts[j].Length; !h.absent(i, j, e.Cut) {
			copy(got.raw[h.offsets[i][j]:], bodies[at:at+n])
			at += n
		}
	})
	return got, nil
}
