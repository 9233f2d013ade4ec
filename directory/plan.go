package directory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/event"
)

// Planner finds out what to change. Its functions come from the packages that
// hold keys and passwords.
type Planner struct {
	// TenantID returns the id of the tenant with this name, the same each time.
	TenantID func(name string) (event.Tenant, error)
	// Hash returns the argon2id hash of a password in PHC form, salted afresh.
	Hash func(password string) string
	// Matches reports whether a hash is that of a password.
	Matches func(hash, password string) bool
	// CheckHash says what is wrong with a hash.
	CheckHash func(hash string) error
}

// Change is one thing that has to be appended, in the order of the plan. A
// change may depend on those of other tenants before it: a claim can be lost to
// somebody else, and the domain's settings then have no effect.
type Change struct {
	Text string // for the administrator; it quotes addresses, and is not for the log
	// Tenant whose event it is; [event.SystemTenant] for claims.
	Tenant event.Tenant
	Fact   event.Fact
}

// ErrFile is wrapped by the errors of a file that cannot be applied. Their texts
// quote the file, and are not for the log.
var ErrFile = errors.New("the file cannot be applied")

// Plan returns what makes the present state that of the file; nothing, when it is
// so already. Domains and users that the file does not have are removed only
// with prune. Each password that is not given as a hash costs a computation of
// some 20 ms.
func (p *Planner) Plan(cur *Snapshot, file File, prune bool) ([]Change, error) {
	l := &plan{p: p, cur: cur, prune: prune, domains: map[string]event.Tenant{}, wanted: map[scoped]*wantedUser{}, addresses: map[scoped]string{}}
	for i, d := range file.Domains {
		l.domain(i, d)
	}
	for i, u := range file.Users {
		l.user(i, u)
	}
	l.aliases()
	if len(l.errs) > 0 {
		return nil, fmt.Errorf("%w:\n%w", ErrFile, errors.Join(l.errs...))
	}
	if prune {
		l.pruneUsers()
	}
	l.users()
	if prune {
		l.pruneDomains()
	}
	return l.changes, nil
}

// plan is a plan in the making.
type plan struct {
	check
	p         *Planner
	cur       *Snapshot
	prune     bool
	changes   []Change
	domains   map[string]event.Tenant // of the file
	created   []event.Tenant
	wanted    map[scoped]*wantedUser
	order     []scoped
	addresses map[scoped]string // every address of the file, with where it stands
}

type wantedUser struct {
	where string
	file  FileUser
}

func (l *plan) add(t event.Tenant, f event.Fact, format string, a ...any) {
	l.changes = append(l.changes, Change{Text: fmt.Sprintf(format, a...), Tenant: t, Fact: f})
}

// domain checks a domain, and plans it right away: users come after all of them.
func (l *plan) domain(i int, d FileDomain) {
	l.where = fmt.Sprintf("[[domain]] %d (%s)", i+1, d.Name)
	name := asciiLower(strings.TrimSuffix(d.Name, "."))
	if !validDomain(name) {
		l.fail("name", "%q is not a domain; write one such as acme.example, international ones in their xn-- form", d.Name)
		return
	}
	if _, ok := l.domains[name]; ok {
		l.fail("name", "the domain is here twice; leave one")
		return
	}
	f := l.settings(name, d)
	if d.Tenant == "" {
		l.fail("tenant", "is missing; name the customer whom the domain belongs to")
		return
	}
	if strings.ContainsRune(d.Tenant, 0) {
		l.fail("tenant", "%q has a zero byte", d.Tenant)
		return
	}
	tenant, err := l.cur.TenantID(d.Tenant, l.p.TenantID)
	if err != nil {
		l.fail("tenant", "%v", err)
		return
	}
	l.domains[name] = tenant
	owner, claimed := l.cur.claims[name]
	if claimed && owner != tenant {
		l.fail("tenant", "the domain belongs to %q; remove it there first (a file without it, applied with --prune)", l.cur.tenants[owner])
		return
	}
	if _, ok := l.cur.tenants[tenant]; !ok && !slices.Contains(l.created, tenant) {
		l.created = append(l.created, tenant)
		l.add(tenant, &event.TenantCreated{Name: d.Tenant}, "tenant %s: created", d.Tenant)
	}
	if !claimed {
		l.add(event.SystemTenant, &event.DomainClaimed{Domain: name, Tenant: tenant}, "domain %s: claimed for %s", name, d.Tenant)
	}
	old, ok := l.cur.domains[scoped{tenant, name}]
	switch {
	case !ok:
		l.add(tenant, f, "domain %s: added", name)
	case !slices.Equal(event.Marshal(old), event.Marshal(f)):
		l.add(tenant, f, "domain %s: changed %s", name, strings.Join(differences(old, f), ", "))
	}
}

