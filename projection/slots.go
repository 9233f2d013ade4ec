package projection

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
)

// Every build of a version of a projection has a number, its slot, which is
// never used again: what is left of an old one cannot be taken for a new one's.
//
//	tagMeta   name                    meta
//	tagSlots                          the last slot given out (4)
//	tagDrop   slot (4)                a slot whose data is to be deleted
//	tagCursor slot (4) partition (1)  mark
//	tagState  slot (4) key            the projection's own
//	tagLoading slot (4)               a slot into which a Base may be loaded
//	tagPurge  …                       see purgeKey
const (
	tagMeta   = 0x01
	tagSlots  = 0x02
	tagDrop   = 0x03
	tagCursor = 0x04
	tagState  = 0x05
	// tagLoading comes with a slot that no meta names. It is dropped at the next
	// start, unless the Base was loaded: then the slot has replaced an empty one.
	tagLoading = 0x06
	tagPurge   = 0x07
)

type slot uint32

// meta says which versions of a projection there are.
type meta struct {
	Live        slot `cbor:"1,keyasint"`
	LiveVersion int  `cbor:"2,keyasint"`
	// Complete: the live version has been at the tail of the log once.
	Complete bool `cbor:"3,keyasint"`
	// Building is the version that will replace the live one, or 0.
	Building        slot `cbor:"4,keyasint"`
	BuildingVersion int  `cbor:"5,keyasint"`
}

// mark is a cursor and the hash before it, with which the segment that the
// cursor stands on can be read again.
type mark struct {
	Cursor eventlog.Cursor `cbor:"1,keyasint"`
	Prev   eventlog.Hash   `cbor:"2,keyasint"`
}

// OldReader is a projection whose readers do not understand every older version.
// While a new version is being built, [Runner.View] shows the old one only if
// ReadsVersion says yes, and what has been built so far otherwise.
type OldReader interface {
	ReadsVersion(version int) bool
}

func metaKey(name string) []byte { return append([]byte{tagMeta}, name...) }

func slotKey(tag byte, s slot) []byte {
	return binary.BigEndian.AppendUint32([]byte{tag}, uint32(s))
}

func statePrefix(s slot) []byte { return slotKey(tagState, s) }

func cursorKey(s slot, p event.Partition) []byte { return append(slotKey(tagCursor, s), byte(p)) }

func readMeta(snap Snapshot, name string) (m meta, err error) {
	b, err := snap.Get(metaKey(name))
	if err != nil || b == nil {
		return m, err
	}
	return m, event.Unmarshal(b, &m)
}

func setMeta(name string, m meta) Op { return Op{Key: metaKey(name), Value: event.Marshal(m)} }

// claimSlot finds the slot into which this version is folded, or makes one.
func claimSlot(st Store, name string, version int) (m meta, s slot, err error) {
	snap, err := st.Snapshot()
	if err != nil {
		return m, 0, err
	}
	defer snap.Close()
	if m, err = readMeta(snap, name); err != nil {
		return m, 0, err
	}
	var ops []Op
	drop := func(s slot) {
		if s != 0 {
			ops = append(ops, Op{Key: slotKey(tagDrop, s), Value: []byte{}})
		}
	}
	switch {
	case m.Live != 0 && m.LiveVersion == version:
		if m.Building == 0 {
			return m, m.Live, nil
		}
		// An older program is back: the version it knows is still there.
		drop(m.Building)
		m.Building, m.BuildingVersion = 0, 0
		return m, m.Live, st.Commit(append(ops, setMeta(name, m)))
	case m.Building != 0 && m.BuildingVersion == version:
		return m, m.Building, nil
	}
	b, err := snap.Get([]byte{tagSlots})
	if err != nil {
		return m, 0, err
	}
	if len(b) == 4 {
		s = slot(binary.BigEndian.Uint32(b))
	}
	s++
	ops = append(ops, Op{Key: []byte{tagSlots}, Value: binary.BigEndian.AppendUint32(nil, uint32(s))})
	drop(m.Building)
	m.Building, m.BuildingVersion = 0, 0
	if m.Complete {
		m.Building, m.BuildingVersion = s, version
	} else {
		drop(m.Live)
		m.Live, m.LiveVersion = s, version
	}
	return m, s, st.Commit(append(ops, setMeta(name, m)))
}

// complete makes the version that was being built the live one, at once.
func (f *fold) complete() error {
	m := f.meta
	ops := make([]Op, 0, 2)
	if m.Building != 0 {
		ops = append(ops, Op{Key: slotKey(tagDrop, m.Live), Value: []byte{}})
		m = meta{Live: m.Building, LiveVersion: m.BuildingVersion}
	}
	m.Complete = true
	if m == f.meta {
		return nil
	}
	failpoint.Hit(failpoint.FoldNewVersion)
	if err := f.r.store.Commit(append(ops, setMeta(f.name, m))); err != nil {
		return fmt.Errorf("put version %d into service: %w", m.LiveVersion, err)
	}
	failpoint.Hit(failpoint.FoldInService)
	f.meta = m
	select {
	case f.r.swept <- struct{}{}:
	default: // it is about to look anyway
	}
	return nil
}

// sweep deletes the data of versions that were replaced. It is no part of
// anything that somebody waits for, and goes on with the next start.
func (r *Runner) sweep(ctx context.Context) {
	for {
		for {
			more, err := r.sweepSome(ctx)
			if err != nil {
				r.logger.Warn("old version of a projection not deleted yet", "error", err)
				sleep(ctx, time.Minute)
			}
			if ctx.Err() != nil {
				return
			}
			if !more && err == nil {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.swept:
		}
	}
}

// sweepSome deletes a bounded number of keys. What was erased while another version
// was built was not erased in the one that it replaced, so that what is deleted
// here has to leave the files.
func (r *Runner) sweepSome(ctx context.Context) (more bool, err error) {
	const limit = 4096
	snap, err := r.store.Snapshot()
	if err != nil {
		return false, err
	}
	defer snap.Close()
	var ops []Op
	commit := func() error {
		if slices.ContainsFunc(ops, func(op Op) bool { return op.Key[0] == tagState }) {
			now := time.Now()
			ops = append(ops, r.purgeOps(0, 0, event.Seq(now.UnixNano()), event.Millis(now.UnixMilli()))...)
			defer r.mustPurge()
		}
		return r.store.Commit(ops)
	}
	for d, err := range snap.Scan([]byte{tagDrop}, nil, false) {
		if err != nil {
			return false, err
		}
		if len(d.Key) != 5 {
			return false, fmt.Errorf("slot key of %d bytes: %w", len(d.Key), event.ErrMalformed)
		}
		s := slot(binary.BigEndian.Uint32(d.Key[1:]))
		for _, prefix := range [][]byte{slotKey(tagCursor, s), statePrefix(s)} {
			for it, err := range snap.Scan(prefix, nil, false) {
				if err != nil {
					return false, err
				}
				if ops = append(ops, Op{Key: it.Key, Delete: true}); len(ops) == limit {
					return true, commit()
				}
			}
		}
		ops = append(ops, Op{Key: d.Key, Delete: true})
	}
	if len(ops) == 0 || ctx.Err() != nil {
		return false, ctx.Err()
	}
	return false, commit()
}
