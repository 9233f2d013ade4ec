package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"holdfast/delivery/dsn"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
)

// bounce makes the notification for the failed units of a group, as a message
// of its own that is accepted in the same instant.
func (rt *route) bounce(ctx context.Context, g *group, mail *event.MessageAccepted, failed []int, t try, expired bool) (event.Event, error) {
	m := mail.Meta
	now := rt.svc.log.Now()
	id := event.NewID()
	p := dsn.Params{
		ReportingMTA: rt.svc.cfg.Hostname, MessageID: id.String() + "@" + rt.svc.cfg.Hostname, Date: now,
		Arrival: millis(mail.At).UTC(), ReversePath: m.From, EnvID: m.EnvID, Ret: m.Ret, SMTPUTF8: m.UTF8,
	}
	for _, i := range failed {
		u := g.units[i]
		r := dsn.Recipient{Address: recipientOf(mail, u.row), LastAttempt: now, Expired: expired}
		if u.row.To == "" && int(u.row.Rcpt) < len(m.Recipients) {
			r.Notify, r.ORcpt = m.Recipients[u.row.Rcpt].Notify, m.Recipients[u.row.Rcpt].ORcpt
		}
		if i < len(t.res.Recipients) {
			reply := t.res.Recipients[i].Reply
			r.Code, r.Status, r.Text = reply.Code, reply.Enhanced, reply.Text
		}
		p.Recipients = append(p.Recipients, r)
	}
	var err error
	p.Header, p.Full, err = rt.original(ctx, g, mail)
	if err != nil && !errors.Is(err, eventlog.ErrDamaged) {
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
func (rt *route) original(ctx context.Context, g *group, mail *event.MessageAccepted) (header, full []byte, err error) {
	first := g.first()
	body, err := rt.svc.log.Body(ctx, first.at())
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	if mail.Meta.Ret == "FULL" && mail.Size <= dsn.MaxFull {
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
	rcpt, allot := rt.svc.cfg.Directory.Home(to, rt.holder.tenant, conf.Domain)
	return event.Event{ID: id, Tenant: rt.holder.tenant, Expiry: expiry, Body: mail.Body, Fact: &event.MessageAccepted{
		Origin: event.OriginBounce, At: event.Millis(now.UnixMilli()), Size: mail.Size, Shown: mail.Shown,
		Recipients: 1, Allotments: allot, Routes: event.RoutesOf([]event.Recipient{rcpt}),
		Meta: &event.MessageMeta{
			Recipients: []event.Recipient{rcpt}, Trace: trace, SHA256: mail.SHA256, Index: mail.Raw,
			Body8: mail.Index.Is8bit, Peer: "local",
		},
	}}, nil
}
