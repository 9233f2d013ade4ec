package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

// ErrEnded says that a tenant has ended: its keys are gone, on purpose. It comes
// with crypto.ErrExpired, and its events are not among those that are read.
var ErrEnded = errors.New("the tenant has ended")

// ErrTenantKeys says that the log has events of a tenant whose keys are not where
// they should be, and that nobody ended.
var ErrTenantKeys = errors.New("the tenant's keys are missing: bring back its object under key/tenant/ from a copy of the bucket, or end the tenant: holdfast tenant end NAME --keys-lost")

func endedError(t event.Tenant) error {
	return fmt.Errorf("tenant %v: %w: %w", t, ErrEnded, crypto.ErrExpired)
}

// NoteLast makes known that the last event of a tenant stands in the log: nothing
// of it is appended any more. As for [Log.NoteCondemned].
func (l *Log) NoteLast(t event.Tenant) { l.fate.last(t) }

// NoteEnded makes known that a tenant has ended, and drops from memory what
// belongs to it: keys, and what was read. Nothing of it is read or appended from
// then on. As for [Log.NoteCondemned].
func (l *Log) NoteEnded(t event.Tenant) {
	if t == event.SystemTenant || l.Ended(t) {
		return
	}
	l.fate.end(t)
	k := l.keys
	k.tenants.drop(func(of event.Tenant, _ *crypto.TenantKeys) bool { return of == t })
	k.days.drop(func(td tenantDay, _ *crypto.DayPair) bool { return td.tenant == t })
	k.sealers.drop(func(td tenantDay, _ *writerPage) bool { return td.tenant == t })
	k.local.drop(func(td tenantDay, _ *crypto.LocalSealer) bool { return td.tenant == t })
	k.pages.drop(func(_ event.Page, p *crypto.Page) bool { return p.Binding().Tenant == t })
	l.cache.segments.drop(func(_ slot, s *Segment) bool {
		return slices.ContainsFunc(s.Events, func(r Recorded) bool { return r.Tenant == t })
	})
}

// Ended reports whether a tenant is known to have ended. Whoever folds a
// [event.TenantCondemned] of the system tenant that this log gave it finds true
// before.
func (l *Log) Ended(t event.Tenant) bool { return l.fate.hasEnded(t) }

// Endings returns how many tenants are known to have ended.
func (l *Log) Endings() int {
	l.fate.mu.Lock()
	defer l.fate.mu.Unlock()
	return len(l.fate.ended)
}

// noteEnd notes the end of a tenant where a fact says so.
func (l *Log) noteEnd(t event.Tenant, f event.Fact) {
	if c, ok := f.(*event.TenantCondemned); ok && t == event.SystemTenant {
		l.NoteEnded(c.Tenant)
	}
}

// RequireTenant returns nil when the tenant has its keys, and [ErrTenantKeys] or
// [ErrEnded] when it does not. It looks into the bucket.
func (l *Log) RequireTenant(ctx context.Context, t event.Tenant) error {
	object, _, err := l.readAll(ctx, tenantKey(t), maxKeyObject)
	if errors.Is(err, objstore.ErrNotExist) {
		return fmt.Errorf("tenant %v: %w", t, ErrTenantKeys)
	}
	if err != nil {
		return fmt.Errorf("read the keys of tenant %v: %w", t, err)
	}
	_, err = l.openKeys(ctx, t, object)
	return err
}

// openKeys opens the object with a tenant's keys. [ErrEnded] when a node that may
// say so has put into its place that the tenant has ended.
func (l *Log) openKeys(ctx context.Context, t event.Tenant, object []byte) (*crypto.TenantKeys, error) {
	if crypto.IsEnded(object) {
		e, err := crypto.ParseEnded(l.id, t, object)
		if err == nil {
			err = e.Verify(l.installation)
		}
		if err == nil {
			return nil, endedError(t)
		}
		return nil, fmt.Errorf("%s: %w: %w", tenantKey(t), err, ErrDamaged)
	}
	keys, err := l.opt.Keys.OpenTenant(ctx, t, l.id, object)
	if err != nil {
		return nil, fmt.Errorf("open the keys of tenant %v, %s in the bucket: %w", t, tenantKey(t), err)
	}
	return keys, nil
}

