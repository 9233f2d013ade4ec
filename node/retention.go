package node

import (
	"context"
	"iter"

	"holdfast/event"
	"holdfast/internal/turn"
	"holdfast/objstore"
	"holdfast/retention"
	"holdfast/shadow"
)

// held tells package retention what the index has.
type held struct{ *shadow.Service }

// Under implements retention.Index. What cannot be read may be what a hold selects,
// and counts as selected.
func (h held) Under(ctx context.Context, t event.Tenant, m event.HoldMatch, until event.Day) iter.Seq2[retention.Selected, error] {
	return func(yield func(retention.Selected, error) bool) {
		for r, err := range h.Service.Under(ctx, t, m, until) {
			if !yield(retention.Selected{Message: r.ID, Place: r.Ref, Expiry: r.Expiry}, err) {
				return
			}
		}
		for d, err := range h.Service.InDoubt(ctx, t, m, until) {
			if !yield(retention.Selected{Message: d.Message, Place: d.Ref, Expiry: d.Expiry}, err) {
				return
			}
		}
	}
}

// Days implements retention.Index.
func (h held) Days(ctx context.Context) (out []retention.DayCount, err error) {
	days, err := h.Service.Days(ctx)
	for _, d := range days {
		out = append(out, retention.DayCount(d))
	}
	return out, err
}

// Domains implements retention.Index.
func (h held) Domains(ctx context.Context) (out []retention.DomainCount, err error) {
	domains, err := h.Service.Domains(ctx)
	for _, d := range domains {
		out = append(out, retention.DomainCount(d))
	}
	return out, err
}

// Held implements retention.Index.
func (h held) Held(ctx context.Context, t event.Tenant, holds []retention.Hold) (retention.HeldCount, error) {
	var all []shadow.Hold
	for _, one := range holds {
		all = append(all, shadow.Hold{Match: one.Placed.Match, After: one.After})
	}
	n, err := h.Service.Held(ctx, t, all)
	return retention.HeldCount(n), err
}

// needed tells package retention what is due where there is a server to take it,
// or held in the queue.
func (n *Node) needed(ctx context.Context, t event.Tenant, until event.Day) iter.Seq2[event.Ref, error] {
	return n.delivery.Needed(ctx, t, until, nil)
}

func (n *Node) openRetention(ctx context.Context) (err error) {
	cfg := retention.Config{
		Log: n.log, Runner: n.runner, Index: held{n.shadow}, Filed: n.continuity.Filed, Needed: n.needed,
		Unswept:    []func(context.Context, event.Tenant) (bool, error){n.continuity.Unswept, n.delivery.Unswept, n.shadow.Unswept},
		Domains:    func(t event.Tenant) []string { return n.directory.Snapshot().DomainsOf(t) },
		StoreClock: n.storeClock(), Exclusive: n.exclusive(), Logger: n.logger,
	}
	if r, ok := n.keys.(retention.Ratchet); ok {
		cfg.Ratchet = r
	}
	if n.retention, err = retention.New(cfg); err != nil {
		return err
	}
	return n.retention.Load(ctx)
}

// storeClock reports that the store has a clock of its own, and not just this
// machine's.
func (n *Node) storeClock() bool {
	_, ok := n.bucket.(objstore.Clock)
	return ok && !n.exclusive()
}

// keepDays lets days end: every node moves its ratchet, one that delivers does
// the daily work.
func (r *run) keepDays(ctx context.Context) {
	n := r.node
	r.work.Go(func() { n.retention.Follow(turn.Named(ctx, "ratchet")) })
	if n.cfg.Has(RoleWeb) && n.seams.Bucket == nil {
		r.work.Go(func() { n.countObjects(turn.Named(ctx, "count")) })
	}
	if n.cfg.Has(RoleDeliver) && !n.log.ReadOnly() {
		r.work.Go(func() { r.fail(n.retention.Run(turn.Named(ctx, "retention"))) })
	}
}
