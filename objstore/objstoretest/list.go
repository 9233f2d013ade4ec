package objstoretest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/objstore"
)

func testListSorted(t *testing.T, b objstore.Bucket) {
	// The order of bytes, not that of a walk through directories: '-' and '.'
	// sort before '/', digits behind it.
	keys := []string{
		"a-b", "a-b-c/x", "a.b", "a.b.c/x", "a/b", "a/b-c/d", "a/b.c", "a/c", "a0", "a0b/c", "ab/c",
		"b", "log/00/00000000000000000001", "log/00/00000000000000000002", "log/01/00000000000000000001", "z",
	}
	for _, i := range []int{7, 3, 11, 0, 15, 9, 1, 13, 5, 2, 14, 4, 10, 6, 12, 8} {
		mustPut(t, b, keys[i], keys[i])
	}
	if !slices.IsSorted(keys) {
		t.Fatal("internal error: the test's keys are not sorted")
	}
	for _, prefix := range []string{"", "a", "a/", "a-", "a.b", "a/b", "a0", "lo", "log", "log/", "log/0", "log/00/", "log/00/0000000000000000000", "b", "z", "zz", "q/", "~", "A"} {
		afters := append([]string{"", "a", "a/", "a/a", "a/b/", "a/b-", "a/bb", "log/00", "log/00/", "log/01", "~", "zz"}, keys...)
		for _, after := range afters {
			var want []string
			for _, key := range keys {
				if strings.HasPrefix(key, prefix) && key > after {
					want = append(want, key)
				}
			}
			if got := keysOf(t, b, prefix, after); !slices.Equal(got, want) {
				t.Fatalf("List(%q, %q):\n got %q\nwant %q", prefix, after, got, want)
			}
		}
	}
}

// testListPages lists more keys than a store returns in one answer.
func testListPages(t *testing.T, b objstore.Bucket) {
	const total = 2500
	want := make([]string, total)
	var wg sync.WaitGroup
	next := make(chan string, total)
	for i := range total {
		want[i] = fmt.Sprintf("p/%d/%05d", i*3/total, i)
		next <- want[i]
	}
	close(next)
	ctx := timeout(t)
	for range writers {
		wg.Go(func() {
			for key := range next {
				if _, err := putString(ctx, b, key, key, objstore.PutOptions{IfAbsent: true}); err != nil {
					t.Errorf("Put %s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
	if got := keysOf(t, b, "p/", ""); !slices.Equal(got, want) {
		t.Fatalf("listed %d keys, want %d, or they differ", len(got), total)
	}
	if got := keysOf(t, b, "", want[1234]); !slices.Equal(got, want[1235:]) {
		t.Fatalf("listed %d keys from the middle, want %d, or they differ", len(got), total-1235)
	}
	if got := keysOf(t, b, "p/1/", want[1234]); !slices.Equal(got, want[1235:1667]) {
		t.Fatalf("listed %d keys of a prefix from the middle, want %d, or they differ", len(got), 1667-1235)
	}
}

// testListStops leaves a listing early, again and again, and checks that no
// goroutine is left behind.
func testListStops(t *testing.T, b objstore.Bucket) {
	for i := range 20 {
		mustPut(t, b, fmt.Sprintf("s/%02d", i), "x")
	}
	before := runtime.NumGoroutine()
	for range 50 {
		for _, err := range b.List(timeout(t), "s/", "") {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before+10 {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after 50 listings left early", before, runtime.NumGoroutine())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// testListWhileChanging uses the bucket from within a listing and deletes what
// it lists.
func testListWhileChanging(t *testing.T, b objstore.Bucket) {
	for i := range 10 {
		mustPut(t, b, fmt.Sprintf("s/%02d", i), "x")
	}
	n := 0
	for info, err := range b.List(timeout(t), "s/", "") {
		if err != nil {
			t.Fatal(err)
		}
		wantValue(t, b, info.Key, "x")
		if err := b.Delete(timeout(t), info.Key); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 10 {
		t.Fatalf("listed %d keys, want 10", n)
	}
	if keys := keysOf(t, b, "", ""); len(keys) != 0 {
		t.Fatalf("left %q", keys)
	}
}
