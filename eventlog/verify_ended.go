package eventlog

import (
	"context"
	"errors"
	"fmt"

	"holdfast/crypto"
	"holdfast/event"
)

// noState counts an event of a tenant that has ended. For the first one it checks
// that the log says so, where the object says that it stands.
func (w *verifying) noState(ctx context.Context, i int) error {
	t := w.h.Events[i].Tenant
	w.sum.Ended++
	if !w.v.firstOf(t) {
		return nil
	}
	object, err := w.v.read(ctx, tenantKey(t), maxKeyObject)
	if err != nil {
		return w.found(i, tenantKey(t), DamagedTenantKey, err)
	}
	end, err := crypto.ParseEnded(w.v.log.id, t, object)
	if err != nil {
		return w.found(i, tenantKey(t), DamagedTenantKey, notOpened(err))
	}
	pos := end.By.Position
	if int(pos.Partition) < len(w.v.log.partitions) && pos.Seq > 0 && pos.Seq <= w.v.log.Start(pos.Partition).Seq {
		return nil // the log begins behind it
	}
	h, err := w.headerAt(ctx, pos)
	if err != nil {
		return err
	}
	if h != nil && int64(pos.Index) < int64(len(h.Events)) {
		ev := &h.Events[pos.Index]
		if ev.ID == end.By.ID && ev.Tenant == event.SystemTenant && ev.Class == event.ClassRetention {
			return nil
		}
	}
	return w.found(i, tenantKey(t), DamagedTenantKey, fmt.Errorf("it says that the tenant has ended by event %v at %v, which is not there: %w", end.By.ID, pos, ErrDamaged))
}

// tenantEnded checks that the keys of a tenant that has ended are not back.
func (w *verifying) tenantEnded(ctx context.Context, i int, f *event.TenantEnded) error {
	if w.h.Events[i].Tenant != event.SystemTenant {
		return nil
	}
	_, err := w.v.openTenant(ctx, f.Tenant)
	if errors.Is(err, ErrEnded) || damaging(err) {
		return nil // that they are damaged or missing is reported for events, if there are any
	}
	if err != nil {
		return err
	}
	return w.found(i, tenantKey(f.Tenant), DamagedTenantKey, fmt.Errorf("the keys of tenant %v are there, which has ended: %w", f.Tenant, ErrDamaged))
}
