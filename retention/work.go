package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/internal/turn"
	"holdfast/projection"
)

const (
	leaseName = "retention"
	leaseTerm = time.Minute
	// afterMidnight is when the work of the day that is over begins, so that the
	// nodes' clocks, which differ a little, agree that it is over.
	afterMidnight = time.Minute
	// again is when what could not be finished is tried again.
	again = time.Hour
	// againSoon is the same for the end of a day.
	againSoon = 5 * time.Minute
	// againBusy is when it is looked whether another node has finished it.
	againBusy = 5 * time.Minute
	// packEvery is how often segments are packed.
	packEvery = time.Hour
	// maxBatch is how many facts about tenants are appended at once.
	maxBatch = 500
)

// Run does the daily work until ctx ends. It is called once, on nodes that may
// sign retention.
func (s *Service) Run(ctx context.Context) error {
	if err := s.runner.CaughtUp(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		// A projection that stopped may know of messages that are needed: nothing
		// is destroyed until it goes on, which takes another program.
		s.note(func(w *Work) { w.Trouble = err })
		s.logger.Error("nothing expires: a projection has stopped", "error", err)
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		wait, err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.logger.Warn("retention could not be finished; it is tried again", "error", err)
		}
		s.note(func(w *Work) { w.Trouble = err })
		pause(ctx, wait, s.wake, "retention")
	}
	return nil
}

// alone calls fn while nobody else of this process works.
func (s *Service) alone(ctx context.Context, fn func() error) error {
	select {
	case s.working <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.working }()
	return fn()
}

// round does what is due, under the lease, and returns when to look again.
func (s *Service) round(ctx context.Context) (wait time.Duration, err error) {
	err = s.alone(ctx, func() (err error) {
		wait, err = s.dueWork(ctx)
		return err
	})
	return wait, err
}

func (s *Service) dueWork(ctx context.Context) (time.Duration, error) {
	if err := s.refresh(ctx); err != nil {
		return again, err
	}
	due, err := s.due(ctx)
	if err != nil {
		return again, err
	}
	if !due {
		return s.untilNext(), nil
	}
	err = s.underLease(ctx, s.work)
	switch {
	case errors.Is(err, eventlog.ErrLeased):
		return againBusy, nil
	case err != nil:
		if gone, _, e := s.gone(ctx); e == nil && s.over() < gone {
			return again, err // the day has ended; the rest is only tidying up
		}
		return againSoon, err
	}
	if due, err = s.unfinished(ctx); due || err != nil {
		return again, err
	}
	return s.untilNext(), nil
}

// RunOnce does at once what is due, and packs. [eventlog.ErrLeased] when another
// node is at it, [ErrDoubt] while the clock is not believed.
func (s *Service) RunOnce(ctx context.Context) error {
	if err := s.runner.CaughtUp(ctx); err != nil {
		return err
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	err := s.alone(ctx, func() error {
		s.packAt = time.Time{}
		return s.underLease(ctx, s.work)
	})
	if err != nil {
		return err
	}
	s.note(func(w *Work) { w.Trouble = nil })
	if left := s.Work().Doubt; left > 0 {
		return fmt.Errorf("for another %v: %w", left.Round(time.Minute), ErrDoubt)
	}
	return nil
}

// untilNext returns the time until the next day's work begins, or an hour, when
// that is sooner: the clock may be another one by then.
func (s *Service) untilNext() time.Duration {
	now := s.now()
	next := (event.DayOf(now.Add(-afterMidnight)) + 1).Start().Add(afterMidnight)
	return min(again, max(next.Sub(now), time.Second))
}

// over returns the last day whose work is due by the clock.
func (s *Service) over() event.Day { return event.DayOf(s.now().Add(-afterMidnight)) - 1 }

// due reports whether there is something to do for this or another node.
func (s *Service) due(ctx context.Context) (bool, error) {
	left, err := s.unfinished(ctx)
	return left || s.now().After(s.packAt), err
}

// unfinished reports whether something is left to do that cannot wait.
func (s *Service) unfinished(ctx context.Context) (bool, error) {
	st, err := s.standing(ctx)
	if err != nil {
		return false, err
	}
	gone, row, err := s.gone(ctx)
	if err != nil {
		return false, err
	}
	if day := s.over(); day >= gone || row.Ratchet > 0 && (row.Removed < row.Ratchet-1 || s.swept < day) || len(st.wanting()) > 0 {
		return true, nil
	}
	tenants, err := s.withOrders(ctx)
	if err != nil || len(tenants) > 0 {
		return true, err
	}
	ends, err := s.openEnds(ctx)
	return len(ends) > 0, err
}

// gone returns the first day that has not expired yet: in the log, or by the
// ratchet with which the installation began.
func (s *Service) gone(ctx context.Context) (event.Day, installRow, error) {
	var row installRow
	err := s.view(ctx, event.SystemTenant, func(v projection.View) error {
		_, err := getRow(v, installKey(), &row)
		return err
	})
	switch {
	case err != nil:
		return 0, row, err
	case s.cfg.Ratchet != nil:
		return max(row.Ratchet, s.cfg.Ratchet.Day()), row, nil
	case row.Ratchet > 0:
		return row.Ratchet, row, nil
	}
	// Nobody here knows where the ratchet stands. No mail expired before the log.
	seg, err := s.log.Segment(ctx, 0, 1)
	if errors.Is(err, eventlog.ErrTail) {
		return s.over() + 1, row, nil
	}
	if err != nil {
		return 0, row, err
	}
	return dayOf(seg.Time), row, nil
}

// underLease calls fn while the lease is held. When it is lost, fn's context ends:
// another node does the work.
func (s *Service) underLease(ctx context.Context, fn func(context.Context) error) error {
	le, err := s.log.Acquire(ctx, leaseName, leaseTerm, s.cfg.Exclusive)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		renewing := turn.Named(ctx, "lease")
		for {
			pause(renewing, leaseTerm/3, nil, "renew")
			if renewing.Err() != nil {
				return
			}
			if err := le.Renew(renewing); errors.Is(err, eventlog.ErrLeased) {
				cancel()
			}
		}
	}()
	err = fn(ctx)
	lost := ctx.Err() != nil
	cancel()
	<-done
	if lost {
		return errors.Join(err, context.Canceled)
	}
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if e := le.Release(release); e != nil {
		s.logger.Info("lease for retention not released; it runs out by itself", "error", e)
	}
	return err
}

