package eventlog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/objstore"
)

// removeBatch is how many keys are listed before they are removed.
const removeBatch = 1000

// ErrNotOver says that days cannot be removed yet.
var ErrNotOver = errors.New("the keys of these days are not gone")

// Removed is what was removed from the bucket.
type Removed struct {
	Objects, Bytes uint64
	// Locked objects the store does not let go (S3 Object Lock). They open no
	// more.
	Locked uint64
}

// RemoveDays removes all bodies and key pages of the days before the given one
// from the bucket. It removes nothing that somebody could still read:
// [ErrNotOver] unless the ratchet of the key service has passed those days.
//
// It may be called again, by several nodes at once, and goes on where it stopped.
// What it says was removed was, also where it returns an error.
func (l *Log) RemoveDays(ctx context.Context, before event.Day) (r Removed, err error) {
	if l.readOnly.Load() {
		return r, l.refusal()
	}
	if err := l.passed(ctx, before-1); err != nil {
		return r, fmt.Errorf("remove days before %v: %w", before, err)
	}
	for _, prefix := range []string{"blob/", "key/"} {
		if prefix == "blob/" && sabotage.On(sabotage.BlobLeft) {
			continue
		}
		if err := l.removeDays(ctx, prefix, before, &r); err != nil {
			return r, fmt.Errorf("remove days before %v: %w", before, err)
		}
	}
	return r, nil
}

// passed returns ErrNotOver unless the key service derives no keys of a day any
// more.
func (l *Log) passed(ctx context.Context, d event.Day) error {
	keys, err := l.keys.tenant(ctx, event.SystemTenant)
	if err != nil {
		return err
	}
	_, err = l.opt.Keys.DayPair(ctx, keys, d)
	switch {
	case errors.Is(err, crypto.ErrExpired):
		return nil
	case err == nil, errors.Is(err, crypto.ErrTooFar):
		return fmt.Errorf("%v: %w", d, ErrNotOver)
	}
	return err
}

func (l *Log) removeDays(ctx context.Context, prefix string, before event.Day, r *Removed) error {
	for after := ""; ; {
		batch, last, err := l.listDays(ctx, prefix, after, before)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, o := range batch {
			if err := l.removeOne(ctx, o, r); err != nil {
				return err
			}
		}
		if last == "" {
			return nil
		}
		after = last
	}
}

// removeOne removes an object, and counts it.
func (l *Log) removeOne(ctx context.Context, o objstore.Info, r *Removed) error {
	failpoint.Hit(failpoint.DayRemove)
	err := l.bucket.Delete(ctx, o.Key)
	switch {
	case errors.Is(err, objstore.ErrLocked):
		r.Locked++
	case err != nil:
		return fmt.Errorf("remove %s: %w", o.Key, err)
	default:
		r.Objects++
		r.Bytes += uint64(o.Size)
		failpoint.Hit(failpoint.DayRemoved)
	}
	return nil
}

// listDays returns some objects of days before the given one, and after which
// key to go on; none when that was all.
func (l *Log) listDays(ctx context.Context, prefix, after string, before event.Day) (batch []objstore.Info, last string, err error) {
	for info, err := range l.bucket.List(ctx, prefix, after) {
		if err != nil {
			return nil, "", err
		}
		day, ok := dayOfKey(info.Key, prefix)
		if ok && day >= before || strings.HasPrefix(info.Key, tenantPrefix) {
			return batch, "", nil // days ascend, and tenants' keys come behind them
		}
		if !ok {
			continue // whatever that is, it is not ours to remove
		}
		if batch = append(batch, info); len(batch) == removeBatch {
			return batch, info.Key, nil
		}
	}
	return batch, "", nil
}

// dayOfKey reads the day in a key prefix<day>/...
func dayOfKey(key, prefix string) (event.Day, bool) {
	name, rest, ok := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	if !ok || rest == "" {
		return 0, false
	}
	d, err := event.ParseDay(name)
	return d, err == nil && d.String() == name
}
