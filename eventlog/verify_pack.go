package eventlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

// place says where a segment is read from.
type place struct {
	seq   event.Seq
	pack  *packObject // nil for its own key
	aside bool        // it is not the one by which the log is read
}

// stock is what one partition has in packs.
type stock struct {
	v     *verifier
	p     event.Partition
	floor *floor
	list  []listedPack // by their first segments
	used  map[packName]bool
}

// stock reads a partition's floor and the names of its packs.
func (v *verifier) stock(ctx context.Context, p event.Partition) (*stock, error) {
	s := &stock{v: v, p: p, used: map[packName]bool{}}
	var err error
	s.floor, err = v.floor(ctx, p)
	if err != nil {
		return nil, err
	}
	v.began = v.began || s.floor.start.Seq > 0
	for info, err := range v.log.bucket.List(ctx, packPrefix(p), "") {
		if err != nil {
			return nil, err
		}
		if n, ok := parsePackKey(info.Key); ok {
			s.list = append(s.list, listedPack{n, info.Size})
		} else {
			v.report(Finding{Partition: p, Index: -1, Key: info.Key, What: UnknownObject})
		}
	}
	slices.SortFunc(s.list, func(a, b listedPack) int { return int(a.first) - int(b.first) })
	return s, nil
}

// floor reads a partition's floor; one that is damaged is reported, and what was
// known of it before stands.
func (v *verifier) floor(ctx context.Context, p event.Partition) (*floor, error) {
	raw, err := v.read(ctx, floorKey(p), maxFloor)
	if errors.Is(err, objstore.ErrNotExist) {
		return &floor{}, nil
	}
	var f *floor
	if err == nil {
		f, err = v.log.parseFloor(ctx, p, raw)
	}
	if damaging(err) {
		v.report(Finding{Partition: p, Index: -1, Key: floorKey(p), What: DamagedFloor, Err: err})
		part := v.log.partitions[p]
		part.mu.Lock()
		defer part.mu.Unlock()
		return part.floor, nil
	}
	return f, err
}

// places yields where a partition's segments are read from, from the beginning of
// the log to the tail, with gaps as they are; and what else packs hold.
func (s *stock) places(ctx context.Context) iter.Seq2[place, error] {
	return func(yield func(place, error) bool) {
		at := s.floor.start.Seq
		for _, step := range []func(context.Context, *event.Seq, func(place, error) bool) bool{s.packed, s.keyed, s.rest} {
			if !step(ctx, &at, yield) {
				return
			}
		}
	}
}

// packed yields what the floor says is in packs.
func (s *stock) packed(ctx context.Context, at *event.Seq, yield func(place, error) bool) bool {
	for *at < s.floor.packed.Seq {
		chosen := cover(s.list, *at)
		if len(chosen) == 0 || chosen[0].first > *at+1 {
			to := s.floor.packed.Seq
			if len(chosen) > 0 {
				to = min(to, chosen[0].first-1)
			}
			if !s.unpacked(ctx, at, to, yield) {
				return false
			}
			continue
		}
		k, ok := s.open(ctx, chosen[0], yield)
		if !ok {
			return false
		}
		if k == nil {
			continue // it is not in the list any more
		}
		s.used[k.packName] = true
		to := min(k.last, s.floor.packed.Seq)
		for n := k.first; n <= k.last; n++ {
			if !yield(place{n, k, n <= *at || n > to}, nil) {
				return false
			}
		}
		*at = to
	}
	return true
}

