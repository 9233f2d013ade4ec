package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

// The bounds of what the keyring keeps in memory.
const (
	maxTenantsKept = 10_000
	maxPagesKept   = 2_000
	maxDaysKept    = 4_000
	maxSealersKept = 2_000
	maxKeyObject   = 1 << 20
	// A page from which every second leaf was erased has 2^19 nodes of 37 bytes.
	maxPageObject = 20 << 20
)

type tenantDay struct {
	tenant event.Tenant
	day    event.Day
}

// writerPage is a key page of this process, stored and open for sealing.
type writerPage struct {
	entry  pageEntry
	sealer *crypto.PageSealer
}

// keyring loads keys from the bucket and keeps those in use.
type keyring struct {
	log     *Log
	tenants *memo[event.Tenant, *crypto.TenantKeys]
	days    *memo[tenantDay, *crypto.DayPair]
	pages   *memo[event.Page, *crypto.Page]
	sealers *memo[tenantDay, *writerPage]
	local   *memo[tenantDay, *crypto.LocalSealer]
}

func newKeyring(l *Log) *keyring {
	return &keyring{
		log:     l,
		tenants: newMemo[event.Tenant](maxTenantsKept, one[*crypto.TenantKeys]),
		days:    newMemo[tenantDay](maxDaysKept, one[*crypto.DayPair]),
		pages:   newMemo[event.Page](maxPagesKept, one[*crypto.Page]),
		sealers: newMemo[tenantDay](maxSealersKept, one[*writerPage]),
		local:   newMemo[tenantDay](maxDaysKept, one[*crypto.LocalSealer]),
	}
}

// EnsureTenant stores the keys of a tenant if there are none. It may be called
// again, by several nodes at once: one set of keys wins. It is for a tenant of
// which the log has nothing; of others the keys are not to be made anew, see
// [Log.RequireTenant]. [ErrEnded] where the tenant has ended.
func (l *Log) EnsureTenant(ctx context.Context, t event.Tenant) error {
	_, err := l.keys.tenant(ctx, t)
	if !errors.Is(err, objstore.ErrNotExist) {
		return err
	}
	if l.readOnly.Load() {
		return l.refusal()
	}
	wrapped, err := l.opt.Keys.NewTenant(ctx, t, l.id)
	if err != nil {
		return fmt.Errorf("make tenant %v: %w", t, err)
	}
	failpoint.Hit(failpoint.TenantPut)
	// What counts is what is there in the end: "exists" may be another node's.
	err = l.putSame(ctx, tenantKey(t), wrapped, objstore.PutOptions{IfAbsent: true})
	if err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("store the keys of tenant %v: %w", t, noAnswer(ctx, err))
	}
	failpoint.Hit(failpoint.TenantDurable)
	_, err = l.keys.tenant(ctx, t)
	return err
}

// ErrKeysMissing says that a log was found without the keys that belong to it.
var ErrKeysMissing = errors.New("the log is here, but its keys are not: they lie under key/ in the same bucket, or where store.keys_url says")

// keysThere returns ErrKeysMissing where events are without the first of all keys,
// so that no other one is made in its place.
func (l *Log) keysThere(ctx context.Context) error {
	_, err := l.keys.tenant(ctx, event.SystemTenant)
	if errors.Is(err, crypto.ErrNotOpened) {
		return fmt.Errorf("the keys are those of another log; check store.keys_url: %w", err)
	}
	if !errors.Is(err, objstore.ErrNotExist) {
		return err
	}
	for _, prefix := range []string{"log/", "pack/"} {
		for _, err := range l.bucket.List(ctx, prefix, "") {
			if err != nil {
				return fmt.Errorf("look for segments: %w", err)
			}
			return ErrKeysMissing
		}
	}
	return nil
}

// TenantKeys returns the keys of a tenant; objstore.ErrNotExist if there are
// none, [ErrEnded].
func (l *Log) TenantKeys(ctx context.Context, t event.Tenant) (*crypto.TenantKeys, error) {
	return l.keys.tenant(ctx, t)
}

// LocalSealer returns the key under which local databases keep text derived
// from a tenant's mail that expires on a day. crypto.ErrExpired once it has.
func (l *Log) LocalSealer(ctx context.Context, t event.Tenant, d event.Day) (*crypto.LocalSealer, error) {
	return l.keys.local.get(ctx, tenantDay{t, d}, func(ctx context.Context) (*crypto.LocalSealer, error) {
		pair, err := l.keys.day(ctx, t, d)
		if err != nil {
			return nil, err
		}
		return pair.LocalSealer(l.codec), nil
	})
}

