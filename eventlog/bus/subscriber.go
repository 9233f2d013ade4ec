package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"holdfast/event"
	"holdfast/eventlog"
)

// Subscriber implements message.Subscriber for one group, or for none.
type Subscriber struct {
	bus   *Bus
	group string
	ctx   context.Context
	stop  context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // subscriptions; Add only under mu while not closed
}

var _ message.Subscriber = (*Subscriber)(nil)

// Subscriber returns a subscriber of a group; of none if the group is empty. The
// caller closes it.
func (b *Bus) Subscriber(group string) *Subscriber {
	s := &Subscriber{bus: b, group: group}
	s.ctx, s.stop = context.WithCancel(b.ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		s.closed = true
		s.stop()
		return s
	}
	b.subs[s] = struct{}{}
	return s
}

// Subscribe returns the channel of a topic's messages. It is closed when ctx
// ends, when the subscriber is closed, and when the log cannot be read further
// because it is damaged or newer than this program; a handler then stops
// visibly. The channel has no buffer.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ctx.Err() != nil {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	ends := context.AfterFunc(s.ctx, cancel)
	sub := &subscription{bus: s.bus, at: place{s.group, topic}, out: make(chan *message.Message)}
	s.wg.Go(func() {
		defer close(sub.out)
		defer cancel()
		defer ends()
		sub.run(ctx)
	})
	return sub.out, nil
}

// Close ends all subscriptions and waits until their cursors are recorded, at
// most ten seconds or so. It may be called again.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	s.bus.mu.Lock()
	delete(s.bus.subs, s)
	s.bus.mu.Unlock()
	return nil
}

// subscription hands out the messages of one topic.
type subscription struct {
	bus *Bus
	at  place
	out chan *message.Message
}

// run hands out messages until ctx ends, whenever it is this subscription's turn.
func (s *subscription) run(ctx context.Context) {
	if s.at.group == "" {
		s.consume(ctx, nil)
		return
	}
	t, done := s.bus.turn(s.at)
	defer done()
	select {
	case t.slot <- struct{}{}:
		defer func() { <-t.slot }()
	case <-ctx.Done():
		return
	}
	for ctx.Err() == nil {
		held, lose, ok := s.lease(ctx)
		if !ok {
			continue
		}
		rec := newRecorder(s.bus, s.at)
		goOn := s.consume(held, rec)
		rec.close()
		lose()
		if !goOn {
			return
		}
	}
}

// lease takes the group's lease where other processes share the bucket. The
// context it returns ends when the lease is lost. Not ok after a pause.
func (s *subscription) lease(ctx context.Context) (held context.Context, lose func(), ok bool) {
	held, cancel := context.WithCancel(ctx)
	if !s.bus.opt.Shared {
		return held, cancel, true
	}
	name := sha256.Sum256([]byte(s.at.group + "\x00" + s.at.topic))
	le, err := s.bus.opt.Log.Acquire(ctx, "bus-"+hex.EncodeToString(name[:16]), leaseTerm, false)
	if err != nil {
		if !errors.Is(err, eventlog.ErrLeased) && ctx.Err() == nil {
			s.bus.opt.Logger.Warn("lease of a consumer group", "error", err)
		}
		cancel()
		pause(ctx, leaseTerm/10)
		return nil, nil, false
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for held.Err() == nil {
			pause(held, leaseTerm/4)
			if held.Err() != nil {
				return
			}
			if err := le.Renew(held); errors.Is(err, eventlog.ErrLeased) || err != nil && !le.Valid() {
				cancel()
			}
		}
	}()
	return held, func() {
		cancel()
		<-done
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		if err := le.Release(ctx); err != nil && !errors.Is(err, eventlog.ErrLeased) {
			s.bus.opt.Logger.Warn("give back the lease of a consumer group", "error", err)
		}
	}, true
}

// consume hands out messages until ctx ends. It reports whether it may be called
// again.
func (s *subscription) consume(ctx context.Context, rec *recorder) bool {
	log, part := s.bus.opt.Log, s.bus.part
	at, from, err := s.begin(ctx, rec)
	for ctx.Err() == nil {
		if err == nil {
			at, err = s.read(ctx, at, from, rec)
		}
		if err == nil {
			err = log.Wait(ctx, part, at.Seq)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			continue
		case errors.Is(err, eventlog.ErrDamaged), errors.Is(err, eventlog.ErrRolledBack), errors.Is(err, event.ErrUnknownKind), errors.Is(err, eventlog.ErrClosed):
			s.bus.opt.Logger.Error("subscription stopped: the log cannot be read further", "error", err)
			return false
		}
		s.bus.opt.Logger.Warn("subscription: read the log, trying again", "error", err)
		pause(ctx, readPause)
		if at == (eventlog.Cursor{}) {
			at, from, err = s.begin(ctx, rec)
		} else {
			err = nil
		}
	}
	return true
}

