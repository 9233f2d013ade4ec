package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"holdfast/objstore"
)

const (
	writers = 16
	rounds  = 40
)

func testIfAbsent(t *testing.T, b objstore.Bucket) {
	create := objstore.PutOptions{IfAbsent: true}
	if _, err := putString(timeout(t), b, "d/k", "first", create); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"first", "second", ""} {
		_, err := putString(timeout(t), b, "d/k", value, create)
		wantError(t, "second create", err, objstore.ErrExists)
		wantValue(t, b, "d/k", "first")
	}
	if err := b.Delete(timeout(t), "d/k"); err != nil {
		t.Fatal(err)
	}
	if _, err := putString(timeout(t), b, "d/k", "third", create); err != nil {
		t.Fatalf("create after delete: %v", err)
	}
	wantValue(t, b, "d/k", "third")
}

func testIfMatch(t *testing.T, b objstore.Bucket) {
	first := mustPut(t, b, "k", "1")
	second, err := putString(timeout(t), b, "k", "2", objstore.PutOptions{IfMatch: first.ETag})
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, b, "k", "2")
	_, err = putString(timeout(t), b, "k", "3", objstore.PutOptions{IfMatch: first.ETag})
	wantError(t, "swap with an old ETag", err, objstore.ErrChanged)
	_, err = putString(timeout(t), b, "k", "3", objstore.PutOptions{IfMatch: "no such etag"})
	wantError(t, "swap with a strange ETag", err, objstore.ErrChanged)
	wantValue(t, b, "k", "2")
	if err := b.Delete(timeout(t), "k"); err != nil {
		t.Fatal(err)
	}
	_, err = putString(timeout(t), b, "k", "3", objstore.PutOptions{IfMatch: second.ETag})
	wantError(t, "swap of a deleted key", err, objstore.ErrChanged)
	wantAbsent(t, b, "k")
}

// race lets all writers put at once and returns the index of the one that
// succeeded. Every other must fail with want.
func race(t *testing.T, b objstore.Bucket, key string, opt objstore.PutOptions, value func(i int) string, want error) int {
	t.Helper()
	var (
		wg    sync.WaitGroup
		start = make(chan struct{})
		errs  [writers]error
	)
	ctx := timeout(t)
	for i := range writers {
		wg.Go(func() {
			<-start
			_, errs[i] = putString(ctx, b, key, value(i), opt)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both won %s", winner, i, key)
		case err == nil:
			winner = i
		case !errors.Is(err, want) || errors.Is(err, objstore.ErrAmbiguous):
			t.Fatalf("loser %d of %s: %v, want %v", i, key, err, want)
		}
	}
	return winner
}

// testRaceToCreate: exactly one of sixteen writers wins every key, and what is
// there afterwards is the winner's. The values have different lengths, so that a
// mixture would show.
func testRaceToCreate(t *testing.T, b objstore.Bucket) {
	for round := range rounds {
		key := fmt.Sprintf("log/00/%020d", round)
		value := func(i int) string { return strings.Repeat(fmt.Sprintf("writer %d;", i), 100+i) }
		winner := race(t, b, key, objstore.PutOptions{IfAbsent: true}, value, objstore.ErrExists)
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		wantValue(t, b, key, value(winner))
	}
}

// testRaceToSwap: exactly one of sixteen writers that saw the same version
// replaces it.
func testRaceToSwap(t *testing.T, b objstore.Bucket) {
	info := mustPut(t, b, "lease/x", "start")
	for round := range rounds {
		value := func(i int) string { return fmt.Sprintf("epoch %d, holder %d", round, i) }
		winner := race(t, b, "lease/x", objstore.PutOptions{IfMatch: info.ETag}, value, objstore.ErrChanged)
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		info = wantValue(t, b, "lease/x", value(winner))
	}
}

// testRepeatAfterLostAnswer is what a caller does whose answer was lost: it puts
// the same bytes again, hears "exists", and finds its own bytes there.
func testRepeatAfterLostAnswer(t *testing.T, b objstore.Bucket) {
	const value = "segment with a nonce"
	body := strings.NewReader(value)
	create := objstore.PutOptions{IfAbsent: true}
	if _, err := b.Put(timeout(t), "log/00/1", body, body.Size(), create); err != nil {
		t.Fatal(err) // Its answer is the one that is lost.
	}
	for range 3 {
		_, err := b.Put(timeout(t), "log/00/1", body, body.Size(), create)
		wantError(t, "repeated create", err, objstore.ErrExists)
		wantValue(t, b, "log/00/1", value)
	}
}

// testVisibleWhole reads and lists keys while they are being created: a value
// is there whole or not at all.
func testVisibleWhole(t *testing.T, b objstore.Bucket) {
	const size = 200_000
	value := random(size)
	ctx := timeout(t)
	var (
		wg   sync.WaitGroup
		done = make(chan struct{})
	)
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				key := fmt.Sprintf("v/%d", (n+i)%10)
				got, info, err := objstore.ReadAll(ctx, b, key, size)
				if errors.Is(err, objstore.ErrNotExist) {
					continue
				}
				if err != nil || info.Size != size || string(got) != value {
					t.Errorf("read during Put: %d bytes, info size %d, %v", len(got), info.Size, err)
					return
				}
			}
		})
	}
	for i := range 10 {
		mustPut(t, b, fmt.Sprintf("v/%d", i), value)
	}
	close(done)
	wg.Wait()
}

