package eventlog

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

// Base is the state of a projection in the bucket, with the event that says so.
type Base struct {
	Taken *event.BaseTaken `cbor:"1,keyasint"`
	Ref   event.Ref        `cbor:"2,keyasint"` // of the event BaseTaken
}

// baseList is the object snap/current: the Bases from which a node may start, and
// what is being removed. Everything that is done to Bases is ordered by its
// versions, each of which replaces the one before by compare-and-swap:
//
//   - A Base is published by a version that has it. Of its pieces each is named by
//     another Base of the version before, or whoever writes that version has found
//     it in the bucket after reading the version before, and not among those that
//     are being removed there.
//   - A piece is removed only after a version that says so was written. No Base of
//     that version, or of the one before, names it.
//
// So if a removal is written first, publishing is refused, or finds that the piece
// is gone; if publishing is first, the removal's compare-and-swap fails. A name is
// used once, so that what is being removed is never put again. No clock is needed.
type baseList struct {
	// Change and Writer make every version's bytes differ from all others'.
	Change   uint64       `cbor:"1,keyasint"`
	Writer   event.Writer `cbor:"2,keyasint"`
	Bases    []Base       `cbor:"3,keyasint,omitempty"` // the newest first
	Removing []event.Snap `cbor:"4,keyasint,omitempty"`
}

const (
	baseListKey = snapPrefix + "current"
	// maxBaseList bounds the list: Bases are small, and removals come in portions.
	maxBaseList = 8 << 20
	// basesKept is how many Bases of each version of a projection are kept: one to
	// start from, and one in case that something is wrong with it.
	basesKept = 2
	// versionsKept is of how many versions of a projection Bases are kept: while
	// nodes are upgraded one by one two programs are at work.
	versionsKept = 2
	// baseTries bounds how often a lost race for the list is tried again.
	baseTries = 20
)

// ErrBaseGone says that pieces of a Base that was to be published are not there.
// The Base is of no use; another one has to be taken.
var ErrBaseGone = errors.New("pieces of the Base were removed meanwhile")

// Bases returns the published Bases of a projection, the newest first. [ErrDamaged]
// when the list is not one that a node of this installation wrote.
func (l *Log) Bases(ctx context.Context, projection string) ([]Base, error) {
	list, _, err := l.readBases(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Bases, func(b Base) bool { return b.Taken.Projection != projection }), nil
}

// PublishBases makes Bases known to nodes that start, after making sure that they
// are whole. The event of each is in the log. Of every version of a projection
// the two newest stay published. It may be called again, also for Bases that were
// published or replaced long ago. [ErrBaseGone] when one is not whole.
func (l *Log) PublishBases(ctx context.Context, bases ...Base) error {
	return l.changeBases(ctx, true, func(list *baseList) (bool, error) {
		var added []Base
		before := slices.Clone(list.Bases)
		for _, b := range bases {
			if !slices.ContainsFunc(list.Bases, b.is) {
				added = append(added, b)
			}
		}
		list.Bases = newestBases(append(list.Bases, added...))
		added = slices.DeleteFunc(added, func(b Base) bool { return !slices.ContainsFunc(list.Bases, b.is) })
		for _, b := range added {
			if err := l.whole(ctx, b, before, list.Removing); err != nil {
				return false, fmt.Errorf("publish the Base of %s: %w", b.Taken.Projection, err)
			}
		}
		return len(added) > 0, nil
	})
}

func (b Base) is(o Base) bool { return b.Ref == o.Ref }

// newestBases sorts Bases and leaves out those that were replaced.
func newestBases(bases []Base) []Base {
	slices.SortStableFunc(bases, func(a, b Base) int {
		p, q := a.Ref.Position, b.Ref.Position
		return cmp.Or(cmp.Compare(q.Seq, p.Seq), cmp.Compare(q.Index, p.Index))
	})
	type build struct {
		projection string
		version    uint32
	}
	kept, versions := map[build]int{}, map[string]int{}
	return slices.DeleteFunc(bases, func(b Base) bool {
		of := build{b.Taken.Projection, b.Taken.Version}
		if kept[of] == 0 {
			versions[of.projection]++
			if versions[of.projection] > versionsKept {
				kept[of] = basesKept // the version is too old
			}
		}
		kept[of]++
		return kept[of] > basesKept
	})
}

