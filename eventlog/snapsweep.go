package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

const (
	// snapAge is how long a piece that no Base names is left alone: somebody may be
	// taking a Base. Should that take longer, the Base is refused and taken again.
	snapAge = 24 * time.Hour
	// removeAtOnce bounds the names that are in the list at a time.
	removeAtOnce = 50_000
)

// SnapsRemoved says what was removed.
type SnapsRemoved struct {
	Objects uint64
	Bytes   int64
	// Locked objects were not removed, because the store forbids it.
	Locked uint64
}

// SweepSnaps removes the pieces of Bases that are not needed any more. Of each
// projection of which keep has a Base, those published Bases are dropped that are
// older than a published one in keep and not in keep; Bases of other projections, and
// newer ones, stay. Then every piece goes that no published Base and none in keep
// names: after a day, or with atOnce now, as after an erasure. What another node is
// taking then has to be taken anew. Nothing is removed while the list of Bases, or
// the index of one that stays, is damaged.
//
// It may be called again, and by several nodes at once.
func (l *Log) SweepSnaps(ctx context.Context, keep []Base, atOnce bool) (SnapsRemoved, error) {
	var total SnapsRemoved
	for {
		some, more, err := l.sweepSnaps(ctx, keep, atOnce)
		total.Objects += some.Objects
		total.Bytes += some.Bytes
		total.Locked += some.Locked
		if err != nil {
			return total, fmt.Errorf("remove pieces of old Bases: %w", err)
		}
		if !more || some.Objects == 0 {
			return total, nil
		}
	}
}

func (l *Log) sweepSnaps(ctx context.Context, keep []Base, atOnce bool) (removed SnapsRemoved, more bool, err error) {
	sizes := map[event.Snap]int64{}
	var removing []event.Snap
	err = l.changeBases(ctx, false, func(list *baseList) (bool, error) {
		before := len(list.Bases)
		stay := slices.DeleteFunc(slices.Clone(keep), func(k Base) bool { return !slices.ContainsFunc(list.Bases, k.is) })
		list.Bases = slices.DeleteFunc(list.Bases, func(b Base) bool { return dropped(b, stay) })
		found, left, err := l.unnamed(ctx, list.Bases, keep, atOnce, sizes)
		if err != nil {
			return false, err
		}
		removing, more = found, left
		// What an earlier sweep did not finish is finished by this one. It may be
		// gone already, so that it does not show in a listing.
		for _, s := range list.Removing {
			if !slices.Contains(removing, s) {
				removing = append(removing, s)
			}
		}
		list.Removing = removing
		return len(list.Bases) != before || len(removing) > 0, nil
	})
	if err != nil || len(removing) == 0 {
		return removed, false, err
	}
	gone := make(map[event.Snap]bool, len(removing))
	for _, s := range removing {
		err := l.bucket.Delete(ctx, snapKey(s))
		if err != nil && !errors.Is(err, objstore.ErrLocked) {
			return removed, false, err // named in the list, and so found by the next sweep
		}
		gone[s] = true
		if err != nil {
			removed.Locked++ // it is looked for again, and stands in nobody's way
			continue
		}
		if size, ok := sizes[s]; ok {
			removed.Objects++
			removed.Bytes += size
		}
	}
	return removed, more, l.changeBases(ctx, false, func(list *baseList) (bool, error) {
		before := len(list.Removing)
		list.Removing = slices.DeleteFunc(list.Removing, func(s event.Snap) bool { return gone[s] })
		return len(list.Removing) != before, nil
	})
}

// dropped reports whether a published Base is one that was replaced by those in
// keep.
func dropped(b Base, keep []Base) bool {
	older := false
	for _, k := range keep {
		if k.Taken.Projection != b.Taken.Projection {
			continue
		}
		if k.is(b) {
			return false
		}
		older = older || b.Ref.Position.Less(k.Ref.Position)
	}
	return older
}

// unnamed returns the pieces in the bucket that none of the Bases names, nor one in keep, as many
// as are removed at once, and whether there are more. It notes their sizes.
func (l *Log) unnamed(ctx context.Context, bases, keep []Base, atOnce bool, sizes map[event.Snap]int64) (found []event.Snap, more bool, err error) {
	named, err := l.named(ctx, bases)
	if err != nil {
		return nil, false, err // nobody can say what is a piece of it; when in doubt, keep
	}
	for _, k := range keep {
		names, err := l.baseIndex(ctx, k.Taken)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, false, err
		}
		named[k.Taken.Index] = true
		for _, s := range names {
			named[s] = true
		}
	}
	now := l.Now().Add(-l.Shift()) // as the store tells when it was put
	for info, err := range l.bucket.List(ctx, snapPrefix, "") {
		if err != nil {
			return nil, false, err
		}
		s, err := event.ParseSnap(strings.TrimPrefix(info.Key, snapPrefix))
		if err != nil || snapKey(s) != info.Key || named[s] {
			continue // the list itself, what others have put there, or in use
		}
		if !atOnce && (info.Modified.IsZero() || now.Sub(info.Modified) < snapAge) {
			continue
		}
		if len(found) == removeAtOnce {
			return found, true, nil
		}
		found = append(found, s)
		sizes[s] = info.Size
	}
	return found, false, nil
}
