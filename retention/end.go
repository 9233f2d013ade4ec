package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// How a tenant ends, each step for good and repeated by whoever finds it undone:
//
//  1. [event.TenantEndOrdered] in the tenant's log, which the fold refuses while
//     a hold stands. It refuses holds from then on.
//  2. [event.TenantCondemned] in the tenant's log. No writer puts anything of the
//     tenant behind it. Its bodies in objects of their own are removed.
//  3. [event.TenantCondemned] in the system's log: folds drop what they have of the
//     tenant.
//  4. The tenant's secrets are replaced by the word that it has ended, its key pages
//     removed: [eventlog.Log.DestroyTenant].
//  5. [event.TenantEnded] in the system's log, the certificate.

// End is a tenant that has ended.
type End struct {
	Tenant event.Tenant
	Name   string
	Ended  event.TenantEnded
	At     event.Ref // where that stands
}

// EndTenant ends a tenant, and returns what certifies it. [ErrHeld] while a hold
// stands on its mail; after any other error the order may stand, and is then
// carried out by [Service.Run]. [ErrDomains] while the tenant has some: then nothing
// is ordered, or the order waits until they are gone.
func (s *Service) EndTenant(ctx context.Context, t event.Tenant, who, reason, name string) (End, error) {
	for range orderTries {
		if st, err := s.end(ctx, t); err != nil || st.ordered() {
			return s.finishOrdered(ctx, t, err)
		}
		if err := s.noDomains(ctx, t); err != nil {
			return End{}, err
		}
		holds, changes, err := s.holdsOf(ctx, t)
		if err != nil {
			return End{}, err
		}
		var names []string
		for _, h := range holds {
			names = append(names, h.Placed.Name)
		}
		if len(names) > 0 {
			return End{}, fmt.Errorf("by hold %s: %w", strings.Join(names, ", "), ErrHeld)
		}
		_, ok, err := s.do(ctx, t, &event.TenantEndOrdered{At: s.millis(), Who: who, Reason: reason, Name: name, Holds: changes})
		if err != nil {
			return End{}, fmt.Errorf("order the end of a tenant: %w", err)
		}
		if ok {
			return s.finishOrdered(ctx, t, nil)
		}
	}
	return End{}, fmt.Errorf("order the end of a tenant: %w", ErrBusy)
}

func (s *Service) finishOrdered(ctx context.Context, t event.Tenant, err error) (End, error) {
	if err != nil {
		return End{}, err
	}
	e, err := s.finishEnd(ctx, t)
	if err != nil {
		err = fmt.Errorf("the end of the tenant is ordered, and goes on by itself: %w", err)
	}
	return e, err
}

// ErrDomains says that a tenant has domains, so that mail may come in.
var ErrDomains = errors.New("the tenant still has domains; take them out of the file of domains, with its users, and run holdfast apply --prune")

