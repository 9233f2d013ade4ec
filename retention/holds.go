package retention

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/projection"
)

// Hold is a hold that stands.
type Hold struct {
	Tenant   event.Tenant
	Placed   event.HoldPlaced
	Messages uint64 // that it keeps now

	After event.Day // it holds what expires later
}

// Verdict is what a hold selects at the moment at which it is placed.
type Verdict struct {
	Messages  uint64 // all that it selects
	Condemned uint64 // of these come too late, and are not kept by it
}

// PlaceHold puts what matches under hold, now and in the future. [ErrHoldExists],
// [ErrCondemned]; after any other error the hold may stand.
func (s *Service) PlaceHold(ctx context.Context, t event.Tenant, h *event.HoldPlaced) (Verdict, error) {
	row, err := s.tenantRow(ctx, t)
	if err != nil {
		return Verdict{}, err
	}
	v, err := s.selects(ctx, t, h.Match, row.Condemned)
	if err != nil {
		return v, err
	}
	if v.Messages > 0 && v.Messages == v.Condemned {
		return v, fmt.Errorf("hold %s: %w", h.Name, ErrCondemned)
	}
	_, said, err := s.ask(ctx, t, h)
	if err != nil {
		return v, fmt.Errorf("place hold %s: %w", h.Name, err)
	}
	if said.Ending {
		return v, fmt.Errorf("hold %s: %w", h.Name, ErrEnding)
	}
	if !said.OK {
		return v, fmt.Errorf("hold %s: %w", h.Name, ErrHoldExists)
	}
	// A day may have been condemned meanwhile; what the fold has is what counts.
	placed, err := s.hold(ctx, t, h.Name)
	if err != nil {
		return v, err
	}
	return s.selects(ctx, t, h.Match, placed.After)
}

// selects counts what a hold selects, and how much of it was condemned.
func (s *Service) selects(ctx context.Context, t event.Tenant, m event.HoldMatch, condemned event.Day) (v Verdict, err error) {
	for sel, err := range s.cfg.Index.Under(ctx, t, m, 0) {
		if err != nil {
			return v, fmt.Errorf("what a hold selects: %w", err)
		}
		v.Messages++
		if sel.Expiry <= condemned {
			v.Condemned++
		}
	}
	return v, nil
}

func (s *Service) hold(ctx context.Context, t event.Tenant, name string) (row holdRow, err error) {
	err = s.view(ctx, t, func(v projection.View) error {
		_, err := getRow(v, holdKey(t, name), &row)
		return err
	})
	return row, err
}

// ReleaseHold ends a hold. What it kept expires with its day. [ErrNoHold].
func (s *Service) ReleaseHold(ctx context.Context, t event.Tenant, h *event.HoldReleased) error {
	_, ok, err := s.do(ctx, t, h)
	if err != nil {
		return fmt.Errorf("release hold %s: %w", h.Name, err)
	}
	if !ok {
		return fmt.Errorf("hold %s: %w", h.Name, ErrNoHold)
	}
	return nil
}

// Holds returns all holds that stand, by tenant and name, with what they keep, as
// far as this node has folded the log. That has what it was itself asked for.
func (s *Service) Holds(ctx context.Context) ([]Hold, error) {
	var out []Hold
	err := s.runner.View(ctx, foldName, func(v projection.View) (err error) {
		out, err = holdsIn(v, []byte{keyHold})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("holds: %w", err)
	}
	for i := range out {
		v, err := s.selects(ctx, out[i].Tenant, out[i].Placed.Match, out[i].After)
		if err != nil {
			return nil, err
		}
		out[i].Messages = v.Messages - v.Condemned
	}
	return out, nil
}

// holdsOf returns the holds of a tenant, and how often they have changed.
func (s *Service) holdsOf(ctx context.Context, t event.Tenant) (out []Hold, changes uint64, err error) {
	err = s.view(ctx, t, func(v projection.View) (err error) {
		var row tenantRow
		if _, err = getRow(v, tenantKey(t), &row); err != nil {
			return err
		}
		changes = row.Changes
		out, err = holdsIn(v, tenantPrefix(keyHold, t))
		return err
	})
	return out, changes, err
}

func holdsIn(v projection.View, prefix []byte) (out []Hold, err error) {
	for it, err := range v.Scan(prefix, nil, false) {
		if err != nil {
			return nil, err
		}
		var row holdRow
		if err := event.Unmarshal(it.Value, &row); err != nil {
			return nil, err
		}
		if len(it.Key) < 17 {
			return nil, errKey("hold", it.Key)
		}
		out = append(out, Hold{Tenant: event.Tenant(it.Key[1:17]), Placed: row.Placed, After: row.After})
	}
	slices.SortFunc(out, func(a, b Hold) int {
		return cmp.Or(slices.Compare(a.Tenant[:], b.Tenant[:]), cmp.Compare(a.Placed.Name, b.Placed.Name))
	})
	return out, nil
}
