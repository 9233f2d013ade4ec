package retention

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
)

const (
	// keepDays is for how many days on a message is kept that is filed or held,
	// keepDueDays one that is only due: it is likely to be gone soon.
	keepDays    = 30
	keepDueDays = 2
	// keepAtOnce is how many messages of a tenant are copied at a time, so that they
	// share segments, and keepBatch how many are put into the log's order before.
	keepAtOnce = 16
	keepBatch  = 1024
	// maxRounds is how often it is looked for what is needed. What changes its place
	// in the queue while it is looked through may be found in the next round only.
	maxRounds = 8
	// maxRemembered is of how many messages it is remembered that they were kept.
	maxRemembered = 1 << 20
	// maxStuck is how many messages that cannot be read are borne with before a
	// tenant's work is given up for this time.
	maxStuck = 1000
	// grace is for how long a needed message that cannot be read holds its day up.
	grace = 7 * 24 * time.Hour
	// patience is for how long this process must have tried it itself: of the week
	// the installation may have been off, or the store away.
	patience = 24 * time.Hour
)

// errStuck says that messages are needed that cannot be read.
var errStuck = errors.New("needed messages cannot be read; run: holdfast log verify")

// errClings says that a fold still needs a message where it was, although it has
// folded that it was kept.
var errClings = errors.New("internal error: a message was kept, and is needed as before")

// need is a message that is needed, and why.
type need struct {
	ref event.Ref
	why event.Reasons
}

// source yields what is needed for one reason.
type source struct {
	why  event.Reasons
	find iter.Seq2[event.Ref, error]
}

// sources are in the order in which they are gone through: what is kept for long
// comes first, so that what is left when it comes to what is due is nothing else.
func (s *Service) sources(ctx context.Context, t event.Tenant, day event.Day) []source {
	return []source{
		{event.KeptHold, s.held(ctx, t, day)},
		{event.KeptFiled, s.cfg.Filed(ctx, t, day)},
		{event.KeptDue, s.cfg.Needed(ctx, t, day)},
	}
}

// keeping is the work on what one tenant needs of the days that are over.
type keeping struct {
	s      *Service
	tenant event.Tenant
	day    event.Day
	// stuck has what cannot be read, with the round in which it was needed last.
	stuck map[event.ID]int
	// kept has the round in which messages were kept, by a part of where they were.
	kept  map[uint64]int
	round int
	batch []need
}

// keepNeeded copies what a tenant still needs of the days up to day. It returns
// nil when the folds say that nothing is needed any more. What was kept before this
// process began is not needed any more, so that the work goes on where it ended.
func (s *Service) keepNeeded(ctx context.Context, t event.Tenant, day event.Day) error {
	k := &keeping{s: s, tenant: t, day: day, stuck: map[event.ID]int{}, kept: map[uint64]int{}}
	for more := true; more; {
		k.round++
		if k.round > maxRounds {
			return errClings
		}
		var err error
		if more, err = k.once(ctx); err != nil {
			return err
		}
		// What was kept here stands in the log; the folds have to have it.
		if err := s.folded(ctx); err != nil {
			return err
		}
	}
	// What the last round did not find is needed no more: it was erased, or no hold
	// selects it.
	maps.DeleteFunc(k.stuck, func(_ event.ID, round int) bool { return round != k.round })
	if len(k.stuck) == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.tried, t)
		return nil
	}
	return s.bear(ctx, t, day, k.stuck)
}

// once goes through all that is needed, and reports whether there was something
// that can be kept.
func (k *keeping) once(ctx context.Context) (some bool, err error) {
	for _, src := range k.s.sources(ctx, k.tenant, k.day) {
		for ref, err := range src.find {
			if err != nil {
				return some, fmt.Errorf("what is needed: %w", err)
			}
			if _, ok := k.stuck[ref.ID]; ok {
				k.stuck[ref.ID] = k.round
				continue
			}
			switch of := binary.BigEndian.Uint64(ref.ID[:]); k.kept[of] {
			case k.round:
				continue // it is in several mailboxes
			case 0:
				if len(k.kept) < maxRemembered {
					k.kept[of] = k.round
				}
			default:
				return some, fmt.Errorf("event %v: %w", ref.ID, errClings)
			}
			some = true
			if k.batch = append(k.batch, need{ref, src.why}); len(k.batch) == keepBatch {
				if err := k.flush(ctx); err != nil {
					return some, err
				}
			}
		}
		if err := k.flush(ctx); err != nil {
			return some, err
		}
	}
	return some, nil
}

