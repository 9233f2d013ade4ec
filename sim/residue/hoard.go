package residue

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"holdfast/objstore"
)

// Hoard passes everything on to a bucket and keeps all that was ever put into
// it. Its fault model is that of the bucket below it: it stands under everything
// that misbehaves. All methods may be called by any goroutine.
type Hoard struct {
	objstore.Bucket

	mu     sync.Mutex // never held over a call to the bucket
	new    []version
	leases map[string][]byte
}

// version is an object as it was put once.
type version struct {
	key  string
	data []byte
}

// NewHoard returns a Hoard over a bucket, with what is in it already.
func NewHoard(ctx context.Context, below objstore.Bucket) (*Hoard, error) {
	h := &Hoard{Bucket: below, leases: map[string][]byte{}}
	const most = 1 << 30
	for info, err := range below.List(ctx, "", "") {
		if err != nil {
			return nil, fmt.Errorf("list what there is to hoard: %w", err)
		}
		data, _, err := objstore.ReadAll(ctx, below, info.Key, most)
		if err != nil {
			return nil, fmt.Errorf("hoard %s: %w", info.Key, err)
		}
		h.new = append(h.new, version{info.Key, data})
	}
	return h, nil
}

// Put implements objstore.Bucket.
func (h *Hoard) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return objstore.Info{}, fmt.Errorf("rewind body: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(body, size+1))
	if err != nil {
		return objstore.Info{}, fmt.Errorf("read body: %w", err)
	}
	info, err := h.Bucket.Put(ctx, key, bytes.NewReader(data), size, opt)
	if err == nil {
		h.keep(key, data)
	}
	return info, err
}

// Now implements objstore.Clock where the bucket below does.
func (h *Hoard) Now(ctx context.Context) (time.Time, error) {
	if c, ok := h.Bucket.(objstore.Clock); ok {
		return c.Now(ctx)
	}
	return time.Time{}, nil
}

// keep keeps one version. Of leases, which are renewed every few seconds and hold
// nothing but numbers, it keeps the newest.
func (h *Hoard) keep(key string, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if strings.HasPrefix(key, "lease/") {
		h.leases[key] = data
		return
	}
	h.new = append(h.new, version{key, data})
}

// take returns what has come since the last call.
func (h *Hoard) take() []version {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.new
	h.new = nil
	for key, data := range h.leases {
		out = append(out, version{key, data})
	}
	clear(h.leases)
	return out
}
