package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"holdfast/delivery/dsn"
	"holdfast/delivery/health"
	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/message"
)

// maxReply bounds the text of a reply that is kept with its outcome.
const maxReply = 1000

// settle records what became of a group, with the bounce that follows from it,
// and waits until the fold knows.
func (rt *route) settle(ctx context.Context, g *group, t try) finished {
	fact := &event.DeliverySettled{At: rt.svc.log.Millis(), Meta: &event.ReplyMeta{}}
	f := finished{sent: true, ok: true, latency: t.latency}
	var failed []int
	for i, u := range g.units {
		o, reply := rt.outcome(g, u, i, t)
		fact.Outcomes = append(fact.Outcomes, o)
		fact.Meta.Replies = append(fact.Meta.Replies, reply)
		switch o.Result {
		case event.ResultBounced:
			failed = append(failed, i)
		case event.ResultDeferred, event.ResultLost:
			f.deferred, f.ok = true, false
			if o.Code == 0 {
				// The connection broke: what comes later for the same recipient
				// does not overtake.
				f.wait = time.UnixMilli(int64(o.RetryAt))
			}
		}
	}
	e := t.failure()
	f.block = e != nil && e.Reply.Code == 0 && !e.Local
	rt.record(ctx, g, fact, failed, t, false)
	f.settled = true
	return f
}

