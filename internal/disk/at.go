package disk

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// The calls of this file work in a directory that is open, so that the kernel
// does not have to walk to it. A base is a name without slashes. They return the
// kernel's bare errors.

// StatAt describes what is under a name below a directory. It follows no link at
// the end of the name.
func StatAt(dir *File, name string, st *unix.Stat_t) error {
	return unix.Fstatat(fd(dir), name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// TouchAt sets a file's modification time.
func TouchAt(dir *File, base string, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(fd(dir), base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func fd(f *File) int { return int(system(f).Fd()) }

// create makes an empty file that must not be there.
func create(dir *File, base string) (int, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	for {
		n, err := unix.Openat(fd(dir), base, flags, 0o600)
		if !errors.Is(err, unix.EINTR) { // A signal came in between.
			return n, err
		}
	}
}
