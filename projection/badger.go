package projection

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

const (
	// storeFormat is raised when the layout of the keys in this package changes:
	// a database of another format is rebuilt.
	storeFormat = 1
	// reserve is the space on the disk below which nothing is committed. Badger
	// writes through memory maps, where a full disk ends the process, so it must
	// never come to that; this is room for what it has buffered and for the
	// tables that it is merging.
	reserve = 64 << 20
	// gcEvery is how often the value log is looked at. Only values of more than
	// valueThreshold are there, so there is rarely anything to do. It is as high as
	// Badger allows, and each such value gets a file of its own, which goes with it:
	// in a file that is shared it would stay as long as half of the others.
	gcEvery        = 10 * time.Minute
	valueThreshold = 1 << 20
	// memTable bounds what is in memory before it goes to disk; there are at most
	// three such tables. The largest transaction is 15 % of it. Badger keeps up to
	// eight buffers of two to three times the size of the largest table that it
	// ever built: writing three million random keys as fast as possible held
	// 420 MB with tables of 16 MB and more, and 110 MB with these sizes, without
	// compression, which would need a third copy of each table.
	memTable  = 8 << 20
	diskTable = 2 << 20
	// startsAllowed is how many starts in a row may die while opening before the
	// database is thought to be the reason.
	startsAllowed = 2
)

// BadgerOptions are what may be chosen for [OpenBadger].
type BadgerOptions struct {
	Dir string
	// Key encrypts the database: 16, 24 or 32 bytes.
	Key    []byte
	Logger *slog.Logger // nil: none
}

// OpenBadger opens the database in a directory of its own, or makes it. A
// database that is damaged, of another format, or encrypted under another key is
// deleted and made anew, which the log says. The errors wrap [ErrInUse] and
// [ErrNoSpace].
func OpenBadger(o BadgerOptions) (Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the local database's directory: %w", asNoSpace(err))
	}
	lock, err := lockFile(o.Dir + ".lock")
	if err != nil {
		return nil, fmt.Errorf("lock local database: %w", err)
	}
	s, err := openLocked(o)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s.lock = lock
	s.stop = make(chan struct{})
	s.wg.Go(s.collect)
	return s, nil
}

// openLocked opens the database, at the second try an empty one.
func openLocked(o BadgerOptions) (*badgerStore, error) {
	if free(o.Dir) < reserve {
		return nil, fmt.Errorf("open local database: %w", ErrNoSpace)
	}
	marker := o.Dir + ".opening"
	starts, _ := os.ReadFile(marker)
	n, _ := strconv.Atoi(strings.TrimSpace(string(starts)))
	boot := bootMark(o.Dir + ".boot")
	torn, err := boot.tornDown()
	if err != nil {
		return nil, err
	}
	if torn || n >= startsAllowed {
		o.Logger.Warn("local database was in use when the machine went down, or could not be opened by earlier starts; building it anew")
		if err := os.RemoveAll(o.Dir); err != nil {
			return nil, fmt.Errorf("delete local database: %w", err)
		}
	}
	if err := boot.set(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(marker, strconv.AppendInt(nil, int64(n+1), 10), 0o600); err != nil {
		return nil, fmt.Errorf("mark local database: %w", asNoSpace(err))
	}
	s, err := openBadger(o)
	if err != nil && !isOperating(err) {
		o.Logger.Warn("local database cannot be read; building it anew", "error", err)
		if err := os.RemoveAll(o.Dir); err != nil {
			return nil, fmt.Errorf("delete local database: %w", err)
		}
		s, err = openBadger(o)
	}
	if err != nil {
		os.Remove(marker) // the next start may try again with the same database
		return nil, fmt.Errorf("open local database: %w", asNoSpace(err))
	}
	if err := os.Remove(marker); err != nil {
		s.db.Close()
		return nil, fmt.Errorf("unmark local database: %w", err)
	}
	s.marker, s.boot = marker, boot
	return s, nil
}

func openBadger(o BadgerOptions) (*badgerStore, error) {
	opt := badger.DefaultOptions(o.Dir).
		WithLogger(badgerLog{o.Logger}).
		WithEncryptionKey(o.Key).
		WithExternalMagic(storeFormat).
		WithMetricsEnabled(false).
		WithDetectConflicts(false). // each key has one writer
		WithSyncWrites(false).      // what a crash takes is folded again
		WithMemTableSize(memTable).
		WithBaseTableSize(diskTable).
		WithCompression(options.None). // most values are sealed
		WithNumMemtables(2).
		WithNumLevelZeroTables(3).
		WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2).
		WithBlockCacheSize(16 << 20).
		WithIndexCacheSize(16 << 20).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(64 << 20).
		WithValueLogMaxEntries(0).
		WithChecksumVerificationMode(options.OnBlockRead)
	opt.TableSizeMultiplier = 1
	db, err := badger.Open(opt)
	if err != nil {
		return nil, err
	}
	s := &badgerStore{db: db, dir: o.Dir, free: free}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// isOperating tells a failure of the machine from one of the data. Badger's
// errors do not keep what they wrap, only its text.
func isOperating(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EPERM, syscall.EROFS,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return errors.Is(err, badger.ErrInvalidEncryptionKey) || strings.Contains(err.Error(), badger.ErrInvalidEncryptionKey.Error())
}

func asNoSpace(err error) error {
	if err != nil && (errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error())) {
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}

// free returns the bytes that may still be written where dir is. Where it
// cannot be asked the disk is taken to have room.
func free(dir string) uint64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		if err := syscall.Statfs(filepath.Dir(dir), &st); err != nil {
			return 1 << 62
		}
	}
	return st.Bavail * uint64(st.Bsize)
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, asNoSpace(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, err
	}
	return f, nil
}

