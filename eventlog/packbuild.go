package eventlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

// packTimeout ends one try of putting a pack.
const packTimeout = 10 * time.Minute

// packedSegment is a segment as it lies in a pack, checked: header and parts that
// are there, and which are not.
type packedSegment struct {
	h      *parsed
	cut    event.Day
	front  []byte
	bodies []byte
}

// check checks that all parts are what the header says, and that only those were
// left out whose day is over.
func (s *packedSegment) check(l *Log) error {
	h := s.h
	if s.cut != 0 && (h.cut(s.cut) != s.cut || !l.over(s.cut-1)) {
		return fmt.Errorf("segment %d: parts were left out whose day is not over: %w", h.Seq, ErrDamaged)
	}
	if front, bodies := h.packedLengths(s.cut); int64(len(s.front)) != front || int64(len(s.bodies)) != bodies {
		return fmt.Errorf("segment %d has other lengths: %w", h.Seq, ErrDamaged)
	}
	for i, b := range [][]byte{s.front[h.front:], s.bodies} {
		bad := false
		h.inside(i == 1, func(i, j int) {
			if h.absent(i, j, s.cut) || bad {
				return
			}
			n := h.Events[i].Parts[j].Length
			bad = sha256.Sum256(b[:n]) != h.Events[i].Parts[j].Digest
			b = b[n:]
		})
		if bad {
			return fmt.Errorf("segment %d: digest of a part: %w", h.Seq, ErrDamaged)
		}
	}
	return nil
}

