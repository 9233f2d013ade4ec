package retention

import (
	"context"
	"fmt"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/projection"
)

const (
	// orphanAge is how old a body without an event is at least: no message takes
	// that long.
	orphanAge = 24 * time.Hour
	// orphanBatch is how many are condemned at once.
	orphanBatch = 1000
)

// orphans removes bodies to which no event refers: of messages that were refused
// after their bodies had been sent. They are condemned first, in every partition in
// which their event could appear.
func (s *Service) orphans(ctx context.Context) error {
	before := s.now().Add(-s.log.Shift() - orphanAge)
	var batch []eventlog.Blob
	for b, err := range s.log.Blobs(ctx, s.over()+1) {
		if err != nil {
			return err
		}
		if !b.Modified.Before(before) {
			continue
		}
		if batch = append(batch, b); len(batch) == orphanBatch {
			if err := s.removeOrphans(ctx, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	return s.removeOrphans(ctx, batch)
}

// removeOrphans removes those of some bodies that have no event.
func (s *Service) removeOrphans(ctx context.Context, batch []eventlog.Blob) error {
	batch, err := s.unknown(ctx, batch)
	if err != nil || len(batch) == 0 {
		return err
	}
	named := event.ObjectsCondemned{At: s.millis()}
	for _, b := range batch {
		named.Messages = append(named.Messages, b.ID)
	}
	tenants, _, err := s.tenants(ctx)
	if err != nil {
		return err
	}
	done := map[event.Partition]bool{}
	for _, t := range tenants {
		if p := s.log.PartitionOf(t); !done[p] {
			done[p] = true
			if _, err := s.append(ctx, t, &named); err != nil {
				return fmt.Errorf("condemn bodies without an event: %w", err)
			}
		}
	}
	// What has landed before it was condemned is known now; later it cannot land.
	if err := s.refresh(ctx); err != nil {
		return err
	}
	if batch, err = s.unknown(ctx, batch); err != nil {
		return err
	}
	failpoint.Hit(failpoint.OrphansNamed)
	gone := 0
	for _, b := range batch {
		n, err := s.log.RemoveBlob(ctx, b)
		if gone += n; err != nil {
			return err
		}
	}
	s.logger.Info("bodies without an event were removed", "bodies", len(batch), "objects", gone)
	return nil
}

// unknown returns the bodies that no event refers to, as far as this node has
// folded the log.
func (s *Service) unknown(ctx context.Context, batch []eventlog.Blob) (out []eventlog.Blob, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		for _, b := range batch {
			row, err := v.Get(bodyKey(b.Day, b.ID))
			if err != nil {
				return err
			}
			if row == nil {
				out = append(out, b)
			}
		}
		return nil
	})
	return out, err
}
