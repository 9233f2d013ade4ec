package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/projection"
)

// standing is what the fold has about Bases.
type standing struct {
	install installRow
	bases   [][]eventlog.Base // of each projection, the newest first
	erased  []event.Seq       // segment of the last erasure in each partition
	posted  []event.Seq       // of the first message of the bus
}

// standing reads how the Bases of this program's projections stand.
func (s *Service) standing(ctx context.Context) (st standing, err error) {
	err = s.view(ctx, event.SystemTenant, func(v projection.View) error {
		if _, err := getRow(v, installKey(), &st.install); err != nil {
			return err
		}
		for _, p := range s.runner.Status() {
			var row baseRow
			if _, err := getRow(v, baseKey(p.Name, uint32(p.Version)), &row); err != nil {
				return err
			}
			st.bases = append(st.bases, row.Bases)
		}
		st.erased, err = inPartitions(v, keyErasedAt, s.log.Partitions(), func(a, b event.Seq) bool { return a > b })
		if err == nil {
			st.posted, err = inPartitions(v, keyPosted, s.log.Partitions(), func(a, b event.Seq) bool { return a < b })
		}
		return err
	})
	return st, err
}

// inPartitions returns of the positions under a tag the one in each partition that
// comes before all others; 0 where there is none.
func inPartitions(v projection.View, tag byte, partitions int, before func(a, b event.Seq) bool) ([]event.Seq, error) {
	out := make([]event.Seq, partitions)
	for it, err := range v.Scan([]byte{tag}, nil, false) {
		var at event.Position
		if err == nil {
			err = event.Unmarshal(it.Value, &at)
		}
		if err != nil {
			return nil, err
		}
		if p := int(at.Partition); p < partitions && (out[p] == 0 || before(at.Seq, out[p])) {
			out[p] = at.Seq
		}
	}
	return out, nil
}

// stale reports whether a Base has something in it that was erased since.
func (st *standing) stale(b eventlog.Base) bool {
	for p, seq := range st.erased {
		if p >= len(b.Taken.Cursors) || b.Taken.Cursors[p].Seq < seq {
			return true
		}
	}
	return false
}

// wanting returns which projections need another Base: after a day has expired,
// and after an erasure. A log of which nothing was ever removed needs none.
func (st *standing) wanting() (out []int) {
	for i, bases := range st.bases {
		switch {
		case len(bases) == 0:
			if st.install.RatchetAt > 0 || slices.ContainsFunc(st.erased, func(s event.Seq) bool { return s > 0 }) {
				out = append(out, i)
			}
		case bases[0].Taken.At < st.install.RatchetAt || st.stale(bases[0]):
			out = append(out, i)
		}
	}
	return out
}

// takeBases takes the Bases that are wanting, removes what they replace, and lets
// the log begin where the older ones do. One projection that fails does not keep
// others back.
func (s *Service) takeBases(ctx context.Context) error {
	st, err := s.standing(ctx)
	if err != nil {
		return err
	}
	// A projection that is behind would give a Base that still has what was erased.
	if err := s.folded(ctx); err != nil {
		return err
	}
	var failed error
	names := s.runner.Status()
	for _, i := range st.wanting() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failed = errors.Join(failed, s.takeBase(ctx, names[i].Name))
	}
	if st, err = s.standing(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(st.bases, func(bs []eventlog.Base) bool { return len(bs) > 0 }) {
		return failed
	}
	// Also when none was taken now: who took the last may have died before this.
	return errors.Join(failed, s.publish(ctx, &st), s.raiseStarts(ctx, &st))
}

func (s *Service) takeBase(ctx context.Context, name string) error {
	if err := s.folded(ctx); err != nil {
		return err
	}
	taken, err := s.runner.TakeBase(ctx, name)
	if err != nil {
		return err
	}
	taken.At = s.millis()
	failpoint.Hit(failpoint.BaseStored)
	if _, err = s.append(ctx, event.SystemTenant, taken); err == nil {
		failpoint.Hit(failpoint.BaseNamed)
	}
	return err
}

// publish makes the Bases known that the log names, and removes pieces of others:
// at once when something in them was erased.
func (s *Service) publish(ctx context.Context, st *standing) error {
	var keep []eventlog.Base
	var failed error
	atOnce := false
	names := s.runner.Status()
	for i, bases := range st.bases {
		published, err := s.log.Bases(ctx, names[i].Name)
		if err != nil {
			return err
		}
		atOnce = atOnce || slices.ContainsFunc(published, st.stale)
		for _, b := range slices.Backward(bases) {
			if st.stale(b) {
				continue
			}
			err := s.log.PublishBases(ctx, b)
			if errors.Is(err, eventlog.ErrBaseGone) {
				continue // another is taken tomorrow
			}
			if err != nil {
				return err
			}
			failpoint.Hit(failpoint.BasePublished)
			keep = append(keep, b)
		}
		if len(bases) > 0 && st.stale(bases[0]) {
			// What is published of it stays; the others' is swept.
			failed = errors.Join(failed, fmt.Errorf("no Base of %s is free of what was erased", names[i].Name))
		}
	}
	_, err := s.log.SweepSnaps(ctx, keep, atOnce)
	return errors.Join(failed, err)
}

// raiseStarts lets each partition's log begin where every projection has two
// Bases to start from. Where the bus is used it begins no later than its messages.
func (s *Service) raiseStarts(ctx context.Context, st *standing) error {
	if st.install.RatchetAt == 0 {
		return nil // nothing has expired, so that nothing could be removed
	}
	to := make([]eventlog.Cursor, s.log.Partitions())
	for i, p := range s.runner.Status() {
		published, err := s.log.Bases(ctx, p.Name)
		if err != nil {
			return err
		}
		published = slices.DeleteFunc(published, func(b eventlog.Base) bool { return b.Taken.Version != uint32(p.Version) })
		if len(published) < basesKept {
			return nil
		}
		// A worker that stood still may have taken the newer of them earlier.
		for k, b := range published[:basesKept] {
			for n, c := range b.Taken.Cursors[:min(len(b.Taken.Cursors), len(to))] {
				if at := (eventlog.Cursor{Seq: c.Seq, Hash: c.Hash}); i+k == 0 || at.Seq < to[n].Seq {
					to[n] = at
				}
			}
		}
	}
	for n, at := range to {
		if at.Seq == 0 || st.posted[n] > 0 && at.Seq >= st.posted[n] {
			continue
		}
		if err := s.log.RaiseStart(ctx, event.Partition(n), at); err != nil {
			return err
		}
	}
	return nil
}

// pack merges segments, leaving out what has expired.
func (s *Service) pack(ctx context.Context) error {
	_, row, err := s.gone(ctx)
	if err != nil {
		return err
	}
	before := row.Ratchet
	if r := s.cfg.Ratchet; r != nil {
		before = min(before, r.Day()) // this node's may wait
	}
	var failed error
	for p := range s.log.Partitions() {
		_, err := s.log.Pack(ctx, event.Partition(p), eventlog.PackOptions{Before: before})
		failed = errors.Join(failed, err)
	}
	return failed
}
