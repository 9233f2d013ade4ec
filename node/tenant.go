package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"holdfast/directory"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/retention"
)

// TenantEndRequest is the body of /tenant/end. With DryRun nothing ends. KeysLost
// ends a tenant whose keys are missing, and no other.
type TenantEndRequest struct {
	Name     string `json:"name"`
	Reason   string `json:"reason"`
	DryRun   bool   `json:"dry_run,omitempty"`
	KeysLost bool   `json:"keys_lost,omitempty"`
}

// TenantEndAnswer is the answer of /tenant/end.
type TenantEndAnswer struct {
	Tenant   string `json:"tenant"`
	ID       string `json:"id"`
	Messages uint64 `json:"messages"` // that go
	Bytes    uint64 `json:"bytes"`
	Users    int    `json:"users"`
	// Due is how many recipients of messages are due or held in the queue: nobody
	// will deliver to them.
	Due uint64 `json:"due"`
	// Domains and Held name what forbids it; of a dry run.
	Domains []string `json:"domains,omitempty"`
	Held    []string `json:"held,omitempty"`
	// Ended is when it ended, Certificate where the log says so, as /prove takes it.
	// A tenant without keys has its certificate a little later.
	Ended       *time.Time `json:"ended,omitempty"`
	Certificate string     `json:"certificate,omitempty"`
	Before      bool       `json:"before,omitempty"` // it had ended before
}

// endTenant ends a tenant for ever.
func (n *Node) endTenant(ctx context.Context, req TenantEndRequest) (out TenantEndAnswer, err error) {
	if n.log.ReadOnly() {
		return out, eventlog.ErrReadOnly
	}
	if err := checkReason(req.Reason); err != nil {
		return out, err
	}
	t, err := n.tenantID(ctx, req.Name)
	if err != nil {
		return out, err
	}
	if _, known := n.directory.Snapshot().TenantName(t); !known && !req.KeysLost {
		return n.endedBefore(ctx, req.Name)
	}
	out, err = n.wouldEnd(ctx, t, req)
	if err != nil {
		return out, err
	}
	act := "end tenant"
	if req.DryRun {
		act = "end tenant dry run"
	}
	if err := n.audit(ctx, act, fmt.Sprintf("tenant %q because %q", req.Name, req.Reason), int(out.Messages)); err != nil {
		return out, err
	}
	switch {
	case req.DryRun:
		return out, nil
	case len(out.Domains) > 0 && !req.KeysLost: // without keys they cannot be removed
		return out, wrong("the tenant still has %s; take that out of the file of domains, with its users, and run holdfast apply --prune first, so that no mail comes in for it any more", strings.Join(out.Domains, ", "))
	case req.KeysLost:
		return out, n.retention.EndLost(ctx, t, who(ctx), req.Reason, req.Name)
	}
	end, err := n.retention.EndTenant(ctx, t, who(ctx), req.Reason, req.Name)
	if errors.Is(err, retention.ErrHeld) {
		return out, fmt.Errorf("refused, nothing has ended: %w; see holdfast hold list, and release what need not be held any more", err)
	}
	if err != nil {
		return out, err
	}
	out.tell(end, false)
	return out, nil
}

// EndLost ends a tenant whose keys are missing, while no node runs: one of whose
// tenants the keys are missing does not start.
func EndLost(ctx context.Context, cfg Config, seams Seams, logger *slog.Logger, admin string, req TenantEndRequest) (TenantEndAnswer, error) {
	if req.KeysLost = true; req.Reason == "" {
		return TenantEndAnswer{}, checkReason("")
	}
	cfg.Roles, seams.Existing = []string{}, true
	n, err := New(ctx, cfg, seams, logger)
	if err != nil {
		return TenantEndAnswer{}, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLog)
		defer cancel()
		n.close(closing)
	}()
	return n.endTenant(context.WithValue(ctx, whoKey{}, admin), req)
}

func (a *TenantEndAnswer) tell(end retention.End, before bool) {
	at := timeOf(end.Ended.At)
	a.Tenant, a.ID, a.Ended, a.Certificate, a.Before = end.Name, end.Tenant.String(), &at, placeText(end.At.Position), before
}

// tenantID returns the id of the tenant that has a name now.
func (n *Node) tenantID(ctx context.Context, name string) (event.Tenant, error) {
	return n.directory.Snapshot().TenantID(name, func(name string) (event.Tenant, error) { return n.keys.TenantID(ctx, name) })
}

