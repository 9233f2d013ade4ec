package directory

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/event"
)

// tables are the projection's rows in memory. The values are never changed, only
// replaced, so that snapshots share them.
type tables struct {
	tenants  map[event.Tenant]string
	claims   map[string]event.Tenant
	domains  map[scoped]*event.DomainSet
	over     map[scoped]Failover
	users    map[scoped]*User
	removed  map[scoped]event.Account
	aliases  map[scoped]string // to the key of the user's address
	ended    map[event.Tenant]string
	backedUp event.Millis
}

// scoped is a name within a tenant.
type scoped struct {
	tenant event.Tenant
	name   string
}

func newTables() *tables {
	return &tables{
		tenants: map[event.Tenant]string{}, claims: map[string]event.Tenant{},
		domains: map[scoped]*event.DomainSet{}, over: map[scoped]Failover{},
		users: map[scoped]*User{}, removed: map[scoped]event.Account{}, aliases: map[scoped]string{},
		ended: map[event.Tenant]string{},
	}
}

// put changes one row.
func (t *tables) put(r row) error {
	tag, rest := r.Key[0], r.Key[1:]
	switch tag {
	case tagBackup:
		return decodeRow(r, func(f event.KeysBackedUp) { t.backedUp = f.At })
	case tagClaim:
		delete(t.claims, rest)
		return decodeRow(r, func(c claim) { t.claims[rest] = c.Tenant })
	}
	if len(rest) < 16 {
		return fmt.Errorf("row key of %d bytes: %w", len(r.Key), event.ErrMalformed)
	}
	at := scoped{event.Tenant([]byte(rest[:16])), rest[16:]}
	switch tag {
	case tagEnded:
		return decodeRow(r, func(name string) { t.ended[at.tenant] = name })
	case tagTenant:
		delete(t.tenants, at.tenant)
		return decodeRow(r, func(f event.TenantCreated) { t.tenants[at.tenant] = f.Name })
	case tagDomain:
		delete(t.domains, at)
		return decodeRow(r, func(f event.DomainSet) { t.domains[at] = &f })
	case tagOver:
		delete(t.over, at)
		return decodeRow(r, func(f event.FailoverSet) { t.over[at] = Failover(f.Mode) })
	case tagAlias:
		delete(t.aliases, at)
		return decodeRow(r, func(user string) { t.aliases[at] = user })
	case tagUser:
		delete(t.users, at)
		delete(t.removed, at)
		return decodeRow(r, func(u userRow) { t.putUser(at, u) })
	}
	return fmt.Errorf("row of unknown kind %d: %w", tag, event.ErrMalformed)
}

// decodeRow hands the decoded value to set, or nothing for a deleted row.
func decodeRow[T any](r row, set func(T)) error {
	if r.Value == nil {
		return nil
	}
	var v T
	if err := event.Unmarshal(r.Value, &v); err != nil {
		return err
	}
	set(v)
	return nil
}

func (t *tables) putUser(at scoped, r userRow) {
	if r.Removed {
		t.removed[at] = r.Account
		return
	}
	u := &User{Account: r.Account, Tenant: at.tenant, Address: r.Address, Aliases: r.Aliases, PasswordHash: r.Password, keys: []string{at.name}}
	for _, a := range r.Aliases {
		if k, ok := addressKey(a); ok {
			u.keys = append(u.keys, k)
		}
	}
	t.users[at] = u
}

// Snapshot is the directory at one moment. It never changes.
type Snapshot struct {
	tables
	byAccount map[event.Account]*User
	effective map[string]Domain // claimed and with settings
	names     []string          // of effective, sorted
}

// snapshot copies the tables and brings them together.
func (t *tables) snapshot() *Snapshot {
	s := &Snapshot{
		tables: tables{
			tenants: maps.Clone(t.tenants), claims: maps.Clone(t.claims), domains: maps.Clone(t.domains),
			over: maps.Clone(t.over), users: maps.Clone(t.users), removed: maps.Clone(t.removed),
			aliases: maps.Clone(t.aliases), ended: maps.Clone(t.ended), backedUp: t.backedUp,
		},
		byAccount: make(map[event.Account]*User, len(t.users)),
		effective: map[string]Domain{},
	}
	for _, u := range s.users {
		s.byAccount[u.Account] = u
	}
	for name, tenant := range s.claims {
		at := scoped{tenant, name}
		if f, ok := s.domains[at]; ok {
			s.effective[name] = domainOf(at, f, s.over[at])
		}
	}
	s.names = slices.Sorted(maps.Keys(s.effective))
	return s
}

func domainOf(at scoped, f *event.DomainSet, over Failover) Domain {
	if over == "" {
		over = FailoverAuto
	}
	return Domain{
		Name: at.name, Tenant: at.tenant, Primary: f.Primary, Outbound: f.Outbound,
		Continuity: Continuity(f.Continuity), ShadowDays: int(f.ShadowDays), Recipients: Recipients(f.Recipients),
		ProbeEvery: time.Duration(f.ProbeEvery) * time.Millisecond, DownAfter: int(f.DownAfter), UpAfter: int(f.UpAfter),
		DotTimeout: time.Duration(f.DotTimeout) * time.Millisecond, Failover: over,
	}
}

