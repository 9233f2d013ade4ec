// Package objstore is the seam to object storage: the one place where bytes
// become durable.
//
// A [Bucket] is a flat, sorted map from keys to immutable values with three
// properties everything above it is built on: a Put that returned without
// error survives a crash of whatever it promised to survive (see each
// implementation), a Put with [PutOptions.IfAbsent] has exactly one winner per
// key, and a Put with [PutOptions.IfMatch] is a compare-and-swap.
//
// Implementations live in sub-packages: fs (a local directory), s3 (any
// S3-compatible server), mem (a map, for tests and simulation) and fault
// (wraps another bucket and misbehaves on demand). All of them pass the
// conformance suite in objstoretest. Package open chooses one by URL.
package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

var (
	// ErrNotExist is returned by Get when there is no value under the key.
	ErrNotExist = errors.New("object does not exist")

	// ErrExists is returned by a Put with IfAbsent when another Put of the same
	// key won, or was at it in the same moment. The caller reads the key to see
	// what won; with a store that answers "conflict" to both racers the key may
	// still be missing then, and the Put is simply tried again.
	ErrExists = errors.New("object exists already")

	// ErrChanged is returned by a Put with IfMatch when the value under the key
	// is not the expected one, or there is none.
	ErrChanged = errors.New("object was changed")

	// ErrAmbiguous is wrapped by a Put's error when it is unknown whether the
	// Put took effect: the answer was lost, the deadline passed after bytes had
	// been sent, or the store failed in the middle. The value may even appear
	// later. The caller settles it by repeating the same bytes under the same
	// key, or by reading back, and puts nothing else there meanwhile.
	//
	// An error of Put that does not wrap ErrAmbiguous means that this Put has
	// not taken and will not take effect.
	ErrAmbiguous = errors.New("outcome unknown")

	// ErrUnavailable is wrapped when a store could not be reached, or said that it
	// cannot serve now: the same call may work later. Stores wrap it where they
	// can tell; its absence says nothing.
	ErrUnavailable = errors.New("the store does not answer")

	// ErrUnconditional is returned by ProbeConditional for a store that ignores
	// or does not support conditional writes. Nothing may be kept there.
	ErrUnconditional = errors.New("store does not honour conditional writes")

	// ErrInvalidKey is returned by every method for a key that ValidKey
	// refuses.
	ErrInvalidKey = errors.New("invalid key")

	// ErrTooLarge is returned by ReadAll for a value larger than its limit.
	ErrTooLarge = errors.New("object is larger than the limit")

	// ErrLocked is wrapped by Delete's error for a value that the store keeps
	// whoever asks, as it was told to (S3 Object Lock). It is still there.
	ErrLocked = errors.New("the store does not let the object go")

	// ErrBody is returned by Put when the body is not exactly as long as the
	// size given. Nothing was stored.
	ErrBody = errors.New("body does not have the stated size")
)

// Info describes a stored value.
type Info struct {
	Key      string
	Size     int64     // of the whole value in bytes, also for a ranged Get
	ETag     string    // opaque; see Bucket.Put about when it changes
	Modified time.Time // by the store's clock; may be truncated to seconds
}

// PutOptions are the conditions of a Put. The zero value overwrites whatever
// is there. At most one condition may be set.
type PutOptions struct {
	IfAbsent bool   // only if there is no value under the key, else ErrExists
	IfMatch  string // only if the value has this ETag, else ErrChanged
}

// Validate reports conditions that exclude each other.
func (o PutOptions) Validate() error {
	if o.IfAbsent && o.IfMatch != "" {
		return errors.New("put conditions IfAbsent and IfMatch exclude each other")
	}
	return nil
}

