package eventlog

import (
	"context"
	"errors"
	"fmt"

	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

// removeKeys removes the keys of segments that are in packs, a day after the floor
// rose past them.
func (w *packing) removeKeys(ctx context.Context) error {
	l := w.log
	f, err := l.readFloor(ctx, w.p)
	if err != nil {
		return err
	}
	upTo := min(f.rested(l.Now()), f.packed.Seq)
	if upTo == 0 {
		return nil
	}
	covered, err := w.coveredTo(ctx, f.start.Seq)
	if err != nil {
		return err
	}
	tail := l.TailAtLeast(w.p)
	var keys []event.Seq
	for info, err := range l.bucket.List(ctx, segmentPrefix(w.p), "") {
		if err != nil {
			return fmt.Errorf("look for segments: %w", err)
		}
		s, ok := parseSegmentKey(info.Key)
		if !ok {
			continue
		}
		// A missing pack, or a tail that is not known: in doubt nothing is removed.
		if s > upTo || s >= tail {
			break
		}
		if s > covered {
			w.fail(inNoPack(covered + 1))
			break
		}
		keys = append(keys, s)
	}
	for len(keys) > 0 {
		n := 1 // that follow each other: among them may be one that came late
		for n < len(keys) && keys[n] == keys[n-1]+1 {
			n++
		}
		kept, err := w.needed(ctx, keys[0], keys[n-1])
		if err != nil {
			return err
		}
		for _, s := range keys[:n] {
			if kept[s] {
				continue
			}
			failpoint.Hit(failpoint.KeyRemove)
			if err := l.bucket.Delete(ctx, segmentKey(w.p, s)); err != nil {
				return fmt.Errorf("remove %s: %w", segmentKey(w.p, s), err)
			}
			w.res.Keys++
		}
		keys = keys[n:]
	}
	return nil
}

// coveredTo returns up to which segment all after one are in packs.
func (w *packing) coveredTo(ctx context.Context, from event.Seq) (event.Seq, error) {
	list, err := w.list(ctx)
	if err != nil {
		return 0, err
	}
	to := from
	for _, k := range cover(list, from) {
		if k.first > to+1 {
			break
		}
		to = max(to, k.last)
	}
	return to, nil
}

func inNoPack(s event.Seq) error {
	return fmt.Errorf("segment %d is in no pack that can be read: %w", s, ErrDamaged)
}

// needed returns which of some keys that follow each other have to stay: those that
// are not in packs, which are read and checked for it, with the segments that the log
// goes on from, and of which not all days are over.
func (w *packing) needed(ctx context.Context, first, last event.Seq) (map[event.Seq]bool, error) {
	alone, err := w.alone(ctx, first, last)
	if err != nil {
		return nil, err
	}
	kept := map[event.Seq]bool{}
	for _, s := range alone {
		if kept[s], err = w.alive(ctx, s); err != nil {
			return nil, err
		}
		if kept[s] {
			w.fail(inNoPack(s))
		}
	}
	return kept, nil
}

// alone returns those of some segments that are in no pack that can be read, or
// where that is not certain.
func (w *packing) alone(ctx context.Context, first, last event.Seq) (alone []event.Seq, err error) {
	list, err := w.list(ctx)
	if err != nil {
		return nil, err
	}
	at := Cursor{Seq: first - 1}
	known := false // that at is of a segment
	var before listedPack
	gap := func(to event.Seq) error {
		if known {
			if err := w.goesOn(ctx, before, at); w.passOver(err) {
				alone = append(alone, at.Seq)
			} else if err != nil {
				return err
			}
		}
		for s := at.Seq + 1; s <= to; s++ {
			alone = append(alone, s)
		}
		known = false
		return nil
	}
	for _, k := range cover(list, first-1) {
		if k.first > last || at.Seq == last {
			break
		}
		for seg, err := range w.scan(ctx, k, at.Seq+1) {
			if err != nil {
				return nil, err
			}
			if seg.h.Seq > last {
				break
			}
			if seg.h.Seq > at.Seq+1 {
				if err := gap(seg.h.Seq - 1); err != nil {
					return nil, err
				}
			}
			if known && seg.h.Prev != at.Hash {
				return nil, w.spoiled(before, fmt.Errorf("the log does not go on from segment %d of pack %s: %w", at.Seq, before.key(w.p), ErrDamaged))
			}
			at, known = Cursor{seg.h.Seq, seg.h.hash}, true
		}
		before = k
	}
	return alone, gap(last)
}

// alive reports whether what lies under the key of a segment has to stay: mail whose
// day is not over may be nowhere else, and what cannot be read may be anything.
func (w *packing) alive(ctx context.Context, s event.Seq) (bool, error) {
	if s > w.log.Start(w.p).Seq {
		return true, nil
	}
	h, err := w.log.headerUnder(ctx, w.p, s)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return false, nil // another packer removed it
	case errors.Is(err, ErrDamaged):
		return true, nil
	case err != nil:
		return false, err
	}
	for _, page := range h.Pages {
		if page.Day >= w.o.Before {
			return true, nil
		}
	}
	return false, nil
}

// headerUnder reads the header under the key of a segment, whatever packs have.
func (l *Log) headerUnder(ctx context.Context, p event.Partition, s event.Seq) (*parsed, error) {
	key := segmentKey(p, s)
	raw, err := l.getRange(ctx, key, 0, firstRead)
	if err != nil {
		return nil, fmt.Errorf("read segment %s: %w", key, err)
	}
	n, err := headerLength(raw)
	if more := n - int64(len(raw)); err == nil && more > 0 {
		var rest []byte
		if rest, err = l.getRange(ctx, key, int64(len(raw)), more); err != nil {
			return nil, fmt.Errorf("read segment %s: %w", key, err)
		}
		raw = append(raw, rest...)
	}
	var h *parsed
	if err == nil {
		h, err = l.parse(raw, p, s, l.verify)
	}
	if err != nil {
		return nil, fmt.Errorf("segment %s: %w", key, err)
	}
	return h, nil
}
