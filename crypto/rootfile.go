package crypto

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"holdfast/event"
	"holdfast/internal/disk"
	"holdfast/internal/failpoint"
)

// Errors of the root file.
var (
	// ErrRootExists means that a root file is there already; it is never
	// overwritten.
	ErrRootExists = errors.New("a root key exists")
	// ErrNoRoot means that the root file is missing.
	ErrNoRoot = errors.New("no root key")
	// ErrReadableByOthers means that users other than the owner may read or
	// write the root file.
	ErrReadableByOthers = errors.New("root key is accessible to other users (want mode 0600)")
	// ErrRootChanged means that the file holds another root than this process.
	ErrRootChanged = errors.New("root key file was replaced by another root")
)

const (
	rootPEM     = "HOLDFAST ROOT KEY"
	rootVersion = 1
	// rootSize is a multiple of three, so that base64 has no spare bits that could
	// change unseen.
	rootSize     = 1 + 32 + 4 + 32 + 8 + 16 + checksumSize
	checksumSize = 9

	// maxRootFile bounds what is read of a root file or backup.
	maxRootFile = 64 << 10
)

const rootPreamble = `This is the root key of a Holdfast installation. Whoever has it can read
the mail; without it the mail is lost. Keep a backup: holdfast keys backup.

`

// CreateRoot makes a new root whose ratchet stands at today and writes it to
// path with mode 0600, durably when it returns. [ErrRootExists] if path exists.
func CreateRoot(path string, today event.Day) (*Root, error) {
	s := newRootState(today)
	if err := writeRootFile(path, s, false); err != nil {
		return nil, fmt.Errorf("create root key: %w", err)
	}
	return &Root{path: path, state: s}, nil
}

// LoadRoot reads the root file. [ErrNoRoot] if it is missing,
// [ErrReadableByOthers] if its mode lets others in, [ErrMalformed] if it is
// damaged.
func LoadRoot(path string) (*Root, error) {
	s, err := readRootFile(path)
	if err != nil {
		return nil, fmt.Errorf("load root key: %w", err)
	}
	return &Root{path: path, state: s}, nil
}

// update replaces the state by what f makes of it. Several processes may share
// the file (a node runs while an operator makes a backup), so it is read again
// under a lock, and the later ratchet and the later backup win.
func (r *Root) update(f func(*rootState) (*rootState, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.path == "" {
		next, err := f(r.state)
		if err == nil {
			r.replace(next)
		}
		return err
	}
	unlock, err := lockDir(filepath.Dir(r.path))
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := readRootFile(r.path)
	if err != nil {
		return err
	}
	merged, err := r.state.merge(stored)
	if err != nil {
		return err
	}
	next, err := f(merged)
	if err != nil {
		return err
	}
	if next.day != stored.day || next.backedUp != stored.backedUp || next.log != stored.log {
		if err := replaceFile(r.path, encodeRootFile(next), true); err != nil {
			return err
		}
	}
	r.replace(next)
	return nil
}

func (s *rootState) merge(o *rootState) (*rootState, error) {
	if subtle.ConstantTimeCompare(s.fixed.bytes(), o.fixed.bytes()) != 1 {
		return nil, ErrRootChanged
	}
	m := *s
	if o.day > s.day {
		m.day, m.ratchet = o.day, o.ratchet
	}
	m.backedUp = max(s.backedUp, o.backedUp)
	if m.log == (event.LogID{}) {
		m.log = o.log
	}
	return &m, nil
}

func encodeRootFile(s *rootState) []byte {
	b := make([]byte, 0, rootSize)
	b = append(b, rootVersion)
	b = append(b, s.fixed.bytes()...)
	b = binary.BigEndian.AppendUint32(b, uint32(s.day))
	b = append(b, s.ratchet.bytes()...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.backedUp))
	b = append(b, s.log[:]...)
	sum := sha256.Sum256(b)
	b = append(b, sum[:checksumSize]...)
	return append([]byte(rootPreamble), pem.EncodeToMemory(&pem.Block{Type: rootPEM, Bytes: b})...)
}

func decodeRootFile(file []byte) (*rootState, error) {
	block, _ := pem.Decode(file)
	if block == nil || block.Type != rootPEM {
		return nil, fmt.Errorf("not a root key file: %w", ErrMalformed)
	}
	b := block.Bytes
	if len(b) != rootSize || b[0] != rootVersion {
		return nil, fmt.Errorf("root key of %d bytes: %w", len(b), ErrMalformed)
	}
	sum := sha256.Sum256(b[:rootSize-checksumSize])
	if !bytes.Equal(sum[:checksumSize], b[rootSize-checksumSize:]) {
		return nil, fmt.Errorf("root key's checksum is wrong: %w", ErrMalformed)
	}
	return &rootState{
		fixed:    secretOf(b[1:33]),
		day:      event.Day(binary.BigEndian.Uint32(b[33:])),
		ratchet:  secretOf(b[37:69]),
		backedUp: int64(binary.BigEndian.Uint64(b[69:])),
		log:      event.LogID(b[77:93]),
	}, nil
}

func readRootFile(path string) (*rootState, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoRoot
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// The open file is asked, not the path, so that nothing can change between.
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("mode %#o: %w", info.Mode().Perm(), ErrReadableByOthers)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRootFile))
	if err != nil {
		return nil, err
	}
	defer clear(b)
	return decodeRootFile(b)
}

func writeRootFile(path string, s *rootState, replace bool) error {
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	return replaceFile(path, encodeRootFile(s), replace)
}

// replaceFile writes b to a new file of mode 0600 beside path and moves it into
// place, so that path always holds a whole root. The directory's lock must be
// held: then a temporary file found there is one that a crash left behind.
func replaceFile(path string, b []byte, replace bool) error {
	tmp := path + ".new"
	if err := disk.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer disk.Remove(tmp) // gone already after a rename
	f, err := disk.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	failpoint.Hit(failpoint.RootWritten)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.RootSynced)
	if replace {
		err = disk.Rename(tmp, path)
	} else if err = disk.Link(tmp, path); errors.Is(err, fs.ErrExist) {
		return ErrRootExists // link never overwrites
	}
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.RootNamed)
	if err := disk.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	failpoint.Hit(failpoint.RootDurable)
	return nil
}

// lockDir takes the advisory lock on a directory and returns what gives it up.
func lockDir(dir string) (unlock func(), err error) {
	d, err := disk.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := disk.Flock(d, syscall.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock the root key's directory: %w", err)
	}
	return func() { d.Close() }, nil // closing releases the lock
}
