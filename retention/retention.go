// Package retention ends what the log keeps: mail at the end of its days, single
// messages by order, and says what may not end.
//
// # How a day ends
//
// Each day, for the day D that is over, and for each tenant:
//
//  1. [event.DayCondemned] stands in the log. From here on the set of messages of
//     D and before that are still needed only shrinks: what users file later, and
//     holds that are placed later, come too late for them.
//  2. Each needed message is written anew under the key of a later day, as an
//     [event.Kept]: for 30 days when a user has filed it or a hold selects it, for
//     2 days when it is due or held in the queue.
//  3. When the folds say, at a later place in the log, that nothing is needed any
//     more: [event.DayExpired].
//
// What a day has had is removed from the folds in bounded parts: by 1 and 3
// themselves, and of much mail by an [event.DaySwept] for each further part, before
// what follows.
//
//  4. When all tenants are there: [event.RatchetMoved]. Every node moves its
//     ratchet, once its own clock agrees, and so the keys are gone. Then the
//     objects are removed, which [event.DayRemoved] records.
//
// Each step is repeated by whoever finds it undone. The lease saves effort, and no
// safety rests on it: two workers at once append the same facts twice, which
// folds take once.
//
// # What may not be destroyed
//
// Nothing is removed that was not named by an event which is durable and folded
// before. While the clock is in doubt nothing is condemned. A needed message that
// cannot be read is tried again for a week, during which its day does not expire;
// [Status] names it. After that the day expires without it, which the log of the
// tenant says.
package retention

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/turn"
	"holdfast/projection"
)

// Errors of commands.
var (
	// ErrHoldExists says that the tenant has a hold of this name.
	ErrHoldExists = errors.New("there is a hold of this name")
	// ErrNoHold says that the tenant has no hold of this name.
	ErrNoHold = errors.New("there is no hold of this name")
	// ErrCondemned says that all messages that a hold selects have been condemned
	// before: they are beyond rescue.
	ErrCondemned = errors.New("the hold comes too late: all messages that it selects expire already")
	// ErrHeld says that messages may not be erased, because of holds that it names.
	ErrHeld = errors.New("held")
	// ErrEnding says that a tenant is being ended, or has ended.
	ErrEnding = errors.New("the tenant is being ended")
	// ErrNotFound says that a message is not there, or not any more.
	ErrNotFound = errors.New("no such message")
	// ErrTooMany says that an order is for more than MaxItems messages.
	ErrTooMany = errors.New("too many messages for one order")
	// ErrDoubt says that this machine's clock is too far ahead to be believed.
	ErrDoubt = errors.New("the clock is in doubt, so that nothing expires; if it is right, confirm it")
	// ErrBusy says that holds changed again and again while an order was made.
	ErrBusy = errors.New("holds are being changed; try again")
)

// Selected is a message that a hold selects.
type Selected struct {
	Message event.ID  // the first event's
	Place   event.Ref // where it is read now
	Expiry  event.Day
}

// Index finds what a hold selects: package shadow. Its answers are as new as the
// log that this node knows.
type Index interface {
	// Under yields the messages of a tenant that match and expire on until or
	// before; 0 for all, as they are at one point of the log. Otherwise it holds
	// nothing open while it yields, and leaves out what has gone meanwhile.
	Under(ctx context.Context, t event.Tenant, m event.HoldMatch, until event.Day) iter.Seq2[Selected, error]
	// Days tells what is kept, by tenant and day, in the order of days.
	Days(ctx context.Context) ([]DayCount, error)
	// Domains tells what is kept and was erased, by tenant and domain, in their order.
	Domains(ctx context.Context) ([]DomainCount, error)
	// Held counts the messages of a tenant that at least one of some holds keeps.
	Held(ctx context.Context, t event.Tenant, holds []Hold) (HeldCount, error)
}

// DayCount is what a tenant keeps that expires on one day.
type DayCount struct {
	Tenant   event.Tenant
	Day      event.Day
	Messages uint64
	Bytes    uint64
	Past     uint64 // messages that were kept past an earlier day
}

