package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"holdfast/event"
	"holdfast/objstore"
)

const (
	// packChunk is how much of a pack is read at once by who reads one segment
	// after the other.
	packChunk = 4 << 20
	// packFirst is how much of a pack is fetched before its index's size is known.
	packFirst = 128 << 10
	// maxNames bounds how many names of packs are remembered of a partition, and
	// maxNamesAhead how many are listed at a time.
	maxNames, maxNamesAhead = 8192, 1000
	// packTries bounds how often a segment is looked for in packs that are replaced
	// meanwhile.
	packTries = 4
	// nearby segments are read by who reads one after the other.
	nearby = 16
)

// shelf knows names of packs of a partition. It may know some that are replaced,
// and need not know all.
type shelf struct {
	mu    sync.Mutex // never held across a call through a seam
	known []listedPack
}

// listedPack is a pack as a list shows it.
type listedPack struct {
	packName
	size int64
}

// holds reports whether the pack has a segment.
func (n packName) holds(s event.Seq) bool { return n.first <= s && s <= n.last }

// supersedes reports whether a pack makes another one needless. It is a strict
// order, so that of several packs with a segment there is always one that no
// other makes needless: two packers that each remove what the other's pack makes
// needless cannot remove both.
func (k listedPack) supersedes(o listedPack) bool {
	switch {
	case k.first > o.first || k.last < o.last:
		return false
	case k.first < o.first || k.last > o.last:
		return true
	case k.size != o.size:
		return k.size < o.size // the one that leaves more out
	}
	return k.key(0) < o.key(0)
}

// better reports whether who reads on from a segment prefers a pack to another.
func (k listedPack) better(o listedPack) bool {
	if k.last != o.last {
		return k.last > o.last
	}
	return k.supersedes(o)
}

// best returns the pack with a segment by which readers come furthest.
func best(list []listedPack, s event.Seq) (found listedPack, ok bool) {
	for _, k := range list {
		if k.holds(s) && (!ok || k.better(found)) {
			found, ok = k, true
		}
	}
	return found, ok
}

func (h *shelf) best(s event.Seq) (listedPack, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i, _ := slices.BinarySearchFunc(h.known, s, func(k listedPack, s event.Seq) int { return int(k.last) - int(s) })
	return best(h.known[i:min(len(h.known), i+maxNamesAhead)], s)
}

func (h *shelf) learn(more []listedPack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.known)+len(more) > maxNames {
		h.known = nil
	}
	h.known = append(h.known, more...)
	slices.SortFunc(h.known, func(a, b listedPack) int {
		if a.last != b.last {
			return int(a.last) - int(b.last)
		}
		if a.first != b.first {
			return int(a.first) - int(b.first)
		}
		return slices.Compare(a.id[:], b.id[:])
	})
	h.known = slices.Compact(h.known)
}

func (h *shelf) forget(n packName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known = slices.DeleteFunc(h.known, func(k listedPack) bool { return k.packName == n })
}

// findPack returns a pack that has a segment. objstore.ErrNotExist when none is
// in the bucket.
func (l *Log) findPack(ctx context.Context, p event.Partition, s event.Seq) (*packObject, error) {
	h := &l.partitions[p].packs
	k, ok := h.best(s)
	if !ok {
		more, err := l.listPacks(ctx, p, s, maxNamesAhead)
		if err != nil {
			return nil, err
		}
		h.learn(more)
		if k, ok = best(more, s); !ok {
			return nil, fmt.Errorf("segment %d of partition %d is in no pack: %w", s, p, objstore.ErrNotExist)
		}
	}
	key := k.key(p)
	return l.cache.packs.get(ctx, key, func(ctx context.Context) (*packObject, error) { return l.openPack(ctx, p, k, l.getRange) })
}

// listPacks returns up to limit packs that end at a segment or later, in the order
// of their ends.
func (l *Log) listPacks(ctx context.Context, p event.Partition, s event.Seq, limit int) (found []listedPack, err error) {
	for info, err := range l.bucket.List(ctx, packPrefix(p), packAfter(p, s)) {
		if err != nil {
			return nil, fmt.Errorf("look for packs: %w", err)
		}
		if n, ok := parsePackKey(info.Key); ok {
			found = append(found, listedPack{n, info.Size})
		}
		if len(found) == limit {
			break
		}
	}
	return found, nil
}

