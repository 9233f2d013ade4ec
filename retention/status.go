package retention

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/projection"
)

// Work is how the daily work stands on this node.
type Work struct {
	Running bool
	// Trouble is what kept the last round from finishing; nil for nothing.
	Trouble error
	// Doubt is for how long the clock is not believed yet; 0 when it is.
	Doubt time.Duration
	// RatchetWaits is the day to which the ratchet should move, but this node's
	// clock says that it has not begun; 0 for none.
	RatchetWaits event.Day
	// Stuck are needed messages that cannot be read.
	Stuck []Stuck
}

// Stuck are needed messages of a tenant that cannot be read. Their day does not
// expire for a week since.
type Stuck struct {
	Tenant   event.Tenant
	Messages []string // ids of events
	Since    time.Time
}

// Installation is what is decided about the installation as a whole.
type Installation struct {
	Ratchet event.Day // the first day whose mail can be read, as the log says
	Days    uint64    // whose objects were removed
	Objects uint64    // removed
	Bytes   uint64    // removed
	Locked  uint64    // objects that the store did not let go
}

// Account is what is decided about a tenant, and what it keeps.
type Account struct {
	Tenant      event.Tenant
	Condemned   event.Day // the last day; 0 for none yet
	Expired     event.Day
	Oldest      event.Day // whose mail is kept; 0 when there is none
	Messages    uint64
	Bytes       uint64
	Past        uint64 // messages that were kept past their day
	Holds       int
	Held        uint64 // messages that at least one of them keeps
	Orders      int    // erasures that are not done
	Erased      uint64
	ErasedBytes uint64
	// Domains are those that have mail, or had some that was erased. Their sums may
	// be more than the tenant's: a message counts in each of its domains.
	Domains []DomainAccount
}

// DomainAccount is what a tenant keeps of one domain's mail.
type DomainAccount struct {
	DomainCount
	Held uint64 // messages that at least one hold keeps
}

// note changes what is known of the work.
func (s *Service) note(change func(*Work)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

// Work returns how the daily work stands on this node.
func (s *Service) Work() Work {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.state
	w.Stuck = slices.Clone(w.Stuck)
	return w
}

// Installation returns what the log says of the installation as a whole, as far
// as this node has folded it.
func (s *Service) Installation(ctx context.Context) (Installation, error) {
	var row installRow
	err := s.runner.View(ctx, foldName, func(v projection.View) error {
		_, err := getRow(v, installKey(), &row)
		return err
	})
	return Installation{Ratchet: row.Ratchet, Days: row.Days, Objects: row.Objects, Bytes: row.Bytes, Locked: row.Locked}, err
}

// Accounts returns what is decided about each tenant and what it keeps, as far as
// this node has folded it.
func (s *Service) Accounts(ctx context.Context) ([]Account, error) {
	accounts := map[event.Tenant]*Account{}
	of := func(t event.Tenant) *Account {
		a := accounts[t]
		if a == nil {
			a = &Account{Tenant: t}
			accounts[t] = a
		}
		return a
	}
	holds := map[event.Tenant][]Hold{}
	err := s.runner.View(ctx, foldName, func(v projection.View) error {
		for it, err := range v.Scan([]byte{keyTenant}, nil, false) {
			var row tenantRow
			if err = errors.Join(err, event.Unmarshal(it.Value, &row)); err != nil {
				return err
			}
			a := of(event.Tenant(it.Key[1:]))
			a.Condemned, a.Expired, a.Erased, a.ErasedBytes = row.Condemned, row.Expired, row.Erased, row.ErasedBytes
		}
		all, err := holdsIn(v, []byte{keyHold})
		for _, h := range all {
			holds[h.Tenant] = append(holds[h.Tenant], h)
		}
		return errors.Join(err, count(v, keyOrder, func(t event.Tenant) { of(t).Orders++ }))
	})
	if err == nil {
		err = s.indexed(ctx, of)
	}
	for t, all := range holds {
		if err == nil {
			err = s.heldBy(ctx, of(t), all)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("accounts of retention: %w", err)
	}
	var out []Account
	for _, a := range accounts {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b Account) int { return cmp.Or(slices.Compare(a.Tenant[:], b.Tenant[:])) })
	return out, nil
}

// indexed adds to accounts what the index has.
func (s *Service) indexed(ctx context.Context, of func(event.Tenant) *Account) error {
	days, err := s.cfg.Index.Days(ctx)
	if err != nil {
		return err
	}
	for _, d := range days {
		a := of(d.Tenant)
		if d.Messages > 0 && (a.Oldest == 0 || d.Day < a.Oldest) {
			a.Oldest = d.Day
		}
		a.Messages += d.Messages
		a.Bytes += d.Bytes
		a.Past += d.Past
	}
	domains, err := s.cfg.Index.Domains(ctx)
	for _, d := range domains {
		a := of(d.Tenant)
		a.Domains = append(a.Domains, DomainAccount{DomainCount: d})
	}
	return err
}

// heldBy adds to an account what the tenant's holds keep.
func (s *Service) heldBy(ctx context.Context, a *Account, holds []Hold) error {
	a.Holds = len(holds)
	held, err := s.cfg.Index.Held(ctx, a.Tenant, holds)
	if err != nil {
		return err
	}
	a.Held = held.Messages
	for i := range a.Domains {
		a.Domains[i].Held = held.Domains[a.Domains[i].Domain]
	}
	return nil
}

// count tells the tenant of each row of a kind.
func count(v projection.View, tag byte, tell func(event.Tenant)) error {
	for it, err := range v.Scan([]byte{tag}, nil, false) {
		if err != nil {
			return err
		}
		tell(event.Tenant(it.Key[1:17]))
	}
	return nil
}

// ConfirmClock says that an administrator knows the clock of this machine to be
// right. The log has it; it holds until the clock jumps or the process ends.
func (s *Service) ConfirmClock(ctx context.Context, who string) error {
	if err := s.audit(ctx, event.SystemTenant, &event.Audited{
		At: s.millis(), Who: who, Act: "confirm clock", Detail: s.now().UTC().Format(time.RFC3339),
	}); err != nil {
		return fmt.Errorf("confirm the clock: %w", err)
	}
	s.clock.confirm()
	s.Wake()
	return nil
}