// begin returns where reading begins: before the segment of the last message that
// the group has handled.
func (s *subscription) begin(ctx context.Context, rec *recorder) (at eventlog.Cursor, from event.Position, err error) {
	if rec == nil {
		return at, from, nil
	}
	if from, err = s.bus.cursor(ctx, s.at); err != nil || from.Seq == 0 {
		return at, from, err
	}
	at, err = s.bus.opt.Log.CursorAt(ctx, s.bus.part, from.Seq-1)
	return at, from, err
}

// read hands out what is there after at and behind from. It returns the last
// segment that was handled wholly.
func (s *subscription) read(ctx context.Context, at eventlog.Cursor, from event.Position, rec *recorder) (eventlog.Cursor, error) {
	for seg, err := range s.bus.opt.Log.SegmentsOf(ctx, s.bus.part, s.bus.begun(at), event.ClassesOf(event.ClassPosted)) {
		if err != nil {
			return at, err
		}
		for _, r := range seg.Events {
			f, ok := r.Fact.(*event.Posted)
			if !ok || f.Topic != s.at.topic || r.Tenant != s.bus.opt.Tenant || from.Seq > 0 && !from.Less(r.Ref.Position) {
				continue
			}
			if !s.deliver(ctx, f) {
				return at, ctx.Err()
			}
			if rec != nil {
				rec.handled(r.Ref.Position)
			}
		}
		at = eventlog.Cursor{Seq: seg.Seq, Hash: seg.Hash}
	}
	return at, nil
}

// deliver hands out a message until it is acknowledged; false when ctx ended
// before.
func (s *subscription) deliver(ctx context.Context, f *event.Posted) bool {
	for wait := s.bus.opt.MinPause; ; wait = min(2*wait, s.bus.opt.MaxPause) {
		m := message.NewMessage(f.UUID, slices.Clone(f.Payload))
		maps.Copy(m.Metadata, f.Metadata)
		mctx, cancel := context.WithCancel(ctx)
		m.SetContext(mctx)
		acked, asked := hand(ctx, s.out, m)
		cancel()
		if acked || !asked {
			return acked
		}
		pause(ctx, wait)
	}
}

// hand gives a message to the subscriber and waits for its answer, if there is
// one.
func hand(ctx context.Context, out chan<- *message.Message, m *message.Message) (acked, answered bool) {
	select {
	case out <- m:
	case <-ctx.Done():
		return false, false
	}
	select {
	case <-m.Acked():
		return true, true
	case <-m.Nacked():
		return false, true
	case <-ctx.Done():
	}
	select { // acknowledged in the same moment: it is not delivered again
	case <-m.Acked():
		return true, true
	default:
		return false, false
	}
}

// recorder appends a group's cursor to the log, now and then.
type recorder struct {
	bus  *Bus
	at   place
	stop chan struct{}
	done chan struct{}
	more chan struct{} // holds a value when there is something to record soon
	many chan struct{} // and when it is enough to record at once

	mu    sync.Mutex
	to    event.Position
	since int // acknowledged and not recorded
}

func newRecorder(b *Bus, at place) *recorder {
	r := &recorder{
		bus: b, at: at, stop: make(chan struct{}), done: make(chan struct{}),
		more: make(chan struct{}, 1), many: make(chan struct{}, 1),
	}
	go r.run()
	return r
}

// handled notes that a message was acknowledged.
func (r *recorder) handled(pos event.Position) {
	r.bus.handled(r.at, pos)
	r.mu.Lock()
	r.to = pos
	r.since++
	n := r.since
	r.mu.Unlock()
	nudge(r.more)
	if n >= cursorEvery {
		nudge(r.many)
	}
}

func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (r *recorder) run() {
	defer close(r.done)
	for {
		select {
		case <-r.more:
		case <-r.stop:
			r.last()
			return
		}
		t := time.NewTimer(cursorAfter)
		select {
		case <-t.C:
		case <-r.many:
		case <-r.stop:
			t.Stop()
			r.last()
			return
		}
		t.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), leaseTerm)
		r.record(ctx)
		cancel()
	}
}

// last records what is left when the subscription ends.
func (r *recorder) last() {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	r.record(ctx)
}

func (r *recorder) record(ctx context.Context) {
	r.mu.Lock()
	to, n := r.to, r.since
	r.since = 0
	r.mu.Unlock()
	if n == 0 {
		return
	}
	_, err := r.bus.opt.Log.Append(ctx, event.Event{
		ID: event.NewID(), Tenant: r.bus.opt.Tenant,
		Fact: &event.CursorMoved{Group: r.at.group, Topic: r.at.topic, To: to},
	})
	if err == nil {
		return
	}
	// The next one, a second from now, says it all.
	r.bus.opt.Logger.Warn("record the cursor of a consumer group", "error", fmt.Errorf("append: %w", err))
	r.mu.Lock()
	r.since += n
	r.mu.Unlock()
	nudge(r.more)
}

func (r *recorder) close() {
	close(r.stop)
	<-r.done
}
