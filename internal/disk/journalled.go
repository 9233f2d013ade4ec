//go:build failpoint

package disk

import (
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"holdfast/internal/disk/journal"
)

// File is an open file or directory.
type File struct {
	f    *os.File
	path string
	ino  uint64
	dir  bool
	root bool // reached through a Root, as those of a bucket are
}

// wrap makes a File of what was opened under an absolute name.
func wrap(f *os.File, path string) (*File, error) {
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{f: f, path: path, ino: inodeOf(fi), dir: fi.IsDir()}, nil
}

func inodeOf(fi iofs.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Ino }

func system(f *File) *os.File { return f.f }

// Read reads.
func (f *File) Read(p []byte) (int, error) { return f.f.Read(p) }

// Seek moves the place of the next Read or Write.
func (f *File) Seek(off int64, whence int) (int64, error) { return f.f.Seek(off, whence) }

// Stat describes the file.
func (f *File) Stat() (iofs.FileInfo, error) { return f.f.Stat() }

// ReadDir reads names of a directory.
func (f *File) ReadDir(n int) ([]os.DirEntry, error) { return f.f.ReadDir(n) }

// Name is the name under which the file was opened.
func (f *File) Name() string { return f.f.Name() }

// Close closes.
func (f *File) Close() error { return f.f.Close() }

// Write writes; the bytes are not durable.
func (f *File) Write(p []byte) (int, error) {
	r := recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	off, err := f.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	n, err := f.f.Write(p)
	r.note(journal.Record{Op: journal.Write, Ino: f.ino, Off: off, Len: int64(n)})
	return n, err
}

// Sync makes the bytes of a file durable, or the names in a directory.
func (f *File) Sync() error {
	begin := journal.Record{Op: journal.Sync, Ino: f.ino}
	if f.dir {
		begin = journal.Record{Op: journal.Sync, Path: f.path}
	}
	return recorder().sync(begin, f.root, f.f.Sync)
}

func syncFS(_ *File, sync func() error) error {
	return recorder().sync(journal.Record{Op: journal.FSSync}, false, sync)
}

// Root is a directory below which all names are looked up.
type Root struct {
	r    *os.Root
	path string
}

// OpenRoot opens a directory.
func OpenRoot(dir string) (*Root, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Root{r, path}, nil
}

// below marks a file as reached through a Root.
func below(f *File, err error) (*File, error) {
	if err == nil {
		f.root = true
	}
	return f, err
}

func (r *Root) abs(name string) string { return filepath.Join(r.path, name) }

// Name is the name that the root was opened with.
func (r *Root) Name() string { return r.r.Name() }

// Close closes the root.
func (r *Root) Close() error { return r.r.Close() }

// Lstat describes what is under a name.
func (r *Root) Lstat(name string) (iofs.FileInfo, error) { return r.r.Lstat(name) }

// Chtimes sets a file's times, which a power failure leaves alone.
func (r *Root) Chtimes(name string, atime, mtime time.Time) error {
	return r.r.Chtimes(name, atime, mtime)
}

// Open opens a file or directory for reading.
func (r *Root) Open(name string) (*File, error) {
	f, err := r.r.Open(name)
	if err != nil {
		return nil, err
	}
	return below(wrap(f, r.abs(name)))
}

// OpenFile opens or makes a file.
func (r *Root) OpenFile(name string, flag int, perm os.FileMode) (*File, error) {
	return below(openFile(r.abs(name), flag, func() (*os.File, error) { return r.r.OpenFile(name, flag, perm) }))
}

// Mkdir makes a directory.
func (r *Root) Mkdir(name string, perm os.FileMode) error {
	return mkdir(r.abs(name), func() error { return r.r.Mkdir(name, perm) })
}

// Remove removes a name.
func (r *Root) Remove(name string) error {
	return remove(r.abs(name), func() error { return r.r.Remove(name) })
}

// RemoveAll removes a name and all below it.
func (r *Root) RemoveAll(name string) error {
	rec := recorder()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	err := r.r.RemoveAll(name)
	rec.note(journal.Record{Op: journal.RemoveAll, Path: r.abs(name)})
	return err
}

// Link gives a file another name.
func (r *Root) Link(from, to string) error {
	return link(r.abs(from), r.abs(to), func() error { return r.r.Link(from, to) })
}

// Rename gives a file another name in place of the one that it has.
func (r *Root) Rename(from, to string) error {
	return rename(r.abs(from), r.abs(to), func() error { return r.r.Rename(from, to) })
}

// Open is os.Open.
func Open(name string) (*File, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return wrap(f, path)
}

// OpenFile is os.OpenFile.
func OpenFile(name string, flag int, perm os.FileMode) (*File, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	return openFile(path, flag, func() (*os.File, error) { return os.OpenFile(name, flag, perm) })
}

// Mkdir is os.Mkdir.
func Mkdir(name string, perm os.FileMode) error {
	path, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	return mkdir(path, func() error { return os.Mkdir(name, perm) })
}

// Remove is os.Remove.
func Remove(name string) error {
	path, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	return remove(path, func() error { return os.Remove(name) })
}

// Rename is os.Rename.
func Rename(from, to string) error {
	a, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	b, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	return rename(a, b, func() error { return os.Rename(from, to) })
}

// Link is os.Link.
func Link(from, to string) error {
	a, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	b, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	return link(a, b, func() error { return os.Link(from, to) })
}

func openFile(path string, flag int, open func() (*os.File, error)) (*File, error) {
	// What the journal cannot follow must not be used unnoticed.
	if flag&(os.O_APPEND|syscall.O_DIRECT) != 0 {
		panic("internal error: package disk does not know these flags; teach it what a power failure does")
	}
	r := recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := os.Lstat(path)
	fresh := err != nil
	f, err := open()
	if err != nil {
		return nil, err
	}
	file, err := wrap(f, path)
	switch {
	case err != nil:
	case fresh:
		r.note(journal.Record{Op: journal.Create, Path: path, Ino: file.ino})
	case flag&os.O_TRUNC != 0:
		// What was in it is gone, and nothing that comes is durable.
		r.note(journal.Record{Op: journal.Write, Ino: file.ino})
	}
	return file, err
}

func mkdir(path string, do func() error) error {
	r := recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	err := do()
	if err == nil {
		r.note(journal.Record{Op: journal.Mkdir, Path: path})
	}
	return err
}

func remove(path string, do func() error) error {
	r := recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	was, trash := r.keep(path)
	err := do()
	if err == nil && was != 0 {
		r.note(journal.Record{Op: journal.Remove, Path: path, Was: was, Trash: trash})
	}
	return err
}

func link(from, to string, do func() error) error {
	r := recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	err := do()
	if err == nil {
		r.note(journal.Record{Op: journal.Name, Path: from, To: to, Ino: r.inodeAt(to)})
	}
	return err
}

func rename(from, to string, do func() error) error {
	r := recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	was, trash := r.keep(to)
	err := do()
	if err == nil {
		r.note(journal.Record{Op: journal.Rename, Path: from, To: to, Ino: r.inodeAt(to), Was: was, Trash: trash})
	}
	return err
}
