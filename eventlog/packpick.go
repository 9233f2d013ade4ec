package eventlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

const (
	// maxNames bounds how many names of packs are remembered of a partition, and
	// maxNamesAhead how many are listed at a time.
	maxNames, maxNamesAhead = 8192, 1000
	// packTries bounds how often a segment is looked for in packs that are replaced
	// meanwhile.
	packTries = 4
	// maxBad bounds how many damaged packs of a partition are remembered.
	maxBad = maxNames
	// loneAge is how long a list is believed that showed no good pack with a segment.
	loneAge = time.Minute
)

// shelf knows names of packs of a partition. It may know some that are replaced,
// and need not know all.
type shelf struct {
	mu    sync.Mutex // never held across a call through a seam
	known []listedPack
	bad   map[packName]flaw // found damaged; at most maxBad
	// lone says since when those packs with a segment that are known are all, and
	// none of them is good; at most maxBad.
	lone map[event.Seq]moment
}

// piece is what is read of a segment: its front, for some classes, or a part of it.
type piece struct {
	s       event.Seq
	classes event.Classes
	i, j    int
}

// flaw is what is wrong with a pack, and where it was met: when the same is read
// well, or it could not be opened and can be, the pack has been mended. What a packer
// meets is of no piece.
type flaw struct {
	err  error
	of   piece
	shut bool // it could not be opened
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

// best returns the pack with a segment by which readers come furthest, of those
// that may be chosen.
func best(list []listedPack, s event.Seq, may func(packName) bool) (found listedPack, ok bool) {
	for _, k := range list {
		if k.holds(s) && (!ok || k.better(found)) && may(k.packName) {
			found, ok = k, true
		}
	}
	return found, ok
}

// best is as the function, of the packs whose names are known and that were not found
// damaged.
func (h *shelf) best(s event.Seq, may func(packName) bool) (listedPack, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i, _ := slices.BinarySearchFunc(h.known, s, func(k listedPack, s event.Seq) int { return int(k.last) - int(s) })
	return best(h.known[i:], s, func(n packName) bool { return h.bad[n].err == nil && may(n) })
}

// among returns the best of the known packs, good or not, where these are all with a
// segment; listed is false where that is not known.
func (h *shelf) among(l *Log, s event.Seq, may func(packName) bool) (k listedPack, ok, listed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at, is := h.lone[s]; !is || !l.within(at, loneAge) {
		return k, false, false
	}
	k, ok = best(h.known, s, may)
	return k, ok, true
}

// alone notes that no pack with a segment is good, of all that were listed.
func (h *shelf) alone(s event.Seq, at moment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lone == nil || len(h.lone) == maxBad {
		h.lone = map[event.Seq]moment{}
	}
	h.lone[s] = at
}

func (h *shelf) learn(more []listedPack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.known)+len(more) > maxNames {
		h.known, h.lone = nil, nil
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
	delete(h.bad, n)
	h.lone = nil
}

// findPack returns a pack that has a segment, of those that may be chosen, one that
// was found damaged only where there is no other. objstore.ErrNotExist when none is
// in the bucket.
func (l *Log) findPack(ctx context.Context, p event.Partition, s event.Seq, may func(packName) bool) (listedPack, error) {
	h := &l.partitions[p].packs
	if k, ok := h.best(s, may); ok {
		return k, nil
	}
	none := fmt.Errorf("segment %d of partition %d is in no pack: %w", s, p, objstore.ErrNotExist)
	if k, ok, listed := h.among(l, s, may); ok {
		return k, nil
	} else if listed {
		return listedPack{}, none
	}
	at := l.moment()
	more, err := l.listPacks(ctx, p, s, maxNamesAhead)
	if err != nil {
		return listedPack{}, err
	}
	h.learn(more)
	bad := h.spoiled()
	sound := func(n packName) bool { return bad[n].err == nil && may(n) }
	k, ok := best(more, s, sound)
	if !ok && len(more) == maxNamesAhead {
		// Names that somebody made up may stand before it.
		if more, err = l.packsWith(ctx, p, s); err != nil {
			return listedPack{}, err
		}
		h.learn(more)
		k, ok = best(more, s, sound)
	}
	if _, any := best(more, s, func(packName) bool { return true }); any && !ok {
		h.alone(s, at)
	}
	if !ok {
		k, ok = best(more, s, may)
	}
	if !ok {
		return listedPack{}, none
	}
	return k, nil
}

// listPacks returns up to limit packs that end at a segment or later, in the order
// of their ends.
func (l *Log) listPacks(ctx context.Context, p event.Partition, s event.Seq, limit int) (found []listedPack, err error) {
	for k, err := range l.packsFrom(ctx, p, s) {
		if err != nil {
			return nil, err
		}
		found = append(found, k)
		if len(found) == limit {
			break
		}
	}
	return found, nil
}

// packsWith returns the packs whose names say that they have a segment.
func (l *Log) packsWith(ctx context.Context, p event.Partition, s event.Seq) (found []listedPack, err error) {
	for k, err := range l.packsFrom(ctx, p, s) {
		if err != nil {
			return nil, err
		}
		if k.holds(s) {
			found = append(found, k)
		}
		if len(found) == maxNames {
			break
		}
	}
	return found, nil
}

// packsFrom yields the packs that end at a segment or later, in the order of their
// ends.
func (l *Log) packsFrom(ctx context.Context, p event.Partition, s event.Seq) iter.Seq2[listedPack, error] {
	return func(yield func(listedPack, error) bool) {
		for info, err := range l.bucket.List(ctx, packPrefix(p), packAfter(p, s)) {
			if err != nil {
				yield(listedPack{}, fmt.Errorf("look for packs: %w", err))
				return
			}
			if n, ok := parsePackKey(info.Key); ok && !yield(listedPack{n, info.Size}, nil) {
				return
			}
		}
	}
}

// inPack reads something of a segment from a pack that has it. A pack that is gone
// was replaced: another one has the segment. What is damaged in one, or left out,
// may be whole in another, and is read from that. Where none is whole it returns
// what was read of the first that was [flawed], else the first error, one that says
// damage before one that says that a part was left out. objstore.ErrNotExist when
// none has the segment.
func inPack[T any](ctx context.Context, l *Log, p event.Partition, of piece, read func(*packObject) (T, error)) (v T, err error) {
	h := &l.partitions[p].packs
	var tried []packName
	var worst error // of those that were tried, and v is of the one that made it
	for gone := 0; ; {
		k, err := l.findPack(ctx, p, of.s, func(n packName) bool { return !slices.Contains(tried, n) })
		if errors.Is(err, objstore.ErrNotExist) && worst != nil {
			return v, worst
		}
		if err != nil {
			return v, err
		}
		key := k.key(p)
		var got T
		object, err := l.cache.packs.get(ctx, key, func(ctx context.Context) (*packObject, error) { return l.openPack(ctx, p, k, l.getRange) })
		if err == nil {
			if got, err = read(object); err == nil {
				h.healed(k.packName, of)
				return got, nil
			}
		}
		switch {
		case errors.Is(err, objstore.ErrNotExist):
			h.forget(k.packName)
			l.cache.packs.dropOne(key, func(*packObject) bool { return true })
			if gone++; gone == packTries {
				return v, err
			}
			continue
		case errors.Is(err, errTooEarly):
		case errors.Is(err, ErrDamaged):
			l.spoil(p, k.packName, flaw{err, of, object == nil})
		case !errors.Is(err, errLeftOut):
			return v, err
		}
		tried = append(tried, k.packName)
		if worst == nil || !usable(worst) && (usable(err) || errors.Is(err, ErrDamaged) && !errors.Is(worst, ErrDamaged)) {
			v, worst = got, err
		}
	}
}

// flawed is the error with which something comes that can be used, although parts
// of it are damaged, or are left out before it is certain that they may be.
type flawed struct{ err error }

func (f flawed) Error() string { return f.err.Error() }
func (f flawed) Unwrap() error { return f.err }

func usable(err error) bool {
	_, ok := errors.AsType[flawed](err)
	return ok
}

// BadPack is a pack that was found damaged, or is none that a node wrote.
type BadPack struct {
	Key string
	Err error
}

// BadPacks returns the packs that this process has found damaged, and not whole
// since, in the order of their keys. What is in them is read from elsewhere where
// that is possible; [Log.Verify] says where it is not.
func (l *Log) BadPacks() (found []BadPack) {
	for i, p := range l.partitions {
		for n, f := range p.packs.spoiled() {
			found = append(found, BadPack{n.key(event.Partition(i)), f.err})
		}
	}
	slices.SortFunc(found, func(a, b BadPack) int { return strings.Compare(a.Key, b.Key) })
	return found
}

// spoil remembers that a pack is damaged, so that others are looked at first.
func (l *Log) spoil(p event.Partition, n packName, f flaw) {
	key := n.key(p)
	if l.partitions[p].packs.spoil(n, f) {
		l.logger.Error("a pack is damaged, and passed over where there is another; run holdfast log verify", "pack", key, "error", f.err)
	}
	l.cache.packs.dropOne(key, func(*packObject) bool { return true })
	l.cache.chunks.drop(func(c chunk, _ []byte) bool { return c.key == key })
}

// spoil reports whether the pack is new among the bad ones.
func (h *shelf) spoil(n packName, f flaw) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.bad[n]; ok || len(h.bad) == maxBad {
		return false
	}
	if h.bad == nil {
		h.bad = map[packName]flaw{}
	}
	h.bad[n] = f
	return true
}

// keepBad forgets the bad packs that are not in the bucket any more, of which all are
// listed.
func (h *shelf) keepBad(list []listedPack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.bad, func(n packName, _ flaw) bool {
		return !slices.ContainsFunc(list, func(k listedPack) bool { return k.packName == n })
	})
}

// mend notes that a pack was found whole.
func (h *shelf) mend(n packName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.bad, n)
}

// healed notes that something was read well of a pack.
func (h *shelf) healed(n packName, of piece) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f, ok := h.bad[n]; ok && (f.of == of || f.shut) {
		delete(h.bad, n)
	}
}

// spoiled returns the packs that were found damaged.
func (h *shelf) spoiled() map[packName]flaw {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.bad)
}