// flush keeps the batch.
func (k *keeping) flush(ctx context.Context) error {
	failed, err := k.s.keepBatch(ctx, k.tenant, k.day, k.batch)
	k.batch = k.batch[:0]
	if err != nil {
		return err
	}
	for _, id := range failed {
		k.stuck[id] = k.round
	}
	if len(k.stuck) > maxStuck {
		return errStuck
	}
	return nil
}

// bear decides about needed messages that cannot be read: for a while their day
// does not expire, so that they can be brought back from a copy of the bucket.
func (s *Service) bear(ctx context.Context, t event.Tenant, day event.Day, stuck map[event.ID]int) error {
	row, err := s.tenantRow(ctx, t)
	if err != nil {
		return err
	}
	var ids []string
	for id := range stuck {
		ids = append(ids, id.String())
	}
	since := time.UnixMilli(int64(row.Pending)).UTC()
	s.note(func(w *Work) { w.Stuck = append(w.Stuck, Stuck{Tenant: t, Messages: ids, Since: since}) })
	if tried := s.triedFor(t, stuck); s.now().Sub(since) < grace || tried < patience {
		return fmt.Errorf("%d messages, since %s: %w", len(ids), since.Format(time.DateOnly), errStuck)
	}
	s.logger.Error("needed messages could not be read for a week; their day expires without them", "tenant", t, "messages", ids)
	return s.audit(ctx, t, &event.Audited{
		At: s.millis(), Who: "holdfast", Act: "expire unread", Count: uint64(len(ids)),
		Detail: "needed, but could not be read: " + strings.Join(ids[:min(len(ids), 100)], " "),
	})
}

// triedFor returns for how long all of a tenant's needed messages that cannot be
// read have been tried.
func (s *Service) triedFor(t event.Tenant, stuck map[event.ID]int) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, now := s.tried[t], time.Now()
	s.tried[t] = make(map[event.ID]time.Time, len(stuck))
	latest := time.Time{}
	for id := range stuck {
		first, ok := before[id]
		if !ok {
			first = now
		}
		s.tried[t][id] = first
		if first.After(latest) {
			latest = first
		}
	}
	return now.Sub(latest)
}

// held yields what holds select that were placed before it was condemned.
func (s *Service) held(ctx context.Context, t event.Tenant, day event.Day) iter.Seq2[event.Ref, error] {
	return func(yield func(event.Ref, error) bool) {
		holds, _, err := s.holdsOf(ctx, t)
		if err != nil {
			yield(event.Ref{}, err)
			return
		}
		for _, h := range holds {
			if sabotage.On(sabotage.HoldForgotten) {
				continue
			}
			for sel, err := range s.cfg.Index.Under(ctx, t, h.Placed.Match, day) {
				if err != nil {
					yield(event.Ref{}, fmt.Errorf("what hold %s selects: %w", h.Placed.Name, err))
					return
				}
				if sel.Expiry > h.After && !yield(sel.Place, nil) {
					return
				}
			}
		}
	}
}

// keepBatch copies messages, a few at a time, and returns those that cannot be
// read. The error is one that may pass.
func (s *Service) keepBatch(ctx context.Context, t event.Tenant, day event.Day, batch []need) (stuck []event.ID, err error) {
	// In the order of the log, so that what is searched together lies together.
	slices.SortFunc(batch, func(a, b need) int {
		p, q := a.ref.Position, b.ref.Position
		return cmp.Or(cmp.Compare(p.Seq, q.Seq), cmp.Compare(p.Index, q.Index))
	})
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range min(keepAtOnce, len(batch)) {
		ctx := turn.Named(ctx, fmt.Sprintf("keep %v %d", t, i))
		wg.Go(func() {
			turn.Take(ctx, "keep")
			for j := i; j < len(batch); j += keepAtOnce {
				e := s.keep(ctx, batch[j], day)
				mu.Lock()
				switch {
				case e == nil:
				case unreadable(e):
					s.logger.Error("a message that is needed cannot be kept; run holdfast log verify", "event", batch[j].ref.ID, "error", e)
					stuck = append(stuck, batch[j].ref.ID)
				case err == nil:
					err = e
				}
				over := err != nil
				mu.Unlock()
				if over {
					return
				}
			}
		})
	}
	wg.Wait()
	return stuck, err
}

// keep copies one message.
func (s *Service) keep(ctx context.Context, n need, day event.Day) error {
	until := day + 1 + keepDays
	if n.why == event.KeptDue {
		until = day + 1 + keepDueDays
	}
	_, err := s.cfg.Keep.Keep(ctx, n.ref, until, n.why)
	if err == nil {
		failpoint.Hit(failpoint.MailKept)
	}
	return err
}

// unreadable reports an error that will not pass by itself.
func unreadable(err error) bool {
	return errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, crypto.ErrExpired) || errors.Is(err, event.ErrMalformed)
}