func (k *keyring) tenant(ctx context.Context, t event.Tenant) (*crypto.TenantKeys, error) {
	if k.log.Ended(t) {
		return nil, endedError(t)
	}
	return k.tenants.get(ctx, t, func(ctx context.Context) (*crypto.TenantKeys, error) {
		wrapped, _, err := k.log.readAll(ctx, tenantKey(t), maxKeyObject)
		if err != nil {
			return nil, fmt.Errorf("read the keys of tenant %v: %w", t, err)
		}
		keys, err := k.log.openKeys(ctx, t, wrapped)
		if errors.Is(err, ErrEnded) {
			k.log.NoteEnded(t)
		}
		return keys, err
	})
}

func (k *keyring) day(ctx context.Context, t event.Tenant, d event.Day) (*crypto.DayPair, error) {
	return k.days.get(ctx, tenantDay{t, d}, func(ctx context.Context) (*crypto.DayPair, error) {
		return k.freshDay(ctx, t, d)
	})
}

// freshDay derives a day pair now: crypto.ErrExpired is the truth of now.
func (k *keyring) freshDay(ctx context.Context, t event.Tenant, d event.Day) (*crypto.DayPair, error) {
	keys, err := k.tenant(ctx, t)
	if err != nil {
		return nil, err
	}
	return k.log.opt.Keys.DayPair(ctx, keys, d)
}

// leaf returns an unused leaf of this process's page for a tenant and day. The
// page is durable when leaf returns.
func (k *keyring) leaf(ctx context.Context, t event.Tenant, d event.Day) (pageEntry, crypto.Leaf, error) {
	td := tenantDay{t, d}
	if err := k.log.fate.day(t, d); err != nil {
		return pageEntry{}, crypto.Leaf{}, err
	}
	for {
		w, err := k.sealers.get(ctx, td, func(ctx context.Context) (*writerPage, error) { return k.newPage(ctx, td) })
		if err != nil {
			return pageEntry{}, crypto.Leaf{}, err
		}
		leaf, err := w.sealer.Next()
		if errors.Is(err, crypto.ErrPageFull) {
			k.sealers.dropOne(td, func(v *writerPage) bool { return v == w })
			continue
		}
		return w.entry, leaf, err
	}
}

// Prepare makes the key page for a tenant and day before the first message
// needs it.
func (l *Log) Prepare(ctx context.Context, t event.Tenant, d event.Day) error {
	if l.readOnly.Load() {
		return l.refusal()
	}
	td := tenantDay{t, d}
	if err := l.fate.day(t, d); err != nil {
		return err
	}
	_, err := l.keys.sealers.get(ctx, td, func(ctx context.Context) (*writerPage, error) { return l.keys.newPage(ctx, td) })
	return err
}

func (k *keyring) newPage(ctx context.Context, td tenantDay) (*writerPage, error) {
	pair, err := k.day(ctx, td.tenant, td.day)
	if err != nil {
		return nil, err
	}
	w := &writerPage{entry: pageEntry{Page: event.NewPage(), Tenant: td.tenant, Day: td.day}}
	var object []byte
	w.sealer, object, err = crypto.NewPage(pair.Public(), k.binding(w.entry, k.log.writer))
	if err != nil {
		return nil, fmt.Errorf("make a key page: %w", err)
	}
	w.entry.Digest = sha256.Sum256(object)
	failpoint.Hit(failpoint.PagePut)
	// A page whose put stays ambiguous is not used: another one is made next
	// time, and this one, should it land, opens nothing.
	if err := k.putPage(ctx, pageKey(w.entry), object); err != nil {
		return nil, fmt.Errorf("store a key page: %w", noAnswer(ctx, err))
	}
	failpoint.Hit(failpoint.PageDurable)
	return w, nil
}

// putPage stores a page under its key, which is random and so nobody else's:
// what exists there can only be an earlier try of the same put.
func (k *keyring) putPage(ctx context.Context, key string, object []byte) error {
	err := k.log.putSame(ctx, key, object, objstore.PutOptions{IfAbsent: true})
	if !errors.Is(err, objstore.ErrExists) {
		return err
	}
	got, _, err := k.log.readAll(ctx, key, maxPageObject)
	if err == nil && !bytes.Equal(got, object) {
		return fmt.Errorf("another page is there: %w", ErrDamaged)
	}
	return err
}

