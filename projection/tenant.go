package projection

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
)

// What a projection has of a tenant goes when the system tenant's
// [event.TenantCondemned] is folded: all of it, before the cursor passes that
// event. Where it is more than one transaction should hold, pieces of it are
// committed first, with the cursor where it was. Who dies in between begins the
// event again, and finds less.
//
// One key for each tenant that has ended stays in the state of each projection:
// with it a projection knows by itself, after a restart as well, that nothing of
// the tenant is folded any more.

// Ender is a projection that keeps something of tenants.
type Ender interface {
	Projection
	// DropTenant removes what there is of a tenant, or as much of it as d takes; it
	// is called again until nothing is left. Between two calls readers may look.
	DropTenant(tx Txn, t event.Tenant, d *Dropper) error
}

// dropAtOnce is how many keys of a tenant are removed with one commit.
const dropAtOnce = 4096

// endedPrefix begins the key that says that a tenant has ended: endedPrefix,
// tenant. Projections begin none of theirs with it, and do not see it.
const endedPrefix = "\xffended\x00"

// Values of that key.
const (
	endedDropping = 1 // some of it may be left; the cursor stands before its end
	endedDropped  = 2
)

func endedKey(t event.Tenant) []byte { return append([]byte(endedPrefix), t[:]...) }

func isEndedKey(key []byte) bool { return bytes.HasPrefix(key, []byte(endedPrefix)) }

// readEnded returns the tenants of which nothing is folded into a slot any more,
// with the values of their keys.
func readEnded(snap Snapshot, s slot) (map[event.Tenant]byte, error) {
	out := map[event.Tenant]byte{}
	prefix := append(statePrefix(s), endedPrefix...)
	for it, err := range snap.Scan(prefix, nil, false) {
		if err != nil {
			return nil, err
		}
		t := it.Key[len(prefix):]
		if len(t) != len(event.Tenant{}) || len(it.Value) != 1 {
			return nil, fmt.Errorf("ended tenant of %d and %d bytes: %w", len(t), len(it.Value), event.ErrMalformed)
		}
		out[event.Tenant(t)] = it.Value[0]
	}
	return out, nil
}

// readGone reads which tenants have ended, by the state in a slot.
func (f *fold) readGone(snap Snapshot, s slot) error {
	tenants, err := readEnded(snap, s)
	if err != nil {
		return err
	}
	f.gone = make(map[event.Tenant]bool, len(tenants))
	for t := range tenants {
		f.gone[t] = true
	}
	return nil
}

// ender is a source that knows which tenants have ended: [*eventlog.Log].
type ender interface {
	Ended(event.Tenant) bool
	// Endings counts them. It grows with each.
	Endings() int
}

// ended reports whether a source knows that nothing of a tenant is folded any
// more. It may be true before a projection is given the event that says so, and
// what was folded of the tenant before is removed with that: so a state does not
// depend on how much of the tenant could still be read when it was folded.
func ended(src Source, t event.Tenant) bool {
	e, ok := src.(ender)
	return ok && e.Ended(t)
}

func endings(src Source) int {
	if e, ok := src.(ender); ok {
		return e.Endings()
	}
	return 0
}

// ends returns the tenant that an event ends.
func ends(rec eventlog.Recorded) (event.Tenant, bool) {
	c, ok := rec.Fact.(*event.TenantCondemned)
	if !ok || rec.Tenant != event.SystemTenant || c.Tenant == event.SystemTenant {
		return event.Tenant{}, false
	}
	return c.Tenant, true
}

// Dropper removes keys, and not too many at a time.
type Dropper struct {
	tx   Txn
	left int
}

// Take reports whether one more thing may be removed with this transaction.
func (d *Dropper) Take() bool {
	if d.left > 0 {
		d.left--
	}
	return d.left > 0
}

// Stop says that something is left for the next transaction. It returns false
// when there is none, and all has to go with this one.
func (d *Dropper) Stop() bool {
	if d.left > dropAtOnce {
		return false
	}
	d.left = 0
	return true
}

