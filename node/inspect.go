package node

import (
	"context"
	"net/http"

	"holdfast/projection"
)

// AdminHandler answers what the admin socket answers, for a simulation, which
// has no socket.
func (n *Node) AdminHandler() http.Handler { return n.adminHandler() }

// Fold is one projection as a judge compares it: how it stands, and the hash of
// all that it holds. Two nodes that have folded the same log have the same hash.
type Fold struct {
	projection.Status
	Hash [32]byte
}

// Folds returns the node's projections, in the order in which they were added.
func (n *Node) Folds(ctx context.Context) ([]Fold, error) {
	var out []Fold
	for _, s := range n.runner.Status() {
		sum, err := n.runner.Hash(ctx, s.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, Fold{Status: s, Hash: sum})
	}
	return out, nil
}
