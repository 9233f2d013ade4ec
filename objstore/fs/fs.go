// Package fs keeps a bucket in a local directory.
//
// It is the default store of a single process. What it promises: a Put or
// Delete that returned without error survives a crash of the process and of the
// machine, as far as the disk honours fsync. A key is readable only once its
// Put is durable, so nobody ever acts upon a value that a crash could take back.
//
// # Layout
//
// The key "log/00/1" is the file log/00/1 below the root, mode 0600 in
// directories of mode 0700. Two names that no key can have are reserved in the
// root: "~lock", held with flock for as long as the bucket is open, and "~tmp",
// where values are written before they get their name. What is left in "~tmp"
// by a crash was never acknowledged and is removed when the bucket is opened.
//
// # Durability
//
// A value is written to a temporary file, which is fsynced, then linked under
// its name with link(2), which refuses to overwrite (a Put that may overwrite
// renames instead), then the directory is fsynced. Directories made on the way
// are fsynced into their parents first. Puts into one directory at the same
// time share its fsync. When the bucket is opened everything that an earlier
// process may have left unsynced is flushed before anything can be read.
//
// After a failed fsync nobody can know what is on the disk: the kernel may
// drop the dirty pages and report success to the next fsync. The bucket is then
// poisoned: every Put and Delete fails with ErrPoisoned until the process
// starts again; reads go on, except of a key whose own commit is the one that
// failed. The one exception is a full disk reported by the fsync of a temporary
// file, which is simply thrown away.
//
// # ETags
//
// An ETag is made of the file's inode, modification time and size. The
// modification time is set explicitly to the later of the clock and one
// nanosecond past the replaced file's, so it changes with every overwrite, even
// of equal bytes, and even when the clock steps back. Open refuses file systems
// that do not keep nanoseconds. Restoring a copy changes ETags, which nobody
// stores.
package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/disk"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

var (
	// ErrLocked is returned by Open when another process, or another Bucket of
	// this one, has the directory open.
	ErrLocked = errors.New("bucket directory is in use by another process")

	// ErrPoisoned is wrapped by every Put and Delete after an fsync failed. Only
	// a restart helps.
	ErrPoisoned = errors.New("bucket is poisoned by a failed fsync")
)

const (
	lockName = "~lock"
	tmpName  = "~tmp"
)

// Bucket implements objstore.Bucket and objstore.Clock. Use Open.
type Bucket struct {
	root  *disk.Root
	lock  *disk.File
	hooks hooks

	tmpSeq  atomic.Uint64
	poison  atomic.Pointer[poisonError]
	keys    keyTable
	dirs    dirTable
	handles handles
	closed  sync.Once
}

// hooks stand between the bucket and the kernel, so that tests can make an
// fsync or a write fail. Each gets the name below the root.
type hooks struct {
	syncFile func(name string, f *disk.File) error
	syncDir  func(name string, f *disk.File) error
	write    func(name string, f *disk.File, p []byte) (int, error)
}

func realHooks() hooks {
	return hooks{
		syncFile: func(_ string, f *disk.File) error { return f.Sync() },
		syncDir:  func(_ string, f *disk.File) error { return f.Sync() },
		write:    func(_ string, f *disk.File, p []byte) (int, error) { return f.Write(p) },
	}
}

// Open opens the bucket in dir, making the directory if it is missing. It
// returns ErrLocked if the bucket is open elsewhere. Close it when every call
// has returned.
func Open(dir string) (*Bucket, error) { return open(dir, realHooks()) }

func open(dir string, h hooks) (_ *Bucket, err error) {
	if err := disk.MakeDirs(dir); err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	b := &Bucket{root: root, hooks: h}
	b.keys.entries = make(map[string]*keyEntry)
	b.keys.limbo = make(map[string]bool)
	b.dirs.known = make(map[string]bool)
	b.dirs.groups = make(map[string]*dirGroup)
	b.handles.open = make(map[string]*handle)
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if err := b.takeLock(); err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	if err := b.sweep(); err != nil {
		return nil, fmt.Errorf("open bucket: sweep temporary files: %w", err)
	}
	if err := b.flush(); err != nil {
		return nil, fmt.Errorf("open bucket: flush what an earlier process wrote: %w", err)
	}
	if err := b.checkTimestamps(); err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	return b, nil
}

