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

// blobWindow is how much of a large body is fetched at a time.
const blobWindow = 1 << 20

// maxRun is the most that is read at once of the bodies inside a segment.
const maxRun = 4 << 20

// Body is an open body. It is an io.ReadSeekCloser and an io.ReaderAt over the
// message's bytes, which it fetches and opens as they are needed.
type Body struct {
	*crypto.StreamReader
}

// Read implements io.Reader. [ErrDamaged] where the bytes are not what was
// stored.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.StreamReader.Read(p)
	return n, notOpened(err)
}

// ReadAt implements io.ReaderAt, with the errors of Read.
func (b *Body) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.StreamReader.ReadAt(p, off)
	return n, notOpened(err)
}

// notOpened adds ErrDamaged to the error of a seal that does not open.
func notOpened(err error) error {
	if errors.Is(err, crypto.ErrNotOpened) || errors.Is(err, crypto.ErrMalformed) {
		return fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	return err
}

// Body opens the bytes of the message at ref. ctx covers all reading from it.
// crypto.ErrExpired once its day has gone; [ErrDamaged] when it is not what was
// stored; objstore.ErrNotExist when the event has no body.
func (l *Log) Body(ctx context.Context, ref event.Ref) (*Body, error) {
	pos := ref.Position
	if int(pos.Partition) >= len(l.partitions) {
		return nil, fmt.Errorf("no partition %d: %w", pos.Partition, ErrDamaged)
	}
	h, err := l.readHeader(ctx, pos.Partition, pos.Seq)
	if err != nil {
		return nil, fmt.Errorf("body of %v: %w", ref.ID, l.missing(pos.Partition, pos.Seq, err))
	}
	if int(pos.Index) >= len(h.Events) || h.Events[pos.Index].ID != ref.ID {
		return nil, fmt.Errorf("event %v is not at %v: %w", ref.ID, pos, ErrDamaged)
	}
	e := &h.Events[pos.Index]
	page, ok := h.page(e)
	j := e.part(event.RoleBody)
	if !ok || j < 0 {
		return nil, fmt.Errorf("event %v has no body: %w", ref.ID, objstore.ErrNotExist)
	}
	leaf, err := l.leafOf(ctx, h, e, page)
	if errors.Is(err, crypto.ErrPunctured) {
		err = crypto.ErrExpired
	}
	if err != nil {
		return nil, fmt.Errorf("body of %v: %w", ref.ID, err)
	}
	part := &e.Parts[j]
	src, err := l.bodySource(ctx, h, int(pos.Index), j, page)
	if err != nil {
		return nil, fmt.Errorf("body of %v: %w", ref.ID, err)
	}
	r, err := l.codec.OpenStream(leaf, l.binding(e.Tenant, e.ID, event.RoleBody), part.Commit, src, part.Length)
	if err != nil {
		return nil, fmt.Errorf("body of %v: %w", ref.ID, notOpened(err))
	}
	return &Body{r}, nil
}

func (l *Log) bodySource(ctx context.Context, h *parsed, i, j int, page pageEntry) (io.ReaderAt, error) {
	e := &h.Events[i]
	part := &e.Parts[j]
	if len(part.Blobs) > 0 {
		missing := func() error { return l.missingBlob(ctx, h, e, page) }
		return &blobReader{ctx: ctx, log: l, id: e.ID, day: page.Day, blobs: part.Blobs, missing: missing}, nil
	}
	sealed, err := l.inlineBytes(ctx, h, i, j)
	if err != nil {
		return nil, err
	}
	return bytesAt(sealed), nil
}

// inlineBytes reads the bytes of a body inside a segment, with its digest, from
// where that is. What is damaged there, or missing, may be elsewhere.
func (l *Log) inlineBytes(ctx context.Context, h *parsed, i, j int) ([]byte, error) {
	if m, ok := l.cache.raw.peek(slot{h.Partition, h.Seq}); ok {
		if b, ok := m.slice(h.offsets[i][j], h.Events[i].Parts[j].Length); ok {
			return b, nil // as this process sealed it
		}
	}
	f, err := l.floorNow(ctx, h.Partition)
	if err != nil {
		return nil, err
	}
	first, second := l.inlineUnder, l.packedBody
	if h.Seq <= f.packed.Seq {
		first, second = second, first
	}
	b, err := first(ctx, h, i, j)
	if !absentOrDamaged(err) {
		return b, err
	}
	b, again := second(ctx, h, i, j)
	switch {
	case !absentOrDamaged(again):
		return b, again
	case errors.Is(err, objstore.ErrNotExist):
		err = again
	}
	if errors.Is(err, objstore.ErrNotExist) {
		err = fmt.Errorf("segment is missing: %w", ErrDamaged)
	}
	return nil, err
}

// absentOrDamaged reports whether an error says that something cannot be had from
// one place, and may be in another.
func absentOrDamaged(err error) bool {
	return errors.Is(err, objstore.ErrNotExist) || errors.Is(err, ErrDamaged) || errors.Is(err, errLeftOut)
}

// inlineUnder reads an inline body of a segment under its own key.
func (l *Log) inlineUnder(ctx context.Context, h *parsed, i, j int) ([]byte, error) {
	off, part := h.offsets[i][j], &h.Events[i].Parts[j]
	at := slot{h.Partition, h.Seq}
	if _, again := l.cache.touched.peek(at); again && h.end-h.bodies <= maxRun {
		// Who reads a second body of a segment reads mail in the order of the log,
		// as a queue that drains does: one read brings all the others.
		run, err := l.cache.runs.get(ctx, at, func(ctx context.Context) ([]byte, error) {
			return l.wholeRange(ctx, h, h.bodies, h.end-h.bodies)
		})
		if err == nil {
			if b := run[off-h.bodies:][:part.Length]; sha256.Sum256(b) == part.Digest {
				return b, nil
			}
			l.cache.runs.dropOne(at, func([]byte) bool { return true })
			return nil, fmt.Errorf("digest: %w", ErrDamaged)
		}
		if !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		// Of a segment that was cut short some bodies can be read.
	}
	l.cache.touched.keep(at, struct{}{})
	b, err := l.wholeRange(ctx, h, off, part.Length)
	if err == nil && sha256.Sum256(b) != part.Digest {
		err = fmt.Errorf("digest: %w", ErrDamaged)
	}
	return b, err
}

// wholeRange reads n bytes of a segment that has them.
func (l *Log) wholeRange(ctx context.Context, h *parsed, off, n int64) ([]byte, error) {
	b, err := l.getRange(ctx, segmentKey(h.Partition, h.Seq), off, n)
	if err == nil && int64(len(b)) != n {
		return nil, fmt.Errorf("segment is cut short: %w", ErrDamaged)
	}
	return b, err
}

// missingBlob says what it means that a part of a body is not in the bucket: its
// day has expired, or it was erased since the leaf was read, or it is lost.
func (l *Log) missingBlob(ctx context.Context, h *parsed, e *eventEntry, page pageEntry) error {
	if l.expired(ctx, page.Tenant, page.Day) {
		return crypto.ErrExpired
	}
	l.keys.pages.drop(func(id event.Page, _ *crypto.Page) bool { return id == page.Page })
	if _, err := l.leafOf(ctx, h, e, page); gone(err) {
		return crypto.ErrExpired
	}
	return fmt.Errorf("it is missing: %w", ErrDamaged)
}

// bytesAt is an io.ReaderAt over bytes in memory.
type bytesAt []byte

// ReadAt implements io.ReaderAt.
func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Slice lets a sealed stream be opened where it lies (package crypto).
func (b bytesAt) Slice(off, n int64) ([]byte, bool) {
	if off < 0 || n < 0 || off+n > int64(len(b)) {
		return nil, false
	}
	return b[off:][:n:n], true
}

// blobReader reads across the parts of a large body. The seals inside vouch for
// the bytes; digests are checked where whole parts are read (Verify). It is
// used by one goroutine at a time.
type blobReader struct {
	ctx   context.Context
	log   *Log
	id    event.ID
	day   event.Day
	blobs []blobEntry
	// missing says what it means that a part is not there.
	missing func() error

	part   int // the window holds bytes of this part
	begin  int64
	window []byte
}

// ReadAt implements io.ReaderAt.
func (r *blobReader) ReadAt(p []byte, off int64) (n int, err error) {
	for i := range r.blobs {
		size := r.blobs[i].Length
		if off >= size {
			off -= size
			continue
		}
		for n < len(p) && off < size {
			b, err := r.at(i, off, int64(len(p)-n))
			if err != nil {
				return n, err
			}
			k := copy(p[n:], b)
			n += k
			off += int64(k)
		}
		if n == len(p) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}

// at returns some bytes of part i from off on, at least one.
func (r *blobReader) at(i int, off, want int64) ([]byte, error) {
	if r.window == nil || r.part != i || off < r.begin || off >= r.begin+int64(len(r.window)) {
		n := min(max(want, blobWindow), r.blobs[i].Length-off)
		b, err := r.log.getRange(r.ctx, blobKey(r.day, r.id, i), off, n)
		if errors.Is(err, objstore.ErrNotExist) {
			return nil, fmt.Errorf("body part %d: %w", i, r.missing())
		}
		if err == nil && int64(len(b)) != n {
			return nil, fmt.Errorf("body part %d is cut short: %w", i, ErrDamaged)
		}
		if err != nil {
			return nil, fmt.Errorf("read body part %d: %w", i, err)
		}
		r.part, r.begin, r.window = i, off, b
	}
	return r.window[off-r.begin:], nil
}
