package eventlog

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// sink forgets blobs, and measures the heap whenever one comes.
type sink struct {
	objstore.Bucket
	mu   sync.Mutex
	puts int
	peak uint64
}

func (s *sink) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if !strings.HasPrefix(key, "blob/") {
		return s.Bucket.Put(ctx, key, body, size, opt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts++; s.puts%8 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s.peak = max(s.peak, m.HeapInuse)
	}
	return objstore.Info{Key: key, Size: size}, nil
}

// Twenty senders of 50 MB at a time take what the budget of buffers allows.
func TestLargeBodiesTakeBoundedMemory(t *testing.T) {
	s := &sink{Bucket: mem.New()}
	f := openFixture(t, newOptions(t, s))
	chunk := randomBytes(100)
	chunk = bytes.Repeat(chunk, 640) // compresses well, so that time goes by quickly, but for every fourth
	noise := randomBytes(64 << 10)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			w, err := f.NewBody(context.Background(), event.NewID(), f.tenant, f.day)
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Discard()
			for n := 0; n < 50<<20; n += 64 << 10 {
				piece := chunk
				if n>>16&3 == 0 {
					piece = noise
				}
				if _, err := w.Write(piece); err != nil {
					t.Error(err)
					return
				}
			}
			if _, err := w.Finish(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.puts < 50 {
		t.Errorf("%d parts were put", s.puts)
	}
	// The buffers are 64 MiB, and garbage may be as much again.
	const bound = 160 << 20
	if used := s.peak - min(s.peak, before.HeapInuse); used > bound {
		t.Errorf("20 bodies of 50 MB took %d MiB, want at most %d", used>>20, bound>>20)
	} else {
		t.Logf("20 bodies of 50 MB took %d MiB", used>>20)
	}
}