// work does what is due. What fails for one tenant does not keep others back,
// but the ratchet.
func (s *Service) work(ctx context.Context) error {
	s.note(func(w *Work) { w.Running, w.Stuck = true, nil })
	defer s.note(func(w *Work) { w.Running = false })
	failed := s.finishEnds(ctx)
	orders, err := s.withOrders(ctx)
	if err != nil {
		return errors.Join(failed, err)
	}
	for _, t := range orders {
		failed = errors.Join(failed, s.finishOrders(ctx, t))
	}
	failed = errors.Join(failed, s.expire(ctx), s.removeDays(ctx), s.sweep(ctx), s.takeBases(ctx))
	if s.now().After(s.packAt) {
		s.packAt = s.now().Add(packEvery)
		failed = errors.Join(failed, s.pack(ctx))
	}
	return failed
}

// sweep removes orphans, once for each day that has expired.
func (s *Service) sweep(ctx context.Context) error {
	gone, row, err := s.gone(ctx)
	if day := s.over(); err != nil || row.Ratchet == 0 || day >= gone || s.swept >= day {
		return err
	}
	if err := s.orphans(ctx); err != nil {
		return fmt.Errorf("remove orphans: %w", err)
	}
	if err := s.endAgain(ctx); err != nil {
		return err
	}
	s.swept = s.over()
	return nil
}

// withOrders returns the tenants that have orders which are not done, or copies
// of erased messages.
func (s *Service) withOrders(ctx context.Context) (out []event.Tenant, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		for it, err := range v.Scan([]byte{keyOrder}, nil, false) {
			if err != nil {
				return err
			}
			out = append(out, event.Tenant(it.Key[1:17]))
		}
		for it, err := range v.Scan([]byte{keyErased}, nil, false) {
			if err != nil {
				return err
			}
			t := event.Tenant(it.Key[1:17])
			for range v.Scan(copyPrefix(t, event.ID(it.Key[17:])), nil, false) {
				out = append(out, t)
				break
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b event.Tenant) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(out), err
}

// expire lets the day that is over, and those before, end for all tenants.
func (s *Service) expire(ctx context.Context) error {
	if err := s.log.AskTime(ctx); err != nil { // of which day it is now
		return fmt.Errorf("nothing expires: %w", err)
	}
	gone, _, err := s.gone(ctx)
	if err != nil {
		return err
	}
	day := s.over()
	if day < gone {
		return nil
	}
	if doubt, err := s.inDoubt(ctx, gone); err != nil || doubt {
		return err
	}
	tenants, rows, err := s.tenants(ctx)
	if err != nil {
		return err
	}
	if err := s.condemn(ctx, tenants, rows, day); err != nil {
		return err
	}
	failpoint.Hit(failpoint.DayCondemned)
	if err := s.endDay(ctx, tenants, rows, day); err != nil {
		return err
	}
	failpoint.Hit(failpoint.DayExpired)
	return s.moveRatchet(ctx, day)
}

// inDoubt reports whether the clock may not be believed, and notes it.
func (s *Service) inDoubt(ctx context.Context, gone event.Day) (bool, error) {
	var last event.Millis
	err := s.runner.View(ctx, foldName, func(v projection.View) error {
		var row tenantRow
		_, err := getRow(v, tenantKey(event.SystemTenant), &row)
		last = row.At
		return err
	})
	if err != nil {
		return true, err
	}
	var left time.Duration
	switch {
	case s.log.Shift() != 0: // a test moves the clock, and means it
	case s.cfg.StoreClock:
		left = max(s.clock.unsteady(), s.clock.doubt(latest(last, gone), maxAheadOfStore))
	default:
		left = s.clock.doubt(latest(last, gone), maxAhead)
	}
	s.note(func(w *Work) { w.Doubt = left })
	if left > 0 {
		s.logger.Warn("the clock is in doubt: nothing expires; if it is right, confirm it", "left", left)
	}
	return left > 0, nil
}

// tenants returns all tenants that have keys, the system's among them, and what
// is decided about them. One about which something was decided before and whose
// keys are not there now, perhaps since key/ is being restored, is among them: it
// keeps the ratchet back, and so what it needs can be kept once they are.
func (s *Service) tenants(ctx context.Context) ([]event.Tenant, map[event.Tenant]tenantRow, error) {
	all, err := s.log.Tenants(ctx)
	if err != nil {
		return nil, nil, err
	}
	rows := map[event.Tenant]tenantRow{}
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		for it, err := range v.Scan([]byte{keyTenant}, nil, false) {
			if err != nil {
				return err
			}
			all = append(all, event.Tenant(it.Key[1:]))
		}
		slices.SortFunc(all, func(a, b event.Tenant) int { return slices.Compare(a[:], b[:]) })
		all = slices.Compact(all)
		all = slices.DeleteFunc(all, func(t event.Tenant) bool {
			over, err2 := noMore(v, t)
			err = errors.Join(err, err2)
			return over
		})
		for _, t := range all {
			var row tenantRow
			if _, err := getRow(v, tenantKey(t), &row); err != nil {
				return err
			}
			rows[t] = row
		}
		return err
	})
	return all, rows, err
}

