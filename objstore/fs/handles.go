package fs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/disk"
	"holdfast/objstore"
)

// The calls by which a Put changes the file system stand in this file, but for
// the writes and fsyncs themselves, which go through Bucket.hooks. Nothing else
// makes a file, names it or removes its temporary name. All of it goes through
// package disk, where a test puts a disk in between that forgets.
//
// They go through directories that stay open: os.Root opens every directory on
// the way to a name for each call, and a Put of one segment took 55 calls to the
// kernel that way, a tenth of the processor time of accepting mail.

// maxHandles is how many directories stay open while nobody uses them.
const maxHandles = 64

// handles keeps directories open.
type handles struct {
	mu   sync.Mutex
	open map[string]*handle
}

// handle is an open directory. Its file is closed when nobody uses it any more
// and it is no longer kept.
type handle struct {
	f     *disk.File
	users int
	kept  bool
}

// dir returns a directory, open, until release is called. It is opened below
// the root the first time, so that no link leads out of it.
func (b *Bucket) dir(name string) (h *handle, err error) {
	t := &b.handles
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.open[name]; h != nil {
		h.users++
		return h, nil
	}
	f, err := b.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if len(t.open) >= maxHandles {
		t.trimLocked()
	}
	h = &handle{f: f, users: 1, kept: true}
	t.open[name] = h
	return h, nil
}

func (t *handles) release(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h.users--
	if h.users == 0 && !h.kept {
		h.f.Close()
	}
}

// trimLocked closes what nobody uses.
func (t *handles) trimLocked() {
	for name, h := range t.open {
		if h.users == 0 {
			h.f.Close()
			delete(t.open, name)
		}
	}
}

// forget lets go of all directories: perhaps one of them is not what its name
// says any more.
func (t *handles) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, h := range t.open {
		h.kept = false
		if h.users == 0 {
			h.f.Close()
		}
		delete(t.open, name)
	}
}

// fileExists reports whether there is a regular file of that name.
func (h *handle) fileExists(base string) bool {
	var st unix.Stat_t
	err := disk.StatAt(h.f, base, &st)
	return err == nil && uint32(st.Mode)&unix.S_IFMT == unix.S_IFREG
}

// temp is a new file without a key, open for writing.
type temp struct {
	dir  *handle
	base string
	name string // below the root
	f    *disk.File
}

// newTemp makes an empty temporary file. The caller discards it.
func (b *Bucket) newTemp() (*temp, error) {
	h, err := b.dir(tmpName)
	if err != nil {
		return nil, err
	}
	t := &temp{dir: h, base: strconv.FormatUint(b.tmpSeq.Add(1), 10)}
	t.name = path.Join(tmpName, t.base)
	if t.f, err = disk.CreateAt(h.f, t.base, t.name); err != nil {
		b.handles.release(h)
		return nil, &iofs.PathError{Op: "open", Path: t.name, Err: err}
	}
	return t, nil
}

// setTime sets the modification time.
func (t *temp) setTime(at time.Time) error {
	return disk.TouchAt(t.dir.f, t.base, at)
}

// discard closes the file and removes its temporary name, if it still has one.
// What cannot be removed is swept at the next start.
func (b *Bucket) discard(t *temp) {
	if t.base != "" {
		disk.UnlinkAt(t.dir.f, t.base)
	}
	t.f.Close()
	b.handles.release(t.dir)
}

// link gives the file the name base in dir, which must be free, and takes away
// its temporary one.
func (t *temp) link(dir *handle, base string) error {
	if err := disk.LinkAt(t.dir.f, t.base, dir.f, base); err != nil {
		return &os.LinkError{Op: "link", Old: t.name, New: base, Err: err}
	}
	// Before the directory is fsynced, so that one journal commit takes both; an
	// error leaves it to the sweep.
	disk.UnlinkAt(t.dir.f, t.base)
	t.base = ""
	return nil
}

// rename gives the file the name base in dir, which may be taken.
func (t *temp) rename(dir *handle, base string) error {
	if err := disk.RenameAt(t.dir.f, t.base, dir.f, base); err != nil {
		return &os.LinkError{Op: "rename", Old: t.name, New: base, Err: err}
	}
	t.base = ""
	return nil
}

// landed checks, from the root downwards, that the key is the name of the file:
// a directory that was open may have been moved away meanwhile.
func (b *Bucket) landed(key string, t *temp) (objstore.Info, error) {
	fi, err := t.f.Stat()
	if err != nil {
		return objstore.Info{}, err
	}
	top, err := b.dir(".")
	if err != nil {
		return objstore.Info{}, err
	}
	defer b.handles.release(top)
	var st unix.Stat_t
	if err := disk.StatAt(top.f, key, &st); err != nil {
		return objstore.Info{}, err
	}
	if st.Ino != inodeOf(fi) {
		return objstore.Info{}, errors.New("another file is there")
	}
	return infoOf(key, fi), nil
}
