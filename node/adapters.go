package node

import (
	"context"
	"time"

	"holdfast/auth"
	"holdfast/delivery"
	"holdfast/delivery/health"
	"holdfast/directory"
	"holdfast/event"
	"holdfast/intake"
)

// targets tells package intake where an address goes.
type targets struct{ d *directory.Directory }

// Target implements intake.Directory.
func (t targets) Target(local, domain string) (intake.Target, error) {
	s := t.d.Snapshot()
	r, ok := s.Resolve(local, domain)
	if !ok {
		if _, ours := s.Domain(domain); ours {
			return intake.Target{}, intake.ErrUnknownRecipient
		}
		return intake.Target{}, intake.ErrNotOurs
	}
	d, _ := s.Domain(r.Domain)
	return intake.Target{Tenant: r.Tenant, Domain: r.Domain, Account: r.Account, ShadowDays: d.ShadowDays}, nil
}

// sites tells package delivery what there is to deliver to.
type sites struct{ n *Node }

// Sites implements delivery.Directory.
func (s sites) Sites() (out []delivery.Site) {
	dot := time.Duration(0)
	if t := s.n.cfg.Delivery.DotTimeout; t != "" {
		dot, _ = time.ParseDuration(t) // checked with the configuration
	}
	for _, d := range s.n.directory.Domains() {
		site := delivery.Site{
			Domain: d.Name, Tenant: d.Tenant, Primary: d.Primary, Outbound: d.Outbound, ShadowDays: uint32(d.ShadowDays),
			Policy:     health.Policy{ProbeEvery: d.ProbeEvery, DownAfter: d.DownAfter, UpAfter: d.UpAfter},
			DotTimeout: d.DotTimeout, Failover: string(d.Failover),
		}
		if site.DotTimeout == 0 {
			site.DotTimeout = dot
		}
		out = append(out, site)
	}
	return out
}

// Home implements delivery.Directory.
func (s sites) Home(path string, t event.Tenant, domain string) (event.Recipient, []event.Allotment) {
	r := event.Recipient{Path: path, Outside: true, Via: domain}
	local, host, ok := directory.SplitAddress(path)
	if !ok {
		return r, nil
	}
	r.Domain = host
	snap := s.n.directory.Snapshot()
	to, found := snap.Resolve(local, host)
	if !found || to.Tenant != t {
		return r, nil
	}
	r = event.Recipient{Path: path, Domain: to.Domain, Account: to.Account}
	if to.Account == (event.Account{}) {
		return r, nil
	}
	return r, []event.Allotment{{Account: to.Account, Place: event.PlaceInbox}}
}

// lookupLogin finds the user of a login name.
func (n *Node) lookupLogin(name string) (auth.Login, bool) {
	u, ok := n.directory.User(name)
	if !ok {
		return auth.Login{}, false
	}
	return auth.Login{Account: u.Account, Tenant: u.Tenant, Address: u.Address, Hash: u.PasswordHash}, true
}

// admits reports whether users of a domain may come in now.
func (n *Node) admits(ctx context.Context, domain string) (bool, error) {
	d, ok := n.directory.Domain(domain)
	if !ok {
		return false, nil
	}
	st, err := n.delivery.Domain(ctx, d.Tenant, d.Name)
	if err != nil {
		return false, err
	}
	return directory.Admit(d.Continuity, d.Failover, st.State), nil
}

// listed reports whether an account is that of a user who can log in.
func (n *Node) listed(a event.Account) bool {
	_, ok := n.directory.Snapshot().ByAccount(a)
	return ok
}

// domainOf returns the domain of a user's address.
func domainOf(address string) string {
	_, domain, _ := directory.SplitAddress(address)
	return domain
}
