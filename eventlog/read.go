package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
	"holdfast/objstore"
)

const (
	// firstRead is how much of a segment is fetched before its size is known.
	firstRead = 128 << 10
	// readAhead is how many segments are fetched before they are asked for.
	readAhead = 6
	// getTimeout ends one read.
	getTimeout = 20 * time.Second
	// maxMeta bounds one opened state or metadata part.
	maxMeta = 64 << 20
)

// Segments yields a partition's segments after a cursor, up to the tail that is
// known when it gets there. It reads ahead. An error ends it: [ErrRolledBack]
// when the log does not continue the cursor, [ErrDamaged], or what the store
// said.
func (l *Log) Segments(ctx context.Context, p event.Partition, after Cursor) iter.Seq2[*Segment, error] {
	return l.SegmentsOf(ctx, p, after, event.AllClasses)
}

// SegmentsOf is as [Log.Segments] for a reader that wants events of some classes
// only: others are not opened, and are not in the segments' Events. Every segment
// is yielded, so that the reader's cursor moves on.
func (l *Log) SegmentsOf(ctx context.Context, p event.Partition, after Cursor, classes event.Classes) iter.Seq2[*Segment, error] {
	return func(yield func(*Segment, error) bool) {
		if after.Seq < l.Start(p).Seq {
			yield(nil, l.beforeStart(p, after.Seq))
			return
		}
		if err := l.checkCursor(ctx, p, after); err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		var ahead []*future
		defer func() {
			cancel()
			for _, f := range ahead {
				f.wait() // every fetch has an owner that waits for it
			}
		}()
		at := after
		for {
			tail := l.TailAtLeast(p)
			for s := at.Seq + 1 + event.Seq(len(ahead)); len(ahead) < readAhead && s <= tail; s++ {
				ahead = append(ahead, l.fetch(ctx, p, s, classes))
			}
			if len(ahead) == 0 {
				return
			}
			f := ahead[0]
			f.wait()
			ahead = ahead[1:]
			if f.err == nil {
				f.err = follows(f.seg, at, after)
			}
			if f.err != nil {
				yield(nil, f.err)
				return
			}
			if !yield(f.seg, nil) {
				return
			}
			at = Cursor{f.seg.Seq, f.seg.Hash}
		}
	}
}

// CursorAt returns the cursor that stands behind a segment. Zero is before the
// first.
func (l *Log) CursorAt(ctx context.Context, p event.Partition, s event.Seq) (Cursor, error) {
	if s == 0 {
		return Cursor{}, nil
	}
	if start := l.Start(p); s == start.Seq {
		return start, nil // the segment itself may be gone
	}
	h, err := l.readHeader(ctx, p, s)
	if err != nil {
		return Cursor{}, l.missing(p, s, err)
	}
	return Cursor{s, h.hash}, nil
}

// checkCursor compares a cursor that stands at the tail with the tail; one
// before it is compared by the next segment's Prev.
func (l *Log) checkCursor(ctx context.Context, p event.Partition, c Cursor) error {
	seq, hash := l.partitions[p].tail()
	if c.Seq > seq {
		if err := l.Refresh(ctx, p); err != nil {
			return err
		}
		seq, hash = l.partitions[p].tail()
	}
	switch {
	case c.Seq > seq:
		return fmt.Errorf("partition %d ends at %d, but %d was read from it before: %w", p, seq, c.Seq, ErrRolledBack)
	case c.Seq == seq && c.Hash != hash:
		return fmt.Errorf("segment %s is not the one that was read before: %w", segmentKey(p, seq), ErrRolledBack)
	}
	return nil
}

type future struct {
	done chan struct{} // nil when it was known at once
	seg  *Segment
	err  error
}

func (f *future) wait() {
	if f.done != nil {
		<-f.done
	}
}

func (l *Log) fetch(ctx context.Context, p event.Partition, s event.Seq, classes event.Classes) *future {
	if seg, ok := l.cache.segments.peek(slot{p, s}); ok {
		return &future{seg: seg.some(classes)}
	}
	f := &future{done: make(chan struct{})}
	ctx = turn.Named(ctx, strconv.FormatUint(uint64(s), 10))
	go func() {
		defer close(f.done)
		turn.Take(ctx, "read ahead")
		if classes == event.AllClasses {
			f.seg, f.err = l.Segment(ctx, p, s)
			return
		}
		f.seg, f.err = l.segmentOf(ctx, p, s, classes)
	}()
	return f
}