// open reads the index of a pack, and reports what is wrong with it. What cannot
// be read is taken off the list.
func (s *stock) open(ctx context.Context, listed listedPack, yield func(place, error) bool) (*packObject, bool) {
	k, err := s.v.log.openPack(ctx, s.p, listed, s.v.get)
	if err != nil && !damaging(err) {
		yield(place{}, err)
		return nil, false
	}
	if err == nil {
		return k, true
	}
	if !errors.Is(err, objstore.ErrNotExist) { // else it was replaced meanwhile
		s.v.report(Finding{Partition: s.p, Index: -1, Key: listed.key(s.p), What: DamagedPack, Err: err})
	} else if more, err := s.v.log.listPacks(ctx, s.p, listed.first, maxNamesAhead); err == nil {
		for _, m := range more {
			if m.packName != listed.packName && !slices.Contains(s.list, m) {
				s.list = append(s.list, m)
			}
		}
		slices.SortFunc(s.list, func(a, b listedPack) int { return int(a.first) - int(b.first) })
	}
	s.list = slices.DeleteFunc(s.list, func(o listedPack) bool { return o == listed })
	return nil, true
}

// unpacked reports that segments are in no pack, and yields those of them that
// have their keys still.
func (s *stock) unpacked(ctx context.Context, at *event.Seq, to event.Seq, yield func(place, error) bool) bool {
	s.v.report(Finding{Partition: s.p, Seq: *at + 1, Index: -1, Key: packPrefix(s.p), What: MissingPack,
		Err: fmt.Errorf("the segments %d to %d are in no pack: %w", *at+1, to, ErrDamaged)})
	for info, err := range s.v.log.bucket.List(ctx, segmentPrefix(s.p), segmentKey(s.p, *at)) {
		if err != nil {
			yield(place{}, err)
			return false
		}
		n, ok := parseSegmentKey(info.Key)
		if n > to {
			break
		}
		if ok && !yield(place{seq: n}, nil) {
			return false
		}
	}
	*at = to
	return true
}

// keyed yields what lies under keys of its own, up to the tail of now, and reports
// strangers among them. Behind what is listed it looks by name, for a list may be
// stale.
func (s *stock) keyed(ctx context.Context, at *event.Seq, yield func(place, error) bool) bool {
	// A log that grows faster than it is verified must not keep us for ever.
	tail, _ := s.v.log.partitions[s.p].tail()
	bounded := !s.v.log.partitions[s.p].broken
	for info, err := range s.v.log.bucket.List(ctx, segmentPrefix(s.p), "") {
		if err != nil {
			yield(place{}, err)
			return false
		}
		n, ok := parseSegmentKey(info.Key)
		if !ok {
			s.v.report(Finding{Partition: s.p, Index: -1, Key: info.Key, What: UnknownObject})
			continue
		}
		if n <= *at {
			continue // in a pack; the key is removed in time
		}
		if bounded && n > tail {
			break
		}
		if !s.gap(ctx, at, n, yield) {
			return false
		}
		*at = n
		if !yield(place{seq: n}, nil) {
			return false
		}
	}
	for n := *at + 1; n <= tail; n++ {
		if !yield(place{seq: n}, nil) {
			return false
		}
	}
	return true
}

// gap reports segments that are missing between two. Packs may have them, although
// the floor does not say so: then it was lost.
func (s *stock) gap(ctx context.Context, at *event.Seq, to event.Seq, yield func(place, error) bool) bool {
	for *at+1 < to {
		chosen := cover(s.list, *at)
		if len(chosen) == 0 || chosen[0].first >= to {
			s.v.gap(s.p, *at, to)
			return true
		}
		k, ok := s.open(ctx, chosen[0], yield)
		if !ok {
			return false
		}
		if k == nil {
			continue
		}
		s.v.gap(s.p, *at, max(k.first, *at+1))
		if *at = max(*at, k.first-1); !s.used[k.packName] {
			s.v.report(Finding{Partition: s.p, Seq: *at + 1, Index: -1, Key: floorKey(s.p), What: DamagedFloor,
				Err: fmt.Errorf("it does not say that segments up to %d are in packs, and their keys are gone: %w", k.last, ErrDamaged)})
		}
		s.used[k.packName] = true
		end := min(k.last, to-1)
		for n := k.first; n <= k.last; n++ {
			if !yield(place{n, k, n <= *at || n > end}, nil) {
				return false
			}
		}
		*at = end
	}
	return true
}

