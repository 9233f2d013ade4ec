package delivery

import (
	"holdfast/event"
	"holdfast/projection"
)

// DropTenant implements projection.Ender. It takes a tenant that has ended out of the queue and the ledger. Who is
// at one of its units finds that it is gone.
func (fold) DropTenant(tx projection.Txn, t event.Tenant, d *projection.Dropper) error {
	type unit struct {
		u event.Unit
		w *row
	}
	var units []unit
	for it, err := range tx.Scan([]byte{keyUnit}, nil, false) {
		w := new(row)
		if err == nil {
			err = event.Unmarshal(it.Value, w)
		}
		if err != nil {
			return err
		}
		if w.Tenant != t {
			continue
		}
		if !d.Take() {
			break
		}
		units = append(units, unit{parseUnit(it.Key[1:]), w})
	}
	for _, e := range units {
		if err := removeUnit(tx, e.u, e.w); err != nil {
			return err
		}
	}
	for _, kind := range []byte{keyAccount, keyHealth, keyEpoch, keyDays, keyOver, keySweep} {
		if done, err := d.Under(append([]byte{kind}, t[:]...), nil); err != nil || !done {
			return err
		}
	}
	return nil
}
