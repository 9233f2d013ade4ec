package projection

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"holdfast/event"
)

// Purger is a [Store] whose files keep what was deleted until they are rewritten.
type Purger interface {
	Store
	// Purge returns nil once none of the files has anything that had been deleted
	// or overwritten when it was called. Snapshots that are open then have to be
	// closed before. It is called by one goroutine at a time, while the store is
	// used; after an error it has to be called again, and costs as much.
	Purge(ctx context.Context) error
}

// A transaction that deletes what has to leave the files ([Txn.Purge]) commits a
// mark with it:
//
//	tagPurge slot (4) partition (1) segment (8)   when the segment was written (8)
//
// A purge that begins later ends it. So it is done at the next start if it was not
// done at this one. Marks are no part of any state.

const (
	// purgeAfter is how long more is waited for after the first mark, so that one
	// purge does for several.
	purgeAfter = 2 * time.Second
	// purgeRest is how much longer than the last purge nothing is purged after it.
	purgeRest = 10
)

func purgeKey(s slot, p event.Partition, seq event.Seq) []byte {
	return binary.BigEndian.AppendUint64(append(slotKey(tagPurge, s), byte(p)), uint64(seq))
}

// purgeOps marks that what a transaction deletes is to be purged.
func (r *Runner) purgeOps(s slot, p event.Partition, seq event.Seq, at event.Millis) []Op {
	if _, ok := r.store.(Purger); !ok {
		return nil
	}
	return []Op{{Key: purgeKey(s, p, seq), Value: binary.BigEndian.AppendUint64(nil, uint64(at))}}
}

// mustPurge wakes the purge.
func (r *Runner) mustPurge() {
	select {
	case r.purges <- struct{}{}:
	default: // it is about to look anyway
	}
}

// Unpurged returns since when the local database's files keep something that was
// erased, by the time of the event, and what keeps them from being rewritten.
// Zero: they do not.
func (r *Runner) Unpurged() (since time.Time, trouble error) {
	_, since, err := r.marked()
	if t := r.purgeTrouble.Load(); t != nil && !since.IsZero() {
		trouble = *t
	}
	return since, errors.Join(err, trouble)
}

// marked returns the marks that there are, and the time of the oldest.
func (r *Runner) marked() (marks []Op, since time.Time, err error) {
	if _, ok := r.store.(Purger); !ok {
		return nil, since, nil
	}
	snap, err := r.store.Snapshot()
	if err != nil {
		return nil, since, err
	}
	defer snap.Close()
	for it, err := range snap.Scan([]byte{tagPurge}, nil, false) {
		if err == nil && len(it.Value) != 8 {
			err = fmt.Errorf("mark of %d bytes: %w", len(it.Value), event.ErrMalformed)
		}
		if err != nil {
			return nil, since, err
		}
		marks = append(marks, Op{Key: append([]byte{}, it.Key...), Delete: true})
		if at := time.UnixMilli(int64(binary.BigEndian.Uint64(it.Value))); since.IsZero() || at.Before(since) {
			since = at
		}
	}
	return marks, since, nil
}

// purge purges the store whenever there are marks, until ctx ends.
func (r *Runner) purge(ctx context.Context, st Purger) {
	var next time.Time
	for ctx.Err() == nil {
		marks, _, err := r.marked()
		if err == nil && len(marks) == 0 {
			select {
			case <-ctx.Done():
			case <-r.purges:
			}
			continue
		}
		sleep(ctx, max(purgeAfter, time.Until(next)))
		if ctx.Err() != nil {
			return
		}
		begun := time.Now()
		err = r.purgeOnce(ctx, st)
		next = time.Now().Add(purgeRest * time.Since(begun))
		if ctx.Err() != nil {
			return
		}
		if r.purgeTrouble.Store(&err); err != nil {
			r.logger.Warn("what was erased is still in the local database's files; trying again", "error", err)
			sleep(ctx, time.Minute)
		}
	}
}

func (r *Runner) purgeOnce(ctx context.Context, st Purger) error {
	marks, _, err := r.marked()
	if err != nil {
		return err
	}
	if err := st.Purge(ctx); err != nil {
		return err
	}
	return st.Commit(marks)
}
