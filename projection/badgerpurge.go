package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// How what was deleted leaves Badger's files.
//
// Badger never changes a file. A value stands in the log of the table in memory
// (.mem), until that is full (8 MiB), and then in tables (.sst) of the levels 0 to
// 6; who deletes or overwrites it adds a newer version, and the older one goes
// when a compaction meets both. It drops a version when there is a newer one of
// the key that is not newer than the oldest snapshot that is open. The versions
// of a key lie in levels: the newer ones above. A compaction takes tables of one
// level and what they overlap in the next, so that an old version in the last
// level stays until the newer one has come down to it, which in a database at
// rest is never. Two versions that meet while an old snapshot is open both go to
// the last level, and there nothing looks at them again unless there are 10 MB of
// such in one table.
//
// So a purge
//
//  1. waits until all snapshots are closed that were open when it began: what is
//     open later does not see what was deleted before;
//  2. empties the table in memory and level 0 into the levels below, for which
//     Badger's only way is to drop a prefix: nothing is written and little is read
//     meanwhile;
//  3. compacts each level into the next until all is in one, while reading and
//     writing go on;
//  4. looks at all versions of all keys. Where an old one is left it writes the key
//     once more, so that the next compaction meets both, and begins again;
//  5. waits until nobody has a file open that was replaced: Badger unlinks it then.
//
// Values of more than a mebibyte are in files of their own (.vlog), one for each
// transaction that has some, and these go when nothing points into them.
//
// A process that ends in the middle leaves a database in which all this has to be
// done again, and nothing else.

const (
	// purgeMark is the key that is dropped in the second step.
	purgeMark = 0xf2
	// purgeRounds bounds how often a purge begins again.
	purgeRounds = 4
	// purgeTouch bounds how many keys are written once more in a round.
	purgeTouch = 4096
	// purgeSpace is what compactions may take beside the reserve before they give
	// something back.
	purgeSpace = 128 << 20
)

// errStays says that a purge was in vain.
var errStays = errors.New("old versions are still in the local database's files")

// Purge implements [Purger].
func (s *badgerStore) Purge(ctx context.Context) error {
	if s.free(s.dir) < reserve+purgeSpace {
		return fmt.Errorf("purge local database: %w", ErrNoSpace)
	}
	s.collecting.Lock()
	defer s.collecting.Unlock()
	if err := s.open.waitOlder(ctx); err != nil {
		return err
	}
	txn := s.db.NewTransaction(false)
	until := txn.ReadTs()
	txn.Discard()
	for range purgeRounds {
		if err := s.sink(); err != nil {
			return fmt.Errorf("purge local database: %w", asNoSpace(err))
		}
		for s.db.RunValueLogGC(0.5) == nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		stale, large, err := s.stale(ctx, until)
		if err != nil {
			return fmt.Errorf("look for old versions: %w", err)
		}
		logs, err := s.valueLogs()
		if err != nil {
			return err
		}
		if len(stale) == 0 && logs <= large {
			return s.open.waitOlder(ctx)
		}
		if err := s.touch(stale); err != nil {
			return fmt.Errorf("write keys with old versions again: %w", asNoSpace(err))
		}
	}
	return errStays
}

// sink brings everything down into one level.
func (s *badgerStore) sink() error {
	s.commits.Lock()
	err := s.commitOne([]Op{{Key: []byte{purgeMark}, Value: []byte{1}}}) // what is not there is not dropped
	if err == nil {
		err = s.db.DropPrefix([]byte{purgeMark})
	}
	s.commits.Unlock()
	if err != nil {
		return err
	}
	return s.db.Flatten(1)
}

// stale returns keys of which the files have a version that was older than
// another one at until, and how many values are so large that they are in files
// of their own.
func (s *badgerStore) stale(ctx context.Context, until uint64) (keys [][]byte, large int, err error) {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{AllVersions: true})
	defer it.Close()
	var key []byte
	var newer uint64 // version before this one
	n := 0
	for it.Rewind(); it.Valid() && len(keys) < purgeTouch; it.Next() {
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		item := it.Item()
		switch same := bytes.Equal(item.Key(), key) && n > 1; {
		case !same:
			key = append(key[:0], item.Key()...)
			if item.ValueSize() > valueThreshold {
				large++
			}
		case newer <= until && (len(keys) == 0 || !bytes.Equal(keys[len(keys)-1], key)):
			keys = append(keys, bytes.Clone(key))
		}
		newer = item.Version()
	}
	return keys, large, nil
}

// touch writes keys once more as they are.
func (s *badgerStore) touch(keys [][]byte) error {
	s.commits.Lock() // each key has another writer
	defer s.commits.Unlock()
	for some := range slices.Chunk(keys, 64) {
		ops := make([]Op, 0, len(some))
		for _, k := range some {
			v, err := s.value(k)
			if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
				return err
			}
			ops = append(ops, Op{Key: k, Value: v, Delete: err != nil})
		}
		err := s.commitOne(ops)
		for i := 0; errors.Is(err, badger.ErrTxnTooBig) && i < len(ops); i++ {
			if err = s.commitOne(ops[i : i+1]); err == nil && i < len(ops)-1 {
				err = badger.ErrTxnTooBig // go on one by one
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// valueLogs counts the files of large values but for the one that is written,
// which has none yet.
func (s *badgerStore) valueLogs() (n int, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("look at the local database's files: %w", err)
	}
	const header = 20
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".vlog" {
			continue
		}
		if st, err := e.Info(); err == nil && st.Size() > header {
			n++
		}
	}
	return max(n-1, 0), nil
}

// openSnapshots counts the snapshots that are open, by when they were opened: in
// which period between two purges.
type openSnapshots struct {
	mu     sync.Mutex
	period uint64
	n      map[uint64]int
}

func (o *openSnapshots) add() (period uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == nil {
		o.n = map[uint64]int{}
	}
	o.n[o.period]++
	return o.period
}

func (o *openSnapshots) remove(period uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n[period]--; o.n[period] == 0 {
		delete(o.n, period)
	}
}

// waitOlder waits until all snapshots are closed that are open now.
func (o *openSnapshots) waitOlder(ctx context.Context) error {
	o.mu.Lock()
	last := o.period
	o.period++
	o.mu.Unlock()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		o.mu.Lock()
		older := 0
		for p, n := range o.n {
			if p <= last {
				older += n
			}
		}
		o.mu.Unlock()
		if older == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
