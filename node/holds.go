package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/directory"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/retention"
	"holdfast/shadow"
)

// Scope says whose mail is meant, and which of it. Every member that is set must
// match; a scope with nothing but a tenant is all of its mail.
type Scope struct {
	Tenant string `json:"tenant,omitempty"` // by name
	Domain string `json:"domain,omitempty"` // mail to or from it
	User   string `json:"user,omitempty"`   // mail to or from any of the user's addresses
	Selectors
}

// empty reports that the scope says nothing.
func (s Scope) empty() bool {
	t := s
	t.IDs = nil
	return len(s.IDs) == 0 && t.Tenant == "" && t.Domain == "" && t.User == "" && t.Selectors.detail() == (Selectors{}).detail()
}

// tenantOf finds the tenant of a scope: the one that is named, or that what is
// named belongs to, or the only one.
func (n *Node) tenantOf(ctx context.Context, s Scope) (event.Tenant, error) {
	snap := n.directory.Snapshot()
	var found []event.Tenant
	add := func(t event.Tenant) {
		if !slices.Contains(found, t) {
			found = append(found, t)
		}
	}
	if s.Tenant != "" {
		t, err := n.tenantID(ctx, s.Tenant)
		if err != nil {
			return event.Tenant{}, err
		}
		if _, ok := snap.TenantName(t); !ok {
			return event.Tenant{}, wrong("there is no tenant %q here; holdfast status names them", s.Tenant)
		}
		add(t)
	}
	for _, at := range []struct{ what, name string }{{"--domain", s.Domain}, {"--user", s.User}} {
		if at.name == "" {
			continue
		}
		name := strings.TrimPrefix(at.name[strings.LastIndexByte(at.name, '@')+1:], "@")
		d, ok := snap.Domain(name)
		switch {
		case ok:
			add(d.Tenant)
		case s.Tenant == "":
			return event.Tenant{}, wrong("%s %s: the domain %q is not here; holdfast status lists them. If it was removed, name its tenant: --tenant NAME", at.what, at.name, name)
		}
	}
	for _, id := range s.IDs {
		row, err := n.message(ctx, id)
		if err != nil {
			return event.Tenant{}, err
		}
		add(row.Tenant)
	}
	for _, address := range []string{s.Rcpt, s.From} {
		if d, ok := snap.Domain(address[strings.LastIndexByte(address, '@')+1:]); ok && len(found) == 0 {
			add(d.Tenant)
		}
	}
	if all := snap.Tenants(); len(found) == 0 && len(all) == 1 {
		return all[0], nil
	}
	switch len(found) {
	case 0:
		return event.Tenant{}, wrong("there is more than one tenant, and it is not said whose mail is meant; say --tenant NAME or --domain DOMAIN")
	case 1:
		return found[0], nil
	}
	return event.Tenant{}, wrong("what is named belongs to different tenants; do it for one after the other")
}

// message returns one message by the id that an administrator gave.
func (n *Node) message(ctx context.Context, text string) (shadow.Row, error) {
	id, err := event.ParseID(strings.ToLower(text))
	if err != nil {
		return shadow.Row{}, wrong("%q is no message id; it has 32 hexadecimal digits, as search prints it", text)
	}
	row, err := n.shadow.Get(ctx, id)
	if errors.Is(err, shadow.ErrNotFound) {
		return row, fmt.Errorf("there is no message %v, or not any more", id)
	}
	return row, err
}

// match turns a scope into what selects messages.
func (n *Node) match(s Scope) (m event.HoldMatch, err error) {
	m = event.HoldMatch{
		Domain: strings.ToLower(strings.TrimPrefix(s.Domain, "@")), Rcpt: s.Rcpt, From: s.From, Subject: s.Subject, MessageID: s.MessageID,
		Since: millisOf(s.Since), Until: millisOf(s.Until),
	}
	for _, text := range s.IDs {
		id, err := event.ParseID(strings.ToLower(text))
		if err != nil {
			return m, wrong("%q is no message id; it has 32 hexadecimal digits, as search prints it", text)
		}
		m.Messages = append(m.Messages, id)
	}
	if s.User == "" {
		return m, nil
	}
	local, domain, ok := directory.SplitAddress(s.User)
	if !ok || local == "" {
		return m, wrong("--user takes an address such as alice@example.org, not %q", s.User)
	}
	m.Users = []string{s.User}
	snap := n.directory.Snapshot()
	if r, ok := snap.Resolve(local, domain); ok && r.Listed {
		if u, ok := snap.User(r.User); ok {
			m.Users = append([]string{u.Address}, u.Aliases...)
		}
	}
	return m, nil
}

func millisOf(t time.Time) event.Millis {
	if t.IsZero() {
		return 0
	}
	return event.Millis(t.UnixMilli())
}

// Bounds of what is said of a hold.
const (
	maxHoldName = 64
	maxReason   = 1000
)

func checkReason(s string) error {
	if strings.TrimSpace(s) == "" {
		return wrong("say why: --reason TEXT; it is put on record")
	}
	if len(s) > maxReason || !utf8.ValidString(s) {
		return wrong("the reason is a text of up to %d bytes", maxReason)
	}
	return nil
}

