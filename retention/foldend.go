package retention

import (
	"holdfast/event"
	"holdfast/projection"
)

// endOrdered takes an order to end the tenant, unless a hold stands on its mail,
// or one may have been placed that who ordered it has not seen.
func (w *writer) endOrdered(f *event.TenantEndOrdered) {
	var row tenantRow
	w.get(tenantKey(w.tenant), &row)
	if w.system() || f.Holds != row.Changes || len(w.keys(tenantPrefix(keyHold, w.tenant))) > 0 {
		w.t.Emit(verdict{})
		return
	}
	if !w.get(endingKey(w.tenant), &endingRow{}) {
		w.set(endingKey(w.tenant), endingRow{Order: *f})
	}
	w.t.Emit(verdict{OK: true})
}

func (w *writer) tenantCondemned(f *event.TenantCondemned) {
	switch {
	case w.system() && f.Tenant != event.SystemTenant:
		w.condemnTenant(f)
	case w.tenant == f.Tenant && !w.system():
		row := endingRow{Order: event.TenantEndOrdered{At: f.At, Who: f.Who, Reason: f.Reason, Name: f.Name}}
		w.get(endingKey(w.tenant), &row)
		row.Last = true
		w.set(endingKey(w.tenant), row)
		w.t.Emit(ending{w.tenant})
	}
}

// condemnTenant notes that a tenant is condemned. The first one counts.
func (w *writer) condemnTenant(f *event.TenantCondemned) {
	var row endedRow
	if !w.get(endedKey(f.Tenant), &row) {
		w.set(endedKey(f.Tenant), endedRow{Condemned: *f, By: w.rec.Ref})
	}
	// Bases from before have something of the tenant.
	w.set(tenantPrefix(keyErasedAt, w.tenant), w.rec.Ref.Position)
	w.t.Emit(ended{f.Tenant})
}

// DropTenant implements projection.Ender: all is dropped but that it ended.
func (fold) DropTenant(tx projection.Txn, t event.Tenant, d *projection.Dropper) error {
	for _, tag := range []byte{keyTenant, keyHold, keyOrder, keyErased, keyCertified, keyCopy, keyCopyDay, keyMessage, keyTenantBody, keyEnding, keyErasedAt, keyPosted, keySweep} {
		var before func(projection.Item) error
		if tag == keyTenantBody {
			before = func(it projection.Item) error {
				day, id, err := parseTenantBodyKey(it.Key)
				tx.Delete(bodyKey(day, id))
				return err
			}
		}
		if done, err := d.Under(tenantPrefix(tag, t), before); err != nil || !done {
			return err
		}
	}
	return nil
}

func (w *writer) ended(f *event.TenantEnded) {
	var row endedRow
	if !w.system() || !w.get(endedKey(f.Tenant), &row) || row.Done != nil {
		return
	}
	row.Done, row.At = f, w.rec.Ref
	w.set(endedKey(f.Tenant), row)
}
