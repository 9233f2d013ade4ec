package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/sabotage"
)

// reader is the View of one version of a projection.
type reader struct {
	ctx     context.Context
	src     Source
	snap    Snapshot
	prefix  []byte // of this version's keys
	name    string
	sealers map[sealerKey]*crypto.LocalSealer
	// trouble is the first failure that is not the fold's own: of the database
	// or of the key service. Such an event is tried again, it is no poison.
	trouble error
}

type sealerKey struct {
	tenant event.Tenant
	day    event.Day
}

func (v *reader) full(key []byte) []byte {
	b := make([]byte, 0, len(v.prefix)+len(key))
	return append(append(b, v.prefix...), key...)
}

// failed notes an operating error and returns it.
func (v *reader) failed(act string, err error) error {
	err = fmt.Errorf("%s: %w", act, err)
	if v.trouble == nil {
		v.trouble = err
	}
	return err
}

func (v *reader) Get(key []byte) ([]byte, error) {
	b, err := v.snap.Get(v.full(key))
	if err != nil {
		return nil, v.failed("read local database", err)
	}
	return b, nil
}

func (v *reader) Scan(prefix, from []byte, reverse bool) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for it, err := range v.snap.Scan(v.full(prefix), v.start(from), reverse) {
			if err != nil {
				yield(Item{}, v.failed("scan local database", err))
				return
			}
			key := it.Key[len(v.prefix):]
			if isEndedKey(key) {
				continue
			}
			if !yield(Item{Key: key, Value: it.Value}, nil) {
				return
			}
		}
	}
}

func (v *reader) start(from []byte) []byte {
	if from == nil {
		return nil
	}
	return v.full(from)
}

func (v *reader) sealer(t event.Tenant, d event.Day) (*crypto.LocalSealer, error) {
	k := sealerKey{t, d}
	if s, ok := v.sealers[k]; ok {
		return s, nil
	}
	s, err := v.src.LocalSealer(v.ctx, t, d)
	switch {
	case errors.Is(err, crypto.ErrExpired):
		return nil, fmt.Errorf("key of %v: %w", d, err)
	case err != nil:
		return nil, v.failed("get the key of a day", err)
	}
	if v.sealers == nil {
		v.sealers = map[sealerKey]*crypto.LocalSealer{}
	}
	v.sealers[k] = s
	return s, nil
}

// sealContext binds a sealed value to the projection and the key.
func (v *reader) sealContext(key []byte) []byte {
	b := make([]byte, 0, len(v.name)+1+len(key))
	return append(append(append(b, v.name...), 0), key...)
}

func (v *reader) OpenSealed(t event.Tenant, d event.Day, key, value []byte) ([]byte, error) {
	s, err := v.sealer(t, d)
	if err != nil {
		return nil, err
	}
	if sabotage.On(sabotage.PlainDatabase) {
		return value, nil
	}
	return s.Open(v.sealContext(key), value)
}

// txn is the Txn of a batch of segments.
type txn struct {
	reader
	over    *overlay
	current eventlog.Recorded
	emitted []Emission
	purge   bool
}

func (t *txn) Get(key []byte) ([]byte, error) {
	full := t.full(key)
	if n := t.over.find(full); n != nil {
		if n.deleted {
			return nil, nil
		}
		return n.value, nil
	}
	b, err := t.snap.Get(full)
	if err != nil {
		return nil, t.failed("read local database", err)
	}
	return b, nil
}

func (t *txn) Set(key, value []byte) {
	t.over.put(t.full(key), append([]byte{}, value...), false)
}

func (t *txn) Delete(key []byte) { t.over.put(t.full(key), nil, true) }

func (t *txn) SetSealed(tenant event.Tenant, d event.Day, key, plaintext []byte) error {
	s, err := t.sealer(tenant, d)
	if err != nil {
		return err
	}
	if sabotage.On(sabotage.PlainDatabase) {
		t.over.put(t.full(key), append([]byte{}, plaintext...), false)
		return nil
	}
	t.over.put(t.full(key), s.Seal(t.sealContext(key), plaintext), false)
	return nil
}

func (t *txn) Purge() { t.purge = true }

func (t *txn) Emit(v any) { t.emitted = append(t.emitted, Emission{Event: t.current, Value: v}) }

// Scan merges the snapshot with the overlay. Where both have a key the overlay
// wins. Writes made while the scan runs are seen when they lie ahead of it.
func (t *txn) Scan(prefix, from []byte, reverse bool) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		m := merge{t: t, prefix: t.full(prefix), reverse: reverse, yield: yield}
		m.start(t.start(from))
		for it, err := range t.snap.Scan(m.prefix, t.start(from), reverse) {
			if err != nil {
				yield(Item{}, t.failed("scan local database", err))
				return
			}
			if !m.overlayUntil(it.Key) {
				return
			}
			if t.over.find(it.Key) == nil && !m.give(it.Key, it.Value) {
				return
			}
			m.at, m.inclusive = it.Key, false
		}
		m.overlayUntil(nil)
	}
}

// merge is where one Scan stands in the overlay.
type merge struct {
	t         *txn
	prefix    []byte
	reverse   bool
	yield     func(Item, error) bool
	at        []byte // the next node lies behind this key, or at it
	inclusive bool
}

func (m *merge) start(from []byte) {
	switch {
	case from != nil:
		m.at, m.inclusive = from, true
	case m.reverse:
		m.at, m.inclusive = prefixEnd(m.prefix), false
	default:
		m.at, m.inclusive = m.prefix, true
	}
}

// overlayUntil yields the overlay's items up to and including limit, or to the
// end of the prefix. It reports whether the scan goes on.
func (m *merge) overlayUntil(limit []byte) bool {
	for {
		n := m.t.over.after(m.at, m.inclusive, m.reverse)
		if n == nil || !bytes.HasPrefix(n.key, m.prefix) || limit != nil && m.beyond(n.key, limit) {
			return true
		}
		m.at, m.inclusive = n.key, false
		if !n.deleted && !m.give(n.key, n.value) {
			return false
		}
	}
}

func (m *merge) beyond(key, limit []byte) bool {
	if m.reverse {
		return bytes.Compare(key, limit) < 0
	}
	return bytes.Compare(key, limit) > 0
}

func (m *merge) give(key, value []byte) bool {
	key = key[len(m.t.prefix):]
	return isEndedKey(key) || m.yield(Item{Key: key, Value: value}, nil)
}
