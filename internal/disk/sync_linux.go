package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncFileSystem flushes the whole file system that f is on and reports errors
// of that flush.
func syncFileSystem(f *os.File) error { return unix.Syncfs(int(f.Fd())) }
