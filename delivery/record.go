package delivery

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
)

// maxBatch is how many outcomes one event holds at most, but for those of one
// more transaction.
const maxBatch = 400

// entry is what one transaction adds to an event of outcomes.
type entry struct {
	outcomes []event.Outcome
	replies  []string // one for each outcome
	expiry   event.Day

	done chan struct{} // closed when what follows is known
	pos  event.Position
	ok   bool
}

func (e *entry) add(o event.Outcome, reply string) {
	e.outcomes = append(e.outcomes, o)
	e.replies = append(e.replies, reply)
}

// event makes an event of one entry.
func (e *entry) event(log *eventlog.Log, t event.Tenant) event.Event {
	return outcomesEvent(log, t, []*entry{e}, true)
}

// outcomesEvent makes one event of some entries. Reply texts may quote
// addresses, so that they are sealed like the mail.
func outcomesEvent(log *eventlog.Log, t event.Tenant, entries []*entry, texts bool) event.Event {
	fact := &event.DeliverySettled{At: log.Millis()}
	ev := event.Event{ID: event.NewID(), Tenant: t, Fact: fact}
	meta := &event.ReplyMeta{}
	said := false
	for _, e := range entries {
		fact.Outcomes = append(fact.Outcomes, e.outcomes...)
		for _, reply := range e.replies {
			said = said || reply != ""
			meta.Replies = append(meta.Replies, reply)
		}
		ev.Expiry = max(ev.Expiry, e.expiry)
	}
	if !texts || !said {
		ev.Expiry = 0
		return ev
	}
	fact.Meta = meta
	ev.Expiry = max(ev.Expiry, event.DayOf(log.Now())+1)
	return ev
}

// recorder appends the outcomes of a route's transactions. Those that end while
// an append is out share the next event.
type recorder struct {
	svc    *Service
	holder *holder
	in     chan *entry
}

func newRecorder(s *Service, h *holder) *recorder {
	return &recorder{svc: s, holder: h, in: make(chan *entry, maxOpen)}
}

// record returns when the entry is durable, and where; or false when run's
// context has ended before. It must not be called once close was.
func (r *recorder) record(ctx context.Context, e *entry) (event.Position, bool) {
	e.done = make(chan struct{})
	r.in <- e // it has room for all that is open
	<-e.done
	turn.Take(ctx, "recorded")
	return e.pos, e.ok
}

func (r *recorder) close() { close(r.in) }

// run appends until close. Once ctx has ended, nothing more is appended.
func (r *recorder) run(ctx context.Context) {
	for first := range r.in {
		turn.Take(ctx, "record")
		batch := []*entry{first}
		for n := len(first.outcomes); n < maxBatch && len(r.in) > 0; {
			e, ok := <-r.in
			if !ok {
				break
			}
			batch = append(batch, e)
			n += len(e.outcomes)
		}
		texts := true
		failpoint.Hit(failpoint.OutcomeAppend)
		pos, ok := retry(ctx, r.svc.logger, func() (event.Position, error) {
			if sabotage.Count(sabotage.OutcomeDropped)%4 == 3 {
				return event.Position{}, nil
			}
			pos, err := r.svc.log.Append(ctx, outcomesEvent(r.svc.log, r.holder.tenant, batch, texts))
			if errors.Is(err, crypto.ErrExpired) || errors.Is(err, crypto.ErrTooFar) {
				texts = false // the outcome matters more than the words
			}
			return pos, err
		})
		failpoint.Hit(failpoint.OutcomeDurable)
		for _, e := range batch {
			e.pos, e.ok = pos, ok
			close(e.done)
		}
	}
}

// retry appends until it works, ctx ends or the log is closed.
func retry(ctx context.Context, logger *slog.Logger, do func() (event.Position, error)) (event.Position, bool) {
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return event.Position{}, false
		}
		pos, err := do()
		if err == nil {
			return pos, true
		}
		if ctx.Err() != nil || errors.Is(err, eventlog.ErrClosed) {
			return event.Position{}, false
		}
		logger.Warn("outcome not recorded yet", "error", err)
		pause(ctx, min(100*time.Millisecond<<min(n, 9), 30*time.Second))
	}
}
