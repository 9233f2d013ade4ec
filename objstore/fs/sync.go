package fs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"path"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/disk"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

// poisonError is the first failed fsync.
type poisonError struct {
	act   string
	cause error
}

func (e *poisonError) Error() string   { return fmt.Sprintf("%v: %s: %v", ErrPoisoned, e.act, e.cause) }
func (e *poisonError) Unwrap() []error { return []error{ErrPoisoned, e.cause} }

// poisoned returns the error every change now fails with, or nil.
func (b *Bucket) poisoned() error {
	if p := b.poison.Load(); p != nil {
		return p
	}
	return nil
}

// poisonWith records a failed fsync and returns the error that says so.
func (b *Bucket) poisonWith(act string, cause error) error {
	p := &poisonError{act: act, cause: cause}
	b.poison.CompareAndSwap(nil, p)
	return p
}

// maxKnownDirs bounds the memory of dirTable.known; beyond it the table is
// emptied, which costs one more fsync per directory still in use.
const maxKnownDirs = 8192

// dirTable knows which directories exist durably, and lets Puts into one
// directory share its fsync.
type dirTable struct {
	mu     sync.Mutex
	known  map[string]bool      // made and fsynced into their parents
	groups map[string]*dirGroup // of fsyncs under way
}

// dirGroup is the fsyncs of one directory: at most one runs, and everybody who
// comes meanwhile shares the next.
type dirGroup struct {
	users int
	run   sync.Mutex // held by the one that runs
	next  *dirCall   // not started yet; guarded by dirTable.mu
}

type dirCall struct {
	done chan struct{}
	err  error // valid once done is closed
}

func (t *dirTable) isKnown(dir string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[dir]
}

func (t *dirTable) learn(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxKnownDirs {
		clear(t.known)
	}
	t.known[dir] = true
}

func (t *dirTable) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.known)
}

// share runs sync at a time after share was called, and not more often than
// needed: callers that arrive while one run is under way all get the result of
// the one after it.
func (t *dirTable) share(dir string, sync func() error) error {
	t.mu.Lock()
	g := t.groups[dir]
	if g == nil {
		g = &dirGroup{}
		t.groups[dir] = g
	}
	g.users++
	call := g.next
	leader := call == nil
	if leader {
		call = &dirCall{done: make(chan struct{})}
		g.next = call
	}
	t.mu.Unlock()

	if leader {
		g.run.Lock()
		t.mu.Lock()
		g.next = nil // Who comes from here on may be too late for this run.
		t.mu.Unlock()
		call.err = sync()
		g.run.Unlock()
		close(call.done)
	}
	<-call.done

	t.mu.Lock()
	defer t.mu.Unlock()
	if g.users--; g.users == 0 {
		delete(t.groups, dir)
	}
	return call.err
}

// openDir opens a directory for syncDir. It is done before anything is changed
// in the directory: to run out of file descriptors afterwards would leave a
// change that cannot be made durable.
func (b *Bucket) openDir(dir string) (*disk.File, error) {
	f, err := b.root.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return f, nil
}

// syncDir makes the names in dir, which is open as f, durable as they were when
// it was called. A failure poisons the bucket.
func (b *Bucket) syncDir(dir string, f *disk.File) error {
	return b.dirs.share(dir, func() error {
		if err := b.hooks.syncDir(dir, f); err != nil {
			return b.poisonWith("fsync of a directory", err)
		}
		return nil
	})
}

// ensureDir makes dir and its parents, each durable before the next. A
// directory found there is fsynced into its parent once too, since whoever made
// it may have crashed before.
func (b *Bucket) ensureDir(dir string) error {
	if dir == "." || b.dirs.isKnown(dir) {
		return nil
	}
	parent := path.Dir(dir)
	if err := b.ensureDir(parent); err != nil {
		return err
	}
	f, err := b.openDir(parent)
	if errors.Is(err, iofs.ErrNotExist) {
		b.forgetDirs() // It was known and is gone; the next Put makes it again.
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = b.root.Mkdir(dir, 0o700)
	if errors.Is(err, iofs.ErrExist) {
		fi, serr := b.root.Lstat(dir)
		if serr == nil && !fi.IsDir() {
			serr = fmt.Errorf("a parent of the key is a key itself: %w", unix.ENOTDIR)
		}
		err = serr
	}
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.FSDirMade)
	if err := b.syncDir(parent, f); err != nil {
		return err
	}
	b.dirs.learn(dir)
	return nil
}

// infoOf describes the file of a key. See the package's paragraph on ETags.
func infoOf(key string, fi iofs.FileInfo) objstore.Info {
	return objstore.Info{
		Key:      key,
		Size:     fi.Size(),
		ETag:     etag(inodeOf(fi), fi.ModTime(), fi.Size()),
		Modified: fi.ModTime(),
	}
}

func inodeOf(fi iofs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

func etag(inode uint64, modified time.Time, size int64) string {
	return strconv.FormatUint(inode, 16) + "-" +
		strconv.FormatInt(modified.UnixNano(), 16) + "-" + strconv.FormatInt(size, 16)
}
