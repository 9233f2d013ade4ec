package delivery

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/crypto"
	"holdfast/delivery/health"
	"holdfast/delivery/smtpc"
	"holdfast/event"
)

// opaque is an id of a recipient that says nothing about it, and is another one
// in every process.
func (s *Service) opaque(path string) string {
	return strconv.FormatUint(maphash.String(s.blind, foldCase(path)), 36)
}

func (rt *route) noteSite(o health.Observation) {
	if !rt.outbound {
		rt.site.note(o)
	}
}

// judge tells the site what an attempt showed of it, and returns what it means
// for the route.
func (rt *route) judge(stop context.Context, g *group, mail *event.MessageAccepted, t try) progress {
	switch {
	case !t.connected && stop.Err() != nil:
		return progress{}
	case !t.connected:
		return rt.notConnected(g, t.err)
	case t.ownFault():
		rt.svc.logger.Info("delivery put off", "event", g.first().Message.ID, "error", t.err)
		// A refused intent, too, lets the route pause: should the fold refuse all of
		// them, bodies are not sent in vain without end.
		ofMessage := errors.Is(t.err, crypto.ErrExpired) || damaged(t.err)
		return progress{block: !ofMessage && stop.Err() == nil}
	case stop.Err() != nil && (!t.dotSent || t.res.Uncertain):
		return progress{} // broken off by us: it says nothing about the site
	}
	rt.observe(g, mail, t)
	e := t.failure()
	p := progress{sent: true, latency: t.latency, block: e != nil && e.Reply.Code == 0 && !e.Local}
	p.ok = !p.block && !overloaded(t.res)
	p.taken = !t.res.Uncertain && !slices.ContainsFunc(t.res.Recipients, func(r smtpc.RecipientResult) bool { return !r.Accepted })
	return p
}

// notConnected judges an attempt that never spoke about a message.
func (rt *route) notConnected(g *group, err error) progress {
	o := health.Observation{At: time.Now(), Kind: health.DeliveryConnFailed, Phase: health.PhaseConnect, Message: g.first().Message.ID.String()}
	rt.svc.logger.Info("next hop does not answer", "event", g.first().Message.ID, "error", err)
	var e *smtpc.Error
	if errors.As(err, &e) {
		o.Phase, o.Code = health.Phase(e.Phase), e.Reply.Code
		if e.Reply.Temporary() {
			o.Kind = health.DeliveryTempFailed4xx
			return progress{crowded: true, note: &o}
		}
	}
	rt.noteSite(o)
	return progress{block: true}
}

// overloaded reports a temporary refusal that is not about an address or a
// mailbox (RFC 3463 §3.2, §3.3).
func overloaded(res smtpc.Result) bool {
	for _, r := range res.Recipients {
		if !r.Reply.Temporary() || r.TooMany || r.Accepted {
			continue
		}
		if r.Phase != smtpc.PhaseRcpt || !strings.HasPrefix(r.Reply.Enhanced, "4.1.") && !strings.HasPrefix(r.Reply.Enhanced, "4.2.") {
			return true
		}
	}
	return false
}

// observe tells the site what the transaction showed of it.
func (rt *route) observe(g *group, mail *event.MessageAccepted, t try) {
	o := health.Observation{At: time.Now(), Message: g.first().Message.ID.String()}
	e := t.failure()
	if e != nil {
		o.Phase, o.Code = health.Phase(e.Phase), e.Reply.Code
	}
	accepted, refused, deferred, decided := 0, 0, 0, smtpc.RecipientResult{}
	for i, r := range t.res.Recipients {
		switch {
		case r.Local: // this client's own verdict
			continue
		case r.Accepted:
			accepted++
		case r.Permanent():
			refused++
		case r.Reply.Temporary():
			if deferred++; deferred == 1 && r.Phase == smtpc.PhaseRcpt {
				o.Recipient = rt.svc.opaque(recipientOf(mail, g.units[i].row))
			}
		}
		decided = r
	}
	if o.Phase == 0 {
		o.Phase, o.Code = health.Phase(decided.Phase), decided.Reply.Code
	}
	switch {
	case t.res.Uncertain && e != nil && e.Timeout:
		o.Kind, o.Phase = health.DotHung, health.PhaseDot
	case t.res.Uncertain:
		o.Kind, o.Phase = health.DotLost, health.PhaseDot
	case accepted > 0:
		o.Kind, o.Phase, o.Code = health.DeliveryOK, 0, 0
	case refused > 0:
		o.Kind = health.DeliveryRefused5xx
	case deferred > 0:
		o.Kind = health.DeliveryTempFailed4xx
	case e != nil && e.Reply.Code == 0 && !e.Local:
		o.Kind = health.DeliveryConnFailed
	default:
		return
	}
	if o.Phase != health.PhaseRcpt {
		o.Recipient = ""
	}
	rt.noteSite(o)
}
