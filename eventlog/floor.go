package eventlog

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

const (
	maxFloor    = 64 << 10
	floorPrefix = "floor/"
	// floorAge is how long a floor is believed without reading it again, and how
	// long a tail is believed to be the tail when a segment has landed behind it.
	// It is far below keyRest, and both are measured by three clocks.
	floorAge = time.Hour
	// keyRest is how long a floor stands before the keys under it are removed.
	keyRest = 24 * time.Hour
	// floorTries bounds how often a change of a floor is tried against others.
	floorTries = 10
)

// floor says of one partition which segments are read from packs, and where the
// log begins. It only ever rises. Readers and writers rely on this: the key of a
// segment is removed no earlier than keyRest after the floor rose past it.
type floor struct {
	packed Cursor // the last segment that is in a pack and may have no key
	marks  []floorMark
	start  Cursor // the log begins behind it
	etag   string // empty when there is no object
}

// floorMark says since when the floor has stood at a number or above.
type floorMark struct {
	Packed event.Seq `json:"packed"`
	At     time.Time `json:"at"` // by the store's clock
}

type floorObject struct {
	Packed event.Seq   `json:"packed"`
	Hash   string      `json:"hash"`
	Marks  []floorMark `json:"marks"`
	Start  event.Seq   `json:"start"`
	From   string      `json:"start_hash"`
	MAC    string      `json:"mac"`
}

func floorKey(p event.Partition) string { return fmt.Sprintf("%s%02x", floorPrefix, uint8(p)) }

// rested returns the last segment whose key may be removed.
func (f *floor) rested(now time.Time) (s event.Seq) {
	for _, m := range f.marks {
		if now.Sub(m.At) >= keyRest {
			s = max(s, m.Packed)
		}
	}
	return s
}

// raise moves what is packed up. A mark is never made younger unless the one
// before it is recent, so that keys rest an hour too long at most and the marks
// stay few.
func (f *floor) raise(to Cursor, now time.Time) {
	m := floorMark{Packed: to.Seq, At: now.UTC()}
	if n := len(f.marks); n >= 2 && now.Sub(f.marks[n-2].At) < time.Hour && now.Sub(f.marks[n-1].At) < keyRest {
		f.marks[n-1] = m
	} else {
		f.marks = append(f.marks, m)
	}
	for len(f.marks) > 1 && now.Sub(f.marks[1].At) >= keyRest {
		f.marks = f.marks[1:]
	}
	f.packed = to
}

// parseFloor reads what encodeFloor wrote. Only those very bytes are a floor.
func (l *Log) parseFloor(ctx context.Context, p event.Partition, raw []byte) (*floor, error) {
	bad := fmt.Errorf("floor of partition %d is not one that a node of this installation wrote: %w", p, ErrDamaged)
	var o floorObject
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, bad
	}
	f := &floor{packed: Cursor{Seq: o.Packed}, marks: o.Marks, start: Cursor{Seq: o.Start}}
	h1, err1 := hex.DecodeString(o.Hash)
	h2, err2 := hex.DecodeString(o.From)
	if err1 != nil || err2 != nil || len(h1) != len(f.packed.Hash) || len(h2) != len(f.start.Hash) {
		return nil, bad
	}
	f.packed.Hash, f.start.Hash = Hash(h1), Hash(h2)
	want, err := l.encodeFloor(ctx, p, f)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(raw, want) {
		return nil, bad
	}
	return f, nil
}

// encodeFloor encodes a floor with its MAC.
func (l *Log) encodeFloor(ctx context.Context, p event.Partition, f *floor) ([]byte, error) {
	key, err := l.opt.Keys.LocalKey(ctx, "floor")
	if err != nil {
		return nil, err
	}
	o := floorObject{
		Packed: f.packed.Seq, Hash: hex.EncodeToString(f.packed.Hash[:]), Marks: f.marks,
		Start: f.start.Seq, From: hex.EncodeToString(f.start.Hash[:]),
	}
	if o.Marks == nil {
		o.Marks = []floorMark{}
	}
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%v\n%02x\n%d\n%s\n%d\n%s", l.id, uint8(p), o.Packed, o.Hash, o.Start, o.From)
	for _, k := range o.Marks {
		fmt.Fprintf(m, "\n%d %s", k.Packed, k.At.Format(time.RFC3339Nano))
	}
	o.MAC = hex.EncodeToString(m.Sum(nil))
	return json.Marshal(o)
}

// readFloor reads a floor as it is in the bucket, and remembers it; an empty one
// when there is none.
func (l *Log) readFloor(ctx context.Context, n event.Partition) (*floor, error) {
	p := l.partitions[n]
	at := l.moment() // before the bucket is asked
	f, err := l.loadFloor(ctx, n)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.packed.Seq < p.floor.packed.Seq || f.start.Seq < p.floor.start.Seq {
		// An older read that was slower, or a bucket that was rolled back: what was
		// packed is in packs all the same.
		return p.floor, nil
	}
	p.floor, p.floorAt = f, at
	return f, nil
}

