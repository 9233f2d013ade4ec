package eventlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"

	"holdfast/crypto"
	"holdfast/event"
)

// Event reads one event. Of a message that was kept ([event.Kept]) it returns
// what the first event recorded: Recorded.Kept says so.
func (l *Log) Event(ctx context.Context, ref event.Ref) (Recorded, error) {
	if int(ref.Position.Partition) >= len(l.partitions) {
		return Recorded{}, fmt.Errorf("no partition %d: %w", ref.Position.Partition, ErrDamaged)
	}
	seg, err := l.Segment(ctx, ref.Position.Partition, ref.Position.Seq)
	if err != nil {
		return Recorded{}, err
	}
	r, ok := seg.At(ref.Position.Index)
	if !ok {
		if err := l.endedAt(ctx, ref); err != nil {
			return Recorded{}, err
		}
	}
	if r.Ref.ID != ref.ID {
		return Recorded{}, fmt.Errorf("event %v is not at %v: %w", ref.ID, ref.Position, ErrDamaged)
	}
	if kept, ok := r.Fact.(*event.Kept); ok {
		r.Kept = kept
		if r.Fact, err = original(kept); err != nil {
			return Recorded{}, fmt.Errorf("event %v: %w", ref.ID, err)
		}
	}
	return r, nil
}

// original returns the fact of a kept message: an acceptance, or what a user put
// into a mailbox.
func original(k *event.Kept) (event.Fact, error) {
	f, err := k.Original()
	if errors.Is(err, event.ErrUnknownKind) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("what was kept: %w: %w", err, ErrDamaged)
	}
	if !aboutMessage(f) {
		return nil, fmt.Errorf("what was kept is no message: %w", ErrDamaged)
	}
	return f, nil
}

// aboutMessage tells the facts that bring a message into the log.
func aboutMessage(f event.Fact) bool {
	switch f.(type) {
	case *event.MessageAccepted, *event.Appended:
		return true
	}
	return false
}

// Keep writes the message at ref anew under the key of a later day, and returns
// where it is from then on. ref is an acceptance, what a user put into a mailbox,
// or itself kept. The bytes are the same.
//
// crypto.ErrExpired when the message opens no more. [ErrCondemned] when the later
// day is condemned, too. Otherwise the errors are those of [Log.Body] and
// [Log.Append]; after [ErrTimeout] it is not known whether it was kept, and it may
// be kept again: the last one counts.
func (l *Log) Keep(ctx context.Context, ref event.Ref, until event.Day, why event.Reasons) (event.Ref, error) {
	kept, err := l.keep(ctx, ref, until, why)
	if err != nil {
		return event.Ref{}, fmt.Errorf("keep %v until %v: %w", ref.ID, until, err)
	}
	return kept, nil
}

func (l *Log) keep(ctx context.Context, ref event.Ref, until event.Day, why event.Reasons) (event.Ref, error) {
	src, err := l.source(ctx, ref)
	if err != nil {
		return event.Ref{}, err
	}
	body, err := l.Body(ctx, ref)
	if err != nil {
		return event.Ref{}, err
	}
	defer body.Close()
	id := event.NewID()
	w, err := l.NewBody(ctx, id, src.tenant, until)
	if err != nil {
		return event.Ref{}, notTheDay(err)
	}
	defer w.Discard()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(sum, w), body); err != nil {
		return event.Ref{}, err
	}
	if want := bodyOf(src.fact); want.size != body.Size() || want.sum != [32]byte(sum.Sum(nil)) {
		return event.Ref{}, fmt.Errorf("the body is not the one of which the event speaks: %w", ErrDamaged)
	}
	b, err := w.Finish()
	if err != nil {
		return event.Ref{}, err
	}
	fact := src.kept
	fact.At, fact.From, fact.Why = l.Millis(), ref, why
	pos, err := l.Append(ctx, event.Event{ID: id, Tenant: src.tenant, Expiry: until, Body: b, Fact: &fact})
	if err != nil {
		return event.Ref{}, notTheDay(err)
	}
	return event.Ref{Position: pos, ID: id}, nil
}

// notTheDay keeps an expired day of the copy from looking like an expired
// message.
func notTheDay(err error) error {
	if errors.Is(err, crypto.ErrExpired) {
		return fmt.Errorf("%w: %v", ErrCondemned, err)
	}
	return err
}

// source is a message that is to be kept.
type source struct {
	tenant event.Tenant
	fact   event.Fact
	kept   event.Kept // Message, Was and Meta are set
}

// source reads a message's event as it was encoded, so that nothing is lost that
// only a newer version knows.
func (l *Log) source(ctx context.Context, ref event.Ref) (s source, err error) {
	m, err := l.encoded(ctx, ref)
	if err != nil {
		return s, err
	}
	if m.meta == nil {
		return s, crypto.ErrExpired
	}
	s.tenant = m.entry().Tenant
	s.kept = event.Kept{Message: ref.ID, Was: m.state, Meta: &event.KeptMeta{Was: cbor.RawMessage(m.meta)}}
	fact, err := event.Decode(m.state, m.meta)
	if err != nil {
		return s, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	if k, ok := fact.(*event.Kept); ok {
		s.kept = *k
		fact, err = original(k)
	}
	s.fact = fact
	if err == nil && !aboutMessage(fact) {
		err = fmt.Errorf("event %v is no message", ref.ID)
	}
	return s, err
}

// encodedEvent is an event whose parts were opened, and not decoded.
type encodedEvent struct {
	h           *parsed
	i           int
	front       fronted // of the segment
	state, meta []byte  // meta is nil where there is none, or none any more
}

func (m *encodedEvent) entry() *eventEntry { return &m.h.Events[m.i] }

// encoded opens the front parts of one event.
func (l *Log) encoded(ctx context.Context, ref event.Ref) (m encodedEvent, err error) {
	pos := ref.Position
	if int(pos.Partition) >= len(l.partitions) {
		return m, fmt.Errorf("no partition %d: %w", pos.Partition, ErrDamaged)
	}
	r, err := l.readFront(ctx, pos.Partition, pos.Seq, event.AllClasses)
	if err != nil {
		return m, l.missing(pos.Partition, pos.Seq, err)
	}
	m.h, m.front = r.h, r.front
	if m.i = int(pos.Index); m.i >= len(m.h.Events) || m.entry().ID != ref.ID {
		return m, fmt.Errorf("event %v is not at %v: %w", ref.ID, pos, ErrDamaged)
	}
	if m.state, err = l.openState(ctx, m.h, m.i, m.front); err != nil {
		return m, err
	}
	if page, ok := m.h.page(m.entry()); ok {
		m.meta, err = l.openMeta(ctx, m.h, m.i, page, m.front)
	}
	return m, err
}
