package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"holdfast/crypto"
	"holdfast/delivery/health"
	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/eventlog"
)

const (
	// grace is how long what is under way may go on when the node stops.
	grace = 10 * time.Second
	// soon is the pause after an attempt that a broken connection ended.
	soon = time.Second
)

// errRefused says that the fold did not allow the final dot.
var errRefused = errors.New("another worker has these recipients")

// read fetches the message of a group from the log.
func (rt *route) read(ctx context.Context, g *group) error {
	if g.mail != nil {
		return nil
	}
	ref := g.first().Message
	rec, err := rt.svc.log.Event(ctx, ref)
	if err != nil {
		return err
	}
	mail, ok := rec.Fact.(*event.MessageAccepted)
	if !ok {
		return fmt.Errorf("event %v is no message: %w", ref.ID, eventlog.ErrDamaged)
	}
	g.mail = mail
	for _, u := range g.units {
		if path := recipientOf(g.mail, u.row); path != "" {
			g.names = append(g.names, strings.ToLower(path))
		}
	}
	return nil
}

// recipientOf returns the forward-path of a unit, or "" when it has expired.
func recipientOf(m *event.MessageAccepted, w row) string {
	switch {
	case w.To != "":
		return w.To
	case m.Meta == nil || int(w.Rcpt) >= len(m.Meta.Recipients):
		return ""
	}
	return m.Meta.Recipients[w.Rcpt].Path
}

// attempt makes one transaction for a group.
func (rt *route) attempt(stop context.Context, g *group, epoch uint64) finished {
	ctx, cancel := graceful(stop)
	defer cancel()
	if g.mail.Meta == nil {
		return rt.expireGroup(stop, g, epoch)
	}
	conf := rt.site.settings()
	var t try
	for fresh := false; ; fresh = true {
		conn, err := rt.connect(ctx, conf, fresh)
		if err != nil {
			return rt.failedToConnect(stop, g, err)
		}
		t = rt.send(ctx, stop, conn, g, epoch)
		reused := conn.Transactions() > 1
		rt.pool.put(conn)
		if reused && t.stale() {
			continue // the server had closed an idle connection
		}
		break
	}
	if t.ownFault() {
		rt.svc.logger.Info("delivery put off", "event", g.first().Message.ID, "error", t.err)
		return finished{block: !errors.Is(t.err, errRefused), settled: errors.Is(t.err, errRefused), deferred: true}
	}
	if stop.Err() != nil && !t.dotSent {
		return finished{} // broken off by us
	}
	rt.observe(g, t)
	return rt.settle(ctx, g, t)
}

