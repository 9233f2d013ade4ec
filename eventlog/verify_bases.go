package eventlog

import (
	"context"
	"slices"

	"holdfast/event"
)

// bases verifies the published Bases, piece by piece: that each was sealed for its
// place. Whether the whole has its hash is seen by whoever loads it, every day.
func (v *verifier) bases(ctx context.Context) error {
	list, _, err := v.log.readBases(ctx)
	if err != nil {
		if !damaging(err) {
			return err
		}
		v.report(Finding{Index: -1, Key: baseListKey, What: DamagedBase, Err: err})
		return nil
	}
	seen := map[event.Snap]bool{}
	for _, b := range list.Bases {
		names, err := v.log.BaseChunks(ctx, b)
		if err := v.piece(ctx, b, b.Taken.Index, err); err != nil {
			return err
		}
		for _, s := range names {
			if seen[s] {
				continue
			}
			seen[s] = true
			_, err := v.log.Snap(ctx, s)
			if err := v.piece(ctx, b, s, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// piece reports what is wrong with a piece of a Base, unless the Base has been
// replaced meanwhile.
func (v *verifier) piece(ctx context.Context, b Base, s event.Snap, err error) error {
	if err == nil || !damaging(err) {
		return err
	}
	now, _, lerr := v.log.readBases(ctx)
	if lerr == nil && !slices.ContainsFunc(now.Bases, b.is) {
		return nil
	}
	v.report(Finding{Index: -1, Key: snapKey(s), What: DamagedBase, Err: err})
	return nil
}