// ranger reads at most n bytes of an object, as [Log.getRange] does.
type ranger func(ctx context.Context, key string, off, n int64) ([]byte, error)

// openPack reads the index of a pack.
func (l *Log) openPack(ctx context.Context, p event.Partition, k listedPack, get ranger) (*packObject, error) {
	key := k.key(p)
	wrap := func(err error) error { return fmt.Errorf("pack %s: %w", key, err) }
	raw, err := get(ctx, key, 0, packFirst)
	if err != nil {
		return nil, wrap(err)
	}
	n, err := packIndexLength(raw)
	if err != nil {
		return nil, wrap(err)
	}
	if n > int64(len(raw)) {
		rest, err := get(ctx, key, int64(len(raw)), n-int64(len(raw)))
		if err != nil {
			return nil, wrap(err)
		}
		raw = append(raw, rest...)
	}
	pk, err := parsePack(raw, k.packName, k.size, l.id, p)
	if err != nil {
		return nil, wrap(err)
	}
	return pk, nil
}

// inPack reads something of a segment from a pack that has it. A pack that is gone
// was replaced: another one has the segment. objstore.ErrNotExist when none has.
func inPack[T any](ctx context.Context, l *Log, p event.Partition, s event.Seq, read func(*packObject) (T, error)) (v T, err error) {
	for range packTries {
		var k *packObject
		k, err = l.findPack(ctx, p, s)
		if err == nil {
			if v, err = read(k); err == nil {
				return v, nil
			}
		}
		if !errors.Is(err, objstore.ErrNotExist) {
			return v, err
		}
		h := &l.partitions[p].packs
		known, ok := h.best(s)
		if !ok {
			return v, err
		}
		h.forget(known.packName)
		l.cache.packs.dropOne(known.key(p), func(*packObject) bool { return true })
	}
	return v, err
}

// fronted is a front as it was put, but for parts of days before cut, which were
// left out of a pack and are zeros here.
type fronted struct {
	bytes []byte
	cut   event.Day
}

// headed is a header with its front.
type headed struct {
	h     *parsed
	front fronted
}

// readFront reads the header of a segment and, if it has events of the classes,
// all parts but bodies; else the front is empty. It reads from a pack what is
// said to be packed: under its key there may be something else by now, see
// [partition.void].
func (l *Log) readFront(ctx context.Context, p event.Partition, s event.Seq, classes event.Classes) (headed, error) {
	if _, own := l.cache.raw.peek(slot{p, s}); own {
		return l.readKey(ctx, p, s, classes)
	}
	f, err := l.floorNow(ctx, p)
	if err != nil {
		return headed{}, err
	}
	first, second := l.readKey, l.readPacked
	if s <= f.packed.Seq {
		first, second = second, first
	}
	r, err := first(ctx, p, s, classes)
	missing := errors.Is(err, objstore.ErrNotExist)
	switch {
	case err == nil, !missing && !errors.Is(err, ErrDamaged), missing && s > max(f.packed.Seq, l.TailAtLeast(p)):
		return r, err
	case missing && s > f.packed.Seq:
		// The key is gone: the floor must have risen.
		if _, err := l.readFloor(ctx, p); err != nil && !errors.Is(err, ErrDamaged) {
			return headed{}, err
		}
	}
	r, again := second(ctx, p, s, classes)
	if errors.Is(again, objstore.ErrNotExist) {
		return r, err // what the first one said
	}
	return r, again
}