func (l *plan) settings(name string, d FileDomain) *event.DomainSet {
	if len(d.Primary) == 0 || len(d.Primary) > maxPrimaries {
		l.fail("primary", "needs 1 to %d URLs, such as smtp://mail.%s:25", maxPrimaries, name)
	}
	for _, u := range d.Primary {
		if _, err := ParseUpstream(u); err != nil {
			l.fail("primary", "%q %v", u, err)
		}
	}
	if d.Outbound != "" {
		if _, err := ParseUpstream(d.Outbound); err != nil {
			l.fail("outbound", "%q %v", d.Outbound, err)
		}
	}
	return &event.DomainSet{
		Domain: name, Primary: d.Primary, Outbound: d.Outbound,
		Continuity: l.choice("continuity", d.Continuity, "outage", "outage", "always", "off"),
		ShadowDays: l.number("shadow_days", d.ShadowDays, defaultShadowDays, 1, maxShadowDays),
		Recipients: l.choice("recipients", d.Recipients, "listed", "listed", "any"),
		ProbeEvery: l.duration("health.probe_every", d.Health.ProbeEvery, defaultProbeEvery, minProbeEvery, maxProbeEvery),
		DownAfter:  l.number("health.down_after", d.Health.DownAfter, defaultDownAfter, 1, maxAfter),
		UpAfter:    l.number("health.up_after", d.Health.UpAfter, defaultUpAfter, 1, maxAfter),
		DotTimeout: l.duration("health.dot_timeout", d.Health.DotTimeout, 0, minDotTimeout, maxDotTimeout),
	}
}

// differences names the settings in which a and b differ.
func differences(a, b *event.DomainSet) (names []string) {
	for _, d := range []struct {
		name    string
		differs bool
	}{
		{"primary", !slices.Equal(a.Primary, b.Primary)},
		{"outbound", a.Outbound != b.Outbound},
		{"continuity", a.Continuity != b.Continuity},
		{"shadow_days", a.ShadowDays != b.ShadowDays},
		{"recipients", a.Recipients != b.Recipients},
		{"health.probe_every", a.ProbeEvery != b.ProbeEvery},
		{"health.down_after", a.DownAfter != b.DownAfter},
		{"health.up_after", a.UpAfter != b.UpAfter},
		{"health.dot_timeout", a.DotTimeout != b.DotTimeout},
	} {
		if d.differs {
			names = append(names, d.name)
		}
	}
	return names
}

// at returns where an address of the file belongs.
func (l *plan) at(field, address string) (at scoped, ok bool) {
	local, domain, ok := SplitAddress(address)
	if !ok || local == "" || len(address) > 320 {
		l.fail(field, "%q is not an address; write local@domain", address)
		return at, false
	}
	tenant, ok := l.domains[domain]
	if !ok {
		l.fail(field, "%q: the domain %s has no [[domain]] in this file; add one", address, domain)
		return at, false
	}
	return scoped{tenant, joinKey(local, domain)}, true
}

func (l *plan) user(i int, u FileUser) {
	l.where = fmt.Sprintf("[[user]] %d (%s)", i+1, u.Address)
	if u.Password != "" && u.PasswordHash != "" {
		l.fail("password", "there is a password_hash as well; leave one of them")
	}
	if u.PasswordHash != "" {
		if err := l.p.CheckHash(u.PasswordHash); err != nil {
			l.fail("password_hash", "%v", err)
		}
	}
	if len(u.Aliases) > maxAliases {
		l.fail("aliases", "%d are too many; %d may be", len(u.Aliases), maxAliases)
		return
	}
	at, ok := l.at("address", u.Address)
	if !ok {
		return
	}
	if other, ok := l.addresses[at]; ok {
		l.fail("address", "is also that of %s; leave one", other)
		return
	}
	l.addresses[at] = l.where
	l.wanted[at] = &wantedUser{where: l.where, file: u}
	l.order = append(l.order, at)
}