func (k *keyring) binding(e pageEntry, w event.Writer) crypto.PageBinding {
	return crypto.PageBinding{Log: k.log.id, Tenant: e.Tenant, Day: e.Day, Page: e.Page, Writer: w}
}

// page opens a key page for reading. crypto.ErrExpired once its day is gone.
func (k *keyring) page(ctx context.Context, e pageEntry, w event.Writer) (*crypto.Page, error) {
	return k.pages.get(ctx, e.Page, func(ctx context.Context) (*crypto.Page, error) {
		pair, err := k.day(ctx, e.Tenant, e.Day)
		if err != nil {
			return nil, err
		}
		object, _, err := k.readPage(ctx, e)
		if err != nil {
			return nil, err
		}
		page, _, err := k.openPage(pair, e, w, object)
		return page, err
	})
}

// readPage reads a key page's object. crypto.ErrExpired where it was removed with
// its day.
func (k *keyring) readPage(ctx context.Context, e pageEntry) ([]byte, objstore.Info, error) {
	object, info, err := k.log.readAll(ctx, pageKey(e), maxPageObject)
	switch {
	case errors.Is(err, objstore.ErrNotExist) && k.log.expired(ctx, e.Tenant, e.Day):
		return nil, info, fmt.Errorf("key page %v: %w", e.Page, crypto.ErrExpired)
	case errors.Is(err, objstore.ErrNotExist):
		return nil, info, fmt.Errorf("key page %v is missing: %w", e.Page, ErrDamaged)
	case err != nil:
		return nil, info, fmt.Errorf("read key page %v: %w", e.Page, err)
	}
	return object, info, nil
}

// openPage opens the object of a key page: in its first form, which is the one of
// the digest in the header, or as it was rewritten since. It returns how often
// that was.
func (k *keyring) openPage(pair *crypto.DayPair, e pageEntry, w event.Writer, object []byte) (*crypto.Page, uint64, error) {
	sealed, generation, err := k.unwrapPage(e, w, object)
	if err != nil {
		return nil, 0, err
	}
	page, err := crypto.OpenPage(pair, k.binding(e, w), sealed)
	if err != nil {
		return nil, 0, fmt.Errorf("open key page %v: %w: %w", e.Page, err, ErrDamaged)
	}
	return page, generation, nil
}

// unwrapPage verifies the object of a key page, which needs no secret.
func (k *keyring) unwrapPage(e pageEntry, w event.Writer, object []byte) (sealed []byte, generation uint64, err error) {
	if sha256.Sum256(object) == e.Digest {
		return object, 0, nil
	}
	r, err := crypto.ParseRewritten(k.binding(e, w), object)
	if err == nil {
		err = r.Verify(k.log.installation)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("key page %v is not one that was stored: %w: %w", e.Page, err, ErrDamaged)
	}
	return r.Sealed, r.Generation, nil
}

// expired reports whether a tenant's day is known to have expired: the log says
// so, or the key service. Where that cannot be asked, it is not known.
func (l *Log) expired(ctx context.Context, t event.Tenant, d event.Day) bool {
	if l.fate.over(t, d) {
		return true
	}
	_, err := l.keys.freshDay(ctx, t, d)
	return errors.Is(err, crypto.ErrExpired)
}

// Forget drops from memory what belongs to days before the given one: keys, and
// mail-derived text. It is called when a day has expired, and may be called
// again.
func (l *Log) Forget(before event.Day) {
	k := l.keys
	k.days.drop(func(td tenantDay, _ *crypto.DayPair) bool { return td.day < before })
	k.sealers.drop(func(td tenantDay, _ *writerPage) bool { return td.day < before })
	k.local.drop(func(td tenantDay, _ *crypto.LocalSealer) bool { return td.day < before })
	k.pages.drop(func(_ event.Page, p *crypto.Page) bool { return p.Binding().Day < before })
	l.cache.segments.drop(func(_ slot, s *Segment) bool {
		return slices.ContainsFunc(s.Events, func(r Recorded) bool { return r.Expiry != 0 && r.Expiry < before })
	})
}
