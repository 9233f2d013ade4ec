package eventlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"holdfast/event"
	"holdfast/objstore"
)

const (
	// packChunk is how much of a pack is read at once by who reads one segment
	// after the other.
	packChunk = 4 << 20
	// packFirst is how much of a pack is fetched before its index's size is known.
	packFirst = 128 << 10
	// nearby segments are read by who reads one after the other.
	nearby = 16
)

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

// fronted is a front as it was put, but for parts of days before cut, which were
// left out of a pack and are zeros here.
type fronted struct {
	bytes []byte
	cut   event.Day
	sound bool // the parts that are wanted are there, with their digests
}

// headed is a header with its front.
type headed struct {
	h     *parsed
	front fronted
}

// readFront reads the header of a segment and, if it has events of the classes,
// all parts but bodies; else the front is empty. It reads from a pack what is
// said to be packed: under its key there may be something else by now, see
// [partition.void]. Where parts of those events are damaged it looks for them
// elsewhere, and returns what there is.
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
	case err == nil, !missing && !usable(err) && !errors.Is(err, ErrDamaged), missing && s > max(f.packed.Seq, l.TailAtLeast(p)):
		return r, err
	case missing && s > f.packed.Seq:
		// The key is gone: the floor must have risen.
		if _, err := l.readFloor(ctx, p); err != nil && !errors.Is(err, ErrDamaged) {
			return headed{}, err
		}
	}
	other, again := second(ctx, p, s, classes)
	switch {
	case again == nil, usable(again) && !usable(err):
		return other, nil
	case usable(err):
		return r, nil
	case errors.Is(again, objstore.ErrNotExist):
		return r, err // what the first one said
	}
	return other, again
}

// readPacked is readFront for a segment that is in a pack. See [flawed].
func (l *Log) readPacked(ctx context.Context, p event.Partition, s event.Seq, classes event.Classes) (headed, error) {
	return inPack(ctx, l, p, piece{s: s, classes: classes}, func(k *packObject) (headed, error) {
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
		r := headed{h, fronted{bytes: h.spread(raw, e.Cut), cut: e.Cut}}
		if err := l.checkFront(ctx, &r, classes); err != nil {
			return r, flawed{fmt.Errorf("segment %d in pack %s: %w", s, k.key, err)}
		}
		return r, nil
	})
}

// checkFront compares the parts of a front that are wanted with their digests, and
// looks whether those that are missing may be: errLeftOut when their day is over by
// the store's clock, but has not passed for the root key.
func (l *Log) checkFront(ctx context.Context, r *headed, classes event.Classes) error {
	h := r.h
	var early error
	for i := range h.Events {
		if !classes.Has(h.Events[i].Class) {
			continue
		}
		for j := range h.Events[i].Parts {
			part, off := &h.Events[i].Parts[j], h.offsets[i][j]
			switch {
			case part.Role == event.RoleBody || off < 0:
			case h.absent(i, j, r.front.cut):
				day, _ := h.droppable(i, j)
				if err := l.leftOut(h, i, j); errors.Is(err, ErrDamaged) {
					return err
				} else if !l.behind(ctx, day) {
					early = err
				}
			case sha256.Sum256(r.front.bytes[off:off+part.Length]) != part.Digest:
				return fmt.Errorf("event %d, part %d: digest: %w", i, part.Role, ErrDamaged)
			}
		}
	}
	r.front.sound = early == nil
	return early
}

// behind reports whether the ratchet has passed a day.
func (l *Log) behind(ctx context.Context, d event.Day) bool {
	if int64(d) <= l.ratchet.Load() {
		return true
	}
	if l.passed(ctx, d) != nil {
		return false
	}
	for {
		at := l.ratchet.Load()
		if at >= int64(d) || l.ratchet.CompareAndSwap(at, int64(d)) {
			return true
		}
	}
}

// packedBody reads an inline body of a segment that is in a pack. crypto.ErrExpired
// when it was left out since its day is over.
func (l *Log) packedBody(ctx context.Context, h *parsed, i, j int) ([]byte, error) {
	return inPack(ctx, l, h.Partition, piece{s: h.Seq, i: i, j: j}, func(k *packObject) ([]byte, error) {
		e := k.entry(h.Seq)
		if h.absent(i, j, e.Cut) {
			return nil, l.leftOut(h, i, j)
		}
		off, part := h.packedBody(i, j, e.Cut), &h.Events[i].Parts[j]
		if off+part.Length > e.Bodies {
			return nil, fmt.Errorf("segment %d in pack %s has other lengths: %w", h.Seq, k.key, ErrDamaged)
		}
		b, err := l.packRange(ctx, k, h.Partition, h.Seq, k.bodies[h.Seq-k.first]+off, part.Length)
		if err == nil && sha256.Sum256(b) != part.Digest {
			err = fmt.Errorf("segment %d in pack %s: digest of a body: %w", h.Seq, k.key, ErrDamaged)
		}
		return b, err
	})
}

// leftOut says what it means that a part was left out of a pack.
func (l *Log) leftOut(h *parsed, i, j int) error {
	if day, _ := h.droppable(i, j); !l.over(day) {
		return fmt.Errorf("a part of day %v: %w", day, errTooEarly)
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
