package eventlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/crypto"
	"holdfast/event"
)

const (
	// maxInline is the largest sealed body that goes inside a segment.
	maxInline = 256 << 10
	// maxBlobBytes is the size of the parts of larger ones.
	maxBlobBytes = 4 << 20
	// maxBlobs bounds a body: 4096 parts of 4 MiB.
	maxBlobs = 4096
	// bigBuffers is how many parts may be gathered at a time on this node: the
	// budget of what is received but not yet durable. Whoever finds none waits,
	// and so the connection behind it is read more slowly.
	bigBuffers = 16
	// A body of more than tinyBody takes one of smallBodies places until it has
	// ended or has become a large one: the other half of that budget.
	tinyBody    = 16 << 10
	smallBodies = 256
)

// ErrBodyTooLarge is returned for a body of more than maxBlobs parts.
var ErrBodyTooLarge = errors.New("body is too large")

// sealedEvent is an event that only needs a place.
type sealedEvent struct {
	entry  eventEntry // Page is set when it is placed
	page   *pageEntry
	front  [][]byte
	inline []byte
	fact   event.Fact // and keys: for its repudiation, should it land too late
	keys   *crypto.TenantKeys
	begun  time.Time // when a body was begun that lies in objects of its own
}

// bytes is about what the event takes of a segment, its header entry included.
func (s *sealedEvent) bytes() int64 {
	const entry, blob = 300, 48
	n := int64(len(s.inline)) + entry
	for _, p := range s.entry.Parts {
		n += blob * int64(len(p.Blobs))
	}
	for _, b := range s.front {
		n += int64(len(b))
	}
	return n
}

func (s *sealedEvent) addFront(r event.Role, sealed []byte, c crypto.Commitment) {
	s.front = append(s.front, sealed)
	s.entry.Parts = append(s.entry.Parts, partEntry{
		Role: r, Length: int64(len(sealed)), Digest: sha256.Sum256(sealed), Commit: c, Blobs: []blobEntry{},
	})
}

// seal encodes and seals the parts of an event.
func (l *Log) seal(ctx context.Context, ev event.Event) (sealedEvent, error) {
	keys, err := l.keys.tenant(ctx, ev.Tenant)
	if err != nil {
		return sealedEvent{}, err
	}
	body, _ := ev.Body.(*sealedBody)
	if body != nil && (body.id != ev.ID || body.tenant != ev.Tenant || body.page.Day != ev.Expiry) {
		panic("internal error: body of another event")
	}
	state, meta := event.Encode(ev.Fact)
	s := l.sealState(keys, ev, state)
	if meta == nil && body == nil {
		return s, nil
	}
	var leaf crypto.Leaf
	if body != nil {
		leaf, s.page = body.leaf, &body.page
	} else {
		page, lf, err := l.keys.leaf(ctx, ev.Tenant, ev.Expiry)
		if err != nil {
			return s, err
		}
		leaf, s.page = lf, &page
	}
	s.entry.Leaf = leaf.Index()
	if meta != nil {
		sealed, c := l.codec.SealSmall(leaf, l.binding(ev.Tenant, ev.ID, event.RoleMeta), meta)
		s.addFront(event.RoleMeta, sealed, c)
	}
	if body != nil {
		s.inline = body.inline
		if len(body.blobs) > 0 {
			s.begun = body.begun
		}
		s.entry.Parts = append(s.entry.Parts, body.part())
	}
	return s, nil
}

// sealState seals the long-lived part of an event. It needs nothing but memory.
func (l *Log) sealState(keys *crypto.TenantKeys, ev event.Event, state []byte) sealedEvent {
	s := sealedEvent{entry: eventEntry{ID: ev.ID, Tenant: ev.Tenant, Class: ev.Fact.Class()}, fact: ev.Fact, keys: keys}
	sealed, c := keys.SealState(l.binding(ev.Tenant, ev.ID, event.RoleState), state)
	s.addFront(event.RoleState, sealed, c)
	return s
}

func (l *Log) binding(t event.Tenant, id event.ID, r event.Role) crypto.Binding {
	return crypto.Binding{Log: l.id, Tenant: t, Event: id, Role: r}
}

// sealedBody is a body that waits for its event.
type sealedBody struct {
	id     event.ID
	tenant event.Tenant
	page   pageEntry
	leaf   crypto.Leaf
	begun  time.Time
	commit crypto.Commitment
	plain  int64
	length int64 // sealed
	inline []byte
	blobs  []blobEntry
}