// Domain returns a domain by its name, in any case. Its slices must not be
// changed.
func (s *Snapshot) Domain(name string) (Domain, bool) {
	d, ok := s.effective[asciiLower(name)]
	return d, ok
}

// Domains returns all domains, by name.
func (s *Snapshot) Domains() []Domain {
	out := make([]Domain, 0, len(s.names))
	for _, n := range s.names {
		out = append(out, s.effective[n])
	}
	return out
}

// Resolve tells where mail for local@domain goes; the local part is unquoted
// ([SplitAddress]). It says no for a domain that is not here, and for an address
// that is not listed where it has to be. Postmaster is always accepted (RFC 5321
// §4.5.1), and "postmaster" without a domain is that of the first domain, one
// where it is listed if there is any.
func (s *Snapshot) Resolve(local, domain string) (Resolution, bool) {
	if domain == "" {
		return s.barePostmaster(local)
	}
	d, ok := s.effective[asciiLower(domain)]
	if !ok {
		return Resolution{}, false
	}
	r := Resolution{Domain: d.Name, Tenant: d.Tenant}
	at := scoped{d.Tenant, joinKey(local, d.Name)}
	u := s.users[at]
	if user, ok := s.aliases[at]; u == nil && ok {
		u, r.Alias = s.users[scoped{d.Tenant, user}], true
	}
	if u != nil {
		r.Account, r.User, r.Listed = u.Account, u.Address, true
		return r, true
	}
	r.Alias = false
	return r, d.Recipients == RecipientsAny || isPostmaster(local)
}

func (s *Snapshot) barePostmaster(local string) (Resolution, bool) {
	if !isPostmaster(local) || len(s.names) == 0 {
		return Resolution{}, false
	}
	for _, n := range s.names {
		if r, _ := s.Resolve(local, n); r.Listed {
			return r, true
		}
	}
	return s.Resolve(local, s.names[0])
}

// User returns the user with this primary address, in any case, quoted or not,
// whose domain is here.
func (s *Snapshot) User(address string) (*User, bool) {
	local, domain, ok := SplitAddress(address)
	if !ok {
		return nil, false
	}
	d, ok := s.effective[domain]
	if !ok {
		return nil, false
	}
	u, ok := s.users[scoped{d.Tenant, joinKey(local, domain)}]
	return u, ok
}

// ByAccount returns a user by account.
func (s *Snapshot) ByAccount(a event.Account) (*User, bool) {
	u, ok := s.byAccount[a]
	return u, ok
}

// Users returns all users of a tenant, by address.
func (s *Snapshot) Users(t event.Tenant) []*User {
	var out []*User
	for at, u := range s.users {
		if at.tenant == t {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, func(a, b *User) int { return strings.Compare(a.keys[0], b.keys[0]) })
	return out
}

// Failover returns the override of a domain, FailoverAuto when there is none.
func (s *Snapshot) Failover(domain string) Failover {
	if d, ok := s.Domain(domain); ok {
		return d.Failover
	}
	return FailoverAuto
}

// TenantName returns the name under which a tenant was created.
func (s *Snapshot) TenantName(t event.Tenant) (string, bool) {
	n, ok := s.tenants[t]
	return n, ok
}

// Ended reports whether a tenant has ended, and the name that it had.
func (s *Snapshot) Ended(t event.Tenant) (name string, ok bool) {
	name, ok = s.ended[t]
	return name, ok
}

// Known reports whether the log has something of a tenant that has not ended.
func (s *Snapshot) Known(t event.Tenant) bool {
	if _, ok := s.tenants[t]; ok {
		return true
	}
	for _, owner := range s.claims {
		if owner == t {
			return true
		}
	}
	return false
}

// DomainsOf returns the names of the domains that a tenant has claimed, sorted.
func (s *Snapshot) DomainsOf(t event.Tenant) (names []string) {
	for name, owner := range s.claims {
		if owner == t {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TenantID returns the id of the tenant that has a name now, or would have it. id
// gives the same id for a name each time; a tenant whose namesakes have ended is
// another one than they.
func (s *Snapshot) TenantID(name string, id func(string) (event.Tenant, error)) (event.Tenant, error) {
	for n := 1; ; n++ {
		numbered := name
		if n > 1 {
			numbered = fmt.Sprintf("%s\x00%d", name, n) // no name has a zero byte
		}
		t, err := id(numbered)
		if _, over := s.ended[t]; err != nil || !over {
			return t, err
		}
	}
}

// Tenants returns all tenants that were created and have not ended, in a constant
// order.
func (s *Snapshot) Tenants() []event.Tenant {
	return slices.SortedFunc(maps.Keys(s.tenants), func(a, b event.Tenant) int { return slices.Compare(a[:], b[:]) })
}

// BackedUp returns when a backup of the root key was last recorded, or 0.
func (s *Snapshot) BackedUp() event.Millis { return s.backedUp }
