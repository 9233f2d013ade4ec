package delivery

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"holdfast/crypto"
	"holdfast/delivery/dsn"
	"holdfast/delivery/health"
	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
)

// maxReply bounds the text of a reply that is kept with its outcome.
const maxReply = 1000

// settle records what became of a group, with the bounce that follows from it,
// and waits until the fold knows.
func (rt *route) settle(late context.Context, g *group, mail *event.MessageAccepted, t try) progress {
	e := &entry{expiry: g.first().Expiry}
	now := rt.svc.log.Now()
	var failed []int
	p := progress{}
	for i, u := range g.units {
		o, reply := rt.outcome(u, i, t, now)
		e.add(o, reply)
		switch o.Result {
		case event.ResultBounced:
			if !u.row.Quiet {
				failed = append(failed, i)
			}
		case event.ResultDeferred, event.ResultLost:
			p.again = true
		}
	}
	rt.record(late, g, mail, e, failed, t, false)
	return p
}

// outcome turns a unit's part of a transaction into a fact and the reply's
// words.
func (rt *route) outcome(u unit, i int, t try, now time.Time) (event.Outcome, string) {
	o := event.Outcome{Unit: u.id, Normalised: t.res.Normalised, Uncertain: u.row.doubtful()}
	if t.intended() {
		o.Epoch = t.wish.epoch
	}
	if t.wish != nil && t.wish.err == nil {
		o.Uncertain = t.wish.before[i] // the fold knows it best
	}
	var r smtpc.RecipientResult
	if i < len(t.res.Recipients) {
		r = t.res.Recipients[i]
	}
	o.Phase, o.Code = uint8(r.Phase), uint16(max(r.Reply.Code, 0))
	later := func(d time.Duration) event.Millis { return event.Millis(now.Add(d).UnixMilli()) }
	backoff := health.Backoff(int(u.row.Attempts)+1, [16]byte(u.row.Message.ID))
	switch {
	case r.Accepted:
		o.Result = event.ResultDelivered
	case t.res.Uncertain && !r.Permanent() && !r.Reply.Temporary():
		o.Result, o.Uncertain, o.RetryAt = event.ResultLost, true, later(quick(u, backoff))
	case r.Permanent():
		o.Result = event.ResultBounced
		if !rt.outbound {
			switch rt.site.decide() {
			case health.Hold:
				o.Result = event.ResultHeld
			case health.Defer:
				o.Result, o.RetryAt = event.ResultDeferred, later(backoff)
			}
		}
	case r.TooMany:
		o.Result, o.RetryAt = event.ResultDeferred, later(time.Millisecond)
	case r.Reply.Code == 0:
		o.Result, o.RetryAt = event.ResultDeferred, later(quick(u, backoff))
	default:
		o.Result, o.RetryAt = event.ResultDeferred, later(backoff)
	}
	if sabotage.On(sabotage.Unmarked) {
		o.Uncertain = false
	}
	text := ""
	if r.Reply.Code != 0 {
		text = r.Reply.String()
	}
	if len(text) > maxReply {
		text = strings.ToValidUTF8(text[:maxReply], "")
	}
	return o, text
}

// quick is the pause after a broken connection: short the first time, because
// it is the site's trouble more often than the message's.
func quick(u unit, backoff time.Duration) time.Duration {
	if u.row.Attempts == 0 {
		return soon
	}
	return backoff
}

// withdraw takes an intent back that was, or may have been, recorded and was
// not followed by a final dot: the next delivery is not uncertain because of it.
func (rt *route) withdraw(late context.Context, g *group, t try) {
	if !t.intended() {
		return
	}
	e := &entry{expiry: g.first().Expiry}
	at := event.Millis(rt.svc.log.Now().Add(soon).UnixMilli())
	for _, u := range g.units {
		e.add(event.Outcome{
			Unit: u.id, Result: event.ResultDeferred, RetryAt: at, Phase: uint8(smtpc.PhaseBody), Uncertain: u.row.doubtful(), Epoch: t.wish.epoch,
		}, "")
	}
	rt.record(late, g, nil, e, nil, try{}, false)
}