// PlainSize returns the number of bytes of the message.
func (b *sealedBody) PlainSize() int64 { return b.plain }

func (b *sealedBody) part() partEntry {
	e := partEntry{Role: event.RoleBody, Length: b.length, Commit: b.commit, Blobs: b.blobs}
	if len(b.blobs) == 0 {
		e.Digest = sha256.Sum256(b.inline)
		e.Blobs = []blobEntry{}
		return e
	}
	h := sha256.New()
	for _, blob := range b.blobs {
		h.Write(blob.Digest[:])
	}
	e.Digest = [32]byte(h.Sum(nil))
	return e
}

// bodyBudget is the node's stock of buffers for the parts of large bodies, and
// of places for small ones. Whoever holds a buffer waits for no place, so that
// the two cannot wait for each other.
type bodyBudget struct {
	free  chan []byte
	small chan struct{} // holds a value for each place taken

	inline, part int // maxInline and maxBlobBytes, but for a sample
}

func newBodyBudget() *bodyBudget {
	b := &bodyBudget{
		free: make(chan []byte, bigBuffers), small: make(chan struct{}, smallBodies), inline: maxInline, part: maxBlobBytes,
	}
	for range bigBuffers {
		b.free <- nil // made when first needed
	}
	return b
}

func (b *bodyBudget) take(ctx context.Context) ([]byte, error) {
	select {
	case buf := <-b.free:
		if buf == nil {
			buf = make([]byte, 0, b.part)
		}
		return buf, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a body buffer: %w", ctx.Err())
	}
}

// tryTake returns a buffer if there is one to spare now.
func (b *bodyBudget) tryTake() (buf []byte, ok bool) {
	select {
	case buf = <-b.free:
		if buf == nil {
			buf = make([]byte, 0, b.part)
		}
		return buf, true
	default:
		return nil, false
	}
}

func (b *bodyBudget) give(buf []byte) { b.free <- buf[:0] }

func (b *bodyBudget) takeSmall(ctx context.Context) error {
	select {
	case b.small <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for room for a body: %w", ctx.Err())
	}
}

func (b *bodyBudget) giveSmall() { <-b.small }

// BodyWriter seals a body as it is written. A small one waits in memory, a
// large one goes out in parts, each put while the next one gathers. It is used by one
// goroutine. Either Finish or Discard must be called.
type BodyWriter struct {
	log    *Log
	ctx    context.Context
	body   *sealedBody
	sealer *crypto.StreamSealer
	out    bodyOut
}

// NewBody begins the body of an event. ctx covers all of the writer's puts; a
// body that is not followed by its event stays unreferenced and unreadable.
func (l *Log) NewBody(ctx context.Context, id event.ID, t event.Tenant, expiry event.Day) (*BodyWriter, error) {
	if l.readOnly.Load() {
		return nil, l.refusal()
	}
	begun := time.Now()
	page, leaf, err := l.keys.leaf(ctx, t, expiry)
	if err != nil {
		return nil, fmt.Errorf("begin body of %v: %w", id, err)
	}
	w := &BodyWriter{log: l, ctx: ctx, body: &sealedBody{id: id, tenant: t, page: page, leaf: leaf, begun: begun}}
	w.out.w = w
	w.sealer = l.codec.NewStreamSealer(leaf, l.binding(t, id, event.RoleBody), &w.out)
	return w, nil
}

// Write seals p. It may block while a part is put and while the node's budget for
// bodies is spent.
func (w *BodyWriter) Write(p []byte) (int, error) { return w.sealer.Write(p) }

var _ io.Writer = (*BodyWriter)(nil)

// Finish ends the body. Its parts, if it has any, are durable.
func (w *BodyWriter) Finish() (event.Body, error) {
	err := w.sealer.Close()
	if err == nil {
		err = w.out.finish()
	}
	w.out.release()
	if err != nil {
		return nil, fmt.Errorf("body of %v: %w", w.body.id, err)
	}
	w.body.commit = w.sealer.Commitment()
	w.body.plain = w.sealer.Size()
	w.body.length = w.sealer.SealedSize()
	return w.body, nil
}

// Discard gives up the body. It may be called after Finish, and again.
func (w *BodyWriter) Discard() { w.out.release() }