// endedBefore answers for a name that no tenant has: of several that had it, for
// the last.
func (n *Node) endedBefore(ctx context.Context, name string) (out TenantEndAnswer, err error) {
	ends, err := n.retention.Ends(ctx)
	if err != nil {
		return out, err
	}
	ends = slices.DeleteFunc(ends, func(e retention.End) bool { return e.Name != name })
	if len(ends) == 0 {
		return out, wrong("there is no tenant %q here; holdfast status names them", name)
	}
	out.tell(slices.MaxFunc(ends, func(a, b retention.End) int { return int(a.Ended.At - b.Ended.At) }), true)
	return out, nil
}

// wouldEnd says what goes with a tenant, and what forbids that it ends.
func (n *Node) wouldEnd(ctx context.Context, t event.Tenant, req TenantEndRequest) (out TenantEndAnswer, err error) {
	snap := n.directory.Snapshot()
	out = TenantEndAnswer{Tenant: req.Name, ID: t.String(), Domains: snap.DomainsOf(t), Users: len(snap.Users(t))}
	switch err := n.log.RequireTenant(ctx, t); {
	case req.KeysLost && err == nil:
		return out, wrong("the keys of tenant %q are there: end it without --keys-lost", req.Name)
	case req.KeysLost && errors.Is(err, eventlog.ErrTenantKeys):
		return out, n.lost(ctx, t, req.Name)
	case err != nil:
		return out, err
	}
	p := n.log.PartitionOf(t)
	for _, st := range n.runner.Status() { // so that the figures are those of now
		if err := n.runner.WaitFor(ctx, st.Name, event.Position{Partition: p, Seq: n.log.TailAtLeast(p)}); err != nil {
			return out, err
		}
	}
	accounts, err := n.retention.Accounts(ctx)
	if err != nil {
		return out, err
	}
	for _, a := range accounts {
		if a.Tenant == t {
			out.Messages, out.Bytes = a.Messages, a.Bytes
		}
	}
	counts, err := n.shadow.Counts(ctx)
	if err != nil {
		return out, err
	}
	for _, c := range counts {
		if c.Tenant == t && (c.State == "due" || c.State == "held") {
			out.Due += c.N
		}
	}
	holds, err := n.retention.Holds(ctx)
	for _, h := range holds {
		if h.Tenant == t {
			out.Held = append(out.Held, h.Placed.Name)
		}
	}
	return out, err
}

// lost refuses what is no tenant at all: a name that was mistyped has no keys,
// either.
func (n *Node) lost(ctx context.Context, t event.Tenant, name string) error {
	if n.directory.Snapshot().Known(t) {
		return nil
	}
	there, err := n.log.Mentions(ctx, t)
	if err == nil && !there {
		err = wrong("there is no tenant %q here, and the log has nothing of one", name)
	}
	return err
}

// ensureKeys makes the keys of a tenant that is new, and refuses to make new ones
// of a tenant of which the log has events: they would be lost for good.
func (n *Node) ensureKeys(ctx context.Context, t event.Tenant) error {
	if n.directory.Snapshot().Known(t) || t == event.SystemTenant {
		return n.log.RequireTenant(ctx, t)
	}
	err := n.log.RequireTenant(ctx, t)
	if !errors.Is(err, eventlog.ErrTenantKeys) {
		return err
	}
	// The directory may not know what it cannot read.
	there, lookErr := n.log.Mentions(ctx, t)
	if lookErr != nil {
		return lookErr
	}
	if there {
		return err
	}
	return n.log.EnsureTenant(ctx, t)
}

// refuseEnding refuses changes that add something to a tenant whose end is ordered.
func (n *Node) refuseEnding(ctx context.Context, changes []directory.Change) error {
	seen := map[event.Tenant]bool{}
	for _, c := range changes {
		t := c.Tenant
		switch f := c.Fact.(type) {
		case *event.DomainClaimed:
			if f.Release {
				continue
			}
			t = f.Tenant
		case *event.TenantCreated, *event.DomainSet, *event.UserSet:
		default:
			continue // what is taken away
		}
		if seen[t] || !n.directory.Snapshot().Known(t) {
			continue // a tenant that is new
		}
		seen[t] = true
		if err := n.log.RequireTenant(ctx, t); err != nil {
			return err
		}
		ending, err := n.retention.Ending(ctx, t)
		if err != nil {
			return err
		}
		if ending {
			name, _ := n.directory.Snapshot().TenantName(t)
			return wrong("tenant %q is being ended, so that nothing is changed: run holdfast tenant end for it again, and apply then makes a new tenant of that name", name)
		}
	}
	return nil
}