// Bucket is a sorted map of immutable values.
//
// All methods may be called from any number of goroutines at once and honour
// ctx. Keys are checked with ValidKey. A key must not be the directory of
// another: with "a/b" stored, a Put of "a" or of "a/b/c" may fail definitely.
type Bucket interface {
	// Put stores size bytes of body under key and returns when they are
	// durable. The body is rewound to its start first, so that the same body may
	// be given again; it must hold exactly size bytes, else ErrBody.
	//
	// A value appears whole or not at all. The ETag in the returned Info
	// identifies this value; it changes whenever the bytes under the key change.
	// A store may give equal bytes equal ETags, so what is changed by
	// compare-and-swap carries an epoch or nonce in its bytes.
	//
	// Errors: ErrExists and ErrChanged for an unmet condition; one wrapping
	// ErrAmbiguous when the outcome is unknown; any other means that this Put
	// has no effect, now or later. An unmet condition may stem from an earlier
	// ambiguous Put of the caller's own.
	Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt PutOptions) (Info, error)

	// Get reads n bytes from offset off, or to the end if n is negative. Fewer
	// are returned where the value ends earlier; an offset at or beyond the end
	// gives an empty reader and no error. Info always describes the whole value.
	// The reader sees one version of the value whatever happens to the key
	// meanwhile, reports a transfer that broke off as an error (never as a plain
	// io.EOF), stops when ctx is done, and must be closed.
	Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, Info, error)

	// List yields what is stored under keys that start with prefix and are
	// greater than after, sorted by the bytes of the key. An error is yielded
	// once, at the end. Memory is bounded however many keys there are. Values put
	// or deleted during the listing may or may not be seen. Prefix and after are
	// compared as plain strings and need not be valid keys.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]

	// Delete removes the value durably. It may be called again, and is no error
	// for a key that does not exist. After an error the value may or may not be
	// there.
	Delete(ctx context.Context, key string) error
}

// Clock is an optional interface of a Bucket: the store's own clock, by which
// retention counts. It may be truncated to seconds.
type Clock interface {
	Now(ctx context.Context) (time.Time, error)
}

// Historian is an optional interface of a Bucket whose store may keep what is
// overwritten or deleted.
type Historian interface {
	// History says what the store keeps. It may be called at any time.
	History(ctx context.Context) (History, error)
}

// History is what a store keeps although it was overwritten or deleted.
type History struct {
	Versioned bool // earlier versions can be read, for how long is not said
	Locked    bool // objects may be locked against their removal
}

const (
	// MaxKeyLen is the longest key in bytes.
	MaxKeyLen = 512
	// maxSegmentLen is what file systems take as one name.
	maxSegmentLen = 255
)

// ValidKey reports whether key may name an object: one or more segments
// separated by single slashes, each of 1 to 255 bytes from [a-z0-9._-] and
// neither "." nor "..", at most MaxKeyLen bytes in all. Its error wraps
// ErrInvalidKey.
func ValidKey(key string) error {
	if key == "" || len(key) > MaxKeyLen {
		return fmt.Errorf("%w: length %d is not in 1..%d", ErrInvalidKey, len(key), MaxKeyLen)
	}
	for seg := range strings.SplitSeq(key, "/") {
		if seg == "" || seg == "." || seg == ".." || len(seg) > maxSegmentLen {
			return fmt.Errorf("%w: empty, dotted or overlong segment", ErrInvalidKey)
		}
		for i := range len(seg) {
			if !keyByte(seg[i]) {
				return fmt.Errorf("%w: byte %#02x", ErrInvalidKey, seg[i])
			}
		}
	}
	return nil
}

func keyByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

// ReadAll reads the whole value under key, which must not be larger than limit
// bytes, else ErrTooLarge. It checks that it received as many bytes as the store
// says the value has.
func ReadAll(ctx context.Context, b Bucket, key string, limit int64) ([]byte, Info, error) {
	r, info, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, Info{}, err
	}
	defer r.Close()
	if info.Size < 0 || info.Size > limit {
		return nil, info, fmt.Errorf("read object: %w: %d bytes, limit %d", ErrTooLarge, info.Size, limit)
	}
	data := make([]byte, info.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // An empty answer to a request for more is a torn read too.
		}
		return nil, info, fmt.Errorf("read object of %d bytes: %w", info.Size, err)
	}
	return data, info, nil
}