// graceful returns a context that outlives stop by the grace.
func graceful(stop context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	release := context.AfterFunc(stop, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { release(); cancel() }
}

// try is what one transaction gave.
type try struct {
	res     smtpc.Result
	err     error
	dotSent bool
	latency time.Duration
}

func (t try) failure() *smtpc.Error {
	var e *smtpc.Error
	errors.As(t.err, &e)
	return e
}

// stale reports that a reused connection was found closed before anything was
// said about the message.
func (t try) stale() bool {
	e := t.failure()
	return e != nil && e.Phase == smtpc.PhaseMail && !e.Local && (e.Reply.Code == 0 || e.Reply.Code == 421)
}

// ownFault reports that the next hop is not to blame and said nothing: the
// message could not be read, or the intent not recorded.
func (t try) ownFault() bool {
	e := t.failure()
	return t.err != nil && (e == nil || e.Local && e.Reply.Code == 0)
}

// send makes the transaction on a connection.
func (rt *route) send(ctx, stop context.Context, conn *smtpc.Conn, g *group, epoch uint64) (t try) {
	body, err := rt.svc.log.Body(ctx, g.first().Message)
	if err != nil {
		t.err = err
		return t
	}
	defer body.Close()
	var dot time.Time
	hook := func(ctx context.Context) error {
		if stop.Err() != nil {
			return stop.Err()
		}
		if err := rt.intend(ctx, g, epoch); err != nil {
			return err
		}
		t.dotSent = true
		dot = time.Now()
		return nil
	}
	env := envelope(g)
	t.res, t.err = conn.Send(ctx, env, io.MultiReader(bytes.NewReader(g.mail.Meta.Trace), body), hook)
	if t.dotSent {
		t.latency = time.Since(dot)
	}
	return t
}

func envelope(g *group) smtpc.Envelope {
	m := g.mail.Meta
	env := smtpc.Envelope{From: m.From, Ret: m.Ret, EnvID: m.EnvID, SMTPUTF8: m.UTF8, Size: g.mail.Shown}
	if m.Body8 {
		env.Body = "8BITMIME"
	}
	for _, u := range g.units {
		r := smtpc.Recipient{To: recipientOf(g.mail, u.row)}
		if u.row.To == "" {
			r.Notify, r.ORcpt = m.Recipients[u.row.Rcpt].Notify, m.Recipients[u.row.Rcpt].ORcpt
		}
		env.Recipients = append(env.Recipients, r)
	}
	return env
}

// intend makes the intent durable and asks the fold whether the dot may go out.
func (rt *route) intend(ctx context.Context, g *group, epoch uint64) error {
	if rt.holder.epoch() != epoch {
		return errRefused
	}
	f := &event.DeliveryIntended{At: rt.svc.log.Millis(), Epoch: epoch}
	for _, u := range g.units {
		f.Units = append(f.Units, u.id)
	}
	ev := event.Event{ID: event.NewID(), Tenant: rt.holder.tenant, Fact: f}
	said, err := rt.svc.cfg.Runner.Do(ctx, foldName, ev.ID, func(ctx context.Context) (event.Position, error) {
		return rt.svc.log.Append(ctx, ev)
	})
	if err != nil {
		return err
	}
	for _, v := range said {
		if v, ok := v.(verdict); ok && v.OK {
			return nil
		}
	}
	return errRefused
}

// failedToConnect ends an attempt that never spoke about a message: nothing is
// recorded against the message.
func (rt *route) failedToConnect(stop context.Context, g *group, err error) finished {
	if stop.Err() == nil {
		var e *smtpc.Error
		o := health.Observation{At: time.Now(), Kind: health.DeliveryConnFailed, Phase: health.PhaseConnect, Message: g.first().Message.ID.String()}
		if errors.As(err, &e) {
			o.Phase, o.Code = health.Phase(e.Phase), e.Reply.Code
			if e.Reply.Temporary() {
				o.Kind = health.DeliveryTempFailed4xx
			}
		}
		rt.svc.logger.Info("next hop does not answer", "event", g.first().Message.ID, "error", err)
		rt.noteSite(o)
	}
	return finished{block: true}
}

func (rt *route) noteSite(o health.Observation) {
	if !rt.outbound {
		rt.site.note(o)
	}
}

// observe tells the site what the transaction showed of it.
func (rt *route) observe(g *group, t try) {
	o := health.Observation{At: time.Now(), Message: g.first().Message.ID.String()}
	if e := t.failure(); e != nil {
		o.Phase, o.Code = health.Phase(e.Phase), e.Reply.Code
	}
	accepted, refused, deferred := 0, 0, 0
	for _, r := range t.res.Recipients {
		switch {
		case r.Accepted:
			accepted++
		case r.Permanent():
			refused++
		case r.Reply.Temporary():
			deferred++
		}
	}
	e := t.failure()
	switch {
	case t.res.Uncertain && e != nil && e.Timeout:
		o.Kind, o.Phase = health.DotHung, health.PhaseDot
	case t.res.Uncertain:
		o.Kind, o.Phase = health.DotLost, health.PhaseDot
	case accepted > 0:
		o.Kind, o.Phase = health.DeliveryOK, 0
	case refused > 0:
		o.Kind = health.DeliveryRefused5xx
		o.Phase = max(o.Phase, health.PhaseMail)
	case deferred > 0 && deferred == len(t.res.Recipients):
		o.Kind = health.DeliveryTempFailed4xx
		o.Phase = max(o.Phase, health.PhaseMail)
	case e != nil && e.Reply.Code == 0:
		o.Kind = health.DeliveryConnFailed
	default:
		return
	}
	rt.noteSite(o)
}

// expiredMail reports that a message cannot be read any more, for good.
func expiredMail(err error) bool { return errors.Is(err, crypto.ErrExpired) }
