package crypto

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

var errBroken = errors.New("broken")

// brokenWriter fails after n bytes.
type brokenWriter struct{ n int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if len(p) > w.n {
		n := w.n
		w.n = 0
		return n, errBroken
	}
	w.n -= len(p)
	return len(p), nil
}

// shortWriter takes one byte less than it is given, without an error.
type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) - 1, nil }

func TestStreamSealerFails(t *testing.T) {
	c := NewCodec()
	plain := noise(3*chunkSize, 1)
	for _, n := range []int{0, 100, maxSealedChunk, 2*maxSealedChunk + 5, 3*maxSealedChunk + 10} {
		s := c.NewStreamSealer(testLeaf(1), testBinding(1), &brokenWriter{n})
		_, err := s.Write(plain)
		if err == nil {
			err = s.Close()
		}
		if !errors.Is(err, errBroken) {
			t.Errorf("output broken after %d bytes: %v", n, err)
		}
		if _, err := s.Write(plain); !errors.Is(err, errBroken) {
			t.Errorf("write after a failure: %v", err)
		}
		if err := s.Close(); !errors.Is(err, errBroken) {
			t.Errorf("close after a failure: %v", err)
		}
	}
	s := c.NewStreamSealer(testLeaf(1), testBinding(1), shortWriter{})
	if err := s.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("an output that takes too little: %v", err)
	}
	s = c.NewStreamSealer(testLeaf(1), testBinding(1), io.Discard)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(nil); !errors.Is(err, errSealerClosed) {
		t.Errorf("write after close: %v", err)
	}
	if err := s.Close(); !errors.Is(err, errSealerClosed) {
		t.Errorf("second close: %v", err)
	}
}

// source counts what is fetched of a stream.
type source struct {
	mu    sync.Mutex
	b     []byte
	calls int
	bytes int
	fail  error
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	s.calls++
	s.bytes += len(p)
	return bytes.NewReader(s.b).ReadAt(p, off)
}