type badgerStore struct {
	db     *badger.DB
	dir    string
	marker string
	boot   bootMark
	lock   *os.File
	free   func(dir string) uint64

	// applying is held while a commit that takes several transactions takes
	// effect, so that no snapshot sees the half of it.
	applying sync.RWMutex
	large    sync.Mutex // one such commit at a time
	failed   atomic.Pointer[error]

	open       openSnapshots
	commits    sync.RWMutex // held for writing while nothing may be committed
	collecting sync.Mutex   // one purge or collection of large values at a time

	stop chan struct{}
	wg   sync.WaitGroup
}

func (s *badgerStore) Snapshot() (Snapshot, error) {
	s.applying.RLock()
	defer s.applying.RUnlock()
	if err := s.failed.Load(); err != nil {
		return nil, *err
	}
	period := s.open.add()
	return &badgerSnapshot{s: s, txn: s.db.NewTransaction(false), period: period}, nil
}

func (s *badgerStore) Commit(ops []Op) error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	if s.free(s.dir) < reserve {
		return ErrNoSpace
	}
	s.commits.RLock()
	defer s.commits.RUnlock()
	err := s.commitOne(ops)
	if errors.Is(err, badger.ErrTxnTooBig) {
		err = s.commitLarge(ops)
	}
	return asNoSpace(err)
}

func (s *badgerStore) commitOne(ops []Op) error {
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	for _, op := range ops {
		var err error
		if op.Delete {
			err = txn.Delete(op.Key)
		} else {
			err = txn.SetEntry(&badger.Entry{Key: op.Key, Value: op.Value})
		}
		if err != nil {
			return err
		}
	}
	return txn.Commit()
}

func (s *badgerStore) Close() error {
	close(s.stop)
	s.wg.Wait()
	err := errors.Join(s.db.Sync(), s.db.Close())
	if err == nil {
		err = s.boot.clear()
	} else {
		err = fmt.Errorf("close local database: %w", err)
	}
	return errors.Join(err, s.lock.Close())
}

// collect gives back the space of large values that were deleted. Close stops
// it.
func (s *badgerStore) collect() {
	t := time.NewTicker(gcEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			s.collectSome()
		}
	}
}

func (s *badgerStore) collectSome() {
	if !s.collecting.TryLock() {
		return // a purge does it
	}
	defer s.collecting.Unlock()
	for s.db.RunValueLogGC(0.5) == nil {
		select {
		case <-s.stop:
			return
		default:
		}
	}
}

// damaged makes the next start build the database anew when err says that it
// cannot be read.
func (s *badgerStore) damaged(err error) error {
	if err == nil || !strings.Contains(err.Error(), "checksum") {
		return err
	}
	mark := strconv.AppendInt(nil, startsAllowed, 10)
	return errors.Join(fmt.Errorf("%w: %w", ErrDamaged, err), os.WriteFile(s.marker, mark, 0o600))
}

// badgerLog passes on only the fixed part of Badger's messages: what it fills in
// may be a key.
type badgerLog struct{ l *slog.Logger }

func (b badgerLog) Errorf(format string, _ ...any)   { b.l.Error("local database", "says", format) }
func (b badgerLog) Warningf(format string, _ ...any) { b.l.Warn("local database", "says", format) }
func (b badgerLog) Infof(string, ...any)             {}
func (b badgerLog) Debugf(string, ...any)            {}
