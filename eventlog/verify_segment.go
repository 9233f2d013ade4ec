package eventlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

// verifying is the verification of one segment by a worker.
type verifying struct {
	v *verifier
	p event.Partition
	place
	raw []byte
	cut event.Day // parts of days before it are zeros in raw
	// sound: what lies in the segment was compared with its digests already.
	sound bool
	done  chan struct{}

	// The results, to be read when done is closed.
	h         *parsed // nil when it could not be believed
	moved     bool    // its pack was replaced, and it was read from another
	from      string  // the pack that it was read from, or nothing
	findings  []Finding
	refs      []reference
	blobNames []string
	sum       Summary
	err       error
}

// reference is an id that an event gives a name to, or refers to.
type reference struct {
	index int
	id    event.ID
	names bool
}

func (v *verifier) start(ctx context.Context, p event.Partition, at place) *verifying {
	w := &verifying{v: v, p: p, place: at, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		if w.err = v.work.Acquire(ctx, 1); w.err != nil {
			return
		}
		defer v.work.Release(1)
		w.err = w.segment(ctx)
		w.raw = nil
	}()
	return w
}

// key is the object that the segment is in.
func (w *verifying) key() string {
	switch {
	case w.from != "":
		return w.from
	case w.pack != nil:
		return w.pack.key
	}
	return segmentKey(w.p, w.seq)
}

func (w *verifying) finding(what string, err error) Finding {
	return Finding{Partition: w.p, Seq: w.seq, Index: -1, Key: w.key(), What: what, Err: err}
}

func (w *verifying) eventFinding(i int, key, what string, err error) Finding {
	f := w.finding(what, err)
	f.Index, f.Key = i, key
	if w.h != nil && i >= 0 && i < len(w.h.Events) {
		f.Event = w.h.Events[i].ID
	}
	return f
}

