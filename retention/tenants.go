package retention

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/event"
	"holdfast/internal/turn"
	"holdfast/projection"
)

const (
	// tenantsAtOnce is for how many tenants a day ends at a time, so that one with
	// much mail does not keep the others back.
	tenantsAtOnce = 4
	// expireEvery is how long a tenant that is through waits for others at most, whose
	// days end in the same segment.
	expireEvery = 30 * time.Second
	// maxSweeps is after how many steps something must be wrong.
	maxSweeps = 1 << 20
)

// errSweeps says that a fold does not come to an end with a day.
var errSweeps = errors.New("internal error: a fold has always more to remove")

// night is the end of a day, which has been condemned, for many tenants.
type night struct {
	s       *Service
	day     event.Day
	tenants []event.Tenant
	rows    map[event.Tenant]tenantRow

	mu      sync.Mutex // guards what follows; never held over a seam
	next    int
	through []event.Tenant // of whom nothing is needed any more
	since   time.Time      // when the first of them came
	failed  error
}

// endDay lets a day that was condemned end for all tenants, some at a time. What
// fails for one does not keep the others back.
func (s *Service) endDay(ctx context.Context, tenants []event.Tenant, rows map[event.Tenant]tenantRow, day event.Day) error {
	e := &night{s: s, day: day, tenants: tenants, rows: rows}
	var wg sync.WaitGroup
	for i := range min(tenantsAtOnce, len(tenants)) {
		ctx := turn.Named(ctx, fmt.Sprintf("end %d", i))
		wg.Go(func() { e.work(ctx) })
	}
	wg.Wait()
	return e.failed
}

// work takes tenants until there are none left.
func (e *night) work(ctx context.Context) {
	for ctx.Err() == nil {
		turn.Take(ctx, "tenant")
		t, ok := e.take()
		if !ok {
			break
		}
		needy, err := e.of(ctx, t)
		if err != nil {
			e.fail(fmt.Errorf("tenant %v: %w", t, err))
		} else if needy {
			e.done(t)
		}
		e.flush(ctx, false)
	}
	e.flush(ctx, true)
	e.fail(ctx.Err())
}

func (e *night) take() (t event.Tenant, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next == len(e.tenants) {
		return t, false
	}
	e.next++
	return e.tenants[e.next-1], true
}

func (e *night) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.failed = errors.Join(e.failed, err)
	}
}

// of keeps what a tenant needs, and reports whether its day may expire: unless it
// has.
func (e *night) of(ctx context.Context, t event.Tenant) (bool, error) {
	if err := e.s.sweepFolds(ctx, t); err != nil || e.rows[t].Expired >= e.day {
		return false, err
	}
	return true, e.s.keepNeeded(ctx, t, e.day)
}

func (e *night) done(t event.Tenant) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.through) == 0 {
		e.since = time.Now()
	}
	e.through = append(e.through, t)
}

// flush lets the day expire for those who are through, when they are many, or
// have waited, or now.
func (e *night) flush(ctx context.Context, now bool) {
	e.mu.Lock()
	var list []event.Tenant
	if now || len(e.through) >= maxBatch || len(e.through) > 0 && time.Since(e.since) >= expireEvery {
		list, e.through = e.through, nil
	}
	e.mu.Unlock()
	if len(list) == 0 || ctx.Err() != nil {
		return
	}
	err := e.s.appendEach(ctx, list, func(event.Tenant) event.Fact {
		return &event.DayExpired{At: e.s.millis(), Day: e.day}
	})
	for _, t := range list {
		if err == nil {
			err = e.s.sweepFolds(ctx, t)
		}
	}
	e.fail(err)
}

// sweepFolds lets all folds remove what a tenant's condemned and expired days have
// had.
func (s *Service) sweepFolds(ctx context.Context, t event.Tenant) error {
	for range maxSweeps {
		left, err := s.unswept(ctx, t)
		if err != nil || !left {
			return err
		}
		// The others go on between one step and the next.
		if _, err := s.append(ctx, t, &event.DaySwept{At: s.millis()}); err != nil {
			return err
		}
	}
	return errSweeps
}

func (s *Service) unswept(ctx context.Context, t event.Tenant) (left bool, err error) {
	for _, more := range s.cfg.Unswept {
		if left, err = more(ctx, t); left || err != nil {
			return left, err
		}
	}
	err = s.view(ctx, t, func(v projection.View) error {
		left, err = getRow(v, sweepKey(t), &sweepRow{})
		return err
	})
	return left, err
}
