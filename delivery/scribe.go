package delivery

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
)

// wish is what one transaction wants to intend.
type wish struct {
	epoch uint64
	units []event.Unit

	done   chan struct{} // closed when what follows is known
	logged bool          // the intent is in the log, or may be, and is open
	err    error         // nil: the final dot may be sent
	before []bool        // which units may have been delivered by an earlier attempt
}

// answered reports whether it is known what became of a wish.
func (w *wish) answered() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *wish) answer(logged bool, err error) {
	w.logged, w.err = logged, err
	close(w.done)
}

// note is what a transaction hands to the scribe: an entry or a wish.
type note struct {
	entry *entry
	wish  *wish
}

// scribe appends what a route's transactions have to say: their intents before
// the final dot, their outcomes after it. All that comes while an append is out
// shares the next one, in one event of each kind. It tells the transactions when
// the fold knows.
type scribe struct {
	svc    *Service
	holder *holder
	in     chan note
	landed chan *page // durable, but not known to be folded
}

// page is one append.
type page struct {
	wishes  []*wish
	entries []*entry
	intent  event.ID // of the event with the wishes
	pos     event.Position
	said    verdict // the fold's, guarded by the service's mutex until it is folded
}

// yields is how often others are let go first before a page is begun.
const yields = 3

// maxPages is how many appends may wait for the fold.
const maxPages = 8

func newScribe(s *Service, h *holder) *scribe {
	return &scribe{svc: s, holder: h, in: make(chan note, 2*maxOpen), landed: make(chan *page, maxPages)}
}

// record returns true when the entry is durable and, unless the fold has
// stopped, folded; or false when run's context, or the tenant, has ended before it
// was durable.
// It must not be called once close was.
func (s *scribe) record(ctx context.Context, e *entry) bool {
	e.done = make(chan struct{})
	s.in <- note{entry: e} // it has room for all that is open
	<-e.done
	turn.Take(ctx, "recorded")
	return e.ok
}

// ask asks for an intent under an epoch; the answer comes by itself. It must not
// be called once close was.
func (s *scribe) ask(g *group, epoch uint64) *wish {
	w := &wish{epoch: epoch, done: make(chan struct{})}
	for _, u := range g.units {
		w.units = append(w.units, u.id)
	}
	if sabotage.On(sabotage.NoIntent) {
		w.before = make([]bool, len(w.units))
		w.answer(false, nil)
		return w
	}
	s.in <- note{wish: w} // it has room for all that is open
	return w
}

func (s *scribe) close() { close(s.in) }

// run appends until close. Once ctx has ended, nothing more is appended.
func (s *scribe) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(s.landed)
	wg.Go(func() { s.follow(turn.Named(ctx, "folded")) })
	for first := range s.in {
		// Others that can go on now have something to say, too: what waits for this
		// page waits for them no longer than it takes them to say it.
		for range yields {
			runtime.Gosched()
		}
		turn.Take(ctx, "record")
		p := &page{}
		size := s.gather(p, first)
		for size < maxBatch && len(s.in) > 0 {
			next, ok := <-s.in
			if !ok {
				break
			}
			size += s.gather(p, next)
		}
		s.write(ctx, p)
	}
}

// gather puts a note on a page and returns by how much that has grown. A wish of
// a holding of the lease that is over is refused.
func (s *scribe) gather(p *page, n note) int {
	if n.entry != nil {
		p.entries = append(p.entries, n.entry)
		return len(n.entry.outcomes)
	}
	if s.holder.epoch() != n.wish.epoch || len(p.wishes) > 0 && p.wishes[0].epoch != n.wish.epoch {
		n.wish.answer(false, errRefused)
		return 0
	}
	p.wishes = append(p.wishes, n.wish)
	return len(n.wish.units)
}

