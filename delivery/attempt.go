package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/crypto"
	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/internal/turn"
)

const (
	// graceDot is how long a final dot that was sent may wait for its answer when
	// the node stops, graceRecord how long the answer may then take to be
	// recorded.
	graceDot    = 10 * time.Second
	graceRecord = 12 * time.Second
	// soon is the pause after an attempt that a broken connection ended.
	soon = time.Second
)

var (
	// errRefused says that the fold did not allow the final dot.
	errRefused = errors.New("another worker has these recipients")
	// errStopping says that the node stops before the final dot.
	errStopping = errors.New("node is stopping")
	errNoServer = errors.New("no server is configured")
)

// mail reads the message of a group from the log.
func (rt *route) mail(ctx context.Context, g *group) (*event.MessageAccepted, error) {
	first := g.first()
	ref := first.at()
	rec, err := rt.svc.log.Event(ctx, ref)
	if err != nil {
		return nil, err
	}
	mail, ok := rec.Fact.(*event.MessageAccepted)
	if !ok {
		return nil, fmt.Errorf("event %v is no message: %w", ref.ID, eventlog.ErrDamaged)
	}
	return mail, nil
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

func foldCase(path string) string { return strings.ToLower(path) }

// attempt makes one transaction for a group and records what became of it. When
// stop ends, it is broken off before the final dot and awaited after it.
func (rt *route) attempt(stop, late context.Context, g *group, epoch uint64) progress {
	mail, err := rt.mail(stop, g)
	if gone(mail, err) {
		rt.release(g, progress{})
		return rt.vanished(late, g)
	}
	if err != nil {
		rt.release(g, progress{block: true})
		return progress{again: true}
	}
	t := rt.transact(stop, g, mail, epoch)
	// What was seen of the site is known before it is judged what a refusal
	// means.
	rt.release(g, rt.judge(stop, g, mail, t))
	if t.wish != nil {
		<-t.wish.done // the scribe answers every wish
		turn.Take(late, "answered")
	}
	switch {
	case t.recordable(stop):
		return rt.settle(late, g, mail, t)
	case errors.Is(t.err, crypto.ErrExpired):
		rt.withdraw(late, g, t)
		return rt.vanished(late, g)
	case damaged(t.err):
		rt.withdraw(late, g, t)
		return progress{unread: t.err}
	}
	rt.withdraw(late, g, t)
	return progress{again: true}
}

// release tells the route that the group's connection is free.
func (rt *route) release(g *group, p progress) {
	p.group, p.ended = g, false
	rt.done <- p // it has room for all that is open
}

// graceful returns a context that outlives stop by d.
func graceful(stop context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	release := context.AfterFunc(stop, func() {
		pause(ctx, d)
		cancel()
	})
	return ctx, func() { release(); cancel() }
}

// try is what one transaction gave.
type try struct {
	res       smtpc.Result
	err       error
	connected bool
	wish      *wish // the intent; nil when it came to none
	dotSent   bool  // or is about to be
	latency   time.Duration
}

// intended reports that an intent is, or may be, in the log and open. The wish
// must have been answered.
func (t try) intended() bool { return t.wish != nil && t.wish.logged }

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

// damaged reports that a message, and nothing else, cannot be read.
func damaged(err error) bool {
	return errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, event.ErrMalformed)
}

// recordable reports that the attempt says something about its units.
func (t try) recordable(stop context.Context) bool {
	return t.connected && !t.ownFault() && (t.dotSent || stop.Err() == nil)
}

// earlyIntent is the size up to which a message's intent is recorded while its
// body is read and sent. With a larger one the lease could be gone by then.
const earlyIntent = 256 << 10

// transact makes one transaction, on a connection that was used before if there
// is one.
func (rt *route) transact(stop context.Context, g *group, mail *event.MessageAccepted, epoch uint64) try {
	conf := rt.site.settings()
	for fresh := false; ; fresh = true {
		conn, err := rt.connect(stop, conf, fresh)
		if err != nil {
			return try{err: err}
		}
		t := rt.send(stop, conn, g, mail, epoch)
		reused := conn.Transactions() > 1
		rt.pool.put(conn)
		if !reused || !t.stale() {
			return t
		}
		// The server had closed an idle connection, and there is no intent yet.
	}
}

// The states of a send when the node stops.
const (
	sendOpen    = 0
	sendDecided = 1 // the answer to the wish is awaited, and then the end
	sendBroken  = 2
)

// send makes the transaction on a connection.
func (rt *route) send(stop context.Context, conn conn, g *group, mail *event.MessageAccepted, epoch uint64) (t try) {
	t.connected = true
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	var state atomic.Int32
	release := context.AfterFunc(stop, func() {
		if !state.CompareAndSwap(sendOpen, sendBroken) {
			pause(ctx, graceDot)
		}
		cancel()
	})
	defer release()
	first := g.first()
	body, err := rt.svc.log.Body(ctx, first.at())
	if err != nil {
		t.err = err
		return t
	}
	defer body.Close()
	var dot time.Time
	hook := func(ctx context.Context) error {
		if !state.CompareAndSwap(sendOpen, sendDecided) {
			return errStopping
		}
		if t.wish == nil {
			t.wish = rt.scribe.ask(g, epoch)
		}
		if err := rt.granted(ctx, t.wish); err != nil {
			return err
		}
		t.dotSent = true
		dot = time.Now()
		return nil
	}
	env := envelope(g, mail)
	if mail.Size <= earlyIntent {
		// Not before the server asks for the body: a crash makes nothing uncertain
		// that a server which hangs or refuses never got.
		env.Begun = func() { t.wish = rt.scribe.ask(g, epoch) }
	}
	t.res, t.err = conn.Send(ctx, env, io.MultiReader(bytes.NewReader(mail.Meta.Trace), body), hook)
	if t.dotSent {
		t.latency = time.Since(dot)
	}
	return t
}

// granted returns nil once the intent is durable and the fold has agreed that
// the final dot may be sent. The lease is looked at once more, because the
// answer may be older than the body that was sent meanwhile.
func (rt *route) granted(ctx context.Context, w *wish) error {
	if !w.answered() {
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		turn.Take(ctx, "granted")
	}
	if w.err == nil && rt.holder.epoch() != w.epoch {
		return errRefused
	}
	if w.err == nil {
		failpoint.Hit(failpoint.IntentDurable)
	}
	return w.err
}

func envelope(g *group, mail *event.MessageAccepted) smtpc.Envelope {
	m := mail.Meta
	env := smtpc.Envelope{From: m.From, Ret: m.Ret, EnvID: m.EnvID, SMTPUTF8: m.UTF8, Size: mail.Shown}
	if m.Body8 {
		env.Body = "8BITMIME"
	}
	for _, u := range g.units {
		r := smtpc.Recipient{To: recipientOf(mail, u.row)}
		if u.row.To == "" && int(u.row.Rcpt) < len(m.Recipients) {
			r.Notify, r.ORcpt = m.Recipients[u.row.Rcpt].Notify, m.Recipients[u.row.Rcpt].ORcpt
		}
		env.Recipients = append(env.Recipients, r)
	}
	return env
}