func TestStreamReaderFetchesOnlyWhatItNeeds(t *testing.T) {
	c := NewCodec()
	plain := noise(20*chunkSize, 1)
	sealed, commit := sealStream(t, c, testLeaf(1), testBinding(1), plain, 1<<20)
	src := &source{b: sealed}
	r, err := c.OpenStream(testLeaf(1), testBinding(1), commit, src, int64(len(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what string, calls, most int) {
		t.Helper()
		if src.calls != calls || src.bytes > most {
			t.Errorf("%s: %d reads of %d bytes, want %d of at most %d", what, src.calls, src.bytes, calls, most)
		}
		src.calls, src.bytes = 0, 0
	}
	expect("open", 1, tailSize)
	p := make([]byte, 10)
	for range 2 { // the second is served from the chunk at hand
		if _, err := r.ReadAt(p, 7*chunkSize+5); err != nil || !bytes.Equal(p, plain[7*chunkSize+5:][:10]) {
			t.Fatal(err)
		}
	}
	expect("ten bytes", 1, maxSealedChunk)
	if _, err := r.ReadAt(p, 8*chunkSize-5); err != nil || !bytes.Equal(p, plain[8*chunkSize-5:][:10]) {
		t.Fatal(err)
	}
	expect("ten bytes over a border", 1, maxSealedChunk)
	if _, err := r.Seek(-20, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain[len(plain)-20:]) {
		t.Fatal(err)
	}
	expect("the end", 1, maxSealedChunk)

	src.fail = errBroken
	if _, err := r.ReadAt(p, 0); !errors.Is(err, errBroken) {
		t.Errorf("a broken source: %v", err)
	}
	if _, err := c.OpenStream(testLeaf(1), testBinding(1), commit, src, int64(len(sealed))); !errors.Is(err, errBroken) {
		t.Errorf("open over a broken source: %v", err)
	}
	src.fail = nil
	src.b = sealed[:3*maxSealedChunk]
	if _, err := r.ReadAt(p, 5*chunkSize); !errors.Is(err, ErrMalformed) || errors.Is(err, io.EOF) {
		t.Errorf("a source that ended: %v", err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("a negative position")
	}
	if _, err := r.Seek(0, 9); err == nil {
		t.Error("an unknown whence")
	}
	if _, err := r.ReadAt(p, -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a negative offset: %v", err)
	}
}

func TestSmallBodyIsFetchedOnce(t *testing.T) {
	c := NewCodec()
	plain := text(20_000, 1)
	sealed, commit := sealStream(t, c, testLeaf(1), testBinding(1), plain, 1<<20)
	src := &source{b: sealed}
	r, err := c.OpenStream(testLeaf(1), testBinding(1), commit, src, int64(len(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
		t.Fatal(err)
	}
	if src.calls != 1 {
		t.Errorf("%d reads of the source, want 1", src.calls)
	}
}

// A table larger than the tail is fetched by a second read.
func TestStreamWithLongTable(t *testing.T) {
	c := NewCodec()
	const chunks = tailSize/4 + 10
	plain := make([]byte, chunks*chunkSize)
	copy(plain[5000*chunkSize/2:], "here")
	sealed, commit := sealStream(t, c, testLeaf(1), testBinding(1), plain, 1<<20)
	src := &source{b: sealed}
	r, err := c.OpenStream(testLeaf(1), testBinding(1), commit, src, int64(len(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	if src.calls != 2 || r.Size() != int64(len(plain)) {
		t.Errorf("%d reads, size %d", src.calls, r.Size())
	}
	p := make([]byte, 4)
	if _, err := r.ReadAt(p, 5000*chunkSize/2); err != nil || string(p) != "here" {
		t.Errorf("read %q, %v", p, err)
	}
}

func TestStreamReaderConcurrently(t *testing.T) {
	c := NewCodec()
	plain := text(5*chunkSize+99, 1)
	sealed, commit := sealStream(t, c, testLeaf(1), testBinding(1), plain, 1<<20)
	r, err := c.OpenStream(testLeaf(1), testBinding(1), commit, bytes.NewReader(sealed), int64(len(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for j := range 20 {
				off := (i*31_000 + j*17_000) % (len(plain) - 100)
				p := make([]byte, 100)
				if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, plain[off:off+100]) {
					t.Errorf("read at %d: %v", off, err)
				}
			}
		})
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("read beside: %v", err)
	}
	wg.Wait()
}

// The memory of sealing and opening does not grow with the body.
func TestStreamMemory(t *testing.T) {
	c := NewCodec()
	block := noise(1<<20, 1)
	s := c.NewStreamSealer(testLeaf(1), testBinding(1), io.Discard)
	if _, err := s.Write(block); err != nil { // what is allocated once
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 64 {
		if _, err := s.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("sealing 64 MiB allocates %d bytes", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a lying size or table makes the reader allocate is bounded by its input.
func TestStreamAllocationIsBounded(t *testing.T) {
	c := NewCodec()
	sealed, commit := sealStream(t, c, testLeaf(1), testBinding(1), noise(100, 1), 1<<20)
	copy(sealed[len(sealed)-4:], []byte{0xff, 0xff, 0xff, 0xfc})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := c.OpenStream(testLeaf(1), testBinding(1), commit, bytes.NewReader(sealed), int64(len(sealed))); !errors.Is(err, ErrMalformed) {
		t.Errorf("a table longer than the stream: %v", err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
		t.Errorf("opening %d bytes allocates %d", len(sealed), got)
	}
}

// Bubbles do not meet in a codec's compressors.
func TestCodecInBubbles(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			c := NewCodec()
			plain := text(2*chunkSize, 1)
			sealed, commit := sealStream(t, c, testLeaf(1), testBinding(1), plain, 1<<20)
			got, err := readAll(c, testLeaf(1), testBinding(1), commit, sealed)
			if err != nil || !bytes.Equal(got, plain) {
				t.Error(err)
			}
		})
	}
}

// inPlace is a source in memory.
type inPlace struct {
	*bytes.Reader
	all []byte
}

// Slice implements resident.
func (s inPlace) Slice(off, n int64) ([]byte, bool) { return s.all[off:][:n:n], true }

// Bodies are opened one after another, from memory and into memory that was used
// before: that costs next to none, and the bytes stay apart.
func TestBodiesShareMemoryInTurn(t *testing.T) {
	c := NewCodec()
	one, two := text(chunkSize+500, 1), text(chunkSize-500, 2)
	open := func(plain []byte) *StreamReader {
		sealed, commit := sealStream(t, c, testLeaf(1), testBinding(1), plain, 1<<20)
		src := inPlace{bytes.NewReader(sealed), sealed}
		r, err := c.OpenStream(testLeaf(1), testBinding(1), commit, src, int64(len(sealed)))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, second := open(one), open(two)
	half := make([]byte, 1000)
	if _, err := io.ReadFull(first, half); err != nil || !bytes.Equal(half, one[:1000]) {
		t.Fatalf("the first: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(second); err != nil || !bytes.Equal(got, two) {
		t.Errorf("the second: %v", err)
	}
	if got, err := io.ReadAll(first); err != nil || !bytes.Equal(got, one[1000:]) {
		t.Errorf("the first goes on: %v", err)
	}
	var before, after runtime.MemStats
	readers := make([]*StreamReader, 50)
	for i := range readers {
		readers[i] = open(one)
	}
	runtime.ReadMemStats(&before)
	for _, r := range readers {
		if _, err := io.Copy(onlyWriter{io.Discard}, r); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / uint64(len(readers)); got > 40<<10 { // io.Copy's own are 32 KiB
		t.Errorf("reading a body allocates %d bytes", got)
	}
}
