package projection

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// bootID names the time between two starts of the machine (Linux; proc(5)). It is
// empty where it cannot be told.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// bootMark is a file beside the database that says since which start of the
// machine it is in use. The database does not wait for the disk: when a process
// dies, what it had written stays, since the kernel has it. When the machine
// dies, older writes may be lost while newer ones are there, and a cursor then
// stands behind effects that are gone. So a database that was in use when the
// machine went down is built anew.
type bootMark string

// tornDown reports whether the machine has started anew while the database was in
// use.
func (m bootMark) tornDown() (bool, error) {
	b, err := os.ReadFile(string(m))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read since when the local database is in use: %w", err)
	}
	return strings.TrimSpace(string(b)) != bootID(), nil
}

// set says, durably, that the database is in use from now on.
func (m bootMark) set() error {
	f, err := os.OpenFile(string(m), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("mark the local database as in use: %w", err)
	}
	_, err = f.WriteString(bootID() + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = syncDirectory(filepath.Dir(string(m)))
	}
	if err != nil {
		return fmt.Errorf("mark the local database as in use: %w", asNoSpace(err))
	}
	return nil
}

// clear says that the database was closed, with all of it on the disk.
func (m bootMark) clear() error {
	if err := os.Remove(string(m)); err != nil {
		return fmt.Errorf("mark the local database as closed: %w", err)
	}
	return nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
