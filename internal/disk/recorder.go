//go:build failpoint

package disk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"holdfast/internal/disk/journal"
)

// recorder is this process's journal, opened as the environment says when the
// first file is touched.
var recorder = sync.OnceValue(openJournal)

type writer struct {
	mu       sync.Mutex // held over an operation and its record
	file     *os.File   // nil: nothing is recorded
	trash    string
	prefix   string // of fsync and trash names: this process's
	next     int
	delay    time.Duration
	sabotage string
	late     []journal.Record // what LateFile holds back
}

func openJournal() *writer {
	name := os.Getenv(VarJournal)
	if name == "" {
		return &writer{}
	}
	w := &writer{trash: name + ".trash", prefix: strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36) + "-"}
	if err := os.MkdirAll(w.trash, 0o700); err != nil {
		fail(err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		fail(err)
	}
	w.file = f
	if v := os.Getenv(VarDelay); v != "" {
		us, err := strconv.Atoi(v)
		if err != nil {
			fail(err)
		}
		w.delay = time.Duration(us) * time.Microsecond
	}
	switch w.sabotage = os.Getenv(VarSabotage); w.sabotage {
	case "", SkipFile, SkipDir, LateFile, NoFlush:
	default:
		fail(fmt.Errorf("%s: unknown sabotage %q", VarSabotage, w.sabotage))
	}
	return w
}

// fail ends a process whose journal would have a hole.
func fail(err error) {
	fmt.Fprintln(os.Stderr, "disk journal:", err)
	os.Exit(1)
}

// note writes a record. The lock is held.
func (w *writer) note(r journal.Record) {
	if w.file == nil {
		return
	}
	if err := journal.Append(w.file, r); err != nil {
		fail(err)
	}
}

func (w *writer) fresh() string {
	w.next++
	return w.prefix + strconv.Itoa(w.next)
}

// keep gives the file under path another name in the trash, so that it can come
// back, and returns its number; zero when there is none. The lock is held.
func (w *writer) keep(path string) (ino uint64, trash string) {
	fi, err := os.Lstat(path)
	if err != nil || w.file == nil {
		return 0, ""
	}
	if !fi.Mode().IsRegular() {
		fail(fmt.Errorf("%s is removed or replaced and no file: the journal does not know what a power failure does then", path))
	}
	trash = filepath.Join(w.trash, w.fresh())
	if err := os.Link(path, trash); err != nil {
		fail(err)
	}
	return inodeOf(fi), trash
}

// inodeAt returns the number of the file under path, which is there.
func (w *writer) inodeAt(path string) uint64 {
	if w.file == nil {
		return 0
	}
	fi, err := os.Lstat(path)
	if err != nil {
		fail(err)
	}
	return inodeOf(fi)
}

// sync makes an fsync, or takes about as long, and records it.
func (w *writer) sync(begin journal.Record, bucket bool, real func() error) error {
	if w.file == nil {
		return real()
	}
	w.mu.Lock()
	begin.ID = w.fresh()
	w.note(begin)
	w.mu.Unlock()
	if w.delay > 0 {
		time.Sleep(rand.N(w.delay))
	} else if err := real(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	done := journal.Record{Op: journal.Synced, ID: begin.ID}
	isDir, isFile := bucket && begin.Path != "", bucket && begin.Ino != 0
	switch {
	case w.sabotage == SkipFile && isFile, w.sabotage == SkipDir && isDir, w.sabotage == NoFlush && begin.Op == journal.FSSync:
	case w.sabotage == LateFile && isFile:
		w.late = append(w.late, done)
	default:
		w.note(done)
		if isDir {
			for _, r := range w.late {
				w.note(r)
			}
			w.late = nil
		}
	}
	return nil
}
