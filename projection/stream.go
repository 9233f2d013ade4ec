package projection

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"holdfast/event"
	"holdfast/eventlog"
)

// The state of a projection as a stream of bytes, the same for the same state:
// for each key, in order, the length of the key (8), the key, the length of the
// value (8), the value. Sealed values stand in it as they are, so that they die
// with their day there as well. The hash of a state is the SHA-256 of this.

func appendItem(b []byte, it Item) []byte {
	for _, x := range [][]byte{it.Key, it.Value} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(x)))
		b = append(b, x...)
	}
	return b
}

// scanState hands the items of a slot to fn, without the prefix of their keys.
func scanState(ctx context.Context, snap Snapshot, s slot, fn func(Item) error) error {
	prefix := statePrefix(s)
	n := 0
	for it, err := range snap.Scan(prefix, nil, false) {
		if err != nil {
			return err
		}
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fn(Item{Key: it.Key[len(prefix):], Value: it.Value}); err != nil {
			return err
		}
	}
	return nil
}

// hashState returns the hash of a slot's state and the length of its stream.
func hashState(ctx context.Context, snap Snapshot, s slot) (sum [32]byte, size int64, err error) {
	h := sha256.New()
	var b []byte
	err = scanState(ctx, snap, s, func(it Item) error {
		b = appendItem(b[:0], it)
		size += int64(len(b))
		h.Write(b)
		return nil
	})
	return [32]byte(h.Sum(nil)), size, err
}

// The stream is cut into pieces where keys say so, so that a range of the state
// that has not changed gives the same pieces again, whatever has changed before
// it.
const (
	minPiece  = 256 << 10
	meanPiece = 1 << 20 // on the average behind minPiece
	maxPiece  = eventlog.MaxSnap
)

// cutter cuts a stream into pieces, which it hands to put. A piece is put's own.
type cutter struct {
	put func(piece []byte) error
	buf []byte
}

func (c *cutter) add(it Item) error {
	n := 16 + len(it.Key) + len(it.Value)
	if len(c.buf) >= minPiece && cutBefore(it.Key, n) || len(c.buf) > 0 && len(c.buf)+n > maxPiece {
		if err := c.flush(len(c.buf)); err != nil {
			return err
		}
	}
	c.buf = appendItem(c.buf, it)
	for len(c.buf) > maxPiece { // one item alone
		if err := c.flush(maxPiece); err != nil {
			return err
		}
	}
	return nil
}

// end hands over what is left.
func (c *cutter) end() error {
	if len(c.buf) == 0 {
		return nil
	}
	return c.flush(len(c.buf))
}

func (c *cutter) flush(n int) error {
	piece := c.buf[:n:n]
	c.buf = bytes.Clone(c.buf[n:])
	return c.put(piece)
}

// cutBefore says whether a piece may begin with an item of n bytes: for one byte
// in meanPiece, by its key alone.
func cutBefore(key []byte, n int) bool {
	return n >= meanPiece || priority(key) < uint64(n)*(math.MaxUint64/meanPiece)
}

// uncutter reads a stream from its pieces.
type uncutter struct {
	next func() ([]byte, error) // io.EOF behind the last piece
	left int64                  // bytes of the stream that are still to come
	buf  []byte
	sum  digest // of what was taken
}

type digest interface {
	io.Writer
	Sum(b []byte) []byte
}

func newUncutter(size int64, next func() ([]byte, error)) *uncutter {
	return &uncutter{next: next, left: size, sum: sha256.New()}
}

// item returns the next item, io.EOF behind the last, or [event.ErrMalformed].
func (u *uncutter) item() (Item, error) {
	if u.left == 0 && len(u.buf) == 0 {
		if _, err := u.next(); err != io.EOF {
			return Item{}, fmt.Errorf("state is longer than it should be: %w", errOr(err, event.ErrMalformed))
		}
		return Item{}, io.EOF
	}
	key, err := u.lengthAndBytes()
	if err != nil {
		return Item{}, err
	}
	value, err := u.lengthAndBytes()
	return Item{Key: key, Value: value}, err
}

func errOr(err, or error) error {
	if err == nil {
		return or
	}
	return err
}

func (u *uncutter) lengthAndBytes() ([]byte, error) {
	l, err := u.take(8)
	if err != nil {
		return nil, err
	}
	return u.take(binary.BigEndian.Uint64(l))
}

// take returns the next n bytes, which are the caller's.
func (u *uncutter) take(n uint64) ([]byte, error) {
	if u.left < 0 || n > uint64(u.left) {
		return nil, fmt.Errorf("state ends within an item: %w", event.ErrMalformed)
	}
	u.left -= int64(n)
	out := make([]byte, 0, min(n, maxPiece))
	for {
		some := min(n-uint64(len(out)), uint64(len(u.buf)))
		out = append(out, u.buf[:some]...)
		u.buf = u.buf[some:]
		if uint64(len(out)) == n {
			break
		}
		piece, err := u.next()
		if err == io.EOF {
			return nil, fmt.Errorf("state ends within an item: %w", event.ErrMalformed)
		}
		if err != nil {
			return nil, err
		}
		u.buf = piece
	}
	u.sum.Write(out)
	return out, nil
}