// noDomains returns ErrDomains when a tenant has some, by the log's newest.
func (s *Service) noDomains(ctx context.Context, t event.Tenant) error {
	if s.cfg.Domains == nil {
		return nil
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	if names := s.cfg.Domains(t); len(names) > 0 {
		return fmt.Errorf("%s: %w", strings.Join(names, ", "), ErrDomains)
	}
	return nil
}

// Ending reports whether the end of a tenant is ordered, by the log's newest.
func (s *Service) Ending(ctx context.Context, t event.Tenant) (bool, error) {
	for _, of := range []event.Tenant{t, event.SystemTenant} {
		if err := s.log.Refresh(ctx, s.log.PartitionOf(of)); err != nil {
			return false, err
		}
	}
	st, err := s.end(ctx, t)
	return st.ordered(), err
}

// EndLost ends a tenant whose keys are missing from the bucket, so that nothing of
// it can be read or written. It needs no fold, since some may have stopped at what
// they cannot read: these go on when the node is started again. It returns an error,
// and nothing has ended, when the keys are there.
func (s *Service) EndLost(ctx context.Context, t event.Tenant, who, reason, name string) error {
	if err := s.log.RequireTenant(ctx, t); !errors.Is(err, eventlog.ErrTenantKeys) {
		if err == nil {
			err = errors.New("the keys of the tenant are there")
		}
		return fmt.Errorf("end a tenant without keys: %w", err)
	}
	id := event.NewID()
	pos, err := s.log.Append(ctx, event.Event{ID: id, Tenant: event.SystemTenant, Fact: &event.TenantCondemned{
		At: s.millis(), Who: who, Reason: reason, Name: name, Tenant: t,
	}})
	if err != nil {
		return fmt.Errorf("condemn a tenant without keys: %w", err)
	}
	if _, err := s.cfg.Keep.DestroyTenant(ctx, t, event.Ref{Position: pos, ID: id}); err != nil {
		return err
	}
	s.Wake()
	return nil
}

// ending is how far the end of a tenant has come.
type endState struct {
	ending, condemned bool
	order             endingRow
	row               endedRow
}

func (e *endState) ordered() bool { return e.ending || e.condemned }

// end reads how far the end of a tenant has come, as of all that this node knows.
func (s *Service) end(ctx context.Context, t event.Tenant) (e endState, err error) {
	if !s.log.Ended(t) { // otherwise nothing of its log counts
		err = s.view(ctx, t, func(projection.View) error { return nil })
	}
	if err != nil {
		return e, err
	}
	err = s.view(ctx, event.SystemTenant, func(v projection.View) (err error) {
		if e.ending, err = getRow(v, endingKey(t), &e.order); err == nil {
			e.condemned, err = getRow(v, endedKey(t), &e.row)
		}
		return err
	})
	return e, err
}

// openEnds returns the tenants whose end is ordered and not done.
func (s *Service) openEnds(ctx context.Context) (out []event.Tenant, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		for it, err := range v.Scan([]byte{keyEnding}, nil, false) {
			if err != nil {
				return err
			}
			out = append(out, event.Tenant(it.Key[1:]))
		}
		return eachEnd(v, func(t event.Tenant, row endedRow) {
			if row.Done == nil {
				out = append(out, t)
			}
		})
	})
	slices.SortFunc(out, func(a, b event.Tenant) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(out), err
}

func eachEnd(v projection.View, tell func(event.Tenant, endedRow)) error {
	for it, err := range v.Scan([]byte{keyEnded}, nil, false) {
		var row endedRow
		if err == nil {
			err = event.Unmarshal(it.Value, &row)
		}
		if err != nil {
			return err
		}
		tell(event.Tenant(it.Key[1:]), row)
	}
	return nil
}

// noMore reports whether nothing of a tenant comes any more.
func noMore(v projection.View, t event.Tenant) (bool, error) {
	var row endingRow
	if _, err := getRow(v, endingKey(t), &row); err != nil || row.Last {
		return row.Last, err
	}
	b, err := v.Get(endedKey(t))
	return b != nil, err
}

// loadEnds tells the log what the local database has of tenants that end.
func (s *Service) loadEnds(v projection.View) error {
	for it, err := range v.Scan([]byte{keyEnding}, nil, false) {
		var row endingRow
		if err == nil {
			err = event.Unmarshal(it.Value, &row)
		}
		if err != nil {
			return err
		}
		if row.Last {
			s.log.NoteLast(event.Tenant(it.Key[1:]))
		}
	}
	return eachEnd(v, func(t event.Tenant, _ endedRow) { s.log.NoteEnded(t) })
}

// Ends returns the tenants that have ended, as far as this node has folded the
// log.
func (s *Service) Ends(ctx context.Context) (out []End, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		return eachEnd(v, func(t event.Tenant, row endedRow) {
			if row.Done != nil {
				out = append(out, End{Tenant: t, Name: row.Done.Name, Ended: *row.Done, At: row.At})
			}
		})
	})
	return out, err
}

// finishEnds carries out what was ordered. One tenant that fails does not keep
// others back.
func (s *Service) finishEnds(ctx context.Context) error {
	open, err := s.openEnds(ctx)
	for _, t := range open {
		if _, e := s.finishEnd(ctx, t); e != nil {
			err = errors.Join(err, fmt.Errorf("end tenant %v: %w", t, e))
		}
	}
	return err
}

// finishEnd takes the end of a tenant up where it stands. Two workers may do it at
// once.
func (s *Service) finishEnd(ctx context.Context, t event.Tenant) (End, error) {
	st, err := s.end(ctx, t)
	if err != nil {
		return End{}, err
	}
	var removed eventlog.Removed
	if !st.condemned {
		if removed, err = s.condemnTenant(ctx, t, &st); err != nil {
			return End{}, err
		}
	}
	if st.row.Done == nil {
		if err := s.destroyTenant(ctx, t, &st, removed); err != nil {
			return End{}, err
		}
	}
	return End{Tenant: t, Name: st.row.Done.Name, Ended: *st.row.Done, At: st.row.At}, nil
}