// expireGroup ends units whose day has come and which can go nowhere, with a
// bounce if the message can still be read.
func (rt *route) expireGroup(late context.Context, g *group) progress {
	mail, err := rt.mail(late, g)
	if err != nil && !damaged(err) && !errors.Is(err, crypto.ErrExpired) {
		rt.svc.logger.Warn("expired message cannot be read yet", "event", g.first().Message.ID, "error", err)
		pause(late, minBlock)
		return progress{again: true}
	}
	e := &entry{}
	var failed []int
	for i, u := range g.units {
		e.add(event.Outcome{Unit: u.id, Result: event.ResultExpired, Uncertain: u.row.doubtful()}, "")
		if !u.row.Quiet {
			failed = append(failed, i)
		}
	}
	rt.record(late, g, mail, e, failed, try{}, true)
	return progress{}
}

// record makes outcomes durable, with the bounce for failed, for as long as it
// takes: what was observed is never dropped but with its tenant. It returns when
// the fold knows. When the node stops first, the intent is still open and makes the next
// delivery uncertain.
func (rt *route) record(late context.Context, g *group, mail *event.MessageAccepted, e *entry, failed []int, t try, expired bool) {
	ok := false
	if len(failed) > 0 && mail != nil && mail.Meta != nil && mail.Meta.From != "" {
		// A bounce that is not durable in time is repudiated by the log, so each
		// try has one of its own.
		var pos event.Position
		pos, ok = retry(late, rt.svc.logger, func() (event.Position, error) {
			b, err := rt.bounce(late, g, mail, failed, t, expired)
			switch {
			case err == nil:
				if sabotage.On(sabotage.BounceDropped) {
					return rt.svc.log.Append(late, e.event(rt.svc.log, rt.holder.tenant))
				}
				return rt.svc.log.Append(late, e.event(rt.svc.log, rt.holder.tenant), b)
			case errors.Is(err, dsn.ErrNullSender), errors.Is(err, dsn.ErrNotWanted), errors.Is(err, dsn.ErrParams), errors.Is(err, crypto.ErrExpired):
				rt.svc.logger.Info("no bounce", "event", g.first().Message.ID, "error", err)
				return rt.svc.log.Append(late, e.event(rt.svc.log, rt.holder.tenant))
			}
			return event.Position{}, err
		})
		if ok {
			rt.folded(late, g, pos)
		}
	} else {
		ok = rt.scribe.record(late, e)
	}
	if !ok {
		return
	}
	rt.receipts(late, g, e)
}

// receipts logs a line for each recipient. It is one for each message or more,
// so that the attributes are such as need no reflection.
func (rt *route) receipts(late context.Context, g *group, e *entry) {
	same := []slog.Attr{
		slog.String("tenant", rt.holder.tenant.String()), slog.String("domain", rt.site.settings().Domain), slog.Bool("outbound", rt.outbound),
		slog.String("event", g.first().Message.ID.String()),
	}
	for _, o := range e.outcomes {
		rt.svc.logger.LogAttrs(late, slog.LevelInfo, "receipt", append(same, slog.Uint64("recipient", uint64(o.Unit.N)),
			slog.String("result", o.Result.String()), slog.Int("code", int(o.Code)), slog.Bool("uncertain", o.Uncertain))...)
	}
}

// folded returns when the fold knows what is at pos, or will not.
func (rt *route) folded(late context.Context, g *group, pos event.Position) {
	if err := rt.svc.cfg.Runner.WaitFor(late, foldName, pos); err != nil && late.Err() == nil {
		rt.svc.logger.Warn("outcome is recorded but not folded", "event", g.first().Message.ID, "error", err)
	}
	failpoint.Hit(failpoint.OutcomeFolded)
}