// Segment reads one segment, verified and opened. [ErrTail] when there is none
// yet.
func (l *Log) Segment(ctx context.Context, p event.Partition, s event.Seq) (*Segment, error) {
	seg, err := l.cache.segments.get(ctx, slot{p, s}, func(ctx context.Context) (*Segment, error) {
		r, err := l.readFront(ctx, p, s, event.AllClasses)
		if err != nil {
			return nil, err
		}
		return l.open(ctx, r.h, r.front, event.AllClasses)
	})
	return seg, l.missing(p, s, err)
}

// segmentOf opens the events of some classes only.
func (l *Log) segmentOf(ctx context.Context, p event.Partition, s event.Seq, classes event.Classes) (*Segment, error) {
	if seg, ok := l.cache.segments.peek(slot{p, s}); ok {
		return seg.some(classes), nil
	}
	r, err := l.readFront(ctx, p, s, classes)
	if err != nil {
		return nil, l.missing(p, s, err)
	}
	return l.open(ctx, r.h, r.front, classes)
}

// some returns the segment with the events of some classes only.
func (s *Segment) some(classes event.Classes) *Segment {
	if classes == event.AllClasses {
		return s
	}
	c := *s
	c.Events = slices.DeleteFunc(slices.Clone(s.Events), func(r Recorded) bool { return !classes.Has(r.Class) })
	return &c
}

// missing says what it means that there is no object for a segment.
func (l *Log) missing(p event.Partition, s event.Seq, err error) error {
	if !errors.Is(err, objstore.ErrNotExist) {
		return err
	}
	if s <= l.Start(p).Seq {
		return l.beforeStart(p, s)
	}
	if s <= l.TailAtLeast(p) {
		return fmt.Errorf("segment %s is missing: %w", segmentKey(p, s), ErrDamaged)
	}
	return ErrTail
}

