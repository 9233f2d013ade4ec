package node

import (
	"context"
	"errors"
	"fmt"

	"holdfast/directory"
	"holdfast/event"
	"holdfast/shadow"
)

// own finds what the users of a scope have put into their mailboxes themselves,
// which the index does not have: for a scope that is a user or a tenant as a
// whole, and else nothing.
func (n *Node) own(ctx context.Context, t event.Tenant, s Scope) (rows []shadow.Row, err error) {
	if s.Domain != "" || s.Selectors.detail() != (Selectors{}).detail() {
		return nil, nil
	}
	snap := n.directory.Snapshot()
	users := snap.Users(t)
	if s.User != "" {
		users = nil
		local, domain, _ := directory.SplitAddress(s.User)
		if r, ok := snap.Resolve(local, domain); ok && r.Listed && r.Tenant == t {
			if u, ok := snap.User(r.User); ok {
				users = []*directory.User{u}
			}
		}
	}
	for _, u := range users {
		seen := map[event.ID]bool{}
		boxes := n.continuity.User(t, u.Account, func() event.Day { return 1 }, 0)
		list, err := boxes.List(ctx)
		if err != nil {
			return nil, fmt.Errorf("mailboxes of a user: %w", err)
		}
		for _, m := range list {
			if m.NonExistent {
				continue
			}
			found, err := n.ownIn(ctx, t, u, m.Name, seen)
			if err != nil {
				return nil, fmt.Errorf("mailboxes of a user: %w", err)
			}
			rows = append(rows, found...)
		}
	}
	return rows, nil
}

// ownIn finds them in one mailbox.
func (n *Node) ownIn(ctx context.Context, t event.Tenant, u *directory.User, mailbox string, seen map[event.ID]bool) (rows []shadow.Row, err error) {
	sel, err := n.continuity.User(t, u.Account, func() event.Day { return 1 }, 0).Select(ctx, mailbox)
	if err != nil {
		return nil, err
	}
	defer sel.Close()
	for _, m := range sel.Snapshot() {
		if seen[m.Email] {
			continue
		}
		seen[m.Email] = true
		if _, err := n.shadow.Get(ctx, m.Email); !errors.Is(err, shadow.ErrNotFound) {
			if err != nil {
				return nil, err
			}
			continue // the index has it
		}
		rec, err := n.log.Event(ctx, m.Ref)
		if err != nil {
			return nil, err
		}
		if f, ok := rec.Fact.(*event.Appended); ok {
			rows = append(rows, shadow.Row{ID: m.Email, Ref: m.Ref, Tenant: t, Expiry: rec.Expiry, Received: timeOf(m.Saved), Rcpt: []string{u.Address}, State: []string{"put there"}, Size: f.Size})
		}
	}
	return rows, nil
}