func (l *Log) loadFloor(ctx context.Context, p event.Partition) (*floor, error) {
	raw, info, err := l.readAll(ctx, floorKey(p), maxFloor)
	if errors.Is(err, objstore.ErrNotExist) {
		return &floor{}, nil
	}
	if errors.Is(err, objstore.ErrTooLarge) {
		return nil, fmt.Errorf("floor of partition %d: %w: %w", p, err, ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("read the floor of partition %d: %w", p, err)
	}
	f, err := l.parseFloor(ctx, p, raw)
	if err != nil {
		return nil, err
	}
	f.etag = info.ETag
	return f, nil
}

// floorNow returns a floor that is no older than floorAge. So where it does not say
// that a segment is packed, the key of that segment has not been removed, nor put
// again: what is under it is the segment, and when there is nothing, there is no
// such segment yet. A damaged floor leaves what was known before: packs are looked
// at as well when a key is missing.
func (l *Log) floorNow(ctx context.Context, n event.Partition) (*floor, error) {
	p := l.partitions[n]
	p.mu.Lock()
	f, at := p.floor, p.floorAt
	p.mu.Unlock()
	if l.within(at, floorAge) {
		return f, nil
	}
	now := l.moment()
	got, err := l.readFloor(ctx, n)
	if errors.Is(err, ErrDamaged) {
		l.logger.Error("a floor is damaged; run holdfast log verify", "partition", n, "error", err)
		p.mu.Lock()
		p.floorAt = now
		p.mu.Unlock()
		return f, nil
	}
	return got, err
}

// changeFloor changes a floor by compare-and-swap. change is called with the
// floor as it is, perhaps several times, and says whether there is anything to do.
func (l *Log) changeFloor(ctx context.Context, p event.Partition, change func(*floor) bool) (*floor, error) {
	for try := 1; ; try++ {
		now, err := l.readFloor(ctx, p)
		if err != nil {
			return nil, err
		}
		next := &floor{packed: now.packed, marks: slices.Clone(now.marks), start: now.start}
		if !change(next) {
			return now, nil
		}
		err = l.putFloor(ctx, p, next, now.etag)
		if err == nil {
			failpoint.Hit(failpoint.FloorDurable)
			return l.readFloor(ctx, p)
		}
		// Whatever won, or whether ours landed: the next look says.
		again := errors.Is(err, objstore.ErrExists) || errors.Is(err, objstore.ErrChanged) || errors.Is(err, objstore.ErrAmbiguous)
		if !again || try == floorTries || ctx.Err() != nil {
			return nil, fmt.Errorf("raise the floor of partition %d: %w", p, err)
		}
		pause(ctx, randomBelow(minPause<<try))
	}
}

func (l *Log) putFloor(ctx context.Context, p event.Partition, f *floor, etag string) error {
	raw, err := l.encodeFloor(ctx, p, f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	failpoint.Hit(failpoint.FloorPut)
	opt := objstore.PutOptions{IfMatch: etag}
	if etag == "" {
		opt = objstore.PutOptions{IfAbsent: true}
	}
	_, err = l.bucket.Put(ctx, floorKey(p), bytes.NewReader(raw), int64(len(raw)), opt)
	return err
}

// guarded returns ErrUnguarded when the floor is missing, or an older one, while keys
// of segments behind it were removed: then a put that comes too late for its place
// would be taken for one that stands, and an acceptance in it would be lost. The key
// of the segment behind the floor is never removed before the floor rises past it, and
// keys are removed in their order, so that looking for that one is enough. Where no pack
// ends above the floor none was removed: it is lost, and readers say so. A floor that
// is damaged is another matter: [partition.void] waits for it.
func (p *partition) guarded(ctx context.Context) error {
	p.mu.Lock()
	floor, tail := p.floor.packed.Seq, p.tailSeq
	p.mu.Unlock()
	if tail <= floor || p.broken {
		return nil
	}
	if _, err := p.log.loadFloor(ctx, p.number); err != nil {
		if errors.Is(err, ErrDamaged) {
			return nil
		}
		return err
	}
	for info, err := range p.log.bucket.List(ctx, segmentPrefix(p.number), segmentKey(p.number, floor)) {
		if err != nil {
			return fmt.Errorf("look whether %s is there: %w", segmentKey(p.number, floor+1), err)
		}
		s, ok := parseSegmentKey(info.Key)
		if !ok {
			continue
		}
		if s == floor+1 {
			return nil
		}
		packs, err := p.log.listPacks(ctx, p.number, floor+1, 1)
		if err == nil && len(packs) > 0 {
			err = fmt.Errorf("%s: the segments up to %d have no keys: %w", floorKey(p.number), s-1, ErrUnguarded)
		}
		return err
	}
	return nil
}

// unguarded is ErrReadOnly with the reason that a floor is missing.
type unguarded struct{ error }

func (u unguarded) Unwrap() []error { return []error{u.error, ErrReadOnly} }

// moment is an instant by three clocks: this machine's two, the one that counts
// on and the one that people set, and the store's as far as it is known.
type moment struct{ local, store time.Time }

func (l *Log) moment() moment {
	now := time.Now()
	return moment{now, now.Add(time.Duration(l.skew.Load())).Round(0)}
}

// within reports whether, by each of the clocks, no more than d lies between a
// moment and now. A machine that slept stops its counting clock, one that was
// halted as a whole both of its own; the store's shows that with the next answer.
func (l *Log) within(m moment, d time.Duration) bool {
	if m.local.IsZero() {
		return false
	}
	now := l.moment()
	for _, passed := range []time.Duration{now.local.Sub(m.local), now.local.Round(0).Sub(m.local.Round(0)), now.store.Sub(m.store)} {
		if passed > d || passed < -d {
			return false
		}
	}
	return true
}