// Under removes the keys with a prefix, each after before was called with it, if
// that is not nil. It reports whether there are none left.
func (d *Dropper) Under(prefix []byte, before func(Item) error) (bool, error) {
	for {
		const some = 1000
		var items []Item
		for it, err := range d.tx.Scan(prefix, nil, false) {
			if err != nil {
				return false, err
			}
			items = append(items, Item{append([]byte(nil), it.Key...), append([]byte(nil), it.Value...)})
			if len(items) == some {
				break
			}
		}
		for _, it := range items {
			if !d.Take() {
				return false, nil
			}
			if before != nil {
				if err := before(it); err != nil {
					return false, err
				}
			}
			d.tx.Delete(it.Key)
		}
		if len(items) < some {
			return true, nil
		}
	}
}

// drop lets a projection remove some of a tenant, or all of it. It reports whether
// something is left.
func (b *batch) drop(t event.Tenant, atOnce int) (more bool, err error) {
	p, ok := b.f.p.(Ender)
	if !ok {
		return false, nil
	}
	d := &Dropper{tx: b.txn, left: atOnce}
	if err := p.DropTenant(b.txn, t, d); err != nil {
		return false, fmt.Errorf("drop a tenant that has ended: %w", err)
	}
	return d.left == 0, b.txn.trouble
}

// end drops all that is left of the tenant that an event ends, if it ends one.
func (b *batch) end(rec eventlog.Recorded) error {
	t, ok := ends(rec)
	if !ok {
		return nil
	}
	if _, err := b.drop(t, math.MaxInt); err != nil {
		return err
	}
	b.txn.Purge()
	b.txn.Set(endedKey(t), []byte{endedDropped})
	b.f.gone[t] = true
	return nil
}

// dropMost removes, of a tenant that an event ends, in commits of their own what is
// too much for that of the event.
func (f *fold) dropMost(ctx context.Context, p event.Partition, rec eventlog.Recorded, t event.Tenant) error {
	for {
		more, err := f.dropPiece(ctx, p, rec, t)
		if err != nil || !more {
			return err
		}
	}
}

func (f *fold) dropPiece(ctx context.Context, p event.Partition, rec eventlog.Recorded, t event.Tenant) (more bool, err error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	b, err := f.newBatch(ctx, p)
	if err != nil {
		return false, err
	}
	defer b.close()
	b.txn.current = rec
	if more, err = b.drop(t, dropAtOnce); err != nil || !more {
		return false, err // what little there is goes with the event
	}
	// A process that dies now must not fold anything of the tenant upon the rest.
	b.txn.Set(endedKey(t), []byte{endedDropping})
	failpoint.Hit(failpoint.FoldCommit)
	if err := f.r.store.Commit(b.txn.over.ops(0)); err != nil {
		return false, fmt.Errorf("drop a tenant that has ended: %w", err)
	}
	f.gone[t] = true
	failpoint.Hit(failpoint.FoldCommitted)
	if len(b.txn.emitted) > 0 {
		for _, o := range f.obs {
			o(b.txn.emitted)
		}
	}
	return true, nil
}

// renew makes an empty batch of one that was committed.
func (b *batch) renew(ctx context.Context) error {
	b.close()
	fresh, err := b.f.newBatch(ctx, b.p)
	if err != nil {
		b.txn = &txn{reader: reader{snap: memSnapshot{}}} // for the close that follows
		return err
	}
	*b = *fresh
	return nil
}

// dropBefore makes room for the tenants that a segment ends, before it is folded.
func (b *batch) dropBefore(ctx context.Context, seg *eventlog.Segment) error {
	committed := false
	for _, rec := range seg.Events {
		t, ok := ends(rec)
		if !ok {
			continue
		}
		if !committed {
			if err := b.commit(); err != nil {
				return err
			}
			committed = true
		}
		if err := b.f.dropMost(ctx, b.p, rec, t); err != nil {
			return err
		}
	}
	if !committed {
		return nil
	}
	return b.renew(ctx)
}
