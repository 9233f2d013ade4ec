package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/disk"
	"holdfast/objstore"
)

var errDisk = fmt.Errorf("injected: %w", unix.EIO)

// openHooked opens a bucket whose calls to the kernel can be made to fail. The
// hooks may be changed only before the calls they are for.
func openHooked(t *testing.T, change func(h *hooks)) *Bucket {
	t.Helper()
	h := realHooks()
	change(&h)
	b, err := open(t.TempDir(), h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func put(b *Bucket, key, value string, opt objstore.PutOptions) (objstore.Info, error) {
	return b.Put(context.Background(), key, strings.NewReader(value), int64(len(value)), opt)
}

func mustPut(t *testing.T, b *Bucket, key, value string) objstore.Info {
	t.Helper()
	info, err := put(b, key, value, objstore.PutOptions{})
	if err != nil {
		t.Fatalf("Put %s: %v", key, err)
	}
	return info
}

func wantValue(t *testing.T, b *Bucket, key, want string) {
	t.Helper()
	got, _, err := objstore.ReadAll(t.Context(), b, key, 1<<20)
	if err != nil || string(got) != want {
		t.Errorf("value of %s: %d bytes, %v; want %d", key, len(got), err, len(want))
	}
}

func keysOf(t *testing.T, b *Bucket) []string {
	t.Helper()
	var keys []string
	for info, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func tmpFiles(t *testing.T, b *Bucket) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.root.Name(), tmpName))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// trace records the fsyncs in their order.
type trace struct {
	mu    sync.Mutex
	steps []string
}

func (tr *trace) add(step string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.steps = append(tr.steps, step)
}

func (tr *trace) take() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	steps := tr.steps
	tr.steps = nil
	return steps
}

func (tr *trace) hook(h *hooks) {
	file, dir := h.syncFile, h.syncDir
	h.syncFile = func(name string, f *disk.File) error {
		if strings.HasPrefix(name, tmpName) {
			tr.add("new file")
		} else {
			tr.add("file " + name)
		}
		return file(name, f)
	}
	h.syncDir = func(name string, f *disk.File) error { tr.add("dir " + name); return dir(name, f) }
}