// write appends a page. Wishes are tried once; outcomes for as long as it takes:
// what was observed is never dropped but with its tenant.
func (s *scribe) write(ctx context.Context, p *page) {
	texts := true
	for n := 0; len(p.wishes)+len(p.entries) > 0; {
		evs := s.events(p, texts)
		s.svc.expect(p)
		pos, err := s.append(ctx, p, evs)
		if err == nil {
			p.pos = pos
			s.landed <- p
			return
		}
		s.svc.said(p)
		ended := errors.Is(err, eventlog.ErrEnded)
		if errors.Is(err, crypto.ErrExpired) || errors.Is(err, crypto.ErrTooFar) {
			if texts && !ended {
				texts = false // the outcome matters more than the words
				continue
			}
		}
		for _, w := range p.wishes {
			w.answer(errors.Is(err, eventlog.ErrTimeout), err)
		}
		p.wishes = nil
		if ctx.Err() != nil || ended || errors.Is(err, eventlog.ErrClosed) {
			break
		}
		s.svc.logger.Warn("intents or outcomes not recorded yet", "error", err)
		if len(p.entries) > 0 {
			pause(ctx, min(100*time.Millisecond<<min(n, 9), 30*time.Second))
			n++
		}
	}
	for _, e := range p.entries {
		close(e.done)
	}
}

func (s *scribe) append(ctx context.Context, p *page, evs []event.Event) (event.Position, error) {
	if len(p.wishes) > 0 {
		failpoint.Hit(failpoint.IntentAppend)
	}
	if len(p.entries) > 0 {
		failpoint.Hit(failpoint.OutcomeAppend)
	}
	if len(p.entries) > 0 && sabotage.Count(sabotage.OutcomeDropped)%4 == 3 {
		evs = evs[:len(evs)-1]
	}
	if len(evs) == 0 {
		return event.Position{}, nil
	}
	pos, err := s.svc.log.Append(ctx, evs...)
	if len(p.entries) > 0 {
		failpoint.Hit(failpoint.OutcomeDurable)
	}
	return pos, err
}

// events are the wishes' event and the entries', in this order, so that no
// outcome stands before the intent that it settles.
func (s *scribe) events(p *page, texts bool) []event.Event {
	var evs []event.Event
	if len(p.wishes) > 0 {
		f := &event.DeliveryIntended{At: s.svc.log.Millis(), Epoch: p.wishes[0].epoch}
		for _, w := range p.wishes {
			f.Units = append(f.Units, w.units...)
		}
		p.intent = event.NewID()
		evs = append(evs, event.Event{ID: p.intent, Tenant: s.holder.tenant, Fact: f})
	}
	if len(p.entries) > 0 {
		evs = append(evs, outcomesEvent(s.svc.log, s.holder.tenant, p.entries, texts))
	}
	return evs
}

// follow tells the transactions of a page what the fold says, page after page.
func (s *scribe) follow(ctx context.Context) {
	for p := range s.landed {
		err := s.svc.cfg.Runner.WaitFor(ctx, foldName, p.pos)
		turn.Take(ctx, "tell")
		if err != nil && ctx.Err() == nil {
			s.svc.logger.Warn("recorded but not folded", "error", err)
		}
		said := s.svc.said(p)
		for _, w := range p.wishes {
			w.hear(said.take(len(w.units)), err)
		}
		for _, e := range p.entries {
			e.ok = true
			close(e.done)
		}
		if len(p.entries) > 0 {
			failpoint.Hit(failpoint.OutcomeFolded)
		}
	}
}

// hear takes the fold's verdict on the units of a wish. The dot goes to all of
// them or to none.
func (w *wish) hear(said []opinion, err error) {
	if err != nil {
		w.answer(true, err)
		return
	}
	logged, all := false, len(said) == len(w.units)
	for _, o := range said {
		w.before = append(w.before, o.Uncertain)
		logged, all = logged || o.OK, all && o.OK
	}
	if !all {
		err = errRefused
	}
	w.answer(logged, err)
}

// expect prepares for the verdict on a page's wishes.
func (s *Service) expect(p *page) {
	if len(p.wishes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[p.intent] = p
}

// said returns the verdict on a page's wishes, which is not waited for any more.
func (s *Service) said(p *page) *verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pages, p.intent)
	return &p.said
}