// Read yields the events of a partition after a cursor, up to the tail.
func (l *Log) Read(ctx context.Context, p event.Partition, after Cursor) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		for seg, err := range l.Segments(ctx, p, after) {
			if err != nil {
				yield(Recorded{}, err)
				return
			}
			for _, r := range seg.Events {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// readHeader reads and verifies the header of a segment.
func (l *Log) readHeader(ctx context.Context, p event.Partition, s event.Seq) (*parsed, error) {
	return l.cache.headers.get(ctx, slot{p, s}, func(ctx context.Context) (*parsed, error) {
		r, err := l.readFront(ctx, p, s, 0)
		return r.h, err
	})
}

// readKey is readFront for a segment under its own key. See [flawed].
func (l *Log) readKey(ctx context.Context, p event.Partition, s event.Seq, classes event.Classes) (headed, error) {
	key := segmentKey(p, s)
	at := slot{p, s}
	if r, ok := l.cache.fronts.peek(at); ok && classes != 0 {
		l.cache.fronts.dropOne(at, func(headed) bool { return true })
		return r, nil
	}
	var raw []byte
	own, whole := l.cache.raw.peek(at)
	if whole {
		raw = own.front
	} else {
		var err error
		if raw, err = l.getRange(ctx, key, 0, firstRead); err != nil {
			return headed{}, fmt.Errorf("read segment %s: %w", key, err)
		}
	}
	more := func(want int64) error {
		if int64(len(raw)) < want && !whole {
			rest, err := l.getRange(ctx, key, int64(len(raw)), want-int64(len(raw)))
			if err != nil {
				return fmt.Errorf("read segment %s: %w", key, err)
			}
			raw = append(raw, rest...)
		}
		if int64(len(raw)) < want {
			return fmt.Errorf("segment %s is cut short: %w", key, ErrDamaged)
		}
		return nil
	}
	h, known := l.cache.headers.peek(at)
	if !known {
		n, err := headerLength(raw)
		if err != nil {
			return headed{}, fmt.Errorf("segment %s: %w", key, err)
		}
		if err := more(n); err != nil {
			return headed{}, err
		}
		verify := l.verify
		if whole {
			// This process made these bytes, signed them and kept them in memory.
			verify = func(cert, signed, sig []byte, need event.Classes) error { return nil }
		}
		if h, err = l.parse(raw, p, s, verify); err != nil {
			return headed{}, fmt.Errorf("segment %s: %w", key, err)
		}
		l.cache.headers.keep(at, h)
		if n := h.bodies; classes == 0 && !whole && n <= min(maxFront, int64(len(raw))) {
			// The folds ask for the rest in a moment.
			l.cache.fronts.keep(at, headed{h, fronted{bytes: bytes.Clone(raw[:n])}})
		}
	}
	if h.classes&classes == 0 {
		return headed{h, fronted{}}, nil
	}
	if err := more(h.bodies); err != nil {
		return headed{}, err
	}
	r := headed{h, fronted{bytes: raw[:h.bodies], sound: whole}}
	if !whole {
		if err := l.checkFront(ctx, &r, classes); err != nil {
			return r, flawed{fmt.Errorf("segment %s: %w", key, err)}
		}
	}
	return r, nil
}

// parse reads and verifies the header of the segment that should be p/s.
func (l *Log) parse(raw []byte, p event.Partition, s event.Seq, verify headerCheck) (*parsed, error) {
	h, err := parseHeader(raw, verify)
	if err != nil {
		return nil, err
	}
	if h.Log != l.id || h.Partition != p || h.Seq != s && !sabotage.On(sabotage.SwapUnseen) {
		return nil, fmt.Errorf("this is another segment: %w", ErrDamaged)
	}
	return h, nil
}

// getRange reads at most n bytes; fewer only where the object ends. It gives up
// after getTimeout, so that a store that hangs holds nobody for ever.
func (l *Log) getRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	rc, info, err := l.bucket.Get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	size := max(0, min(n, info.Size-off))
	buf := make([]byte, size)
	if _, err := io.ReadFull(rc, buf); err != nil {
		return nil, fmt.Errorf("read %d bytes at %d: %w", size, off, err)
	}
	return buf, nil
}

// readAll reads an object of at most limit bytes, as getRange does.
func (l *Log) readAll(ctx context.Context, key string, limit int64) ([]byte, objstore.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	return objstore.ReadAll(ctx, l.bucket, key, limit)
}

// open opens the front parts of a segment's events of some classes.
func (l *Log) open(ctx context.Context, h *parsed, front fronted, classes event.Classes) (*Segment, error) {
	seg := newSegment(h)
	if h.classes&classes == 0 {
		seg.Events = nil
		return seg, nil
	}
	for i := range h.Events {
		if !classes.Has(h.Events[i].Class) {
			continue
		}
		r, err := l.openEvent(ctx, h, i, front)
		if errors.Is(err, ErrEnded) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("event %v at %s/%d: %w", h.Events[i].ID, segmentKey(h.Partition, h.Seq), i, err)
		}
		seg.Events = append(seg.Events, r)
		l.noteEnd(r.Tenant, r.Fact)
	}
	seg.weigh(h)
	return seg, nil
}

// newSegment returns a segment that has no events yet.
func newSegment(h *parsed) *Segment {
	return &Segment{
		Partition: h.Partition, Seq: h.Seq, Hash: h.hash, Prev: h.Prev,
		Writer: h.Writer, Time: h.Time, Events: make([]Recorded, 0, len(h.Events)),
	}
}

// weigh estimates what the segment takes in memory: a decoded fact takes some
// five times its sealed bytes, and a message about 3 KiB.
func (s *Segment) weigh(h *parsed) {
	s.weight = max(int64(len(s.Events))*3<<10, 5*(h.bodies-h.front))
}