// readPacked is readFront for a segment that is in a pack.
func (l *Log) readPacked(ctx context.Context, p event.Partition, s event.Seq, classes event.Classes) (headed, error) {
	return inPack(ctx, l, p, s, func(k *packObject) (headed, error) {
		e := k.entry(s)
		raw, err := l.packRange(ctx, k, p, s, k.fronts[s-k.first], e.Front)
		if err != nil {
			return headed{}, err
		}
		h, known := l.cache.headers.peek(slot{p, s})
		if !known {
			if h, err = l.parse(raw[:e.Header], p, s, l.verify); err != nil {
				return headed{}, fmt.Errorf("segment %d in pack %s: %w", s, k.key, err)
			}
		}
		if front, bodies := h.packedLengths(e.Cut); front != e.Front || bodies != e.Bodies || h.front != e.Header {
			return headed{}, fmt.Errorf("segment %d in pack %s has other lengths: %w", s, k.key, ErrDamaged)
		}
		l.cache.headers.keep(slot{p, s}, h)
		if h.classes&classes == 0 {
			return headed{h, fronted{}}, nil
		}
		return headed{h, fronted{h.spread(raw, e.Cut), e.Cut}}, nil
	})
}

// packedBody reads an inline body of a segment that is in a pack. crypto.ErrExpired
// when it was left out since its day is over.
func (l *Log) packedBody(ctx context.Context, h *parsed, i, j int) ([]byte, error) {
	return inPack(ctx, l, h.Partition, h.Seq, func(k *packObject) ([]byte, error) {
		e := k.entry(h.Seq)
		if h.absent(i, j, e.Cut) {
			return nil, l.leftOut(h, i, j)
		}
		off, n := h.packedBody(i, j, e.Cut), h.Events[i].Parts[j].Length
		if off+n > e.Bodies {
			return nil, fmt.Errorf("segment %d in pack %s has other lengths: %w", h.Seq, k.key, ErrDamaged)
		}
		return l.packRange(ctx, k, h.Partition, h.Seq, k.bodies[h.Seq-k.first]+off, n)
	})
}

// leftOut says what it means that a part was left out of a pack.
func (l *Log) leftOut(h *parsed, i, j int) error {
	if day, _ := h.droppable(i, j); !l.over(day) {
		return fmt.Errorf("a part was left out of a pack before its day %v was over: %w", day, ErrDamaged)
	}
	return errLeftOut
}

// over reports whether a day is over by the store's clock: what expired with it
// may have been removed, whatever a root key that was restored still opens.
func (l *Log) over(d event.Day) bool { return d < event.DayOf(l.Now()) }

// chunk names a stretch of a pack.
type chunk struct {
	key string
	n   int64
}

// packRange reads n bytes of a pack. Who reads near to what was read lately gets
// them from a large stretch, which others will need, too.
func (l *Log) packRange(ctx context.Context, k *packObject, p event.Partition, s event.Seq, off, n int64) ([]byte, error) {
	first, last := off/packChunk, (off+max(n, 1)-1)/packChunk
	if last-first > 1 || !l.readsOn(k.key, p, s, first) {
		return l.exactly(ctx, k.key, off, n)
	}
	var out []byte
	for c := first; c <= last; c++ {
		b, err := l.cache.chunks.get(ctx, chunk{k.key, c}, func(ctx context.Context) ([]byte, error) {
			return l.exactly(ctx, k.key, c*packChunk, min(packChunk, k.size-c*packChunk))
		})
		if err != nil {
			return nil, err
		}
		from, to := max(off-c*packChunk, 0), min(off+n-c*packChunk, int64(len(b)))
		if first == last {
			return b[from:to:to], nil
		}
		out = append(out, b[from:to]...)
	}
	return out, nil
}

// readsOn reports whether a stretch of a pack is at hand, or worth reading since
// a segment nearby was read lately.
func (l *Log) readsOn(key string, p event.Partition, s event.Seq, c int64) bool {
	if _, ok := l.cache.chunks.peek(chunk{key, c}); ok {
		return true
	}
	near := slot{p, s / nearby}
	_, here := l.cache.nearby.peek(near)
	_, before := l.cache.nearby.peek(slot{p, near.s - 1})
	l.cache.nearby.keep(near, struct{}{})
	return here || before
}

// exactly reads n bytes of an object that has them.
func (l *Log) exactly(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := l.getRange(ctx, key, off, n)
	if err != nil {
		return nil, fmt.Errorf("read pack %s: %w", key, err)
	}
	if int64(len(b)) != n {
		return nil, fmt.Errorf("pack %s is cut short: %w", key, ErrDamaged)
	}
	return b, nil
}