// takeLock makes this process the only one. The kernel releases an flock with
// the process, however it ends, so there are no stale locks.
func (b *Bucket) takeLock() error {
	f, err := b.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := disk.Flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return fmt.Errorf("lock: %w", err)
	}
	b.lock = f
	return nil
}

// sweep removes what a crashed process left in the temporary directory.
func (b *Bucket) sweep() error {
	if err := b.root.RemoveAll(tmpName); err != nil {
		return err
	}
	return b.root.Mkdir(tmpName, 0o700)
}

// flush makes durable whatever is visible now: a process that died between
// link and fsync may have left names that a power failure would still undo.
func (b *Bucket) flush() error {
	f, err := b.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := disk.SyncFS(f); err != nil {
		return err
	}
	failpoint.Hit(failpoint.FSFlushed)
	return nil
}

// checkTimestamps refuses file systems with coarse modification times, since
// ETags depend on fine ones.
func (b *Bucket) checkTimestamps() error {
	name := path.Join(tmpName, "timestamps")
	f, err := b.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer b.root.Remove(name)
	defer f.Close()
	want := time.Unix(1_000_000_000, 123_456_789)
	if err := b.root.Chtimes(name, want, want); err != nil {
		return fmt.Errorf("set file time: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.ModTime().Equal(want) {
		return errors.New("the file system does not keep modification times to the nanosecond")
	}
	return nil
}

// Close releases the directory. It may be called again; no other method may be
// called after it.
func (b *Bucket) Close() error {
	var err error
	b.closed.Do(func() {
		b.handles.forget()
		if b.lock != nil {
			err = b.lock.Close()
		}
		err = errors.Join(err, b.root.Close())
	})
	return err
}

// Get implements objstore.Bucket. A key whose Put is under way is waited for.
func (b *Bucket) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	f, info, err := b.get(ctx, key, off)
	if err != nil {
		return nil, objstore.Info{}, fmt.Errorf("fs get: %w", err)
	}
	left := max(info.Size-off, 0)
	if n >= 0 {
		left = min(left, n)
	}
	return &reader{ctx: ctx, f: f, left: left}, info, nil
}

func (b *Bucket) get(ctx context.Context, key string, off int64) (*disk.File, objstore.Info, error) {
	if err := objstore.ValidKey(key); err != nil {
		return nil, objstore.Info{}, err
	}
	if off < 0 {
		return nil, objstore.Info{}, fmt.Errorf("negative offset %d", off)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, objstore.Info{}, err
		}
		f, info, err := b.openKey(key)
		// Only what was opened and is not being committed now is known to be
		// durable: the question has to come after the open.
		waited, werr := b.keys.settled(ctx, key)
		if werr == nil && !waited {
			if err != nil {
				return nil, objstore.Info{}, err
			}
			if _, err = f.Seek(off, io.SeekStart); err != nil {
				f.Close()
				return nil, objstore.Info{}, err
			}
			return f, info, nil
		}
		if f != nil {
			f.Close()
		}
		if werr != nil {
			return nil, objstore.Info{}, werr
		}
	}
}

// openKey opens the file of a key; a directory or a missing parent is a key
// that does not exist.
func (b *Bucket) openKey(key string) (*disk.File, objstore.Info, error) {
	f, err := b.root.Open(key)
	if err != nil {
		if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil, objstore.Info{}, objstore.ErrNotExist
		}
		return nil, objstore.Info{}, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = objstore.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, objstore.Info{}, err
	}
	return f, infoOf(key, fi), nil
}

// reader reads a part of one file. The file stays what it was even if its name
// is overwritten or deleted.
type reader struct {
	ctx  context.Context
	f    *disk.File
	left int64
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.f.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // Somebody truncated a file of ours.
	}
	return n, err
}

func (r *reader) Close() error { return r.f.Close() }

// Now implements objstore.Clock with the machine's clock.
func (b *Bucket) Now(ctx context.Context) (time.Time, error) { return time.Now(), ctx.Err() }
