package delivery

import (
	"context"
	"errors"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/projection"
)

// gone reports that a message which was read cannot be opened any more.
func gone(mail *event.MessageAccepted, err error) bool {
	return errors.Is(err, crypto.ErrExpired) || err == nil && mail.Meta == nil
}

// vanished decides about a group whose message does not open any more where this
// route has looked for it. It may have been kept elsewhere meanwhile, or erased,
// or its day has expired, and this node has not read that yet: so nothing is said
// before all that is in the log is folded. Only a unit that then is still to be
// read there, and whose day is over, has expired.
func (rt *route) vanished(late context.Context, g *group) progress {
	now, err := rt.latest(late, g)
	switch {
	case err != nil:
		if late.Err() == nil {
			rt.svc.logger.Warn("due message opens no more, and the log cannot be read", "event", g.first().Message.ID, "error", err)
		}
		pause(late, minBlock)
		return progress{again: true}
	case !now:
		return progress{again: true} // the fold knows better
	case g.first().Expiry >= event.DayOf(rt.svc.log.Now()):
		// Its key is gone before its day: that is the store's trouble, or the
		// beginning of an erasure.
		return progress{unread: crypto.ErrExpired}
	}
	return rt.expireGroup(late, g)
}

// latest reports whether a group's units are due, and read where this route has
// them, when all that is in the log is folded.
func (rt *route) latest(ctx context.Context, g *group) (same bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	p := rt.svc.log.PartitionOf(rt.holder.tenant)
	if err := rt.svc.log.Refresh(ctx, p); err != nil {
		return false, err
	}
	pos := event.Position{Partition: p, Seq: rt.svc.log.TailAtLeast(p)}
	if err := rt.svc.cfg.Runner.WaitFor(ctx, foldName, pos); err != nil {
		return false, err
	}
	same = true
	err = rt.svc.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		for _, u := range g.units {
			w, err := getRow(v, u.id)
			if err != nil {
				return err
			}
			same = same && w != nil && w.State == stateDue && w.at() == u.row.at()
		}
		return nil
	})
	return same, err
}
