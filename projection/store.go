package projection

import (
	"errors"
	"iter"
)

// Store is an ordered key-value database: Badger on disk, or memory. It may be
// deleted at any time; the runner fills it again from the log. All methods may
// be called by any goroutine.
type Store interface {
	// Snapshot returns the state as of the last commit. The caller closes it.
	Snapshot() (Snapshot, error)
	// Commit makes all ops take effect at once, or none, however many they are.
	// Keys must differ from each other; keys and values must not be changed
	// afterwards. What was committed survives the end of the process, however it
	// ends; a crash of the machine may take the newest commits back, in order.
	Commit(ops []Op) error
	// Close releases the store. No other call may be running or follow.
	Close() error
}

// Snapshot reads one state of a [Store]. It is used by one goroutine at a time.
type Snapshot interface {
	// Get returns nil when the key is absent. The value must not be changed, and
	// is valid until Close.
	Get(key []byte) ([]byte, error)
	// Scan yields the items that begin with prefix, from from (inclusive) when it
	// is not nil, in byte order or in reverse order. Scans may be nested. Items
	// must not be changed, and are valid until Close.
	Scan(prefix, from []byte, reverse bool) iter.Seq2[Item, error]
	// Close may be called once.
	Close()
}

// Op sets one key, or deletes it.
type Op struct {
	Key, Value []byte
	Delete     bool
}

// Errors of stores.
var (
	// ErrNoSpace says that the disk is too full to commit. Reads go on, and the
	// commit may be tried again.
	ErrNoSpace = errors.New("too little space left for the local database; free some space in data_dir")
	// ErrInUse says that another process has the database open.
	ErrInUse = errors.New("local database is in use by another process")
	// ErrDamaged says that the database cannot be read any more. It is deleted
	// and built anew when it is next opened.
	ErrDamaged = errors.New("local database is damaged; it will be rebuilt at the next start")
)

// prefixEnd returns the first key behind all keys with the prefix, or nil when
// there is none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}