func testDeleteTwice(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "d/k", "x")
	mustPut(t, b, "d/l", "y")
	for range 2 {
		if err := b.Delete(timeout(t), "d/k"); err != nil {
			t.Fatal(err)
		}
		wantAbsent(t, b, "d/k")
	}
	for _, key := range []string{"never/was", "d", "d/l/below"} {
		if err := b.Delete(timeout(t), key); err != nil {
			t.Fatalf("Delete of %s, which does not exist: %v", key, err)
		}
	}
	wantValue(t, b, "d/l", "y")
}

func testCancelled(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "k", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := putString(ctx, b, "new", "x", objstore.PutOptions{})
	wantError(t, "cancelled Put", err, context.Canceled)
	wantAbsent(t, b, "new")
	_, _, err = b.Get(ctx, "k", 0, -1)
	wantError(t, "cancelled Get", err, context.Canceled)
	wantError(t, "cancelled Delete", b.Delete(ctx, "k"), context.Canceled)
	wantValue(t, b, "k", "x")
	var listed error
	for _, err := range b.List(ctx, "", "") {
		listed = err
	}
	wantError(t, "cancelled List", listed, context.Canceled)
}

// testCancelledMidway cancels a Put while its body is read, and a Get between
// two reads.
func testCancelledMidway(t *testing.T, b objstore.Bucket) {
	const size = 8 << 20
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := &hookBody{Reader: bytes.NewReader(make([]byte, size)), after: size / 2, hook: cancel}
	_, err := b.Put(ctx, "k", body, size, objstore.PutOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Put cancelled midway: %v", err)
	}
	if !errors.Is(err, objstore.ErrAmbiguous) {
		wantAbsent(t, b, "k")
	}

	mustPut(t, b, "big", strings.Repeat("0123456789abcdef", size/16))
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, _, err := b.Get(ctx, "big", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := io.Copy(io.Discard, r); err == nil || n >= size-1000 {
		t.Fatalf("read on for %d bytes after cancellation: %v", n, err)
	}
}

// hookBody calls hook once when the first after bytes have been read.
type hookBody struct {
	*bytes.Reader
	after int64
	hook  func()
}

func (h *hookBody) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if h.Size()-int64(h.Len()) >= h.after {
		h.hook()
	}
	return n, err
}

// WriteTo hides the one of bytes.Reader, which would not call the hook.
func (h *hookBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{h})
}

// testBoundedMemory puts and gets a value far larger than the buffers it may
// take. A bucket that keeps its values in memory is allowed those.
func testBoundedMemory(t *testing.T, b objstore.Bucket) {
	const size, budget = 64 << 20, 16 << 20
	if _, err := b.Put(timeout(t), "warm", strings.NewReader("x"), 1, objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if m, ok := b.(interface{ InMemory() bool }); ok && m.InMemory() {
		return // There is nothing to bound.
	}
	before := allocated()
	if _, err := b.Put(timeout(t), "big", &zeroes{size: size}, size, objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if used := allocated() - before; used > budget {
		t.Errorf("Put of %d MiB allocated %d MiB", size>>20, used>>20)
	}
	before = allocated()
	r, _, err := b.Get(timeout(t), "big", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); n != size || err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	if used := allocated() - before; used > budget {
		t.Errorf("Get of %d MiB allocated %d MiB", size>>20, used>>20)
	}
}

// allocated is all memory ever taken from the heap, whether or not it was given
// back: a bound on it is a bound on what was held.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// zeroes is a long body that takes no memory.
type zeroes struct{ size, at int64 }

func (z *zeroes) Read(p []byte) (int, error) {
	if z.at == z.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.size-z.at)
	clear(p[:n])
	z.at += n
	return int(n), nil
}

func (z *zeroes) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		z.at = off
	case io.SeekCurrent:
		z.at += off
	case io.SeekEnd:
		z.at = z.size + off
	}
	return z.at, nil
}
