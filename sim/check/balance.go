package check

import (
	"maps"
	"slices"

	"holdfast/node"
)

// Balance judges every node's balance sheet. Each line holds, no entry of a queue
// is astray, and the numbers are those that the log's own words come to: mail that
// was accepted and not repudiated, and what became of it, in total and for each
// domain and direction.
func Balance(l *Log, nodes []NodeState) []Finding {
	c := &court{rule: "balance"}
	total, again, lines := newDocket(l).tally()
	for _, n := range nodes {
		b := n.Status.Balance
		if b == nil {
			c.finds("%s has no balance sheet", n.Name)
			continue
		}
		if !b.Balanced || b.Strays != 0 {
			c.finds("%s: the balance sheet does not balance: difference %d, %d strays", n.Name, b.Total.Difference, b.Strays)
		}
		c.line(n.Name, "total", b.Total, total)
		if b.Redelivered != nil || again != (node.BalanceNumbers{}) {
			got := node.BalanceNumbers{}
			if b.Redelivered != nil {
				got = *b.Redelivered
			}
			c.line(n.Name, "redelivered", got, again)
		}
		seen := map[string]bool{}
		for _, d := range b.Domains {
			name := d.Domain + " " + d.Direction
			seen[name] = true
			c.line(n.Name, name, d.BalanceNumbers, lines[name])
		}
		for _, name := range slices.Sorted(maps.Keys(lines)) {
			if !seen[name] {
				c.finds("%s: the balance sheet has no line for %s", n.Name, name)
			}
		}
	}
	return c.found
}

func (c *court) line(who, line string, got, want node.BalanceNumbers) {
	want.Uncertain = got.Uncertain // later doubts count in the queue's memory only
	if got != want {
		c.finds("%s: balance of %s is %+v, the log says %+v", who, line, got, want)
	}
}

// tally counts the units of a docket: of the mail, of orders, and of each domain
// and direction.
func (d *docket) tally() (total, again node.BalanceNumbers, lines map[string]node.BalanceNumbers) {
	lines = map[string]node.BalanceNumbers{}
	replacing := map[*unit]bool{}
	for _, u := range d.order {
		if u.next != nil {
			replacing[u.next] = true
		}
	}
	for _, u := range d.order {
		switch {
		case replacing[u]: // counted with the first
		case u.order:
			count(&again, u)
		default:
			count(&total, u)
			n := lines[u.line]
			count(&n, u)
			lines[u.line] = n
		}
	}
	delete(lines, "")
	return total, again, lines
}

func count(n *node.BalanceNumbers, u *unit) {
	state := u.last().state
	if state == unitRepudiated {
		n.Repudiated++
		return
	}
	n.Accepted++
	if u.notice {
		n.Notices++
	}
	switch state {
	case unitDue:
		n.Due++
	case unitHeld:
		n.Held++
	case unitDelivered:
		n.Delivered++
	case unitBounced:
		n.Bounced++
	case unitExpired, unitOver:
		n.Expired++
	case unitErased:
		n.Erased++
	}
}