// condemn makes sure that the day is condemned for all tenants, and that this
// node has folded it.
func (s *Service) condemn(ctx context.Context, tenants []event.Tenant, rows map[event.Tenant]tenantRow, day event.Day) error {
	left := slices.DeleteFunc(slices.Clone(tenants), func(t event.Tenant) bool { return rows[t].Condemned >= day })
	return s.appendEach(ctx, left, func(event.Tenant) event.Fact {
		return &event.DayCondemned{At: s.millis(), Day: day}
	})
}

// appendEach appends a fact for each tenant, those of one partition together, and
// waits until all projections have folded them.
func (s *Service) appendEach(ctx context.Context, tenants []event.Tenant, fact func(event.Tenant) event.Fact) error {
	byPart := make([][]event.Event, s.log.Partitions())
	for _, t := range tenants {
		p := s.log.PartitionOf(t)
		byPart[p] = append(byPart[p], event.Event{ID: event.NewID(), Tenant: t, Fact: fact(t)})
	}
	for _, evs := range byPart {
		for batch := range slices.Chunk(evs, maxBatch) {
			if _, err := s.log.Append(ctx, batch...); err != nil {
				return err
			}
		}
	}
	return s.folded(ctx)
}

// refresh learns of what other nodes have appended, and waits until all
// projections have folded it.
func (s *Service) refresh(ctx context.Context) error {
	for p := range s.log.Partitions() {
		if err := s.log.Refresh(ctx, event.Partition(p)); err != nil {
			return err
		}
	}
	return s.folded(ctx)
}

// folded waits until all projections have folded what this node knows of.
func (s *Service) folded(ctx context.Context) error {
	for _, st := range s.runner.Status() {
		for p := range s.log.Partitions() {
			pos := event.Position{Partition: event.Partition(p), Seq: s.log.TailAtLeast(event.Partition(p))}
			if err := s.runner.WaitFor(ctx, st.Name, pos); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveRatchet says that a day is over when it is for all tenants.
func (s *Service) moveRatchet(ctx context.Context, day event.Day) error {
	tenants, rows, err := s.tenants(ctx)
	if err != nil {
		return err
	}
	for _, t := range tenants {
		if rows[t].Expired < day {
			return nil // a new tenant; its turn comes
		}
	}
	if _, err := s.append(ctx, event.SystemTenant, &event.RatchetMoved{At: s.millis(), To: day + 1}); err != nil {
		return fmt.Errorf("move the ratchet: %w", err)
	}
	failpoint.Hit(failpoint.RatchetMoved)
	s.logger.Info("a day has expired", "day", day)
	return nil
}

// removeDays removes the objects of days that have expired, once this node's
// ratchet has passed them.
func (s *Service) removeDays(ctx context.Context) error {
	_, row, err := s.gone(ctx)
	if err != nil || row.Ratchet == 0 || row.Removed >= row.Ratchet-1 {
		return err
	}
	if passed, err := s.advance(ctx); err != nil || !passed {
		return err
	}
	n, err := s.cfg.Keep.RemoveDays(ctx, row.Ratchet)
	if err != nil {
		return fmt.Errorf("remove expired objects: %w", err)
	}
	failpoint.Hit(failpoint.DaysGone)
	_, err = s.append(ctx, event.SystemTenant, &event.DayRemoved{
		At: s.millis(), Day: row.Ratchet - 1, Objects: n.Objects, Bytes: n.Bytes, Locked: n.Locked,
	})
	return err
}