// whole returns ErrBaseGone unless all pieces of a Base are there to stay. Those
// that a published Base names are.
func (l *Log) whole(ctx context.Context, b Base, published []Base, removing []event.Snap) error {
	names, err := l.baseIndex(ctx, b.Taken)
	if errors.Is(err, ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrBaseGone, err)
	}
	if err != nil {
		return err
	}
	safe, err := l.named(ctx, published)
	if errors.Is(err, ErrDamaged) {
		safe, err = nil, nil // then each is looked for
	}
	if err != nil {
		return err
	}
	for _, s := range append(names, b.Taken.Index) {
		if safe[s] {
			continue
		}
		if slices.Contains(removing, s) {
			return fmt.Errorf("%s is being removed: %w", snapKey(s), ErrBaseGone)
		}
		// A list may be stale, a get is not.
		_, err := l.getRange(ctx, snapKey(s), 0, 1)
		if errors.Is(err, objstore.ErrNotExist) {
			return fmt.Errorf("%s is missing: %w", snapKey(s), ErrBaseGone)
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", snapKey(s), err)
		}
	}
	return nil
}

// named returns the names of all pieces of some Bases, and of their indexes.
func (l *Log) named(ctx context.Context, bases []Base) (map[event.Snap]bool, error) {
	named := map[event.Snap]bool{}
	for _, b := range bases {
		names, err := l.baseIndex(ctx, b.Taken)
		if err != nil {
			return nil, fmt.Errorf("a Base of %s: %w", b.Taken.Projection, err)
		}
		named[b.Taken.Index] = true
		for _, s := range names {
			named[s] = true
		}
	}
	return named, nil
}

// readBases returns the list, empty when there is none yet, and its ETag.
func (l *Log) readBases(ctx context.Context) (*baseList, string, error) {
	raw, info, err := l.readAll(ctx, baseListKey, maxBaseList)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return &baseList{}, "", nil
	case errors.Is(err, objstore.ErrTooLarge):
		return nil, info.ETag, fmt.Errorf("%s: %w: %w", baseListKey, err, ErrDamaged)
	case err != nil:
		return nil, "", fmt.Errorf("read %s: %w", baseListKey, err)
	}
	list := new(baseList)
	if len(raw) < sha256.Size || event.Unmarshal(raw[sha256.Size:], list) != nil {
		return nil, info.ETag, fmt.Errorf("%s: %w", baseListKey, ErrDamaged)
	}
	mac, err := l.basesMAC(ctx, raw[sha256.Size:])
	if err != nil {
		return nil, "", err
	}
	bad := slices.ContainsFunc(list.Bases, func(b Base) bool { return b.Taken == nil })
	if !hmac.Equal(mac, raw[:sha256.Size]) || bad {
		return nil, info.ETag, fmt.Errorf("%s is not one that a node of this installation wrote: %w", baseListKey, ErrDamaged)
	}
	return list, info.ETag, nil
}

func (l *Log) basesMAC(ctx context.Context, body []byte) ([]byte, error) {
	key, err := l.opt.Keys.LocalKey(ctx, "snap")
	if err != nil {
		return nil, err
	}
	m := hmac.New(sha256.New, key)
	m.Write(l.id[:])
	m.Write(body)
	return m.Sum(nil), nil
}

// changeBases replaces the list by what change makes of it, if it says that there
// is a change. change may be called several times, each time with a fresh list.
// With anew a list that is damaged is replaced: the log knows what was in it.
func (l *Log) changeBases(ctx context.Context, anew bool, change func(*baseList) (bool, error)) error {
	if l.readOnly.Load() {
		return l.refusal()
	}
	for try := 1; ; try++ {
		list, etag, err := l.readBases(ctx)
		if errors.Is(err, ErrDamaged) && etag != "" && anew {
			l.logger.Error("the list of Bases is damaged; it is written anew", "error", err)
			list, err = &baseList{}, nil
		}
		if err != nil {
			return err
		}
		if ok, err := change(list); err != nil || !ok {
			return err
		}
		won, err := l.putBases(ctx, list, etag)
		if won || err != nil {
			return err
		}
		if try == baseTries {
			return fmt.Errorf("write %s: %d other writers were faster: %w", baseListKey, try, objstore.ErrChanged)
		}
		pause(ctx, randomBelow(time.Duration(try)*50*time.Millisecond))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// putBases writes a version of the list in the place of the one with an ETag, and
// reports whether no other came first.
func (l *Log) putBases(ctx context.Context, list *baseList, etag string) (won bool, err error) {
	list.Change++
	list.Writer = l.writer
	body := event.Marshal(list)
	mac, err := l.basesMAC(ctx, body)
	if err != nil {
		return false, err
	}
	raw := append(mac, body...)
	err = l.putSame(ctx, baseListKey, raw, objstore.PutOptions{IfAbsent: etag == "", IfMatch: etag})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, objstore.ErrExists), errors.Is(err, objstore.ErrChanged):
		// An earlier try whose answer was lost may be what is there.
		got, _, err := l.readAll(ctx, baseListKey, maxBaseList)
		if err != nil && !errors.Is(err, objstore.ErrNotExist) {
			return false, fmt.Errorf("read %s: %w", baseListKey, err)
		}
		return bytes.Equal(got, raw), nil
	}
	return false, fmt.Errorf("write %s: %w", baseListKey, noAnswer(ctx, err))
}