// condemnTenant ends the tenant's own log, removes its bodies, and says to all
// that it is condemned.
func (s *Service) condemnTenant(ctx context.Context, t event.Tenant, st *endState) (removed eventlog.Removed, err error) {
	o := st.order.Order
	said := event.TenantCondemned{At: s.millis(), Who: o.Who, Reason: o.Reason, Name: o.Name, Tenant: t}
	if !st.order.Last {
		// Domains may have come back since it was ordered.
		if err := s.noDomains(ctx, t); err != nil {
			return removed, err
		}
		ev := event.Event{ID: event.NewID(), Tenant: t, Fact: &said}
		if _, err := s.log.Append(ctx, ev); err != nil && !errors.Is(err, eventlog.ErrEnded) {
			return removed, fmt.Errorf("end the log of a tenant: %w", err)
		}
		if err := s.refresh(ctx); err != nil {
			return removed, err
		}
	}
	bodies, err := s.bodiesOf(ctx, t)
	if err != nil {
		return removed, err
	}
	for some := range slices.Chunk(bodies, orphanBatch) {
		r, err := s.cfg.Keep.RemoveBodies(ctx, t, some)
		removed.Objects, removed.Bytes, removed.Locked = removed.Objects+r.Objects, removed.Bytes+r.Bytes, removed.Locked+r.Locked
		if err != nil {
			return removed, fmt.Errorf("remove the bodies of a tenant: %w", err)
		}
	}
	if _, err := s.append(ctx, event.SystemTenant, &said); err != nil {
		return removed, fmt.Errorf("condemn a tenant: %w", err)
	}
	*st, err = s.end(ctx, t)
	if err == nil && !st.condemned {
		err = errors.New("internal error: a condemned tenant is not known")
	}
	return removed, err
}

// bodiesOf returns the bodies of a tenant that are objects of their own.
func (s *Service) bodiesOf(ctx context.Context, t event.Tenant) (out []eventlog.Blob, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		for it, err := range v.Scan(tenantPrefix(keyTenantBody, t), nil, false) {
			if err != nil {
				return err
			}
			day, id, err := parseTenantBodyKey(it.Key)
			if err != nil {
				return err
			}
			out = append(out, eventlog.Blob{Day: day, ID: id})
		}
		return nil
	})
	return out, err
}

// destroyTenant lets the folds drop a condemned tenant, removes its keys, and
// certifies that.
func (s *Service) destroyTenant(ctx context.Context, t event.Tenant, st *endState, removed eventlog.Removed) error {
	if err := s.folded(ctx); err != nil {
		return err
	}
	r, err := s.cfg.Keep.DestroyTenant(ctx, t, st.row.By)
	if err != nil {
		return err
	}
	c := &st.row.Condemned
	_, err = s.append(ctx, event.SystemTenant, &event.TenantEnded{
		At: s.millis(), Who: c.Who, Reason: c.Reason, Tenant: t, Name: c.Name, Order: st.row.By.ID,
		Objects: removed.Objects + r.Objects, Bytes: removed.Bytes + r.Bytes, Locked: removed.Locked + r.Locked,
	})
	if err != nil {
		return fmt.Errorf("certify the end of a tenant: %w", err)
	}
	s.logger.Info("a tenant has ended", "tenant", t)
	s.Wake() // Bases have to be taken anew
	if *st, err = s.end(ctx, t); err == nil && st.row.Done == nil {
		err = errors.New("internal error: a tenant that has ended is not known")
	}
	return err
}

// endAgain removes what has come back of tenants that have ended: keys from a
// backup of the bucket, a key page of a writer that slept.
func (s *Service) endAgain(ctx context.Context) error {
	var ends []endedRow
	err := s.runner.View(ctx, foldName, func(v projection.View) error {
		return eachEnd(v, func(_ event.Tenant, row endedRow) { ends = append(ends, row) })
	})
	for _, row := range ends {
		if row.Done == nil {
			continue
		}
		r, e := s.cfg.Keep.DestroyTenant(ctx, row.Condemned.Tenant, row.By)
		if r.Objects > 0 {
			s.logger.Warn("keys of a tenant that has ended were there again, and were removed", "tenant", row.Condemned.Tenant, "objects", r.Objects)
		}
		err = errors.Join(err, e)
	}
	return err
}
