package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/objstore"
)

const (
	// maxRewrites bounds how often a key page is read anew because somebody else
	// has rewritten it.
	maxRewrites = 20
	// maxCopies bounds how far the copies of a message are followed back: one for
	// each day, as long as days are kept at most.
	maxCopies = 4000
)

// Erasure is what became of one erased message.
type Erasure struct {
	Ref      event.Ref
	Tenant   event.Tenant
	Message  event.ID        // the first event's
	Accounts []event.Account // in whose mailboxes it was put
	// Digests are the SHA-256 of its sealed metadata and body, as they stand in
	// the header of its segment.
	Digests [][32]byte
	Size    int64 // bytes of the body
	// Objects is how many body parts were removed now, and Locked how many the
	// store does not let go. They open no more.
	Objects, Locked uint64
}

// Erase destroys the keys of the messages at refs: their leaves are removed from
// the key pages in the bucket, and those of the copies that they were made from,
// as far as these have not expired. Then their body parts in objects of their own
// are removed, and what this process remembers of them. When it returns without
// error, nothing in the bucket opens these messages any more.
//
// It may be called again, by several nodes at once, and after an error or a crash
// has to be: it goes on where it stopped. Each call should be of some hundreds of
// messages. The caller sees to it that the erasure is ordered in the log before.
func (l *Log) Erase(ctx context.Context, refs []event.Ref) ([]Erasure, error) {
	if l.readOnly.Load() {
		return nil, l.refusal()
	}
	out := make([]Erasure, 0, len(refs))
	e := eraser{log: l, pages: map[event.Page]*erasedPage{}}
	for _, ref := range refs {
		one, err := e.message(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("erase %v: %w", ref.ID, err)
		}
		out = append(out, one)
	}
	for _, p := range e.order {
		if err := l.keys.puncture(ctx, p); err != nil {
			return nil, fmt.Errorf("erase: %w", err)
		}
	}
	for i, blobs := range e.blobs {
		l.forgotten(out[i].Tenant, e.copies[i])
		for _, key := range blobs {
			if err := e.remove(ctx, key, &out[i]); err != nil {
				return nil, fmt.Errorf("erase %v: %w", refs[i].ID, err)
			}
		}
	}
	return out, nil
}

// eraser gathers what has to be destroyed.
type eraser struct {
	log    *Log
	pages  map[event.Page]*erasedPage
	order  []*erasedPage
	copies [][]event.Ref // of each message
	blobs  [][]string    // keys of each message's body parts
}

// erasedPage is a key page from which leaves are to be removed.
type erasedPage struct {
	entry  pageEntry
	writer event.Writer
	leaves []uint32
}

