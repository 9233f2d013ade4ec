package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/objstore"
)

// Get implements objstore.Bucket. A part is asked for as a range, so only what
// is wanted travels.
func (b *Bucket) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	r, info, err := b.get(ctx, key, off, n)
	if err != nil {
		return nil, objstore.Info{}, fmt.Errorf("s3 get: %w", err)
	}
	return r, info, nil
}

func (b *Bucket) get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	if err := objstore.ValidKey(key); err != nil {
		return nil, objstore.Info{}, err
	}
	if off < 0 {
		return nil, objstore.Info{}, fmt.Errorf("negative offset %d", off)
	}
	if n == 0 {
		return b.getNothing(ctx, key) // A range cannot be empty.
	}
	var o minio.GetObjectOptions
	if rng := rangeHeader(off, n); rng != "" {
		o.Set("Range", rng)
	}
	body, oi, header, err := b.core.GetObject(ctx, b.name, b.prefix+key, o)
	switch {
	case err != nil && statusOf(err) == http.StatusRequestedRangeNotSatisfiable:
		return b.getNothing(ctx, key) // The offset is at or beyond the end.
	case err != nil:
		return nil, objstore.Info{}, missing(err)
	}
	info := objstore.Info{Key: key, Size: oi.Size, ETag: oi.ETag, Modified: oi.LastModified}
	skip := off // A server may answer a range with the whole value.
	if cr := header.Get("Content-Range"); cr != "" {
		start, total, err := parseContentRange(cr)
		if err != nil || start > off {
			body.Close()
			return nil, objstore.Info{}, errors.New("the server answered with another range than was asked for")
		}
		skip, info.Size = off-start, total
	}
	if info.Size < 0 {
		body.Close()
		return nil, objstore.Info{}, errors.New("the server answered without a length")
	}
	if _, err := io.CopyN(io.Discard, body, min(skip, info.Size)); err != nil {
		body.Close()
		return nil, objstore.Info{}, fmt.Errorf("skip to the offset: %w", err)
	}
	left := max(info.Size-off, 0)
	if n >= 0 {
		left = min(left, n)
	}
	return &partReader{body: body, left: left}, info, nil
}

// getNothing returns an empty reader for a value that exists.
func (b *Bucket) getNothing(ctx context.Context, key string) (io.ReadCloser, objstore.Info, error) {
	oi, err := b.core.StatObject(ctx, b.name, b.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return nil, objstore.Info{}, missing(err)
	}
	info := objstore.Info{Key: key, Size: oi.Size, ETag: oi.ETag, Modified: oi.LastModified}
	return http.NoBody, info, nil
}

// rangeHeader returns the Range of n bytes from off, or "" for the whole.
// RFC 9110 §14.1.2: both ends are inclusive.
func rangeHeader(off, n int64) string {
	switch {
	case off == 0 && n < 0:
		return ""
	case n < 0 || off > math.MaxInt64-n:
		return fmt.Sprintf("bytes=%d-", off)
	}
	return fmt.Sprintf("bytes=%d-%d", off, off+n-1)
}

// parseContentRange reads "bytes START-END/TOTAL" (RFC 9110 §14.4).
func parseContentRange(s string) (start, total int64, err error) {
	span, size, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, _, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, errors.New("malformed Content-Range")
	}
	start, err = strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, 0, errors.New("malformed Content-Range")
	}
	total, err = strconv.ParseInt(size, 10, 64)
	if err != nil || start < 0 || total < start {
		return 0, 0, errors.New("malformed Content-Range")
	}
	return start, total, nil
}

// missing translates an answer that says there is no such key.
func missing(err error) error {
	if statusOf(err) != http.StatusNotFound || codeOf(err) == minio.NoSuchBucket {
		return away(err)
	}
	return objstore.ErrNotExist
}

// partReader reads exactly what was promised, or says that the transfer broke.
type partReader struct {
	body io.ReadCloser
	left int64
}

