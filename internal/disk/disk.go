package disk

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast/internal/failpoint"
)

// Flock locks an open file, as flock(2) with the same how.
func Flock(f *File, how int) error { return unix.Flock(int(system(f).Fd()), how) }

// SyncFS makes durable all that is visible now on the file system that f is on.
func SyncFS(f *File) error {
	return syncFS(f, func() error { return syncFileSystem(system(f)) })
}

// MakeDirs makes a directory of mode 0700 and those above it that are missing,
// durably, each before the next. One that is there is fsynced into its parent too:
// whoever made it may have died before.
func MakeDirs(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if fi, err := os.Stat(dir); err == nil {
		if !fi.IsDir() {
			return fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
		}
		// A directory whose parent may not be read was made by somebody else.
		if err := SyncDir(parent); err != nil && !errors.Is(err, iofs.ErrPermission) {
			return err
		}
		return nil
	}
	if parent != dir {
		if err := MakeDirs(parent); err != nil {
			return err
		}
	}
	if err := Mkdir(dir, 0o700); err != nil && !errors.Is(err, iofs.ErrExist) {
		return err
	}
	failpoint.Hit(failpoint.FSDirMade)
	return SyncDir(parent)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
