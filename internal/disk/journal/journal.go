// Package journal is what a program built for crashing writes down about its
// files, and what a power failure makes of it.
//
// # Fault model
//
// A process that is killed loses nothing that it wrote: the kernel has it. A
// machine that loses its power loses whatever was not made durable, in any
// combination:
//
//   - The bytes of a file that were written since its last fsync began, all of
//     them or some: the file is cut at a random place behind what is durable, or
//     has zeros in place of random pages.
//   - Each name that was made, replaced or removed in a directory since the last
//     fsync of that directory began: it is again what it was after any earlier
//     step, down to the last durable one. Each name has its own luck: a later
//     change may survive an earlier one. With the name of a directory goes all
//     that is below it.
//   - An fsync counts when it has returned, for what was done before it was
//     called. An fsync of a file makes none of its names durable, one of a
//     directory none of its files. syncfs makes everything durable.
//   - A write that is whole on the disk has its bytes; a file is never mixed up
//     with another one, and what is durable stays as it is.
//
// What a journalling file system such as ext4 loses is one of these outcomes; this
// is what POSIX allows. Not modelled: the loss of modification times, which are set
// before the fsync of the file that they belong to; the loss of a recursive removal
// (it stays removed); disks that lie about their cache.
//
// A kill without a power failure keeps the journal: what the killed process left
// unsynced can be lost later, unless the next one makes it durable.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Op says what was done.
type Op string

// The operations. All but sync and fssync have been done when they are written
// down, under a lock that lets nothing else happen between.
const (
	Create    Op = "create"    // Path is new, an empty file
	Write     Op = "write"     // Len bytes at Off of the file Ino
	Name      Op = "link"      // To is another name of the file Ino
	Rename    Op = "rename"    // Path, the file Ino, is now To, which was the file Was or nothing
	Remove    Op = "remove"    // Path, the file Was, is gone
	RemoveAll Op = "removeall" // Path and all below it is gone, durably
	Mkdir     Op = "mkdir"     // Path is a new directory
	Sync      Op = "sync"      // an fsync of the file Ino, or of the directory Path, begins
	FSSync    Op = "fssync"    // one of everything begins
	Synced    Op = "synced"    // the fsync ID has succeeded
)

// Record is one line of the journal. Paths are absolute.
type Record struct {
	Op    Op     `json:"op"`
	Path  string `json:"path,omitempty"`
	To    string `json:"to,omitempty"`
	Ino   uint64 `json:"ino,omitempty"`
	Was   uint64 `json:"was,omitempty"`
	Trash string `json:"trash,omitempty"` // where the file Was still has a name
	Off   int64  `json:"off,omitempty"`
	Len   int64  `json:"len,omitempty"`
	ID    string `json:"id,omitempty"`
}

// Append writes one record; w is open for appending.
func Append(w *os.File, r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// Read reads a journal. A last line that a kill cut short is cut off the file; a
// journal that does not exist is empty.
func Read(name string) ([]Record, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if whole := data[:bytes.LastIndexByte(data, '\n')+1]; len(whole) < len(data) {
		if err := os.Truncate(name, int64(len(whole))); err != nil {
			return nil, err
		}
		data = whole
	}
	var records []Record
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		var r Record
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("journal %s line %d: %w", name, n, err)
		}
		records = append(records, r)
	}
	return records, sc.Err()
}
