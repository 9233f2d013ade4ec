package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

const (
	// maxInline is the largest sealed body that goes inside a segment.
	maxInline = 256 << 10
	// maxBlobBytes is the size of the parts of larger ones.
	maxBlobBytes = 4 << 20
	// maxBlobs bounds a body: 4096 parts of 4 MiB.
	maxBlobs = 4096
	// bigBuffers is how many parts may be gathered at a time on this node: the
	// budget of what is accepted but not yet durable. Whoever finds none waits,
	// and so the connection behind it is read more slowly.
	bigBuffers = 16
)

// ErrBodyTooLarge is returned for a body of more than maxBlobs parts.
var ErrBodyTooLarge = errors.New("body is too large")

// sealedEvent is an event that only needs a place.
type sealedEvent struct {
	entry       eventEntry // Page is set when it is placed
	page        *pageEntry
	front       [][]byte
	inline      []byte
	retractable bool // an acceptance: repudiated when it lands too late
}

func (s *sealedEvent) bytes() int64 {
	n := int64(len(s.inline))
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
	s := sealedEvent{entry: eventEntry{ID: ev.ID, Tenant: ev.Tenant, Class: ev.Fact.Class()}}
	switch ev.Fact.Kind() {
	case event.KindMessageAccepted, event.KindAppended:
		s.retractable = true
	}
	keys, err := l.keys.tenant(ctx, ev.Tenant)
	if err != nil {
		return s, err
	}
	state, meta := event.Encode(ev.Fact)
	sealed, c := keys.SealState(l.binding(ev.Tenant, ev.ID, event.RoleState), state)
	s.addFront(event.RoleState, sealed, c)

	body, _ := ev.Body.(*sealedBody)
	if meta == nil && body == nil {
		return s, nil
	}
	var leaf crypto.Leaf
	if body != nil {
		if body.id != ev.ID || body.tenant != ev.Tenant || body.page.Day != ev.Expiry {
			panic("internal error: body of another event")
		}
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
		s.entry.Parts = append(s.entry.Parts, body.part())
	}
	return s, nil
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

// bodyBudget is the node's stock of buffers for the parts of large bodies.
type bodyBudget struct{ free chan []byte }

func newBodyBudget() *bodyBudget {
	b := &bodyBudget{free: make(chan []byte, bigBuffers)}
	for range bigBuffers {
		b.free <- nil // made when first needed
	}
	return b
}

func (b *bodyBudget) take(ctx context.Context) ([]byte, error) {
	select {
	case buf := <-b.free:
		if buf == nil {
			buf = make([]byte, 0, maxBlobBytes)
		}
		return buf, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a body buffer: %w", ctx.Err())
	}
}

func (b *bodyBudget) give(buf []byte) { b.free <- buf[:0] }

// BodyWriter seals a body as it is written. A small one waits in memory, a
// large one goes out in parts, each put before more is read. It is used by one
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
		return nil, ErrReadOnly
	}
	page, leaf, err := l.keys.leaf(ctx, t, expiry)
	if err != nil {
		return nil, fmt.Errorf("begin body of %v: %w", id, err)
	}
	w := &BodyWriter{log: l, ctx: ctx, body: &sealedBody{id: id, tenant: t, page: page, leaf: leaf}}
	w.out.w = w
	w.sealer = l.codec.NewStreamSealer(leaf, l.binding(t, id, event.RoleBody), &w.out)
	return w, nil
}

// Write seals p. It blocks while a part is put and while the node's budget for
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

// bodyOut gathers sealed bytes into an inline body or parts.
type bodyOut struct {
	w     *BodyWriter
	small []byte
	big   []byte // from the budget; nil until the body outgrows small
}

// Write implements io.Writer for the stream sealer.
func (o *bodyOut) Write(p []byte) (int, error) {
	n := len(p)
	if o.big == nil {
		if len(o.small)+len(p) <= maxInline {
			o.small = append(o.small, p...)
			return n, nil
		}
		buf, err := o.w.log.bodies.take(o.w.ctx)
		if err != nil {
			return 0, err
		}
		o.big = append(buf, o.small...)
		o.small = nil
	}
	for len(p) > 0 {
		k := min(len(p), maxBlobBytes-len(o.big))
		o.big = append(o.big, p[:k]...)
		p = p[k:]
		if len(o.big) == maxBlobBytes {
			if err := o.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (o *bodyOut) finish() error {
	if o.big == nil {
		o.w.body.inline = o.small
		return nil
	}
	if len(o.big) > 0 {
		return o.flush()
	}
	return nil
}

// flush puts the gathered part. The key is fresh and ours alone, so that a lost
// answer is settled by putting the same bytes again.
func (o *bodyOut) flush() error {
	b := o.w.body
	if len(b.blobs) == maxBlobs {
		return ErrBodyTooLarge
	}
	key := blobKey(b.page.Day, b.id, len(b.blobs))
	const tries = 3
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(o.w.ctx, putTimeout)
		_, err := o.w.log.bucket.Put(ctx, key, bytes.NewReader(o.big), int64(len(o.big)), objstore.PutOptions{})
		cancel()
		if err == nil {
			break
		}
		if try == tries || o.w.ctx.Err() != nil || !errors.Is(err, objstore.ErrAmbiguous) {
			return fmt.Errorf("put body part: %w", err)
		}
	}
	b.blobs = append(b.blobs, blobEntry{Length: int64(len(o.big)), Digest: sha256.Sum256(o.big)})
	o.big = o.big[:0]
	return nil
}

func (o *bodyOut) release() {
	if o.big != nil {
		o.w.log.bodies.give(o.big)
		o.big = nil
	}
	o.small = nil
}