// message looks up one message and its copies.
func (e *eraser) message(ctx context.Context, ref event.Ref) (Erasure, error) {
	var out Erasure
	var copies []event.Ref
	var blobs []string
	for at := ref; ; {
		m, err := e.log.encoded(ctx, at)
		if err != nil {
			return out, err
		}
		fact, err := event.Decode(m.state, nil)
		if err != nil {
			return out, fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		kept, again := fact.(*event.Kept)
		if again {
			if fact, err = original(kept); err != nil {
				return out, err
			}
		}
		if !aboutMessage(fact) {
			return out, fmt.Errorf("event %v is no message", at.ID)
		}
		if len(copies) == 0 {
			out = m.erasure(ref, fact)
			if again {
				out.Message = kept.Message
			}
		}
		copies = append(copies, at)
		blobs = append(blobs, e.add(&m)...)
		if !again || len(copies) == maxCopies {
			break
		}
		over, err := e.log.gone(ctx, kept.From)
		if err != nil {
			return out, err
		}
		if over {
			break
		}
		at = kept.From
	}
	e.copies = append(e.copies, copies)
	e.blobs = append(e.blobs, blobs)
	return out, nil
}

// gone reports whether the copy from which a message was kept has expired, so
// that nothing of it is left, and maybe not even its place in the log.
func (l *Log) gone(ctx context.Context, ref event.Ref) (bool, error) {
	h, err := l.readHeader(ctx, ref.Position.Partition, ref.Position.Seq)
	if err != nil {
		err = l.missing(ref.Position.Partition, ref.Position.Seq, err)
	}
	if errors.Is(err, ErrBeforeStart) {
		return true, nil // its pack was removed, and all in it had expired
	}
	if err != nil {
		return false, err
	}
	if int(ref.Position.Index) >= len(h.Events) {
		return false, fmt.Errorf("event %v is not at %v: %w", ref.ID, ref.Position, ErrDamaged)
	}
	page, ok := h.page(&h.Events[ref.Position.Index])
	return !ok || l.expired(ctx, page.Tenant, page.Day), nil
}

// add notes the key and the objects of one copy.
func (e *eraser) add(m *encodedEvent) (blobs []string) {
	ev := m.entry()
	page, ok := m.h.page(ev)
	if !ok {
		return nil
	}
	p := e.pages[page.Page]
	if p == nil {
		p = &erasedPage{entry: page, writer: m.h.Writer}
		e.pages[page.Page] = p
		e.order = append(e.order, p)
	}
	p.leaves = append(p.leaves, ev.Leaf)
	if j := ev.part(event.RoleBody); j >= 0 {
		for n := range ev.Parts[j].Blobs {
			blobs = append(blobs, blobKey(page.Day, ev.ID, n))
		}
	}
	return blobs
}

// erasure tells what a message was, as far as its state says.
func (m *encodedEvent) erasure(ref event.Ref, fact event.Fact) Erasure {
	ev := m.entry()
	out := Erasure{Ref: ref, Tenant: ev.Tenant, Message: ref.ID}
	for _, part := range ev.Parts {
		if part.Role != event.RoleState {
			out.Digests = append(out.Digests, part.Digest)
		}
	}
	switch f := fact.(type) {
	case *event.MessageAccepted:
		out.Size = f.Size
		for _, a := range f.Allotments {
			if !slices.Contains(out.Accounts, a.Account) {
				out.Accounts = append(out.Accounts, a.Account)
			}
		}
	case *event.Appended:
		out.Size, out.Accounts = f.Size, []event.Account{f.Account}
	}
	return out
}

func (e *eraser) remove(ctx context.Context, key string, out *Erasure) error {
	// A look first, so that what is told is what was removed now.
	if _, err := e.log.getRange(ctx, key, 0, 1); errors.Is(err, objstore.ErrNotExist) {
		return nil
	}
	failpoint.Hit(failpoint.ErasedBlob)
	err := e.log.bucket.Delete(ctx, key)
	switch {
	case errors.Is(err, objstore.ErrLocked):
		out.Locked++
	case err != nil:
		return fmt.Errorf("remove %s: %w", key, err)
	default:
		out.Objects++
	}
	return nil
}

// puncture removes leaves from a key page in the bucket. What others remove from
// it in the same moment stays removed: whoever comes second reads it anew.
func (k *keyring) puncture(ctx context.Context, p *erasedPage) error {
	defer k.pages.drop(func(id event.Page, _ *crypto.Page) bool { return id == p.entry.Page })
	if sabotage.On(sabotage.LeafLeft) {
		return nil
	}
	for range maxRewrites {
		done, err := k.punctureOnce(ctx, p)
		if done || err != nil {
			return err
		}
		pause(ctx, randomBelow(maxPause))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("key page %v is being changed all the time: %w", p.entry.Page, objstore.ErrChanged)
}

// punctureOnce reports whether the leaves are gone from the page, durably.
func (k *keyring) punctureOnce(ctx context.Context, p *erasedPage) (done bool, err error) {
	pair, err := k.freshDay(ctx, p.entry.Tenant, p.entry.Day)
	if errors.Is(err, crypto.ErrExpired) {
		return true, nil // with all others of its day
	}
	if err != nil {
		return false, err
	}
	object, info, err := k.readPage(ctx, p.entry)
	if errors.Is(err, crypto.ErrExpired) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	page, generation, err := k.openPage(pair, p.entry, p.writer, object)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(p.leaves, func(n uint32) bool { _, err := page.Leaf(n); return err == nil }) {
		return true, nil
	}
	page.Puncture(p.leaves...)
	sealed, err := page.Seal(pair.Public())
	if err != nil {
		return false, err
	}
	object, err = k.log.node.RewritePage(page.Binding(), generation+1, sealed)
	if err != nil {
		return false, err
	}
	failpoint.Hit(failpoint.PageRewrite)
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	_, err = k.log.bucket.Put(ctx, pageKey(p.entry), bytes.NewReader(object), int64(len(object)), objstore.PutOptions{IfMatch: info.ETag})
	switch {
	case err == nil:
		failpoint.Hit(failpoint.PageRewritten)
		return true, nil
	case errors.Is(err, objstore.ErrChanged), errors.Is(err, objstore.ErrAmbiguous):
		return false, nil // What is there now is looked at. Should ours land late, it is on top of what we read.
	}
	return false, fmt.Errorf("rewrite key page %v: %w", p.entry.Page, err)
}

// Forgotten drops from memory what this process may still know of erased
// messages of a tenant. Every node calls it when it folds an [event.Erased]. It
// may be called again.
func (l *Log) Forgotten(t event.Tenant, refs []event.Ref) { l.forgotten(t, refs) }

func (l *Log) forgotten(t event.Tenant, refs []event.Ref) {
	at := make(map[slot]bool, len(refs))
	for _, r := range refs {
		at[slot{r.Position.Partition, r.Position.Seq}] = true
	}
	l.cache.segments.drop(func(s slot, _ *Segment) bool { return at[s] })
	l.keys.pages.drop(func(_ event.Page, p *crypto.Page) bool { return p.Binding().Tenant == t })
}
