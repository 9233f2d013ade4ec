package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"holdfast/directory"
	"holdfast/event"
)

// consequence says what a change that was applied means for the mail that is
// there already; nothing, when it means nothing.
func (n *Node) consequence(ctx context.Context, before *directory.Snapshot, t event.Tenant, f event.Fact) ([]string, error) {
	switch f := f.(type) {
	case *event.DomainSet:
		old, ok := before.Domain(f.Domain)
		if !ok || old.Tenant != t || old.ShadowDays == int(f.ShadowDays) {
			return nil, nil
		}
		return n.keptDays(ctx, t, f.Domain, old.ShadowDays, int(f.ShadowDays))
	case *event.DomainRemoved:
		return n.holdsGoOn(ctx, t, func(m event.HoldMatch) bool {
			return m.Domain == f.Domain || slices.ContainsFunc(append([]string{m.Rcpt, m.From}, m.Users...), func(a string) bool { return isAt(a, f.Domain) })
		})
	case *event.UserRemoved:
		return n.holdsGoOn(ctx, t, func(m event.HoldMatch) bool {
			return slices.ContainsFunc(append([]string{m.Rcpt, m.From}, m.Users...), func(a string) bool { return strings.EqualFold(a, f.Address) })
		})
	}
	return nil, nil
}

func isAt(address, domain string) bool {
	at := strings.LastIndexByte(address, '@')
	return at >= 0 && strings.EqualFold(address[at+1:], domain)
}

// keptDays says what another retention means: mail keeps the day under whose key
// it was sealed.
func (n *Node) keptDays(ctx context.Context, t event.Tenant, domain string, from, to int) ([]string, error) {
	var messages uint64
	var last event.Day
	for row, err := range n.shadow.Under(ctx, t, event.HoldMatch{Domain: domain}, 0) {
		if err != nil {
			return nil, err
		}
		messages++
		last = max(last, row.Expiry)
	}
	line := fmt.Sprintf("domain %s: %d days instead of %d act on mail from now on", domain, to, from)
	if messages > 0 {
		there := "1 message already there keeps its day"
		if messages > 1 {
			there = fmt.Sprintf("%d messages already there keep their day", messages)
		}
		line += fmt.Sprintf("; %s (the last expires on %v)", there, last)
	}
	return []string{line}, nil
}

// holdsGoOn names the holds that stay although whom they are about is removed.
func (n *Node) holdsGoOn(ctx context.Context, t event.Tenant, about func(event.HoldMatch) bool) (out []string, err error) {
	holds, err := n.retention.Holds(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range holds {
		if h.Tenant == t && about(h.Placed.Match) {
			out = append(out, fmt.Sprintf("hold %s: goes on, and keeps %d messages", h.Placed.Name, h.Messages))
		}
	}
	return out, nil
}
