package projection

import (
	"context"
	"fmt"

	"holdfast/event"
)

// dropAtOnce is how many keys of a tenant that has ended are removed with one
// event: some 5 MB of memory are enough. It is constant, or all versions rise.
const dropAtOnce = 20_000

// leftTag begins the key that says that of a tenant not all is removed.
// Projections begin none of theirs with it.
const leftTag = 0xff

func leftKey(t event.Tenant) []byte { return append([]byte{leftTag}, t[:]...) }

// ender is a source that knows which tenants have ended: [*eventlog.Log].
type ender interface {
	Ended(event.Tenant) bool
	// Endings counts them. It grows with each.
	Endings() int
}

// ended reports whether nothing of a tenant is folded any more. It is true before
// a projection is given the event that says so, and what was folded of the tenant
// before is removed with that: so a state does not depend on how much of the
// tenant could still be read when it was folded.
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

// Dropper removes keys, and not too many at a time.
type Dropper struct {
	tx   Txn
	left int
}

// DropTenant lets drop remove what a projection has of a tenant that has ended. A
// projection calls it with each [event.TenantCondemned] of the system tenant; when
// there is too much for one, [Runner.Dropping] says so and another is needed.
func DropTenant(tx Txn, t event.Tenant, drop func(*Dropper) error) error {
	tx.Purge()
	d := &Dropper{tx: tx, left: dropAtOnce}
	if err := drop(d); err != nil {
		return fmt.Errorf("drop a tenant that has ended: %w", err)
	}
	if d.left == 0 {
		tx.Set(leftKey(t), []byte{1})
	} else {
		tx.Delete(leftKey(t))
	}
	return nil
}

// Take reports whether one more thing may be removed with this event.
func (d *Dropper) Take() bool {
	if d.left > 0 {
		d.left--
	}
	return d.left > 0
}

// Stop says that something is left for the next event.
func (d *Dropper) Stop() { d.left = 0 }

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

// Dropping reports whether a projection still has something of a tenant that has
// ended.
func (r *Runner) Dropping(ctx context.Context, t event.Tenant) (left bool, err error) {
	for _, f := range r.folds {
		err := r.View(ctx, f.name, func(v View) error {
			b, err := v.Get(leftKey(t))
			left = left || b != nil
			return err
		})
		if err != nil {
			return false, err
		}
	}
	return left, nil
}