// TestSyncs checks which fsyncs each call makes, and in which order: new
// directories into their parents from the top, the file before its name, the
// name before the answer.
func TestSyncs(t *testing.T) {
	var tr trace
	b := openHooked(t, tr.hook)
	create := objstore.PutOptions{IfAbsent: true}
	for _, c := range []struct {
		what string
		call func() error
		want error
		sync []string
	}{
		{"first Put", func() error { _, err := put(b, "log/00/1", "x", create); return err }, nil,
			[]string{"dir .", "dir log", "new file", "dir log/00"}},
		{"second Put", func() error { _, err := put(b, "log/00/2", "x", create); return err }, nil,
			[]string{"new file", "dir log/00"}},
		{"overwrite", func() error { _, err := put(b, "log/00/2", "y", objstore.PutOptions{}); return err }, nil,
			[]string{"new file", "dir log/00"}},
		{"exists", func() error { _, err := put(b, "log/00/2", "z", create); return err }, objstore.ErrExists,
			[]string{"file log/00/2", "dir log/00"}},
		{"Delete", func() error { return b.Delete(t.Context(), "log/00/2") }, nil, []string{"dir log/00"}},
		{"Delete of nothing", func() error { return b.Delete(t.Context(), "log/00/2") }, nil, nil},
	} {
		tr.take()
		if err := c.call(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := tr.take(); !slices.Equal(got, c.sync) {
			t.Errorf("%s fsynced %q, want %q", c.what, got, c.sync)
		}
	}
}

// TestExistingDirectoryIsSyncedOnce: a directory found at the first use may have
// been made by a process that died before its fsync.
func TestExistingDirectoryIsSyncedOnce(t *testing.T) {
	var tr trace
	b := openHooked(t, tr.hook)
	if err := os.Mkdir(filepath.Join(b.root.Name(), "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	tr.take()
	mustPut(t, b, "log/1", "x")
	if got := tr.take(); !slices.Equal(got, []string{"dir .", "new file", "dir log"}) {
		t.Errorf("fsynced %q", got)
	}
}

func TestRemovedDirectoryIsMadeAgain(t *testing.T) {
	b := openTest(t, t.TempDir())
	mustPut(t, b, "a/b/1", "x")
	if err := os.RemoveAll(filepath.Join(b.root.Name(), "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := put(b, "a/b/2", "x", objstore.PutOptions{}); err == nil || errors.Is(err, objstore.ErrAmbiguous) {
		t.Errorf("Put into a removed directory: %v, want a definite failure", err)
	}
	mustPut(t, b, "a/b/2", "x")
	wantValue(t, b, "a/b/2", "x")
}

// TestMovedDirectoryIsNoticed: a directory that is open is not believed to be
// where it was. What was put there is not called durable under its key.
func TestMovedDirectoryIsNoticed(t *testing.T) {
	b := openTest(t, t.TempDir())
	mustPut(t, b, "a/b/1", "x")
	at := filepath.Join(b.root.Name(), "a")
	if err := os.Rename(at, at+"-moved"); err != nil {
		t.Fatal(err)
	}
	create := objstore.PutOptions{IfAbsent: true}
	if _, err := put(b, "a/b/2", "x", create); !errors.Is(err, objstore.ErrAmbiguous) {
		t.Errorf("Put into a directory that was moved away: %v, want ErrAmbiguous", err)
	}
	if _, err := put(b, "a/b/2", "x", create); err != nil {
		t.Errorf("the next Put: %v", err)
	}
	wantValue(t, b, "a/b/2", "x")
}

// TestFailedSyncPoisons fails one fsync in each place and checks what is said,
// what can be read, and that nothing is accepted afterwards.
func TestFailedSyncPoisons(t *testing.T) {
	for _, c := range []struct {
		name      string
		fail      func(h *hooks, broken *atomic.Bool)
		opt       objstore.PutOptions
		key       string
		ambiguous bool
	}{
		{"new file", failFile, objstore.PutOptions{}, "log/2", false},
		{"directory after link", failDir("log"), objstore.PutOptions{IfAbsent: true}, "log/2", true},
		{"directory after rename", failDir("log"), objstore.PutOptions{}, "log/2", true},
		{"directory after overwrite", failDir("log"), objstore.PutOptions{}, "log/1", true},
		{"parent of a new directory", failDir("."), objstore.PutOptions{IfAbsent: true}, "new/2", false},
		{"existing file", failFile, objstore.PutOptions{IfAbsent: true}, "log/1", false},
		{"directory of an existing file", failDir("log"), objstore.PutOptions{IfAbsent: true}, "log/1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var broken atomic.Bool
			b := openHooked(t, func(h *hooks) { c.fail(h, &broken) })
			mustPut(t, b, "log/0", "before")
			mustPut(t, b, "log/1", "before")

			broken.Store(true)
			_, err := put(b, c.key, "after", c.opt)
			if !errors.Is(err, ErrPoisoned) || errors.Is(err, objstore.ErrAmbiguous) != c.ambiguous {
				t.Fatalf("Put with a failing fsync: %v, want poisoned and ambiguous: %t", err, c.ambiguous)
			}
			broken.Store(false) // The next fsync would lie.
			_, err = put(b, "log/3", "x", objstore.PutOptions{})
			if !errors.Is(err, ErrPoisoned) || errors.Is(err, objstore.ErrAmbiguous) {
				t.Errorf("next Put: %v", err)
			}
			if err := b.Delete(t.Context(), "log/0"); !errors.Is(err, ErrPoisoned) {
				t.Errorf("next Delete: %v", err)
			}
			wantValue(t, b, "log/0", "before")
			checkLimbo(t, b, c.key, c.ambiguous)
			if n := tmpFiles(t, b); n != 0 {
				t.Errorf("%d temporary files are left", n)
			}

			// A restart flushes and goes on.
			dir := b.root.Name()
			b.Close()
			b = openTest(t, dir)
			mustPut(t, b, "log/3", "x")
			wantValue(t, b, "log/0", "before")
			if c.ambiguous {
				wantValue(t, b, c.key, "after")
			}
		})
	}
}

// checkLimbo: of a key whose commit failed half-way neither the new value nor its
// absence may be reported.
func checkLimbo(t *testing.T, b *Bucket, key string, limbo bool) {
	t.Helper()
	_, _, err := b.Get(t.Context(), key, 0, -1)
	if errors.Is(err, ErrPoisoned) != limbo {
		t.Errorf("Get after the failure: %v", err)
	}
	var listed error
	for _, err := range b.List(t.Context(), key, "") {
		listed = err
	}
	if errors.Is(listed, ErrPoisoned) != limbo {
		t.Errorf("List after the failure: %v", listed)
	}
}

func failFile(h *hooks, broken *atomic.Bool) {
	h.syncFile = func(_ string, f *disk.File) error {
		if broken.Load() {
			return errDisk
		}
		return f.Sync()
	}
}

func failDir(dir string) func(h *hooks, broken *atomic.Bool) {
	return func(h *hooks, broken *atomic.Bool) {
		h.syncDir = func(name string, f *disk.File) error {
			if broken.Load() && name == dir {
				return errDisk
			}
			return f.Sync()
		}
	}
}

// TestHiddenUntilDurable holds up the fsync of the directory and looks at the
// key meanwhile: readers wait, and see the value only when its Put returned.
func TestHiddenUntilDurable(t *testing.T) {
	reached, goOn := make(chan struct{}), make(chan struct{})
	var hold atomic.Bool
	b := openHooked(t, func(h *hooks) {
		h.syncDir = func(name string, f *disk.File) error {
			if name == "log" && hold.Load() {
				reached <- struct{}{}
				<-goOn
			}
			return f.Sync()
		}
	})
	mustPut(t, b, "log/0", "old")
	mustPut(t, b, "log/9", "other")
	hold.Store(true)
	for _, key := range []string{"log/1", "log/0"} { // A new key, and an overwritten one.
		done := make(chan error, 1)
		go func() { _, err := put(b, key, "new", objstore.PutOptions{}); done <- err }()
		<-reached
		if _, err := os.Stat(filepath.Join(b.root.Name(), key)); err != nil {
			t.Fatalf("the test does not reach the moment it is about: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, _, err := b.Get(ctx, key, 0, -1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get of %s during its Put: %v, want that it waits", key, err)
		}
		var listed error
		for _, err := range b.List(ctx, key, "") {
			listed = err
		}
		if !errors.Is(listed, context.DeadlineExceeded) {
			t.Errorf("List of %s during its Put: %v, want that it waits", key, listed)
		}
		cancel()
		wantValue(t, b, "log/9", "other") // Nobody else waits.
		goOn <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wantValue(t, b, key, "new")
	}
}

// TestDirectorySyncIsShared holds up one fsync of the directory while seven more
// Puts arrive: they share the next.
func TestDirectorySyncIsShared(t *testing.T) {
	var syncs atomic.Int64
	entered, goOn := make(chan struct{}, 16), make(chan struct{})
	var hold atomic.Bool
	b := openHooked(t, func(h *hooks) {
		h.syncDir = func(name string, f *disk.File) error {
			if hold.Load() {
				syncs.Add(1)
				entered <- struct{}{}
				<-goOn
			}
			return f.Sync()
		}
	})
	mustPut(t, b, "log/0", "x")
	hold.Store(true)
	var wg sync.WaitGroup
	add := func(key string) {
		wg.Go(func() {
			if _, err := put(b, key, "x", objstore.PutOptions{IfAbsent: true}); err != nil {
				t.Error(err)
			}
		})
	}
	add("log/1")
	<-entered
	for i := range 7 {
		add(fmt.Sprint("log/", i+2))
	}
	for users := 0; users != 8; runtime.Gosched() {
		b.dirs.mu.Lock()
		users = b.dirs.groups["log"].users
		b.dirs.mu.Unlock()
	}
	close(goOn)
	wg.Wait()
	if n := syncs.Load(); n != 2 {
		t.Errorf("%d fsyncs of the directory for 8 Puts, want 2", n)
	}
	if len(b.dirs.groups) != 0 || len(b.keys.entries) != 0 {
		t.Error("something is left in the tables")
	}
}

// TestETagChangesUnderBadClock overwrites with equal bytes while the replaced
// file is dated in the future, as after a clock was set back.
func TestETagChangesUnderBadClock(t *testing.T) {
	b := openTest(t, t.TempDir())
	first := mustPut(t, b, "k", "same")
	future := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(filepath.Join(b.root.Name(), "k"), future, future); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{first.ETag: true}
	last := future
	for range 20 {
		info := mustPut(t, b, "k", "same")
		if seen[info.ETag] || !info.Modified.After(last) {
			t.Fatalf("ETag %q, modified %v after %v", info.ETag, info.Modified, last)
		}
		seen[info.ETag], last = true, info.Modified
	}
}

// TestFullDisk fills a small file system: Puts fail definitely, nothing of them
// can be read, and all goes on when there is space again.
func TestFullDisk(t *testing.T) {
	b := openHooked(t, func(h *hooks) {
		var written int64
		h.write = func(name string, f *disk.File, p []byte) (int, error) {
			if written += int64(len(p)); written > 1<<20 && written < 4<<20 {
				n, err := f.Write(p[:len(p)/2])
				return n, errors.Join(err, unix.ENOSPC)
			}
			return f.Write(p)
		}
	})
	full := 0
	for i := range 40 {
		key := fmt.Sprintf("log/%02d", i)
		_, err := b.Put(t.Context(), key, bytes.NewReader(make([]byte, 200<<10)), 200<<10, objstore.PutOptions{IfAbsent: true})
		if err == nil {
			continue
		}
		full++
		if !errors.Is(err, unix.ENOSPC) || errors.Is(err, objstore.ErrAmbiguous) || errors.Is(err, ErrPoisoned) {
			t.Fatalf("Put on a full disk: %v", err)
		}
		if _, _, err := b.Get(t.Context(), key, 0, -1); !errors.Is(err, objstore.ErrNotExist) {
			t.Errorf("value of a failed Put: %v", err)
		}
	}
	if full == 0 || full == 40 || len(keysOf(t, b)) != 40-full || tmpFiles(t, b) != 0 {
		t.Errorf("%d of 40 Puts failed, %d keys, %d temporary files", full, len(keysOf(t, b)), tmpFiles(t, b))
	}
}

// TestListManyPages lists a directory through pages much smaller than it.
func TestListManyPages(t *testing.T) {
	b := openTest(t, t.TempDir())
	var want []string
	for i := range 60 {
		key := fmt.Sprintf("d/%02d", i)
		if i%3 == 0 {
			key += "/x"
		}
		mustPut(t, b, key, "x")
		want = append(want, key)
	}
	for _, page := range []int{1, 2, 7, 60, 100} {
		for after := -1; after < len(want); after += 7 {
			from := ""
			if after >= 0 {
				from = want[after]
			}
			var got []string
			w := walk{b: b, ctx: t.Context(), prefix: "d/", after: from, page: page,
				yield: func(i objstore.Info, _ error) bool { got = append(got, i.Key); return true }}
			if err := w.dir("d"); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want[after+1:]) {
				t.Errorf("pages of %d after %q: %q", page, from, got)
			}
		}
	}
}
