package year

import (
	"context"
	"io"
	"iter"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/objstore"
)

// page is how many keys one LIST request of S3 answers with.
const page = 1000

// Counts are requests as a store bills them.
type Counts struct {
	Put, Get, List, Delete int64
	In, Out                int64 // bytes
}

// Minus returns what came since an earlier count.
func (c Counts) Minus(o Counts) Counts {
	return Counts{c.Put - o.Put, c.Get - o.Get, c.List - o.List, c.Delete - o.Delete, c.In - o.In, c.Out - o.Out}
}

// Meter counts the requests to a bucket. Its fault model is that of the bucket
// below it, and what Before and After do.
type Meter struct {
	objstore.Bucket

	hooks                                atomic.Pointer[[2]func(op, key string) error]
	put, get, missed, list, del, in, out atomic.Int64

	mu    sync.Mutex
	kinds Kinds
}

// Kinds are requests by what they do and to what: "get log", and "miss log" for
// one that found nothing.
type Kinds map[string]int64

// Kinds returns the requests so far.
func (m *Meter) Kinds() Kinds {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.kinds)
}

func (m *Meter) note(op, key string) {
	dir, _, _ := strings.Cut(key, "/")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kinds == nil {
		m.kinds = Kinds{}
	}
	m.kinds[op+" "+dir]++
}

// Minus returns what came since an earlier count.
func (k Kinds) Minus(o Kinds) Kinds {
	out := Kinds{}
	for what, n := range k {
		if n -= o[what]; n != 0 {
			out[what] = n
		}
	}
	return out
}

// Counts returns the requests so far.
func (m *Meter) Counts() Counts {
	return Counts{m.put.Load(), m.get.Load(), m.list.Load(), m.del.Load(), m.in.Load(), m.out.Load()}
}

// Missed returns how many of the gets asked for what is not there: looks for a
// next segment.
func (m *Meter) Missed() int64 { return m.missed.Load() }

// Hook sets who is asked about each request from now on; either may be nil. before
// may hold it up, or refuse it. after is asked when a request has had its effect,
// and may lose the answer.
func (m *Meter) Hook(before, after func(op, key string) error) {
	m.hooks.Store(&[2]func(op, key string) error{before, after})
}

func (m *Meter) before(op, key string) error { return m.asked(0, op, key) }
func (m *Meter) after(op, key string) error  { return m.asked(1, op, key) }

func (m *Meter) asked(when int, op, key string) error {
	if h := m.hooks.Load(); h != nil && h[when] != nil {
		return h[when](op, key)
	}
	return nil
}

// Put implements objstore.Bucket.
func (m *Meter) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if err := m.before("put", key); err != nil {
		return objstore.Info{}, err
	}
	m.put.Add(1)
	m.note("put", key)
	m.in.Add(size)
	info, err := m.Bucket.Put(ctx, key, body, size, opt)
	if err == nil {
		err = m.after("put", key)
	}
	return info, err
}

// Get implements objstore.Bucket.
func (m *Meter) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	if err := m.before("get", key); err != nil {
		return nil, objstore.Info{}, err
	}
	m.get.Add(1)
	r, info, err := m.Bucket.Get(ctx, key, off, n)
	if err != nil {
		m.missed.Add(1)
		m.note("miss", key)
		return r, info, err
	}
	m.note("get", key)
	return &metered{r, m}, info, nil
}

type metered struct {
	io.ReadCloser
	m *Meter
}

// Read implements io.Reader.
func (r *metered) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.m.out.Add(int64(n))
	return n, err
}

// List implements objstore.Bucket.
func (m *Meter) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		if err := m.before("list", prefix); err != nil {
			yield(objstore.Info{}, err)
			return
		}
		m.list.Add(1)
		m.note("list", prefix)
		n := 0
		for info, err := range m.Bucket.List(ctx, prefix, after) {
			if n++; n > page {
				m.list.Add(1)
				n = 1
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// Delete implements objstore.Bucket.
func (m *Meter) Delete(ctx context.Context, key string) error {
	if err := m.before("delete", key); err != nil {
		return err
	}
	m.del.Add(1)
	m.note("delete", key)
	err := m.Bucket.Delete(ctx, key)
	if err == nil {
		err = m.after("delete", key)
	}
	return err
}

// Now implements objstore.Clock where the bucket below does.
func (m *Meter) Now(ctx context.Context) (time.Time, error) {
	if c, ok := m.Bucket.(objstore.Clock); ok {
		return c.Now(ctx)
	}
	return time.Time{}, nil
}

// Stock is what lies in a bucket, by the first part of its key.
type Stock map[string]struct{ Objects, Bytes int64 }

// stock counts what lies in a bucket.
func stock(ctx context.Context, b objstore.Bucket) (Stock, error) {
	s := Stock{}
	for info, err := range b.List(ctx, "", "") {
		if err != nil {
			return nil, err
		}
		dir, _, _ := strings.Cut(info.Key, "/")
		n := s[dir]
		n.Objects++
		n.Bytes += info.Size
		s[dir] = n
	}
	return s, nil
}

// Total adds everything up.
func (s Stock) Total() (objects, bytes int64) {
	for _, n := range s {
		objects += n.Objects
		bytes += n.Bytes
	}
	return objects, bytes
}