// rest yields what is in packs by which the log is not read: older ones, and what
// lies before the beginning of the log.
func (s *stock) rest(ctx context.Context, _ *event.Seq, yield func(place, error) bool) bool {
	for _, listed := range slices.Clone(s.list) {
		if s.used[listed.packName] {
			continue
		}
		k, ok := s.open(ctx, listed, yield)
		if !ok {
			return false
		}
		if k == nil {
			continue
		}
		for n := k.first; n <= k.last; n++ {
			if !yield(place{n, k, true}, nil) {
				return false
			}
		}
	}
	return true
}

// get reads a range of an object, again if the store fails. It implements ranger.
func (v *verifier) get(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	for try, wait := 1, minPause; ; try, wait = try+1, 4*wait {
		b, err = v.log.getRange(ctx, key, off, n)
		if err == nil || damaging(err) || try == readTries || ctx.Err() != nil {
			return b, err
		}
		pause(ctx, wait)
	}
}

// stretch reads n bytes of a pack out of large pieces, which other segments need,
// too.
func (v *verifier) stretch(ctx context.Context, k *packObject, off, n int64) ([]byte, error) {
	var out []byte
	for c := off / packChunk; c*packChunk < off+n; c++ {
		b, err := v.chunks.get(ctx, chunk{k.key, c}, func(ctx context.Context) ([]byte, error) {
			b, err := v.get(ctx, k.key, c*packChunk, packChunk)
			if err == nil && int64(len(b)) != min(packChunk, k.size-c*packChunk) {
				err = fmt.Errorf("pack %s is cut short: %w", k.key, ErrDamaged)
			}
			return b, err
		})
		if err != nil {
			return nil, err
		}
		out = append(out, b[max(off-c*packChunk, 0):min(off+n-c*packChunk, int64(len(b)))]...)
	}
	return out, nil
}

// header reads the header of a segment from where it is in the bucket.
func (v *verifier) header(ctx context.Context, p event.Partition, s event.Seq) (*parsed, error) {
	part := v.log.partitions[p]
	part.mu.Lock()
	packed := part.floor.packed.Seq
	part.mu.Unlock()
	if s > packed {
		raw, err := v.read(ctx, segmentKey(p, s), maxSegmentObject+maxHeaderBytes)
		if err == nil {
			return v.log.parse(raw, p, s, v.log.verify)
		}
		if !errors.Is(err, objstore.ErrNotExist) {
			return nil, err
		}
	}
	return inPack(ctx, v.log, p, piece{s: s}, func(k *packObject) (*parsed, error) {
		raw, err := v.stretch(ctx, k, k.fronts[s-k.first], k.entry(s).Header)
		if err != nil {
			return nil, err
		}
		return v.log.parse(raw, p, s, v.log.verify)
	})
}

// countDays compares what a pack holds of each day with what its index says, when
// its last segment has come.
func (v *verifier) countDays(w *verifying) {
	k := w.pack
	if k == nil {
		return
	}
	if w.seq == k.first {
		v.days, v.daysOK = map[event.Day]int64{}, true
	}
	if w.h == nil || w.moved {
		v.daysOK = false // that was reported, or the pack was replaced
		return
	}
	w.h.addDays(v.days, w.cut)
	if w.seq == k.last && v.daysOK && !slices.Equal(packDays(v.days), k.index.Days) {
		v.report(Finding{Partition: w.p, Index: -1, Key: k.key, What: DamagedPack, Err: fmt.Errorf("its index counts other days: %w", ErrDamaged)})
	}
}

// floors reports what lies under floor/ and is of no partition.
func (v *verifier) floors(ctx context.Context) error {
	for info, err := range v.log.bucket.List(ctx, floorPrefix, "") {
		if err != nil {
			return err
		}
		known := false
		for i := range v.log.partitions {
			known = known || info.Key == floorKey(event.Partition(i))
		}
		if !known {
			v.report(Finding{Index: -1, Key: info.Key, What: UnknownObject})
		}
	}
	return nil
}

// leftOut reports whether an error says that a part was left out of a pack with
// its day.
func leftOut(err error) bool { return errors.Is(err, crypto.ErrExpired) }
