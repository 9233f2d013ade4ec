//go:build !failpoint

package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// File is an open file or directory.
type File = os.File

// Root is a directory below which all names are looked up.
type Root = os.Root

// OpenRoot is os.OpenRoot.
func OpenRoot(dir string) (*Root, error) { return os.OpenRoot(dir) }

// Open is os.Open.
func Open(name string) (*File, error) { return os.Open(name) }

// OpenFile is os.OpenFile.
func OpenFile(name string, flag int, perm os.FileMode) (*File, error) {
	return os.OpenFile(name, flag, perm)
}

// Mkdir is os.Mkdir.
func Mkdir(name string, perm os.FileMode) error { return os.Mkdir(name, perm) }

// Remove is os.Remove.
func Remove(name string) error { return os.Remove(name) }

// Rename is os.Rename.
func Rename(from, to string) error { return os.Rename(from, to) }

// Link is os.Link.
func Link(from, to string) error { return os.Link(from, to) }

func system(f *File) *os.File { return f }

func syncFS(_ *File, sync func() error) error { return sync() }

// CreateAt makes an empty file of mode 0600, open for writing, that must not be
// there. The name is for errors.
func CreateAt(dir *File, base, name string) (*File, error) {
	n, err := create(dir, base)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), name), nil
}

// LinkAt gives a file another name, which must be free.
func LinkAt(from *File, old string, to *File, base string) error {
	return unix.Linkat(fd(from), old, fd(to), base, 0)
}

// RenameAt gives a file another name, which may be taken.
func RenameAt(from *File, old string, to *File, base string) error {
	return unix.Renameat(fd(from), old, fd(to), base)
}

// UnlinkAt removes a name of a file.
func UnlinkAt(dir *File, base string) error { return unix.Unlinkat(fd(dir), base, 0) }
