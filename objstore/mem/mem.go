// Package mem is a bucket in memory, for tests and simulation.
//
// Fault model: none. Every call either takes effect wholly before it returns or
// not at all, nothing is lost while the Bucket lives, and everything is lost
// with it. Wrap it in package fault for anything worse. It starts no goroutine,
// blocks on nothing but its own mutex and takes time from package time, so it
// works inside a testing/synctest bubble.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/objstore"
)

// Bucket implements objstore.Bucket and objstore.Clock. Use New.
type Bucket struct {
	mu      sync.Mutex
	keys    []string // sorted
	objects map[string]object
	version uint64 // of the latest Put; makes ETags
}

type object struct {
	data []byte // never changed once stored
	info objstore.Info
}

// New returns an empty bucket.
func New() *Bucket { return &Bucket{objects: make(map[string]object)} }

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	data, err := b.receive(ctx, key, body, size, opt)
	if err != nil {
		return objstore.Info{}, fmt.Errorf("mem put: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, exists := b.objects[key]
	if opt.IfAbsent && exists {
		return objstore.Info{}, fmt.Errorf("mem put: %w", objstore.ErrExists)
	}
	if opt.IfMatch != "" && (!exists || old.info.ETag != opt.IfMatch) {
		return objstore.Info{}, fmt.Errorf("mem put: %w", objstore.ErrChanged)
	}
	b.version++
	info := objstore.Info{
		Key: key, Size: size, ETag: "v" + strconv.FormatUint(b.version, 10), Modified: time.Now(),
	}
	if !exists {
		at, _ := slices.BinarySearch(b.keys, key)
		b.keys = slices.Insert(b.keys, at, key)
	}
	b.objects[key] = object{data: data, info: info}
	return info, nil
}

// receive checks the arguments of a Put and reads its body.
func (b *Bucket) receive(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := objstore.ValidKey(key); err != nil {
		return nil, err
	}
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, objstore.ErrBody
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("rewind body: %w", err)
	}
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(body, size+1))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if n != size {
		return nil, objstore.ErrBody
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, objstore.Info{}, fmt.Errorf("mem get: %w", err)
	}
	if err := objstore.ValidKey(key); err != nil {
		return nil, objstore.Info{}, fmt.Errorf("mem get: %w", err)
	}
	if off < 0 {
		return nil, objstore.Info{}, fmt.Errorf("mem get: negative offset %d", off)
	}
	b.mu.Lock()
	o, ok := b.objects[key]
	b.mu.Unlock()
	if !ok {
		return nil, objstore.Info{}, fmt.Errorf("mem get: %w", objstore.ErrNotExist)
	}
	data := o.data[min(off, o.info.Size):]
	if n >= 0 {
		data = data[:min(n, int64(len(data)))]
	}
	return &reader{ctx: ctx, r: bytes.NewReader(data)}, o.info, nil
}

// reader stops when its context is done, as every other bucket's does.
type reader struct {
	ctx context.Context
	r   *bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func (r *reader) Close() error { return nil }

// List implements objstore.Bucket. It takes the lock once per key, so a
// consumer may use the bucket while it iterates.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		for {
			if err := ctx.Err(); err != nil {
				yield(objstore.Info{}, fmt.Errorf("mem list: %w", err))
				return
			}
			info, ok := b.next(prefix, after)
			if !ok || !yield(info, nil) {
				return
			}
			after = info.Key
		}
	}
}

// next returns the first object with the prefix behind after.
func (b *Bucket) next(prefix, after string) (objstore.Info, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, found := slices.BinarySearch(b.keys, max(prefix, after))
	if found && b.keys[at] == after {
		at++
	}
	if at == len(b.keys) || !strings.HasPrefix(b.keys[at], prefix) {
		return objstore.Info{}, false
	}
	return b.objects[b.keys[at]].info, true
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("mem delete: %w", err)
	}
	if err := objstore.ValidKey(key); err != nil {
		return fmt.Errorf("mem delete: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if at, ok := slices.BinarySearch(b.keys, key); ok {
		b.keys = slices.Delete(b.keys, at, at+1)
		delete(b.objects, key)
	}
	return nil
}

// Now implements objstore.Clock.
func (b *Bucket) Now(ctx context.Context) (time.Time, error) {
	return time.Now(), ctx.Err()
}

// InMemory says that values are held in memory, so that nobody measures how
// much of it a Put takes.
func (b *Bucket) InMemory() bool { return true }