func checkHoldName(s string) error {
	ok := s != "" && len(s) <= maxHoldName
	for _, c := range s {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c))
	}
	if !ok {
		return wrong("%q is no name for a hold; it has up to %d letters, digits, dots and dashes", s, maxHoldName)
	}
	return nil
}

// addHold places a hold.
func (n *Node) addHold(ctx context.Context, req HoldRequest) (HoldAnswer, error) {
	out := HoldAnswer{Name: req.Name}
	if n.log.ReadOnly() {
		return out, eventlog.ErrReadOnly
	}
	if err := checkHoldName(req.Name); err != nil {
		return out, err
	}
	if err := checkReason(req.Reason); err != nil {
		return out, err
	}
	switch {
	case req.Scope.empty():
		return out, wrong("say what to hold: --domain DOMAIN, --user ADDRESS, selectors or ids; --tenant NAME alone holds all of a tenant's mail")
	case req.State != "" || req.Limit != 0 || req.After != "":
		return out, wrong("a hold does not go by --state, --limit or --after: it holds what matches, now and later")
	}
	t, err := n.tenantOf(ctx, req.Scope)
	if err != nil {
		return out, err
	}
	m, err := n.match(req.Scope)
	if err != nil {
		return out, err
	}
	out.Tenant = n.tenantName(t)
	v, err := n.retention.PlaceHold(ctx, t, &event.HoldPlaced{At: n.log.Millis(), Who: who(ctx), Name: req.Name, Reason: req.Reason, Match: m})
	out.Messages, out.Condemned = v.Messages-v.Condemned, v.Condemned
	if errors.Is(err, retention.ErrHoldExists) {
		return out, wrong("there is a hold %q on mail of %s already; holds have different names", req.Name, out.Tenant)
	}
	if errors.Is(err, retention.ErrCondemned) {
		return out, fmt.Errorf("too late: all %d messages that it selects have been condemned before, because their day is over; they are being removed, and the hold was not placed", v.Condemned)
	}
	return out, err
}

// tenantName returns a tenant as administrators know it.
func (n *Node) tenantName(t event.Tenant) string {
	snap := n.directory.Snapshot()
	if name, ok := snap.TenantName(t); ok {
		return name
	}
	if name, ok := snap.Ended(t); ok {
		return name + " (ended)"
	}
	return t.String()
}

// listHolds returns the holds that stand.
func (n *Node) listHolds(ctx context.Context, _ struct{}) (HoldsAnswer, error) {
	out := HoldsAnswer{Holds: []HoldStatus{}}
	holds, err := n.retention.Holds(ctx)
	if err != nil {
		return out, err
	}
	for _, h := range holds {
		out.Holds = append(out.Holds, n.holdStatus(h))
	}
	slices.SortFunc(out.Holds, func(a, b HoldStatus) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (n *Node) holdStatus(h retention.Hold) HoldStatus {
	m := h.Placed.Match
	s := HoldStatus{
		Name: h.Placed.Name, Tenant: n.tenantName(h.Tenant), Since: timeOf(h.Placed.At), Who: h.Placed.Who, Reason: h.Placed.Reason, Messages: h.Messages,
		Domain: m.Domain, Users: m.Users,
		Selectors: Selectors{Rcpt: m.Rcpt, From: m.From, Subject: m.Subject, MessageID: m.MessageID},
	}
	if m.Since != 0 {
		s.Selectors.Since = timeOf(m.Since)
	}
	if m.Until != 0 {
		s.Selectors.Until = timeOf(m.Until)
	}
	for _, id := range m.Messages {
		s.IDs = append(s.IDs, id.String())
	}
	return s
}

func timeOf(m event.Millis) time.Time { return time.UnixMilli(int64(m)).UTC() }

// releaseHold ends a hold.
func (n *Node) releaseHold(ctx context.Context, req HoldRequest) (HoldAnswer, error) {
	out := HoldAnswer{Name: req.Name}
	if n.log.ReadOnly() {
		return out, eventlog.ErrReadOnly
	}
	if err := checkReason(req.Reason); err != nil {
		return out, err
	}
	holds, err := n.retention.Holds(ctx)
	if err != nil {
		return out, err
	}
	var found []retention.Hold
	for _, h := range holds {
		if h.Placed.Name == req.Name && (req.Tenant == "" || n.tenantName(h.Tenant) == req.Tenant) {
			found = append(found, h)
		}
	}
	switch {
	case len(found) == 0:
		return out, wrong("there is no hold %q; holdfast hold list shows those that stand", req.Name)
	case len(found) > 1:
		return out, wrong("%d tenants have a hold %q; say whose: --tenant NAME", len(found), req.Name)
	}
	out.Tenant, out.Messages = n.tenantName(found[0].Tenant), found[0].Messages
	err = n.retention.ReleaseHold(ctx, found[0].Tenant, &event.HoldReleased{At: n.log.Millis(), Who: who(ctx), Name: req.Name, Reason: req.Reason})
	if errors.Is(err, retention.ErrNoHold) {
		return out, wrong("the hold %q was released by somebody else just now", req.Name)
	}
	return out, err
}
