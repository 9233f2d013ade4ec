// Package projection runs folds over the event log.
//
// A projection's state is a function of the log alone: it may be deleted at any
// time and is then rebuilt, bit for bit the same. The runner reads segments,
// applies them, and commits the effect and the cursor in one transaction of a
// local database, so that no event is ever applied twice or left out.
package projection

import (
	"iter"

	"holdfast/event"
	"holdfast/eventlog"
)

// Projection is a pure fold: no clock, no network, no randomness.
type Projection interface {
	// Name is constant; it separates the keys of projections.
	Name() string
	// Version is raised whenever Apply would give another state for the same
	// log. The new version is built beside the old one and then replaces it.
	Version() int
	// Apply folds one event. An error stops the projection at this event until
	// the program is changed; nothing of the event is kept. Apply is never
	// called concurrently for one state; a second fold ([Runner.TakeBase]) calls it
	// for a state of its own meanwhile, so that a projection keeps nothing in
	// itself. Events of one partition come in
	// log order; the order between partitions is not defined, so state that is
	// fed from several partitions must not depend on it.
	Apply(Txn, eventlog.Recorded) error
}

// Selective is a projection that folds events of some classes only and does not
// need to see the others. While it is far behind it reads only those: so the
// settings are known long before all mail is indexed.
type Selective interface {
	Projection
	// Classes is constant for a version. Those of retention are read in any case: they
	// say which tenants end.
	Classes() event.Classes
}

// Unhurried is a projection whose readers always ask for what they need, by
// [Runner.WaitFor] or [Runner.Do], before they look. While segments come fast it
// folds several at a time, up to 25 ms late, unless somebody waits: most of what
// a commit costs it costs once, and keys that every message changes are written
// once.
type Unhurried interface {
	Projection
	Unhurried()
}

// Upgrader is a projection that can start from a Base of an older version. That is
// only done when the log's beginning is gone, so that the new version cannot be
// folded from there: without it a node of the new version then has no state.
type Upgrader interface {
	Projection
	// UpgradesFrom says whether Upgrade knows the version.
	UpgradesFrom(version int) bool
	// Upgrade is given the items of that version's state in the order of their keys,
	// and writes what the new version has in their place. It reads what it has
	// written. It is pure, as Apply is, and emits nothing.
	Upgrade(t Txn, version int, it Item) error
}

// View reads a projection's state. Byte slices that it returns must not be
// changed and are valid until the View ends.
type View interface {
	// Get returns nil when the key is absent.
	Get(key []byte) ([]byte, error)
	// Scan yields the keys that begin with prefix in byte order, or in reverse
	// order. When from is not nil it begins at from (inclusive), which must
	// have the prefix.
	Scan(prefix, from []byte, reverse bool) iter.Seq2[Item, error]
	// OpenSealed opens a value that SetSealed stored under key. The error wraps
	// crypto.ErrExpired once the day's key is gone.
	OpenSealed(t event.Tenant, d event.Day, key, value []byte) ([]byte, error)
}

// Item is one key and its value.
type Item struct{ Key, Value []byte }

// Txn changes a projection's state. What one Apply does becomes visible at once
// with the cursor, or not at all. Reads see the transaction's own writes.
type Txn interface {
	View
	Set(key, value []byte)
	Delete(key []byte)
	// SetSealed stores mail-derived text so that it dies with the mail: sealed
	// under the expiry day's key, deterministically, bound to the projection
	// and the key.
	SetSealed(t event.Tenant, d event.Day, key, plaintext []byte) error
	// Purge says that what this Apply deletes or overwrites has to leave the files of
	// the local database, soon after the transaction and not only when the database
	// sees fit. It is for what was erased; what has expired cannot be read anyway.
	Purge()
	// Emit hands v to the observers of this projection once the transaction is
	// durable, and to whoever waits for the verdict on the current event. It is
	// no part of the state.
	Emit(v any)
}

// Emission is what an Apply emitted, with the event that it was applied to.
type Emission struct {
	Event eventlog.Recorded
	Value any
}

// Observer is told what a committed transaction emitted, in order, before
// waiters for these events are released. It is called from the runner's own
// goroutine and must not block. It is not told what is in a Base that is loaded:
// an observer that follows the state needs [Runner.Restore] first.
type Observer func([]Emission)