// found notes a finding, or returns an error that is none.
func (w *verifying) found(i int, key, what string, err error) error {
	if err != nil && !damaging(err) && !errors.Is(err, event.ErrUnknownKind) {
		return err
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrDamaged) && what != UnknownKind {
		err = fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	w.findings = append(w.findings, w.eventFinding(i, key, what, err))
	return nil
}

func (w *verifying) segment(ctx context.Context) (err error) {
	if w.pack != nil {
		whole, err := w.packed(ctx)
		if err != nil || !whole {
			return err
		}
		w.v.headers.keep(slot{w.p, w.seq}, w.h)
		return w.parts(ctx)
	}
	w.raw, err = w.v.read(ctx, w.key(), maxSegmentObject+maxHeaderBytes)
	if errors.Is(err, objstore.ErrNotExist) {
		return w.found(-1, w.key(), MissingSegment, ErrDamaged)
	}
	if err != nil {
		return w.found(-1, w.key(), DamagedLength, err)
	}
	w.sum.Bytes += uint64(len(w.raw))
	h, err := w.v.log.parse(w.raw, w.p, w.seq, w.v.log.verify)
	if err != nil {
		return w.found(-1, w.key(), DamagedHeader, err)
	}
	w.h = h
	w.v.headers.keep(slot{w.p, w.seq}, h)
	if int64(len(w.raw)) != h.end {
		w.findings = append(w.findings, w.finding(DamagedLength, fmt.Errorf("%d bytes, want %d: %w", len(w.raw), h.end, ErrDamaged)))
	}
	return w.parts(ctx)
}

// parts verifies what the header speaks of.
func (w *verifying) parts(ctx context.Context) (err error) {
	h := w.h
	pages := make([]*checkedPage, len(h.Pages))
	for i, e := range h.Pages {
		if pages[i], err = w.v.checkPage(ctx, e, h.Writer); err != nil {
			return err
		}
		if err := w.found(-1, pageKey(e), DamagedKeyPage, pages[i].err); err != nil {
			return err
		}
	}
	for i := range h.Events {
		w.sum.Events++
		if err := w.event(ctx, i, pages); err != nil {
			return err
		}
	}
	return nil
}

// sealed returns the bytes of a part that is inside the segment, checked. See
// leftOut for what is not there any more.
func (w *verifying) sealed(i, j int) ([]byte, error) {
	part, off := &w.h.Events[i].Parts[j], w.h.offsets[i][j]
	if w.h.absent(i, j, w.cut) {
		return nil, w.v.log.leftOut(w.h, i, j)
	}
	if off+part.Length > int64(len(w.raw)) {
		return nil, fmt.Errorf("cut short: %w", ErrDamaged)
	}
	b := w.raw[off : off+part.Length]
	if !w.sound && sha256.Sum256(b) != part.Digest {
		return nil, fmt.Errorf("digest: %w", ErrDamaged)
	}
	return b, nil
}

func (w *verifying) event(ctx context.Context, i int, pages []*checkedPage) error {
	e := &w.h.Events[i]
	if w.v.log.PartitionOf(e.Tenant) != w.p {
		w.findings = append(w.findings, w.eventFinding(i, w.key(), DamagedTenant, ErrDamaged))
	}
	state, err := w.state(ctx, i)
	if err != nil {
		return err
	}
	var leaf *crypto.Leaf // nil where mail cannot be opened, for whatever reason
	erased := false
	if e.Page != 0 {
		page := pages[e.Page-1]
		switch {
		case page.entry.Tenant != e.Tenant:
			w.findings = append(w.findings, w.eventFinding(i, pageKey(page.entry), DamagedKeyPage, fmt.Errorf("of another tenant: %w", ErrDamaged)))
		case page.gone:
			w.sum.Expired++
		case page.page != nil:
			lf, err := page.page.Leaf(e.Leaf)
			if err == nil {
				leaf = &lf
			} else if errors.Is(err, crypto.ErrPunctured) {
				w.sum.Expired++
				erased = true
			} else if err := w.found(i, pageKey(page.entry), DamagedKeyPage, err); err != nil {
				return err
			}
		}
	}
	meta, err := w.meta(i, leaf)
	if err != nil {
		return err
	}
	want := anyBytes
	if state != nil {
		if want, err = w.fact(ctx, i, state, meta); err != nil {
			return err
		}
	}
	j := e.part(event.RoleBody)
	switch {
	case j >= 0 && e.Page != 0:
		return w.body(ctx, i, j, bodyKey{leaf, erased || pages[e.Page-1].gone}, pages[e.Page-1], want)
	case want.size >= 0:
		return w.found(i, w.key(), DamagedBody, fmt.Errorf("there is none: %w", ErrDamaged))
	}
	return nil
}

// bodyKey is what a body is opened with.
type bodyKey struct {
	leaf *crypto.Leaf // nil where it cannot be opened
	gone bool         // on purpose
}

// wanted is what an event says of its body. A negative size says nothing, and
// so does a zero sum.
type wanted struct {
	size int64
	sum  [32]byte
}

var anyBytes = wanted{size: -1}

// state returns the opened state part, or nil when that is damaged.
func (w *verifying) state(ctx context.Context, i int) ([]byte, error) {
	e := &w.h.Events[i]
	j := e.part(event.RoleState)
	if j < 0 {
		return nil, w.found(i, w.key(), DamagedState, fmt.Errorf("there is none: %w", ErrDamaged))
	}
	sealed, err := w.sealed(i, j)
	if err != nil {
		return nil, w.found(i, w.key(), DamagedState, err)
	}
	keys, err := w.v.openTenant(ctx, e.Tenant)
	if errors.Is(err, ErrEnded) {
		return nil, w.noState(ctx, i)
	}
	if err != nil {
		if damaging(err) && !w.v.firstOf(e.Tenant) {
			return nil, nil // One finding for each tenant, not one for each event.
		}
		return nil, w.found(i, tenantKey(e.Tenant), DamagedTenantKey, err)
	}
	plain, err := keys.OpenState(w.v.log.binding(e.Tenant, e.ID, event.RoleState), e.Parts[j].Commit, sealed)
	if err != nil {
		return nil, w.found(i, w.key(), DamagedState, notOpened(err))
	}
	return plain, nil
}

// meta returns the opened metadata part; nil when there is none, or when it
// cannot be opened.
func (w *verifying) meta(i int, leaf *crypto.Leaf) ([]byte, error) {
	e := &w.h.Events[i]
	j := e.part(event.RoleMeta)
	if j < 0 {
		return nil, nil
	}
	sealed, err := w.sealed(i, j)
	if leftOut(err) {
		return nil, nil
	}
	if err != nil || leaf == nil {
		return nil, w.found(i, w.key(), DamagedMeta, err)
	}
	plain, err := w.v.log.codec.OpenSmall(*leaf, w.v.log.binding(e.Tenant, e.ID, event.RoleMeta), e.Parts[j].Commit, sealed, maxMeta)
	if err != nil {
		return nil, w.found(i, w.key(), DamagedMeta, notOpened(err))
	}
	return plain, nil
}

// fact checks what an event says: that it decodes, and what it refers to. It
// returns what it says of the body.
func (w *verifying) fact(ctx context.Context, i int, state, meta []byte) (want wanted, err error) {
	e := &w.h.Events[i]
	fact, err := event.Decode(state, meta)
	if errors.Is(err, event.ErrUnknownKind) {
		return anyBytes, w.found(i, w.key(), UnknownKind, err)
	}
	if err == nil && fact.Class() != e.Class {
		err = fmt.Errorf("fact of class %d under class %d: %w", fact.Class(), e.Class, ErrDamaged)
	}
	if err != nil {
		return anyBytes, w.found(i, w.key(), DamagedState, err)
	}
	return bodyOf(fact), w.refer(ctx, i, fact)
}

// bodyOf returns what a fact says of its event's body.
func bodyOf(fact event.Fact) wanted {
	switch f := fact.(type) {
	case *event.MessageAccepted:
		want := wanted{size: f.Size}
		if f.Meta != nil {
			want.sum = f.Meta.SHA256
		}
		return want
	case *event.Appended:
		want := wanted{size: f.Size}
		if f.Meta != nil {
			want.sum = f.Meta.SHA256
		}
		return want
	case *event.Kept:
		if first, err := f.Original(); err == nil && aboutMessage(first) {
			return bodyOf(first)
		}
	}
	return anyBytes
}

// refer checks what a fact refers to, or notes it for later.
func (w *verifying) refer(ctx context.Context, i int, fact event.Fact) error {
	e := &w.h.Events[i]
	refer := func(id event.ID) { w.refs = append(w.refs, reference{i, id, false}) }
	switch f := fact.(type) {
	case *event.MessageAccepted, *event.Appended:
		w.refs = append(w.refs, reference{i, e.ID, true})
	case *event.Kept:
		return w.kept(i, f)
	case *event.Erased:
		return w.erased(ctx, i, f)
	case *event.TenantEnded:
		return w.tenantEnded(ctx, i, f)
	case *event.Repudiated:
		refer(f.Message)
	case *event.DeliveryIntended:
		for _, u := range f.Units {
			refer(u.Source)
		}
	case *event.DeliverySettled:
		for _, o := range f.Outcomes {
			refer(o.Unit.Source)
		}
	case *event.RedeliveryOrdered:
		w.refs = append(w.refs, reference{i, e.ID, true})
		for _, item := range f.Items {
			at := item.At()
			if err := w.position(ctx, i, at.Position, &at.ID); err != nil {
				return err
			}
		}
	case *event.CursorMoved:
		return w.position(ctx, i, f.To, nil)
	}
	return nil
}

// position checks that there is an event at a place, and that it has the id.
func (w *verifying) position(ctx context.Context, i int, pos event.Position, id *event.ID) error {
	bad := func(why string) error {
		return w.found(i, w.key(), DamagedReference, fmt.Errorf("to %v, %s: %w", pos, why, ErrDamaged))
	}
	if int(pos.Partition) >= len(w.v.log.partitions) || pos.Seq == 0 || pos.Partition == w.p && pos.Seq > w.seq {
		return bad("which is not before it")
	}
	h, err := w.headerAt(ctx, pos)
	if err != nil {
		return err
	}
	if h == nil && pos.Seq <= w.v.log.Start(pos.Partition).Seq {
		return nil // it has gone with the beginning of the log
	}
	if h == nil {
		return bad("where no segment can be read")
	}
	if int64(pos.Index) >= int64(len(h.Events)) || id != nil && h.Events[pos.Index].ID != *id {
		return bad("where that event is not")
	}
	return nil
}

// body reads a body to its end. Where it cannot be opened, only digests are
// compared.
func (w *verifying) body(ctx context.Context, i, j int, with bodyKey, page *checkedPage, want wanted) error {
	e, part := &w.h.Events[i], &w.h.Events[i].Parts[j]
	var src io.ReaderAt
	key := w.key()
	if len(part.Blobs) == 0 {
		sealed, err := w.sealed(i, j)
		if leftOut(err) {
			return nil
		}
		if err != nil || with.leaf == nil {
			return w.found(i, key, DamagedBody, err)
		}
		src = bytesAt(sealed)
	} else {
		whole, err := w.blobs(ctx, i, part, page, with.gone)
		if err != nil || !whole || with.leaf == nil {
			return err
		}
		key = blobKey(page.entry.Day, e.ID, 0)
		src = &wholeBlobs{ctx: ctx, w: w, id: e.ID, day: page.entry.Day, blobs: part.Blobs, last: -1}
	}
	r, err := w.v.log.codec.OpenStream(*with.leaf, w.v.log.binding(e.Tenant, e.ID, event.RoleBody), part.Commit, src, part.Length)
	if err == nil {
		sum := sha256.New()
		_, err = io.Copy(sum, r)
		if err == nil && (want.size >= 0 && want.size != r.Size() || want.sum != [32]byte{} && want.sum != [32]byte(sum.Sum(nil))) {
			err = fmt.Errorf("it is not the one of which the event speaks: %w", ErrDamaged)
		}
	}
	if err == nil {
		w.sum.Bodies++
	}
	return w.found(i, key, DamagedBody, notOpened(err))
}

// blobs checks that all parts of a large body are there, and reports those that
// are not, unless their key is gone. Parts that are there are checked in any
// case.
func (w *verifying) blobs(ctx context.Context, i int, part *partEntry, page *checkedPage, gone bool) (whole bool, err error) {
	whole = true
	for n, b := range part.Blobs {
		key := blobKey(page.entry.Day, w.h.Events[i].ID, n)
		w.blobNames = append(w.blobNames, key)
		raw, err := w.v.read(ctx, key, maxBlobBytes)
		if errors.Is(err, objstore.ErrNotExist) && (gone || w.v.log.over(page.entry.Day)) {
			whole = false
			continue
		}
		if err == nil {
			w.sum.Blobs++
			w.sum.Bytes += uint64(len(raw))
			if int64(len(raw)) != b.Length || sha256.Sum256(raw) != b.Digest {
				err = fmt.Errorf("digest: %w", ErrDamaged)
			}
		}
		if err != nil {
			whole = false
		}
		if err := w.found(i, key, DamagedBody, err); err != nil {
			return false, err
		}
	}
	return whole, nil
}

// wholeBlobs is an io.ReaderAt over the parts of a large body, which it reads
// one at a time.
type wholeBlobs struct {
	ctx   context.Context
	w     *verifying
	id    event.ID
	day   event.Day
	blobs []blobEntry
	last  int // the part in raw; -1 for none
	raw   []byte
}

// ReadAt implements io.ReaderAt.
func (r *wholeBlobs) ReadAt(p []byte, off int64) (n int, err error) {
	for i := range r.blobs {
		if off >= r.blobs[i].Length {
			off -= r.blobs[i].Length
			continue
		}
		if r.last != i {
			if r.raw, err = r.w.v.read(r.ctx, blobKey(r.day, r.id, i), maxBlobBytes); err != nil {
				r.last = -1
				return n, err
			}
			r.last = i
		}
		k := copy(p[n:], r.raw[min(off, int64(len(r.raw))):])
		if n += k; n == len(p) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}
