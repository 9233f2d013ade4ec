// Package bus is Watermill's Publisher and Subscriber over the log.
//
// What is published becomes an [event.Posted] event, durable when Publish
// returns. A subscription reads a partition and hands out what was posted to its
// topic, in the order of the log, one message at a time: the next comes when the
// one before is acknowledged. A message that is refused (Nack) comes again after a
// pause that grows, for as long as it takes; nothing is ever dropped or overtaken.
//
// Subscribers of one group share a durable cursor, and one of them at a time is
// handed messages; the others stand by. A subscriber without a group receives
// everything from the beginning of the log, every time.
//
// # Twice
//
// Delivery is at least once. A group's cursor is an [event.CursorMoved] in the log,
// appended when [cursorEvery] messages have been acknowledged, or [cursorAfter]
// after the first that is not recorded, and when the subscription ends. What was
// acknowledged since the last one is delivered again after a crash, and nothing
// else. A Publish that failed with [eventlog.ErrTimeout] may have taken effect.
//
// Besides, [Wakes] tells the components of one process that a partition has grown.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"holdfast/event"
	"holdfast/eventlog"
)

const (
	// A cursor is recorded after so many messages or so long, whichever is first.
	cursorEvery = 100
	cursorAfter = time.Second
	// recordTimeout ends the recording of a cursor when its subscription ends.
	recordTimeout = 10 * time.Second
	// leaseTerm is how long a group's consumer on another node is waited for.
	leaseTerm = 30 * time.Second
	// readPause is waited after the store failed.
	readPause = time.Second
	// One event of at most this size, and so many of them, go in one Append.
	maxBatch, maxBatchBytes = 500, 2 << 20
	// maxCursors bounds the groups times topics that one log may have.
	maxCursors = 100_000
)

// ErrClosed is returned by publishers and subscribers that are closed.
var ErrClosed = errors.New("bus is closed")

// Options are what a Bus is made of.
type Options struct {
	Log *eventlog.Log // required; the caller closes it after the bus
	// Tenant whose keys seal the messages and whose partition holds them; zero
	// means event.SystemTenant. Its keys must exist.
	Tenant event.Tenant
	Logger *slog.Logger // nil: none
	// Shared says that other processes use the same bucket: a group's consumer is
	// then chosen by a lease.
	Shared bool
	// A refused message comes again after MinPause, then after twice as long and
	// so on up to MaxPause. 0 means 100 ms and one minute.
	MinPause, MaxPause time.Duration
}

// Bus makes publishers and subscribers of one tenant's messages. All methods may
// be called by any goroutine.
type Bus struct {
	opt  Options
	part event.Partition
	ctx  context.Context
	stop context.CancelFunc

	folding chan struct{} // holds a value while somebody folds cursors
	folded  eventlog.Cursor

	mu      sync.Mutex // never held across a call through a seam
	cursors map[place]event.Position
	turns   map[place]*turn
	subs    map[*Subscriber]struct{}
	closed  bool
}

// place is what a durable cursor belongs to.
type place struct{ group, topic string }

// turn is held by the one subscription of a group that is handed messages.
type turn struct {
	slot chan struct{}
	uses int // subscriptions that hold it or wait for it
}

// New returns a bus over a log.
func New(opt Options) *Bus {
	if opt.Tenant == (event.Tenant{}) {
		opt.Tenant = event.SystemTenant
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.MinPause == 0 {
		opt.MinPause = 100 * time.Millisecond
	}
	if opt.MaxPause == 0 {
		opt.MaxPause = time.Minute
	}
	b := &Bus{
		opt: opt, part: opt.Log.PartitionOf(opt.Tenant), folding: make(chan struct{}, 1),
		cursors: map[place]event.Position{}, turns: map[place]*turn{}, subs: map[*Subscriber]struct{}{},
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b
}

// Close closes all subscribers. It may be called again.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	var subs []*Subscriber
	for s := range b.subs {
		subs = append(subs, s)
	}
	b.mu.Unlock()
	b.stop()
	var err error
	for _, s := range subs {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Publisher implements message.Publisher.
type Publisher struct {
	bus  *Bus
	mu   sync.Mutex
	done bool
}

// Publisher returns a publisher. The caller closes it.
func (b *Bus) Publisher() *Publisher { return &Publisher{bus: b} }

var _ message.Publisher = (*Publisher)(nil)

// Publish appends messages to the log, in their order. They are durable when it
// returns without error; after an error some may be. The context of the first
// message, or 30 s, ends the wait.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done || p.bus.ctx.Err() != nil {
		return ErrClosed
	}
	var evs []event.Event
	var size int
	flush := func() error {
		if len(evs) == 0 {
			return nil
		}
		_, err := p.bus.opt.Log.Append(messages[0].Context(), evs...)
		evs, size = nil, 0
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		return nil
	}
	for _, m := range messages {
		if len(evs) == maxBatch || size+len(m.Payload) > maxBatchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		posted := &event.Posted{Topic: topic, UUID: m.UUID, Metadata: m.Metadata, Payload: m.Payload}
		evs = append(evs, event.Event{ID: event.NewID(), Tenant: p.bus.opt.Tenant, Fact: posted})
		size += len(m.Payload)
	}
	return flush()
}

// Close implements message.Publisher. It may be called again.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	return nil
}

// cursor returns how far a group has come with a topic.
func (b *Bus) cursor(ctx context.Context, at place) (event.Position, error) {
	if err := b.fold(ctx); err != nil {
		return event.Position{}, fmt.Errorf("read the cursors of the bus: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cursors[at], nil
}

// fold reads the cursors that the log has had since the last time.
func (b *Bus) fold(ctx context.Context) error {
	select {
	case b.folding <- struct{}{}:
		defer func() { <-b.folding }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if b.opt.Shared {
		if err := b.opt.Log.Refresh(ctx, b.part); err != nil {
			return err
		}
	}
	for seg, err := range b.opt.Log.SegmentsOf(ctx, b.part, b.begun(b.folded), event.ClassesOf(event.ClassPosted)) {
		if err != nil {
			return err
		}
		for _, r := range seg.Events {
			if f, ok := r.Fact.(*event.CursorMoved); ok && r.Tenant == b.opt.Tenant {
				b.handled(place{f.Group, f.Topic}, f.To)
			}
		}
		b.folded = eventlog.Cursor{Seq: seg.Seq, Hash: seg.Hash}
	}
	return nil
}

// begun returns a cursor, or the log's beginning where that is later: it never
// passes a message of the bus, so that there is none between the two.
func (b *Bus) begun(at eventlog.Cursor) eventlog.Cursor {
	if start := b.opt.Log.Start(b.part); at.Seq < start.Seq {
		return start
	}
	return at
}

// handled moves a group's cursor in memory; it never goes back.
func (b *Bus) handled(at place, to event.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, known := b.cursors[at]
	if !known && len(b.cursors) == maxCursors {
		b.opt.Logger.Warn("too many cursors: a consumer group is not remembered in memory")
		return
	}
	if old.Less(to) {
		b.cursors[at] = to
	}
}

// wait returns the turn of a place, to be taken, and what gives up the interest
// in it.
func (b *Bus) turn(at place) (*turn, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.turns[at]
	if t == nil {
		t = &turn{slot: make(chan struct{}, 1)}
		b.turns[at] = t
	}
	t.uses++
	return t, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if t.uses--; t.uses == 0 {
			delete(b.turns, at)
		}
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