// DomainCount is what a tenant keeps of a domain's mail. A message of several
// domains counts in each of them.
type DomainCount struct {
	Tenant      event.Tenant
	Domain      string
	Messages    uint64
	Bytes       uint64
	Oldest      event.Day // the first on which some of it expires; 0 when there is none
	Past        uint64
	Erased      uint64 // messages by order, ever
	ErasedBytes uint64
}

// HeldCount is how many messages holds keep, in all and by domain.
type HeldCount struct {
	Messages uint64
	Domains  map[string]uint64
}

// Finder yields where messages are read that expire on until or before and are
// still needed, each once. Its answers are as new as the log that this node knows.
type Finder func(ctx context.Context, t event.Tenant, until event.Day) iter.Seq2[event.Ref, error]

// Keeper changes where messages can be read: an [eventlog.Log].
type Keeper interface {
	// Keep writes a message anew so that it lives through the day until.
	Keep(ctx context.Context, ref event.Ref, until event.Day, why event.Reasons) (event.Ref, error)
	// Erase makes messages unreadable for ever. It may be called again.
	Erase(ctx context.Context, refs []event.Ref) ([]eventlog.Erasure, error)
	// RemoveDays removes the objects of days before a day.
	RemoveDays(ctx context.Context, before event.Day) (eventlog.Removed, error)
	// RemoveBodies removes the bodies in objects of their own of a tenant of which
	// nothing comes any more.
	RemoveBodies(ctx context.Context, t event.Tenant, bodies []eventlog.Blob) (eventlog.Removed, error)
	// DestroyTenant removes the keys of a tenant that was condemned at by.
	DestroyTenant(ctx context.Context, t event.Tenant, by event.Ref) (eventlog.Removed, error)
}

// Ratchet is the root's: what forgets the keys of days. [*crypto.Root] is one.
type Ratchet interface {
	Day() event.Day
	AdvanceTo(event.Day) error
}

// Config is what a Service is made of.
type Config struct {
	Log    *eventlog.Log
	Runner *projection.Runner
	Keep   Keeper // nil: the log
	Index  Index
	Filed  Finder // what users have filed
	Needed Finder // what is due or held in the queue
	// Unswept are asked whether an [event.DaySwept] of the tenant would have
	// something to do in other folds. Their answers are as new as the log that this
	// node knows.
	Unswept []func(context.Context, event.Tenant) (bool, error)
	// Domains returns those of a tenant, by what is folded: while it has some it does
	// not end, for mail may be accepted. Nil: none has any.
	Domains func(event.Tenant) []string
	// Ratchet is nil where the keys' service moves it by itself.
	Ratchet Ratchet
	// StoreClock says that the store has a clock of its own, which is believed.
	StoreClock bool
	// Exclusive: no other process has the bucket.
	Exclusive bool
	Logger    *slog.Logger
}

// Service decides about expiry, holds and erasure. Its methods may be called by
// any goroutine.
type Service struct {
	cfg    Config
	log    *eventlog.Log
	runner *projection.Runner
	logger *slog.Logger
	now    func() time.Time // the log's
	clock  *clock
	move   chan struct{} // has a value when the ratchet may have to move
	wake   chan struct{} // has a value when Run should look at once

	working chan struct{} // has a value while Run or RunOnce work
	// Only who works uses what follows.
	swept  event.Day // the last day after which orphans were removed
	packAt time.Time

	mu    sync.Mutex // guards what follows; never held over a seam
	state Work
	tried map[event.Tenant]map[event.ID]time.Time // since when messages could not be read
}

// New returns a Service. Its projection is added to the runner.
func New(cfg Config) (*Service, error) { return newService(cfg, newFold()) }

func newService(cfg Config, f fold) (*Service, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Keep == nil {
		cfg.Keep = cfg.Log
	}
	s := &Service{
		cfg: cfg, log: cfg.Log, runner: cfg.Runner, logger: cfg.Logger,
		now: cfg.Log.Now, clock: newClock(cfg.Log.Now), move: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		working: make(chan struct{}, 1), tried: map[event.Tenant]map[event.ID]time.Time{},
	}
	s.packAt = s.now().Add(packEvery)
	if err := cfg.Runner.Add(f, s.observe); err != nil {
		return nil, fmt.Errorf("retention: %w", err)
	}
	return s, nil
}

