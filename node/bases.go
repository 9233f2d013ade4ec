package node

import (
	"context"

	"holdfast/event"
	"holdfast/eventlog"
)

// TakeBases takes a Base of every projection and publishes it, now. It may be
// called while the node runs, by one goroutine at a time.
func (n *Node) TakeBases(ctx context.Context) error {
	for _, p := range n.runner.Status() {
		taken, err := n.runner.TakeBase(ctx, p.Name)
		if err != nil {
			return err
		}
		taken.At = n.log.Millis()
		ev := event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: taken}
		pos, err := n.log.Append(ctx, ev)
		if err != nil {
			return err
		}
		if err := n.log.PublishBases(ctx, eventlog.Base{Taken: taken, Ref: event.Ref{Position: pos, ID: ev.ID}}); err != nil {
			return err
		}
	}
	return nil
}