// outcome turns a unit's part of a transaction into a fact and the reply's
// words.
func (rt *route) outcome(g *group, u unit, i int, t try) (event.Outcome, string) {
	o := event.Outcome{Unit: u.id, Normalised: t.res.Normalised, Uncertain: u.row.Uncertain || u.row.Intent != 0}
	var r smtpc.RecipientResult
	if i < len(t.res.Recipients) {
		r = t.res.Recipients[i]
	}
	o.Phase, o.Code = uint8(r.Phase), uint16(max(r.Reply.Code, 0))
	now := rt.svc.log.Now()
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
	text := r.Reply.String()
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

// expireGroup ends units whose day has come, with a bounce.
func (rt *route) expireGroup(ctx context.Context, g *group, _ uint64) finished {
	ctx, cancel := graceful(ctx)
	defer cancel()
	fact := &event.DeliverySettled{At: rt.svc.log.Millis()}
	var failed []int
	for i, u := range g.units {
		fact.Outcomes = append(fact.Outcomes, event.Outcome{
			Unit: u.id, Result: event.ResultExpired, Uncertain: u.row.Uncertain || u.row.Intent != 0,
		})
		failed = append(failed, i)
	}
	rt.record(ctx, g, fact, failed, try{}, true)
	return finished{settled: true}
}

// record appends outcomes, and the bounce for failed, for as long as it takes:
// what was observed is never dropped. When the node stops first, the intent is
// still open and makes the next delivery uncertain.
func (rt *route) record(ctx context.Context, g *group, fact *event.DeliverySettled, failed []int, t try, expired bool) {
	for try := 0; ; try++ {
		pos, err := rt.appendOutcomes(ctx, g, fact, failed, t, expired)
		if err == nil {
			err = rt.svc.cfg.Runner.WaitFor(ctx, foldName, pos)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		rt.svc.logger.Warn("outcome not recorded yet", "event", g.first().Message.ID, "error", err)
		pause(ctx, min(time.Second<<min(try, 5), 30*time.Second))
	}
}

func (rt *route) appendOutcomes(ctx context.Context, g *group, fact *event.DeliverySettled, failed []int, t try, expired bool) (event.Position, error) {
	ev := event.Event{ID: event.NewID(), Tenant: rt.holder.tenant, Fact: fact}
	if fact.Meta != nil {
		ev.Expiry = max(g.first().Expiry, event.DayOf(rt.svc.log.Now())+1)
	}
	evs := []event.Event{ev}
	if len(failed) > 0 && g.mail.Meta != nil {
		b, err := rt.bounce(ctx, g, failed, t, expired)
		switch {
		case err == nil:
			evs = append(evs, b)
		case errors.Is(err, dsn.ErrNullSender), errors.Is(err, dsn.ErrNotWanted), errors.Is(err, dsn.ErrParams), expiredMail(err):
			rt.svc.logger.Info("no bounce", "event", g.first().Message.ID, "error", err)
		default:
			return event.Position{}, err
		}
	}
	return rt.svc.log.Append(ctx, evs...)
}

// bounce makes the notification for the failed units of a group, as a message
// of its own that is accepted in the same instant.
func (rt *route) bounce(ctx context.Context, g *group, failed []int, t try, expired bool) (event.Event, error) {
	m := g.mail.Meta
	now := rt.svc.log.Now()
	id := event.NewID()
	p := dsn.Params{
		ReportingMTA: rt.svc.cfg.Hostname, MessageID: id.String() + "@" + rt.svc.cfg.Hostname, Date: now,
		Arrival: time.UnixMilli(int64(g.mail.At)).UTC(), ReversePath: m.From, EnvID: m.EnvID, Ret: m.Ret, SMTPUTF8: m.UTF8,
	}
	for _, i := range failed {
		u := g.units[i]
		r := dsn.Recipient{Address: recipientOf(g.mail, u.row), LastAttempt: now, Expired: expired}
		if u.row.To == "" {
			r.Notify, r.ORcpt = m.Recipients[u.row.Rcpt].Notify, m.Recipients[u.row.Rcpt].ORcpt
		}
		if i < len(t.res.Recipients) {
			reply := t.res.Recipients[i].Reply
			r.Code, r.Status, r.Text = reply.Code, reply.Enhanced, reply.Text
		}
		p.Recipients = append(p.Recipients, r)
	}
	var err error
	if p.Header, p.Full, err = rt.original(ctx, g); err != nil {
		return event.Event{}, err
	}
	_, to, text, err := dsn.Bounce(p)
	if err != nil {
		return event.Event{}, err
	}
	return rt.accept(ctx, id, to, text)
}

// original returns the header of the failed message, and the whole if the
// sender asked for it and it is small enough.
func (rt *route) original(ctx context.Context, g *group) (header, full []byte, err error) {
	body, err := rt.svc.log.Body(ctx, g.first().Message)
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	if g.mail.Meta.Ret == "FULL" && g.mail.Size <= dsn.MaxFull {
		if full, err = io.ReadAll(body); err != nil {
			return nil, nil, err
		}
		header, _ = message.SplitHeader(full)
		return header, full, nil
	}
	const most = 256 << 10
	header, err = io.ReadAll(io.LimitReader(body, most))
	if err != nil {
		return nil, nil, err
	}
	header, _ = message.SplitHeader(header)
	return header, nil, nil
}

// accept makes the acceptance of a bounce.
func (rt *route) accept(ctx context.Context, id event.ID, to string, text []byte) (event.Event, error) {
	conf := rt.site.settings()
	now := rt.svc.log.Now()
	expiry := event.DayOf(now) + event.Day(max(conf.ShadowDays, 1))
	trace := fmt.Appendf(nil, "Received: by %s id %s; %s\r\n", rt.svc.cfg.Hostname, id, message.FormatDate(now.UTC()))
	w, err := rt.svc.log.NewMail(ctx, id, rt.holder.tenant, expiry, trace)
	if err != nil {
		return event.Event{}, err
	}
	defer w.Discard()
	if _, err := io.Copy(w, bytes.NewReader(text)); err != nil {
		return event.Event{}, err
	}
	mail, err := w.Finish()
	if err != nil {
		return event.Event{}, err
	}
	rcpt, allot := rt.svc.cfg.Directory.Home(to, conf.Domain)
	return event.Event{ID: id, Tenant: rt.holder.tenant, Expiry: expiry, Body: mail.Body, Fact: &event.MessageAccepted{
		Origin: event.OriginBounce, At: event.Millis(now.UnixMilli()), Size: mail.Size, Shown: mail.Shown,
		Recipients: 1, Allotments: allot,
		Meta: &event.MessageMeta{
			Recipients: []event.Recipient{rcpt}, Trace: trace, SHA256: mail.SHA256, Index: mail.Raw,
			Body8: mail.Index.Is8bit, Peer: "local",
		},
	}}, nil
}