// newRecorded returns event i of a segment but for its expiry and its fact.
func newRecorded(h *parsed, i int) Recorded {
	e := &h.Events[i]
	body := e.part(event.RoleBody)
	return Recorded{
		Ref:    event.Ref{Position: event.Position{Partition: h.Partition, Seq: h.Seq, Index: uint32(i)}, ID: e.ID},
		Tenant: e.Tenant, Class: e.Class, Time: h.Time,
		HasBody: body >= 0, Blobs: body >= 0 && len(e.Parts[body].Blobs) > 0,
	}
}

func (l *Log) openEvent(ctx context.Context, h *parsed, i int, front fronted) (Recorded, error) {
	e := &h.Events[i]
	r := newRecorded(h, i)
	state, err := l.openState(ctx, h, i, front)
	if err != nil {
		return r, err
	}
	var meta []byte
	if page, ok := h.page(e); ok {
		r.Expiry = page.Day
		meta, err = l.openMeta(ctx, h, i, page, front)
		if err != nil {
			return r, err
		}
	}
	if r.Fact, err = event.Decode(state, meta); errors.Is(err, event.ErrUnknownKind) {
		return r, err
	} else if err != nil {
		return r, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	if r.Fact.Class() != e.Class {
		return r, fmt.Errorf("fact of class %d under class %d: %w", r.Fact.Class(), e.Class, ErrDamaged)
	}
	return r, nil
}

// sealedPart returns the checked bytes of a front part, or nil when the event
// has no such part. crypto.ErrExpired when it was left out since its day is over.
func (l *Log) sealedPart(h *parsed, i int, r event.Role, front fronted) ([]byte, *partEntry, error) {
	j := h.Events[i].part(r)
	if j < 0 {
		return nil, nil, nil
	}
	if h.absent(i, j, front.cut) {
		return nil, nil, l.leftOut(h, i, j)
	}
	part := &h.Events[i].Parts[j]
	off := h.offsets[i][j]
	b := front.bytes[off : off+part.Length]
	if !front.sound && sha256.Sum256(b) != part.Digest {
		return nil, nil, fmt.Errorf("part %d: digest: %w", r, ErrDamaged)
	}
	return b, part, nil
}

func (l *Log) openState(ctx context.Context, h *parsed, i int, front fronted) ([]byte, error) {
	e := &h.Events[i]
	sealed, part, err := l.sealedPart(h, i, event.RoleState, front)
	if err != nil {
		return nil, err
	}
	if part == nil {
		return nil, fmt.Errorf("no state part: %w", ErrDamaged)
	}
	keys, err := l.keys.tenant(ctx, e.Tenant)
	if errors.Is(err, objstore.ErrNotExist) {
		// Not the end of the log: the segment is there, its keys are not.
		return nil, fmt.Errorf("%s: %w: %w", tenantKey(e.Tenant), ErrTenantKeys, ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	plain, err := keys.OpenState(l.binding(e.Tenant, e.ID, event.RoleState), part.Commit, sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	return plain, nil
}

// openMeta returns nil once the event's day has expired.
func (l *Log) openMeta(ctx context.Context, h *parsed, i int, page pageEntry, front fronted) ([]byte, error) {
	e := &h.Events[i]
	sealed, part, err := l.sealedPart(h, i, event.RoleMeta, front)
	if gone(err) {
		return nil, nil
	}
	if err != nil || part == nil {
		return nil, err
	}
	leaf, err := l.leafOf(ctx, h, e, page)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	plain, err := l.codec.OpenSmall(leaf, l.binding(e.Tenant, e.ID, event.RoleMeta), part.Commit, sealed, maxMeta)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	return plain, nil
}

// leafOf returns the leaf under which an event's mail was sealed.
func (l *Log) leafOf(ctx context.Context, h *parsed, e *eventEntry, page pageEntry) (crypto.Leaf, error) {
	if page.Tenant != e.Tenant {
		return crypto.Leaf{}, fmt.Errorf("key page of another tenant: %w", ErrDamaged)
	}
	p, err := l.keys.page(ctx, page, h.Writer)
	if err != nil {
		return crypto.Leaf{}, err
	}
	return p.Leaf(e.Leaf)
}

// gone says that a key was destroyed on purpose.
func gone(err error) bool {
	return errors.Is(err, crypto.ErrExpired) || errors.Is(err, crypto.ErrPunctured)
}
