package delivery

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
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
	ok   bool          // it is durable
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

// retry appends until it works, ctx or the tenant ends or the log is closed.
func retry(ctx context.Context, logger *slog.Logger, do func() (event.Position, error)) (event.Position, bool) {
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return event.Position{}, false
		}
		pos, err := do()
		if err == nil {
			return pos, true
		}
		if ctx.Err() != nil || errors.Is(err, eventlog.ErrEnded) || errors.Is(err, eventlog.ErrClosed) {
			return event.Position{}, false
		}
		logger.Warn("outcome not recorded yet", "error", err)
		pause(ctx, min(100*time.Millisecond<<min(n, 9), 30*time.Second))
	}
}
