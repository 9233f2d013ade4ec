// Package directory knows the tenants, their domains and their users.
//
// The directory is a projection of the log's settings. [Directory] keeps its
// state in memory as well, as an immutable [Snapshot] that is replaced when the
// settings change: whoever accepts mail or checks a login reads it without
// waiting for anything, be the local database slow, full or gone.
//
// [Planner.Plan] compares the present state with a file of how it should be, and
// says what has to be appended.
package directory

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/event"
	"holdfast/projection"
)

// Name is the name of the projection.
const Name = "directory"

// Continuity says when a domain's users are let in.
type Continuity string

// The values of Continuity.
const (
	ContinuityOutage Continuity = "outage" // while the primary is down or recovering
	ContinuityAlways Continuity = "always"
	ContinuityOff    Continuity = "off"
)

// Failover is an administrator's override of the detector.
type Failover string

// The values of Failover.
const (
	FailoverAuto Failover = "auto" // no override
	FailoverOn   Failover = "on"   // holds the queue and admits users
	FailoverOff  Failover = "off"  // delivers and refuses users
)

// Recipients says which addresses of a domain are accepted.
type Recipients string

// The values of Recipients.
const (
	RecipientsListed Recipients = "listed" // users and their aliases
	RecipientsAny    Recipients = "any"
)

// Domain is a domain that belongs to a tenant and has settings.
type Domain struct {
	Name       string // lower case, A-labels
	Tenant     event.Tenant
	Primary    []string // smtp:// URLs, tried in order
	Outbound   string   // smtp:// URL, or empty
	Continuity Continuity
	ShadowDays int
	Recipients Recipients
	ProbeEvery time.Duration
	DownAfter  int
	UpAfter    int
	DotTimeout time.Duration // 0: the default
	Failover   Failover
}

// User is a listed user. It is shared and must not be changed.
type User struct {
	Account      event.Account
	Tenant       event.Tenant
	Address      string // primary address, as it was listed
	Aliases      []string
	PasswordHash string // argon2id in PHC form, or empty
	keys         []string
}

// Owns reports whether address is the user's, primary or alias.
func (u *User) Owns(address string) bool {
	k, ok := addressKey(address)
	for _, own := range u.keys {
		if ok && own == k {
			return true
		}
	}
	return false
}

// Resolution is where mail for an address goes.
type Resolution struct {
	Domain  string        // whose primary it is for, lower case
	Tenant  event.Tenant  // the domain's
	Account event.Account // whose mailbox it enters; zero when none
	User    string        // primary address of that user; empty when none
	Listed  bool          // a user or an alias has this address
	Alias   bool          // it is an alias
}

// Admit reports whether a user who has proved who he is may come in.
func Admit(c Continuity, f Failover, h event.Health) bool {
	switch {
	case c == ContinuityOff, f == FailoverOff:
		return false
	case c == ContinuityAlways, f == FailoverOn:
		return true
	}
	return h == event.HealthDown || h == event.HealthRecovering
}

// Viewer shows a projection's state: [*projection.Runner].
type Viewer interface {
	View(ctx context.Context, name string, fn func(projection.View) error) error
}

// Directory is the present state, in memory. The methods that read may be called
// by any goroutine and never wait.
type Directory struct {
	mu     sync.Mutex // guards tables
	tables *tables
	now    atomic.Pointer[Snapshot]
}

// New returns an empty directory. Add its Projection and its Observe to a
// runner, Load it, and then let the runner run:
//
//	d := directory.New()
//	err := runner.Add(d.Projection(), d.Observe)
//	err = d.Load(ctx, runner)
func New() *Directory {
	d := &Directory{tables: newTables()}
	d.now.Store(d.tables.snapshot())
	return d
}

// Projection returns the fold.
func (d *Directory) Projection() projection.Projection { return fold{} }

// Load takes the state over that the projection has in the local database. It
// is called once, after the projection was added and before it runs.
func (d *Directory) Load(ctx context.Context, v Viewer) error {
	t := newTables()
	err := v.View(ctx, Name, func(view projection.View) error {
		for it, err := range view.Scan(nil, nil, false) {
			if err != nil {
				return err
			}
			if err := t.put(row{Key: string(it.Key), Value: it.Value}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load directory: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tables = t
	d.now.Store(t.snapshot())
	return nil
}

// Observe is the [projection.Observer] that keeps the directory up to date.
func (d *Directory) Observe(es []projection.Emission) {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := false
	for _, e := range es {
		if r, ok := e.Value.(row); ok {
			changed = true
			if err := d.tables.put(r); err != nil {
				panic("internal error: the directory's fold wrote a row that it cannot read: " + err.Error())
			}
		}
	}
	if changed {
		d.now.Store(d.tables.snapshot())
	}
}

// Snapshot returns the present state, which never changes.
func (d *Directory) Snapshot() *Snapshot { return d.now.Load() }

// Domain is [Snapshot.Domain] of the present state.
func (d *Directory) Domain(name string) (Domain, bool) { return d.Snapshot().Domain(name) }

// Domains is [Snapshot.Domains] of the present state.
func (d *Directory) Domains() []Domain { return d.Snapshot().Domains() }

// Resolve is [Snapshot.Resolve] of the present state.
func (d *Directory) Resolve(local, domain string) (Resolution, bool) {
	return d.Snapshot().Resolve(local, domain)
}

// User is [Snapshot.User] of the present state.
func (d *Directory) User(address string) (*User, bool) { return d.Snapshot().User(address) }

// ByAccount is [Snapshot.ByAccount] of the present state.
func (d *Directory) ByAccount(a event.Account) (*User, bool) { return d.Snapshot().ByAccount(a) }

// Failover is [Snapshot.Failover] of the present state.
func (d *Directory) Failover(domain string) Failover { return d.Snapshot().Failover(domain) }
