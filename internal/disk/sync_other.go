//go:build unix && !linux

package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncFileSystem flushes every file system, for want of a call for one.
func syncFileSystem(*os.File) error { return unix.Sync() }
