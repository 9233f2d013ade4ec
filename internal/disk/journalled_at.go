//go:build failpoint

package disk

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast/internal/disk/journal"
)

func (f *File) abs(base string) string { return filepath.Join(f.path, base) }

// CreateAt makes an empty file of mode 0600, open for writing, that must not be
// there. The name is for errors.
func CreateAt(dir *File, base, name string) (*File, error) {
	r := recorder()
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := create(dir, base)
	if err != nil {
		return nil, err
	}
	f, err := below(wrap(os.NewFile(uintptr(n), name), dir.abs(base)))
	if err == nil {
		r.note(journal.Record{Op: journal.Create, Path: f.path, Ino: f.ino})
	}
	return f, err
}

// LinkAt gives a file another name, which must be free.
func LinkAt(from *File, old string, to *File, base string) error {
	return link(from.abs(old), to.abs(base), func() error { return unix.Linkat(fd(from), old, fd(to), base, 0) })
}

// RenameAt gives a file another name, which may be taken.
func RenameAt(from *File, old string, to *File, base string) error {
	return rename(from.abs(old), to.abs(base), func() error { return unix.Renameat(fd(from), old, fd(to), base) })
}

// UnlinkAt removes a name of a file.
func UnlinkAt(dir *File, base string) error {
	return remove(dir.abs(base), func() error { return unix.Unlinkat(fd(dir), base, 0) })
}