// aliases checks the aliases of all users, once all addresses are known.
func (l *plan) aliases() {
	for _, at := range l.order {
		w := l.wanted[at]
		l.where = w.where
		for _, alias := range w.file.Aliases {
			a, ok := l.at("aliases", alias)
			switch {
			case !ok:
			case a.tenant != at.tenant:
				l.fail("aliases", "%q: the domain belongs to another tenant than the user's", alias)
			case l.addresses[a] != "":
				l.fail("aliases", "%q is also an address of %s; leave one", alias, l.addresses[a])
			case l.heldByUnlisted(a):
				l.fail("aliases", "%q belongs to a user who is not in this file; list him, or remove him with --prune", alias)
			default:
				l.addresses[a] = w.where
			}
		}
	}
}

// heldByUnlisted reports whether an address is now that of a user whom the file
// does not have, and who stays.
func (l *plan) heldByUnlisted(a scoped) bool {
	if l.prune {
		return false
	}
	holder := a
	if user, ok := l.cur.aliases[a]; ok {
		holder.name = user
	}
	return l.cur.users[holder] != nil && l.wanted[holder] == nil
}

// users plans the users. An alias that moves from one to another is taken from
// the first before it is given to the second.
func (l *plan) users() {
	for _, at := range l.order {
		old := l.cur.users[at]
		if old == nil {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(old.Aliases), func(a string) bool {
			k, _ := addressKey(a)
			owner, wanted := l.addresses[scoped{at.tenant, k}]
			return wanted && owner != l.wanted[at].where
		})
		if len(kept) != len(old.Aliases) {
			l.add(at.tenant, &event.UserSet{Account: old.Account, Address: old.Address, Aliases: kept, Password: old.PasswordHash},
				"user %s: gives up aliases that go to others", old.Address)
		}
	}
	for _, at := range l.order {
		l.oneUser(at, l.wanted[at], l.cur.users[at])
	}
}

func (l *plan) oneUser(at scoped, w *wantedUser, old *User) {
	f := &event.UserSet{Address: w.file.Address, Aliases: w.file.Aliases, Password: w.file.PasswordHash}
	var changed []string
	if old == nil {
		var known bool
		if f.Account, known = l.cur.removed[at]; !known {
			f.Account = event.NewAccount()
		}
		if w.file.Password != "" {
			f.Password = l.p.Hash(w.file.Password)
		}
		l.add(at.tenant, f, "user %s: added", f.Address)
		return
	}
	f.Account = old.Account
	if old.Address != f.Address {
		changed = append(changed, "address")
	}
	if !slices.Equal(old.Aliases, f.Aliases) {
		changed = append(changed, "aliases")
	}
	switch {
	case w.file.PasswordHash != "":
	case w.file.Password == "", old.PasswordHash != "" && l.p.Matches(old.PasswordHash, w.file.Password):
		f.Password = old.PasswordHash
	default:
		f.Password = l.p.Hash(w.file.Password)
	}
	if old.PasswordHash != f.Password {
		changed = append(changed, "password")
	}
	if len(changed) > 0 {
		l.add(at.tenant, f, "user %s: changed %s", f.Address, strings.Join(changed, ", "))
	}
}

func (l *plan) pruneUsers() {
	for _, tenant := range l.cur.Tenants() {
		for _, u := range l.cur.Users(tenant) {
			if l.wanted[scoped{tenant, u.keys[0]}] == nil {
				l.add(tenant, &event.UserRemoved{Address: u.Address}, "user %s: removed", u.Address)
			}
		}
	}
}

func (l *plan) pruneDomains() {
	for _, name := range slices.Sorted(maps.Keys(l.cur.claims)) {
		if _, ok := l.domains[name]; ok {
			continue
		}
		tenant := l.cur.claims[name]
		if _, ok := l.cur.domains[scoped{tenant, name}]; ok {
			l.add(tenant, &event.DomainRemoved{Domain: name}, "domain %s: removed", name)
		}
		l.add(event.SystemTenant, &event.DomainClaimed{Domain: name, Tenant: tenant, Release: true}, "domain %s: released", name)
	}
}