// Load tells the log what the local database has of days that were condemned. It
// is called once, before anything is appended.
func (s *Service) Load(ctx context.Context) error {
	if err := s.runner.Restore(ctx, foldName); err != nil {
		return err
	}
	err := s.runner.View(ctx, foldName, func(v projection.View) error {
		for it, err := range v.Scan([]byte{keyTenant}, nil, false) {
			var row tenantRow
			if err == nil {
				err = event.Unmarshal(it.Value, &row)
			}
			if err != nil {
				return err
			}
			t := event.Tenant(it.Key[1:])
			s.log.NoteCondemned(t, row.Condemned)
			s.log.NoteExpired(t, row.Expired)
		}
		return s.loadEnds(v)
	})
	if err != nil {
		return fmt.Errorf("load what is condemned: %w", err)
	}
	return nil
}

// millis returns the present time as the log writes it.
func (s *Service) millis() event.Millis { return event.Millis(s.now().UnixMilli()) }

// observe is told what the fold emitted.
func (s *Service) observe(es []projection.Emission) {
	for _, e := range es {
		switch v := e.Value.(type) {
		case decision:
			s.log.NoteCondemned(v.Tenant, v.Condemned)
			s.log.NoteExpired(v.Tenant, v.Expired)
		case ending:
			s.log.NoteLast(v.Tenant)
		case ended:
			s.log.NoteEnded(v.Tenant)
		case erasure:
			s.log.Forgotten(v.Tenant, v.Places)
		case ratchetMove:
			signal(s.move)
		}
	}
}

// view reads the fold's state as of all that this node knows of a tenant's log.
func (s *Service) view(ctx context.Context, t event.Tenant, fn func(projection.View) error) error {
	p := s.log.PartitionOf(t)
	pos := event.Position{Partition: p, Seq: s.log.TailAtLeast(p)}
	if err := s.runner.WaitFor(ctx, foldName, pos); err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	return s.runner.View(ctx, foldName, fn)
}

// tenantRow reads what is decided about a tenant.
func (s *Service) tenantRow(ctx context.Context, t event.Tenant) (row tenantRow, err error) {
	err = s.view(ctx, t, func(v projection.View) error {
		_, err := getRow(v, tenantKey(t), &row)
		return err
	})
	return row, err
}

// do appends a fact and returns whether the fold says that it took effect.
func (s *Service) do(ctx context.Context, t event.Tenant, f event.Fact) (event.Ref, bool, error) {
	ref, said, err := s.ask(ctx, t, f)
	return ref, said.OK, err
}

// ask appends a fact and returns what the fold says of it.
func (s *Service) ask(ctx context.Context, t event.Tenant, f event.Fact) (event.Ref, verdict, error) {
	ev := event.Event{ID: event.NewID(), Tenant: t, Fact: f}
	ref := event.Ref{ID: ev.ID}
	said, err := s.runner.Do(ctx, foldName, ev.ID, func(ctx context.Context) (event.Position, error) {
		pos, err := s.log.Append(ctx, ev)
		ref.Position = pos
		return pos, err
	})
	if err != nil {
		return ref, verdict{}, err
	}
	for _, v := range said {
		if v, ok := v.(verdict); ok {
			return ref, v, nil
		}
	}
	return ref, verdict{}, nil
}

// append makes one fact of retention durable, and waits until this node has folded
// it.
func (s *Service) append(ctx context.Context, t event.Tenant, f event.Fact) (event.Ref, error) {
	ref, _, err := s.do(ctx, t, f)
	return ref, err
}

// audit puts into the log of a tenant what was done or found.
func (s *Service) audit(ctx context.Context, t event.Tenant, a *event.Audited) error {
	_, err := s.log.Append(ctx, event.Event{ID: event.NewID(), Tenant: t, Fact: a})
	return err
}

// Wake lets [Service.Run] look at once whether there is something to do. It does
// not block.
func (s *Service) Wake() { signal(s.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits for d, for a value of wake, or until ctx ends, and then for its turn
// to do what.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}, what string) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
	turn.Take(ctx, what)
	select {
	case <-wake: // in the same moment
	default:
	}
}