// loadSegment reads a whole segment under its own key.
func (l *Log) loadSegment(ctx context.Context, p event.Partition, s event.Seq) (*packedSegment, error) {
	key := segmentKey(p, s)
	raw, _, err := l.readAll(ctx, key, maxSegmentObject+maxHeaderBytes)
	if errors.Is(err, objstore.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("read segment %s: %w", key, err)
	}
	h, err := l.parse(raw, p, s, l.verify)
	if err == nil && int64(len(raw)) != h.end {
		err = fmt.Errorf("%d bytes, want %d: %w", len(raw), h.end, ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("segment %s: %w", key, err)
	}
	seg := &packedSegment{h: h, front: raw[:h.bodies:h.bodies], bodies: raw[h.bodies:]}
	return seg, seg.check(l)
}

// window reads an object forward, in large stretches.
type window struct {
	get  ranger
	key  string
	size int64
	off  int64
	b    []byte
}

func (w *window) at(ctx context.Context, off, n int64) ([]byte, error) {
	if off < w.off || off+n > w.off+int64(len(w.b)) {
		want := min(max(n, packChunk), w.size-off)
		b, err := w.get(ctx, w.key, off, want)
		if err == nil && int64(len(b)) != want {
			err = fmt.Errorf("cut short: %w", ErrDamaged)
		}
		if err != nil {
			return nil, fmt.Errorf("read pack %s: %w", w.key, err)
		}
		w.off, w.b = off, b
	}
	return w.b[off-w.off:][:n:n], nil
}

// scan yields the segments of a pack from a number on, checked and chained to each
// other. verify checks their headers.
func (l *Log) scan(ctx context.Context, k *packObject, from event.Seq, verify headerCheck) iter.Seq2[*packedSegment, error] {
	return func(yield func(*packedSegment, error) bool) {
		fronts := &window{get: l.getRange, key: k.key, size: k.bodies[0]}
		bodies := &window{get: l.getRange, key: k.key, size: k.size}
		var last *Hash
		for s := from; s <= k.last; s++ {
			seg, err := l.packedSegment(ctx, k, s, fronts, bodies, verify)
			if err == nil && last != nil && seg.h.Prev != *last {
				err = fmt.Errorf("segment %d does not follow its predecessor: %w", s, ErrDamaged)
			}
			if err != nil {
				yield(nil, fmt.Errorf("pack %s: %w", k.key, err))
				return
			}
			if !yield(seg, nil) {
				return
			}
			last = &seg.h.hash
		}
	}
}

func (l *Log) packedSegment(ctx context.Context, k *packObject, s event.Seq, fronts, bodies *window, verify headerCheck) (*packedSegment, error) {
	e, n := k.entry(s), s-k.first
	front, err := fronts.at(ctx, k.fronts[n], e.Front)
	if err != nil {
		return nil, err
	}
	h, err := l.parse(front[:e.Header], k.index.Partition, s, verify)
	if err == nil && h.front != e.Header {
		err = fmt.Errorf("header of another length: %w", ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("segment %d: %w", s, err)
	}
	seg := &packedSegment{h: h, cut: e.Cut, front: front}
	if e.Bodies > 0 {
		if seg.bodies, err = bodies.at(ctx, k.bodies[n], e.Bodies); err != nil {
			return nil, err
		}
	}
	return seg, seg.check(l)
}

// packer gathers the segments of one pack.
type packer struct {
	index  packIndex
	days   map[event.Day]int64
	fronts [][]byte
	bodies [][]byte
	bytes  int64
	hashes []Hash // of all
	last   Cursor
	left   int64 // bytes that were left out now
}

func newPacker(l *Log, p event.Partition) *packer {
	return &packer{index: packIndex{Log: l.id, Partition: p, Segments: []packEntry{}, Days: []packDay{}}, days: map[event.Day]int64{}}
}

// fits reports whether a segment of a size may be added.
func (k *packer) fits(size int64) bool {
	n := len(k.index.Segments)
	return n == 0 || n < maxPackSegments && k.bytes+size <= maxPackBytes
}

// add adds the next segment, without the parts of days before one.
func (k *packer) add(s *packedSegment, before event.Day) error {
	h := s.h
	if len(k.index.Segments) == 0 {
		k.index.First = h.Seq
	} else if h.Seq != k.last.Seq+1 || h.Prev != k.last.Hash {
		return fmt.Errorf("segment %d does not follow its predecessor: %w", h.Seq, ErrDamaged)
	}
	cut := h.cut(max(before, s.cut))
	front, bodies := s.front, s.bodies
	if cut != s.cut {
		front, bodies = h.dropParts(front, false, s.cut, cut), h.dropParts(bodies, true, s.cut, cut)
		k.left += int64(len(s.front)-len(front)) + int64(len(s.bodies)-len(bodies))
	}
	k.fronts, k.bodies = append(k.fronts, front), append(k.bodies, bodies)
	k.bytes += int64(len(front) + len(bodies))
	k.index.Segments = append(k.index.Segments, packEntry{Header: h.front, Front: int64(len(front)), Bodies: int64(len(bodies)), Cut: cut})
	h.addDays(k.days, cut)
	k.hashes = append(k.hashes, h.hash)
	k.last = Cursor{h.Seq, h.hash}
	return nil
}

// addDays adds the lengths of the parts that a cut leaves to their days.
func (p *parsed) addDays(days map[event.Day]int64, cut event.Day) {
	for i := range p.Events {
		for j := range p.Events[i].Parts {
			day, ok := p.droppable(i, j)
			if n := p.Events[i].Parts[j].Length; ok && n > 0 && !p.absent(i, j, cut) {
				days[day] += n
			}
		}
	}
}

func packDays(days map[event.Day]int64) []packDay {
	list := make([]packDay, 0, len(days))
	for _, d := range slices.Sorted(maps.Keys(days)) {
		list = append(list, packDay{Day: d, Bytes: days[d]})
	}
	return list
}

// finish lays out the pack.
func (k *packer) finish() (packName, *image) {
	k.index.Days = packDays(k.days)
	head, name := encodePackIndex(&k.index)
	m := newImage(head)
	for _, pieces := range [][][]byte{k.fronts, k.bodies} {
		for _, b := range pieces {
			m.add(b)
		}
	}
	return name, m
}

// write puts the pack and reads it back. When it returns the pack is in the bucket
// and whole: every segment in it was verified as the bucket holds it.
func (k *packer) write(ctx context.Context, l *Log) (listedPack, error) {
	name, m := k.finish()
	p := k.index.Partition
	key := name.key(p)
	failpoint.Hit(failpoint.PackPut)
	for try := 1; ; try++ {
		one, cancel := context.WithTimeout(ctx, packTimeout)
		_, err := l.bucket.Put(one, key, m.reader(), m.size, objstore.PutOptions{IfAbsent: true})
		cancel()
		if err == nil || errors.Is(err, objstore.ErrExists) {
			break // the same bytes, as reading back shows
		}
		if try == packTries || ctx.Err() != nil || !errors.Is(err, objstore.ErrAmbiguous) {
			return listedPack{}, fmt.Errorf("put pack %s: %w", key, err)
		}
		pause(ctx, minPause<<try)
	}
	failpoint.Hit(failpoint.PackDurable)
	listed := listedPack{name, m.size}
	k.fronts, k.bodies = nil, nil // what is read back takes as much
	if err := l.readBack(ctx, p, listed, k.hashes); err != nil {
		return listedPack{}, err
	}
	return listed, nil
}

// readBack verifies a pack as it is in the bucket: all of it, and that it holds the
// segments with these hashes, whose signatures were verified.
func (l *Log) readBack(ctx context.Context, p event.Partition, listed listedPack, hashes []Hash) error {
	k, err := l.openPack(ctx, p, listed, l.getRange)
	if err != nil {
		return err
	}
	days := map[event.Day]int64{}
	same := true
	for seg, err := range l.scan(ctx, k, k.first, func(_, _, _ []byte, _ event.Classes) error { return nil }) {
		if err != nil {
			return err
		}
		same = same && seg.h.hash == hashes[seg.h.Seq-k.first]
		seg.h.addDays(days, seg.cut)
	}
	if !same || !slices.Equal(packDays(days), k.index.Days) {
		return fmt.Errorf("pack %s is not what was written: %w", k.key, ErrDamaged)
	}
	return nil
}