// RemoveBodies removes the body parts of events of a tenant that are objects of
// their own. [ErrNotOver] unless the last event of the tenant is known to stand in
// the log, which condemns them, or its end. It may be called again, by several
// nodes at once.
func (l *Log) RemoveBodies(ctx context.Context, t event.Tenant, bodies []Blob) (r Removed, err error) {
	if l.readOnly.Load() {
		return r, ErrReadOnly
	}
	if !l.fate.closed(t) {
		return r, fmt.Errorf("bodies of tenant %v: %w", t, ErrNotOver)
	}
	for _, b := range bodies {
		prefix := fmt.Sprintf("blob/%v/%v/", b.Day, b.ID)
		if err := l.removeAll(ctx, prefix, func(string) bool { return true }, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// DestroyTenant puts the word that a tenant has ended into the place of its
// secrets, and removes its key pages of all days. by is where the system tenant's
// [event.TenantCondemned] stands; [ErrNotOver] unless this log has read it.
//
// It may be called again, by several nodes at once, and goes on where it stopped.
// What it says was removed was, also where it returns an error.
func (l *Log) DestroyTenant(ctx context.Context, t event.Tenant, by event.Ref) (r Removed, err error) {
	if l.readOnly.Load() {
		return r, ErrReadOnly
	}
	if t == event.SystemTenant || !l.Ended(t) {
		return r, fmt.Errorf("end tenant %v: %w", t, ErrNotOver)
	}
	if err := l.endKeys(ctx, t, by); err != nil {
		return r, fmt.Errorf("end tenant %v: %w", t, err)
	}
	of := "/" + t.String() + "/"
	err = l.removeAll(ctx, "key/", func(key string) bool {
		return strings.Contains(key, of) && !strings.HasPrefix(key, tenantPrefix)
	}, &r)
	if err != nil {
		return r, fmt.Errorf("end tenant %v: %w", t, err)
	}
	return r, nil
}

// endKeys replaces a tenant's secrets in the bucket.
func (l *Log) endKeys(ctx context.Context, t event.Tenant, by event.Ref) error {
	word, err := l.node.EndTenant(l.id, t, by)
	if err != nil {
		return err
	}
	for range maxRewrites {
		object, info, err := l.readAll(ctx, tenantKey(t), maxKeyObject)
		opt := objstore.PutOptions{IfMatch: info.ETag}
		if errors.Is(err, objstore.ErrNotExist) {
			opt, err = objstore.PutOptions{IfAbsent: true}, nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", tenantKey(t), err)
		}
		if crypto.IsEnded(object) {
			if _, err := l.openKeys(ctx, t, object); errors.Is(err, ErrEnded) {
				return nil
			}
		}
		try, cancel := context.WithTimeout(ctx, putTimeout)
		_, err = l.bucket.Put(try, tenantKey(t), bytes.NewReader(word), int64(len(word)), opt)
		cancel()
		switch {
		case err == nil, errors.Is(err, objstore.ErrChanged), errors.Is(err, objstore.ErrExists), errors.Is(err, objstore.ErrAmbiguous):
			continue // what is there now is looked at
		}
		return fmt.Errorf("replace %s: %w", tenantKey(t), err)
	}
	return fmt.Errorf("%s is being changed all the time: %w", tenantKey(t), objstore.ErrChanged)
}

// removeAll removes the objects under a prefix that are wanted gone.
func (l *Log) removeAll(ctx context.Context, prefix string, gone func(key string) bool, r *Removed) error {
	var batch []objstore.Info
	for after := ""; ; {
		batch = batch[:0]
		for info, err := range l.bucket.List(ctx, prefix, after) {
			if err != nil {
				return fmt.Errorf("list %s: %w", prefix, err)
			}
			after = info.Key
			if gone(info.Key) {
				batch = append(batch, info)
			}
			if len(batch) == removeBatch {
				break
			}
		}
		for _, o := range batch {
			if err := l.removeOne(ctx, o, r); err != nil {
				return err
			}
		}
		if len(batch) < removeBatch {
			return nil
		}
	}
}

// endedAt returns ErrEnded where an event stands of a tenant that has ended.
func (l *Log) endedAt(ctx context.Context, ref event.Ref) error {
	h, err := l.readHeader(ctx, ref.Position.Partition, ref.Position.Seq)
	if err != nil {
		return l.missing(ref.Position.Partition, ref.Position.Seq, err)
	}
	if i := int(ref.Position.Index); i < len(h.Events) && h.Events[i].ID == ref.ID && l.Ended(h.Events[i].Tenant) {
		return fmt.Errorf("event %v: %w", ref.ID, endedError(h.Events[i].Tenant))
	}
	return nil
}

// Mentions reports whether the log has an event of a tenant, whether its keys are
// there or not. It reads the headers of all segments of the tenant's partition.
func (l *Log) Mentions(ctx context.Context, t event.Tenant) (bool, error) {
	p := l.PartitionOf(t)
	for s := l.Start(p).Seq + 1; s <= l.TailAtLeast(p); s++ {
		h, err := l.readHeader(ctx, p, s)
		if err != nil {
			return false, l.missing(p, s, err)
		}
		if slices.ContainsFunc(h.Events, func(e eventEntry) bool { return e.Tenant == t }) {
			return true, nil
		}
	}
	return false, nil
}