func (r *partReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == io.EOF {
		if r.left > 0 {
			err = io.ErrUnexpectedEOF
		} else if n > 0 {
			err = nil
		}
	}
	return n, err
}

func (r *partReader) Close() error { return r.body.Close() }

// List implements objstore.Bucket. It asks for one page of at most a thousand
// keys at a time. Keys that ValidKey refuses are somebody else's and passed over.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // Lets go of what the client may have under way.
		noOwner := false
		o := minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true, FetchOwner: &noOwner}
		if after != "" {
			o.StartAfter = b.prefix + after
		}
		last := ""
		for oi := range b.core.ListObjectsIter(ctx, b.name, o) {
			if oi.Err != nil {
				yield(objstore.Info{}, fmt.Errorf("s3 list: %w", away(oi.Err)))
				return
			}
			key, ok := strings.CutPrefix(oi.Key, b.prefix)
			if !ok || !strings.HasPrefix(key, prefix) || key <= after || objstore.ValidKey(key) != nil {
				continue
			}
			if key <= last {
				yield(objstore.Info{}, errors.New("s3 list: the server does not list in order of keys"))
				return
			}
			last = key
			if !yield(objstore.Info{Key: key, Size: oi.Size, ETag: oi.ETag, Modified: oi.LastModified}, nil) {
				return
			}
		}
		// The client ends a cancelled listing without a word.
		if err := ctx.Err(); err != nil {
			yield(objstore.Info{}, fmt.Errorf("s3 list: %w", err))
		}
	}
}

// Delete implements objstore.Bucket. On a versioned bucket older versions stay.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := objstore.ValidKey(key); err != nil {
		return fmt.Errorf("s3 delete: %w", err)
	}
	err := b.core.RemoveObject(ctx, b.name, b.prefix+key, minio.RemoveObjectOptions{})
	if locked(err) {
		return fmt.Errorf("s3 delete: %w: %w", objstore.ErrLocked, err)
	}
	if err != nil && !errors.Is(missing(err), objstore.ErrNotExist) {
		return fmt.Errorf("s3 delete: %w", err)
	}
	return nil
}

// locked tells a refusal because of Object Lock from others. Servers have a code
// for it that says less than their words.
func locked(err error) bool {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return false
	}
	text := strings.ToLower(r.Message)
	return r.Code == "ObjectLocked" || strings.Contains(text, "object lock") || strings.Contains(text, "worm protected")
}

// History implements objstore.Historian. Versions that were kept before
// versioning was suspended are still there, so that counts.
func (b *Bucket) History(ctx context.Context) (h objstore.History, err error) {
	v, err := b.core.GetBucketVersioning(ctx, b.name)
	switch {
	case codeOf(err) == "VersioningNotConfigured" || statusOf(err) == http.StatusNotImplemented:
	case err != nil:
		return h, fmt.Errorf("s3 versioning: %w", away(err))
	default:
		h.Versioned = v.Enabled() || v.Suspended()
	}
	lock, _, _, _, err := b.core.GetObjectLockConfig(ctx, b.name)
	switch {
	case statusOf(err) == http.StatusNotFound, statusOf(err) == http.StatusNotImplemented, codeOf(err) == "ObjectLockConfigurationNotFoundError":
	case err != nil:
		return h, fmt.Errorf("s3 object lock: %w", away(err))
	default:
		h.Locked = lock == "Enabled"
	}
	return h, nil
}

// Now implements objstore.Clock by the Date of an answer, to the second
// (RFC 9110 §6.6.1). Any answer will do, so it asks for a key that never exists.
func (b *Bucket) Now(ctx context.Context) (time.Time, error) {
	ctx, x := withExchange(ctx)
	_, err := b.core.StatObject(ctx, b.name, b.prefix+"probe/clock", minio.StatObjectOptions{})
	if now := x.serverTime(); !now.IsZero() {
		return now, nil
	}
	if err == nil {
		err = errors.New("the answer has no date")
	}
	return time.Time{}, fmt.Errorf("s3 clock: %w", away(err))
}
