// Package objstoretest is the conformance suite of objstore.Bucket. Every
// implementation passes it; a new one's test is ten lines.
package objstoretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/objstore"
)

// Run runs the whole suite. Open is called once for every test and returns an
// empty bucket, which it closes through t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) objstore.Bucket) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, b objstore.Bucket)
	}{
		{"RoundTrip", testRoundTrip},
		{"Missing", testMissing},
		{"InvalidArguments", testInvalidArguments},
		{"BodySize", testBodySize},
		{"BodyRewound", testBodyRewound},
		{"Ranges", testRanges},
		{"Overwrite", testOverwrite},
		{"ReaderKeepsItsVersion", testReaderKeepsItsVersion},
		{"IfAbsent", testIfAbsent},
		{"IfMatch", testIfMatch},
		{"Probe", testProbe},
		{"RaceToCreate", testRaceToCreate},
		{"RaceToSwap", testRaceToSwap},
		{"RepeatAfterLostAnswer", testRepeatAfterLostAnswer},
		{"VisibleWhole", testVisibleWhole},
		{"ListSorted", testListSorted},
		{"ListPages", testListPages},
		{"ListStops", testListStops},
		{"ListWhileChanging", testListWhileChanging},
		{"DeleteTwice", testDeleteTwice},
		{"Cancelled", testCancelled},
		{"CancelledMidway", testCancelledMidway},
		{"ReadAll", testReadAll},
		{"BoundedMemory", testBoundedMemory},
		{"Clock", testClock},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// patience is far more than any one call takes against a sane store.
const patience = time.Minute

// timeout is the context of one call.
func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func mustPut(t *testing.T, b objstore.Bucket, key, value string) objstore.Info {
	t.Helper()
	info, err := putString(timeout(t), b, key, value, objstore.PutOptions{})
	if err != nil {
		t.Fatalf("Put %s: %v", key, err)
	}
	return info
}

func putString(ctx context.Context, b objstore.Bucket, key, value string, opt objstore.PutOptions) (objstore.Info, error) {
	return b.Put(ctx, key, strings.NewReader(value), int64(len(value)), opt)
}

// wantValue checks the whole value and the Info that comes with it.
func wantValue(t *testing.T, b objstore.Bucket, key, value string) objstore.Info {
	t.Helper()
	got, info, err := objstore.ReadAll(timeout(t), b, key, 1<<30)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	if string(got) != value {
		t.Fatalf("read %s: got %d bytes, want %d, or they differ", key, len(got), len(value))
	}
	if info.Key != key || info.Size != int64(len(value)) || info.ETag == "" || info.Modified.IsZero() {
		t.Fatalf("read %s: info %+v", key, info)
	}
	return info
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
	if want != objstore.ErrAmbiguous && errors.Is(err, objstore.ErrAmbiguous) {
		t.Fatalf("%s: a definite failure is reported as ambiguous: %v", what, err)
	}
}

// wantAbsent checks that the key can neither be read nor is listed.
func wantAbsent(t *testing.T, b objstore.Bucket, key string) {
	t.Helper()
	_, _, err := b.Get(timeout(t), key, 0, -1)
	wantError(t, "Get of a missing key", err, objstore.ErrNotExist)
	for _, k := range keysOf(t, b, key, "") {
		if k == key {
			t.Fatalf("missing key %s is listed", key)
		}
	}
}

func keysOf(t *testing.T, b objstore.Bucket, prefix, after string) []string {
	t.Helper()
	var keys []string
	for info, err := range b.List(timeout(t), prefix, after) {
		if err != nil {
			t.Fatalf("List %q after %q: %v", prefix, after, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func testRoundTrip(t *testing.T, b objstore.Bucket) {
	values := map[string]string{
		"empty":               "",
		"one":                 "x",
		"log/00/00000000":     strings.Repeat("segment\x00\xff\r\n", 1000),
		"a/b/c/d/e/f.g_h-i":   "deep",
		"blob/2026-11-21/x/0": random(4 << 20),
		"big":                 random(17 << 20), // beyond where an S3 client turns to multipart by itself
		"..a/b..":             "dots within a segment are no traversal",
		strings.Repeat("k", 255) + "/" + strings.Repeat("l", 200): "long",
	}
	for key, value := range values {
		info := mustPut(t, b, key, value)
		if info.Key != key || info.Size != int64(len(value)) || info.ETag == "" {
			t.Fatalf("Put %s: info %+v", key, info)
		}
		if got := wantValue(t, b, key, value); got.ETag != info.ETag {
			t.Fatalf("Put %s said ETag %q, Get says %q", key, info.ETag, got.ETag)
		}
	}
	for info, err := range b.List(timeout(t), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if got := wantValue(t, b, info.Key, values[info.Key]); got.ETag != info.ETag || got.Size != info.Size {
			t.Fatalf("List says %+v, Get says %+v", info, got)
		}
	}
}

func random(n int) string {
	p := make([]byte, n)
	rand.Read(p)
	return string(p)
}

func testMissing(t *testing.T, b objstore.Bucket) {
	wantAbsent(t, b, "nothing")
	wantAbsent(t, b, "no/such/dir")
	mustPut(t, b, "dir/key", "x")
	wantAbsent(t, b, "dir")
	wantAbsent(t, b, "dir/key2")
	wantAbsent(t, b, "dir/key/below")
	if keys := keysOf(t, b, "nothing/", ""); len(keys) != 0 {
		t.Fatalf("listed %d keys of an empty prefix", len(keys))
	}
	_, err := putString(timeout(t), b, "nothing", "x", objstore.PutOptions{IfMatch: "abc"})
	wantError(t, "swap of a missing key", err, objstore.ErrChanged)
	wantAbsent(t, b, "nothing")
}

func testInvalidArguments(t *testing.T, b objstore.Bucket) {
	ctx := timeout(t)
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "A", "a b", "a\x00", "é", "~tmp/1", "a\\b", strings.Repeat("a", 256), strings.Repeat("ab/", 171)} {
		_, err := putString(ctx, b, key, "x", objstore.PutOptions{})
		wantError(t, fmt.Sprintf("Put %q", key), err, objstore.ErrInvalidKey)
		_, _, err = b.Get(ctx, key, 0, -1)
		wantError(t, fmt.Sprintf("Get %q", key), err, objstore.ErrInvalidKey)
		wantError(t, fmt.Sprintf("Delete %q", key), b.Delete(ctx, key), objstore.ErrInvalidKey)
	}
	if _, err := putString(ctx, b, "k", "x", objstore.PutOptions{IfAbsent: true, IfMatch: "e"}); err == nil {
		t.Error("Put with two conditions succeeded")
	}
	mustPut(t, b, "k2", "x")
	if _, _, err := b.Get(ctx, "k2", -1, -1); err == nil || errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("Get from a negative offset: %v", err)
	}
	wantAbsent(t, b, "k")
}

func testBodySize(t *testing.T, b objstore.Bucket) {
	for _, size := range []int64{-1, 0, 4, 6, 1 << 20} {
		_, err := b.Put(timeout(t), "k", strings.NewReader("hello"), size, objstore.PutOptions{})
		wantError(t, fmt.Sprintf("Put of 5 bytes as %d", size), err, objstore.ErrBody)
		wantAbsent(t, b, "k")
	}
	broken := errors.New("broken body")
	_, err := b.Put(timeout(t), "k", &failingBody{Reader: bytes.NewReader(make([]byte, 1<<20)), left: 300 << 10, err: broken}, 1<<20, objstore.PutOptions{})
	wantError(t, "Put of a body that fails", err, broken)
	wantAbsent(t, b, "k")
}

// failingBody fails after left bytes.
type failingBody struct {
	*bytes.Reader
	left int
	err  error
}

func (f *failingBody) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, f.err
	}
	n, err := f.Reader.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// WriteTo hides the one of bytes.Reader, which would not fail.
func (f *failingBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{f})
}

func testBodyRewound(t *testing.T, b objstore.Bucket) {
	body := strings.NewReader("the same bytes again")
	for _, key := range []string{"a", "b"} {
		if _, err := b.Put(timeout(t), key, body, body.Size(), objstore.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		wantValue(t, b, key, "the same bytes again")
	}
}

func testRanges(t *testing.T, b objstore.Bucket) {
	value := random(300_000)
	size := int64(len(value))
	put := mustPut(t, b, "v", value)
	mustPut(t, b, "empty", "")
	for _, r := range []struct{ off, n int64 }{
		{0, -1}, {0, 0}, {0, 1}, {0, size}, {0, size + 1}, {1, 1}, {1, -1}, {size - 1, 1}, {size - 1, -1},
		{size - 1, 100}, {65536, 65536}, {100, size}, {size, -1}, {size, 0}, {size, 1}, {size + 1, -1}, {size + 1, 10},
		{1 << 40, 1 << 40}, {5, 0},
	} {
		want := value[min(r.off, size):]
		if r.n >= 0 {
			want = want[:min(r.n, int64(len(want)))]
		}
		got, info := readRange(t, b, "v", r.off, r.n)
		if got != want {
			t.Errorf("Get(%d, %d): got %d bytes, want %d, or they differ", r.off, r.n, len(got), len(want))
		}
		if info.Size != size || info.ETag != put.ETag || info.Key != "v" {
			t.Errorf("Get(%d, %d): info %+v", r.off, r.n, info)
		}
	}
	for _, off := range []int64{0, 1} {
		if got, info := readRange(t, b, "empty", off, 10); got != "" || info.Size != 0 {
			t.Errorf("Get(%d, 10) of nothing: %d bytes, info %+v", off, len(got), info)
		}
	}
}

func readRange(t *testing.T, b objstore.Bucket, key string, off, n int64) (string, objstore.Info) {
	t.Helper()
	r, info, err := b.Get(timeout(t), key, off, n)
	if err != nil {
		t.Fatalf("Get(%d, %d): %v", off, n, err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("Get(%d, %d): read: %v", off, n, err)
	}
	return string(got), info
}

func testOverwrite(t *testing.T, b objstore.Bucket) {
	seen := make(map[string]bool)
	for i := range 50 {
		info := mustPut(t, b, "k", fmt.Sprint("value ", i))
		if seen[info.ETag] {
			t.Fatalf("ETag %q came again", info.ETag)
		}
		seen[info.ETag] = true
		wantValue(t, b, "k", fmt.Sprint("value ", i))
	}
	if keys := keysOf(t, b, "", ""); !slices.Equal(keys, []string{"k"}) {
		t.Fatalf("listed %q", keys)
	}
}

func testReaderKeepsItsVersion(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "k", strings.Repeat("old", 1000))
	r, _, err := b.Get(timeout(t), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mustPut(t, b, "k", strings.Repeat("new", 2000))
	if err := b.Delete(timeout(t), "k"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != strings.Repeat("old", 1000) {
		t.Fatalf("reader of an overwritten value: %d bytes, %v", len(got), err)
	}
}

func testProbe(t *testing.T, b objstore.Bucket) {
	if err := objstore.ProbeConditional(timeout(t), b); err != nil {
		t.Fatal(err)
	}
	if keys := keysOf(t, b, "", ""); len(keys) != 0 {
		t.Fatalf("probe left %q", keys)
	}
}

func testReadAll(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "k", "0123456789")
	if _, _, err := objstore.ReadAll(timeout(t), b, "k", 10); err != nil {
		t.Errorf("read to the limit: %v", err)
	}
	_, _, err := objstore.ReadAll(timeout(t), b, "k", 9)
	wantError(t, "read beyond the limit", err, objstore.ErrTooLarge)
	_, _, err = objstore.ReadAll(timeout(t), b, "missing", 9)
	wantError(t, "read of nothing", err, objstore.ErrNotExist)
}

func testClock(t *testing.T, b objstore.Bucket) {
	c, ok := b.(objstore.Clock)
	if !ok {
		return // The interface is optional.
	}
	before := time.Now().Add(-2 * time.Second)
	now, err := c.Now(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if now.Before(before) || now.After(time.Now().Add(2*time.Second)) {
		t.Fatalf("store's clock says %v, ours %v", now, time.Now())
	}
	info := mustPut(t, b, "k", "x")
	if d := wantValue(t, b, "k", "x").Modified.Sub(now); d < -2*time.Second || d > patience {
		t.Fatalf("value put at %v is of %v (%+v)", now, d, info)
	}
}
