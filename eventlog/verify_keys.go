package eventlog

import (
	"context"
	"errors"
	"fmt"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

// checkedPage is a key page as far as it could be opened.
type checkedPage struct {
	entry pageEntry
	page  *crypto.Page
	gone  bool  // its day has expired
	err   error // what is wrong with it
}

// checkPage checks a key page. The error is one of the store.
func (v *verifier) checkPage(ctx context.Context, e pageEntry, writer event.Writer) (*checkedPage, error) {
	c, err := v.pages.get(ctx, e.Page, func(ctx context.Context) (*checkedPage, error) {
		c := &checkedPage{entry: e}
		keys, err := v.openTenant(ctx, e.Tenant)
		if errors.Is(err, ErrEnded) {
			c.gone = true
			return c, nil
		}
		if damaging(err) {
			return c, nil // The tenant's key is reported for the events.
		}
		if err != nil {
			return nil, err
		}
		pair, err := v.log.opt.Keys.DayPair(ctx, keys, e.Day)
		if c.gone = gone(err); err != nil && !c.gone {
			return nil, err
		}
		object, err := v.read(ctx, pageKey(e), maxPageObject)
		if err != nil && !damaging(err) {
			return nil, err
		}
		if errors.Is(err, objstore.ErrNotExist) && (c.gone || v.log.over(e.Day)) {
			c.gone = true
			return c, nil // removed when its time had come
		}
		if err == nil && c.gone {
			_, _, err = v.log.keys.unwrapPage(e, writer, object)
		} else if err == nil {
			c.page, _, err = v.log.keys.openPage(pair, e, writer, object)
		}
		c.err = notOpened(err)
		return c, nil
	})
	if err == nil && c.entry != e {
		c = &checkedPage{entry: e, err: fmt.Errorf("described in two ways: %w", ErrDamaged)}
	}
	return c, err
}

// openTenant opens a tenant's keys as they are in the bucket.
func (v *verifier) openTenant(ctx context.Context, t event.Tenant) (*crypto.TenantKeys, error) {
	return v.tenants.get(ctx, t, func(ctx context.Context) (*crypto.TenantKeys, error) {
		wrapped, err := v.read(ctx, tenantKey(t), maxKeyObject)
		if err != nil {
			return nil, err
		}
		keys, err := v.log.openKeys(ctx, t, wrapped)
		return keys, notOpened(err)
	})
}
