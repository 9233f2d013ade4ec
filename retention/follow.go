package retention

import (
	"context"
	"fmt"
	"time"

	"holdfast/event"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

// maxSkew is how far this node's clock may be from the store's when it forgets
// keys.
const maxSkew = 5 * time.Minute

// Follow moves this node's ratchet when the log says that a day has expired, and
// this node's own clock agrees. Every node runs it, until ctx ends.
func (s *Service) Follow(ctx context.Context) {
	for ctx.Err() == nil {
		passed, err := s.advance(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.Error("the ratchet does not move; it is tried again", "error", err)
		}
		wait := time.Minute
		if passed && err == nil {
			wait = again // or when there is news
		}
		pause(ctx, wait, s.move, "ratchet")
	}
}

// advance moves the ratchet to where the log says, and reports whether it stands
// there. It does not while this node's clock says that the day is not over.
func (s *Service) advance(ctx context.Context) (bool, error) {
	var row installRow
	err := s.runner.View(ctx, foldName, func(v projection.View) error {
		_, err := getRow(v, installKey(), &row)
		return err
	})
	if err != nil {
		return false, err
	}
	if r := s.cfg.Ratchet; r != nil && r.Day() < row.Ratchet {
		if !s.agrees(row.Ratchet) {
			s.note(func(w *Work) { w.RatchetWaits = row.Ratchet })
			return false, nil
		}
		if sabotage.On(sabotage.RatchetStays) {
			return true, nil
		}
		if err := r.AdvanceTo(row.Ratchet); err != nil {
			return false, fmt.Errorf("forget expired keys: %w", err)
		}
	}
	if row.Ratchet > 0 {
		s.log.Forget(row.Ratchet)
	}
	s.note(func(w *Work) { w.RatchetWaits = 0 })
	return true, nil
}

// agrees reports whether both clocks, this machine's and the store's, say that a
// day has begun, and are close to each other.
func (s *Service) agrees(d event.Day) bool {
	store, own := s.now(), time.Now().Add(s.log.Shift())
	skew := store.Sub(own)
	return skew <= maxSkew && skew >= -maxSkew && !store.Before(d.Start()) && !own.Before(d.Start())
}
