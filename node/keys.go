package node

import (
	"context"
	"time"

	"holdfast/event"
	"holdfast/internal/turn"
)

// prepareKeys makes the key pages that today's mail will need, so that no
// sender waits for them.
func (n *Node) prepareKeys(ctx context.Context) {
	if n.log.ReadOnly() || n.offline() {
		return
	}
	today := event.DayOf(n.log.Now())
	for _, d := range n.directory.Domains() {
		if err := n.log.Prepare(ctx, d.Tenant, today+event.Day(d.ShadowDays)); err != nil {
			n.logger.Warn("key page not prepared yet", "tenant", d.Tenant, "error", err)
			return
		}
	}
}

// watchKeys prepares the pages of each new day, and those of new domains.
func (n *Node) watchKeys(ctx context.Context) {
	const every = time.Minute
	for {
		t := time.NewTimer(every)
		select {
		case <-t.C:
			turn.Take(ctx, "prepare")
			n.prepareKeys(ctx)
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}
