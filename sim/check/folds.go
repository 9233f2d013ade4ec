package check

import (
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/node"
)

// NodeState is what a node holds, at rest.
type NodeState struct {
	Name   string
	Folds  []node.Fold
	Status node.Status
}

// Folds judges whether all nodes, and one that began with nothing, have folded
// the same: every projection stands at the tail, none has stopped or is in
// trouble, and their hashes are equal.
func Folds(l *Log, nodes []NodeState) []Finding {
	c := &court{rule: "folds"}
	if len(nodes) == 0 {
		c.finds("there is no node to compare")
		return c.found
	}
	first := nodes[0]
	for _, n := range nodes {
		if len(n.Folds) != len(first.Folds) {
			c.finds("%s has %d projections, %s has %d", n.Name, len(n.Folds), first.Name, len(first.Folds))
			continue
		}
		for i, f := range n.Folds {
			if f.Stopped != nil || f.Trouble != nil || f.Rebuilding {
				c.finds("%s: projection %s stopped %v, in trouble %v, rebuilding %v", n.Name, f.Name, f.Stopped, f.Trouble, f.Rebuilding)
			}
			if at := cursors(f); !slices.Equal(at, l.tails()) {
				c.finds("%s: projection %s stands at %v, the log ends at %v", n.Name, f.Name, at, l.tails())
			}
			if f.Hash != first.Folds[i].Hash {
				c.finds("%s and %s differ in projection %s", n.Name, first.Name, f.Name)
			}
		}
	}
	return c.found
}

func cursors(f node.Fold) (at []event.Seq) {
	for _, p := range f.Partitions {
		at = append(at, p.Cursor.Seq)
	}
	return at
}

// tails returns the last segment of each partition.
func (l *Log) tails() (at []event.Seq) {
	for _, p := range l.Partitions {
		if len(p) == 0 {
			at = append(at, 0)
			continue
		}
		at = append(at, p[len(p)-1].Ref.Position.Seq)
	}
	return at
}

// AtRest judges whether nothing waits any more, once faults have stopped and the
// bound for that has passed: every queue is empty and every node ready. An answer
// that took longer than bound, in calm weather, is one that somebody forgot to
// wake up.
func AtRest(nodes []NodeState, h *History, heldAllowed bool, bound Bounds) []Finding {
	c := &court{rule: "at rest"}
	for _, n := range nodes {
		if !n.Status.Ready {
			c.finds("%s is not ready", n.Name)
		}
		for _, d := range n.Status.Domains {
			if d.Queued != 0 || d.Outbound != 0 || d.Held != 0 && !heldAllowed {
				c.finds("%s: %s still has %d queued, %d outbound, %d held", n.Name, d.Name, d.Queued, d.Outbound, d.Held)
			}
			if d.State != event.HealthUp.String() {
				c.finds("%s: %s is %s, though its primary answers", n.Name, d.Name, d.State)
			}
		}
	}
	for i := range h.Transactions {
		tx := &h.Transactions[i]
		if tx.Calm && (tx.Code/100 != 2 || tx.Waited > bound.Accept) {
			c.finds("transaction %s was answered %d after %v, in calm weather", tx.Mark, tx.Code, tx.Waited)
		}
	}
	for i := range h.Acts {
		a, most := &h.Acts[i], bound.Command
		if a.Act == Looked || a.Act == Idled {
			most = bound.Look
		}
		if a.Calm && (a.Answer != AnswerOK || a.Waited > most) {
			c.finds("%s: %v in %s at %s was answered %s after %v, in calm weather", a.User, a.Act, a.Mailbox, a.Node,
				[]string{"nothing", "OK", "NO"}[a.Answer], a.Waited)
		}
	}
	return append(c.found, Prompt(h, bound)...)
}

// String tells the cursor-like state of a node in one line.
func (n NodeState) String() string {
	s := n.Name + ":"
	for _, f := range n.Folds {
		s += fmt.Sprintf(" %s %v %x", f.Name, cursors(f), f.Hash[:4])
	}
	return s
}
