package directory

import (
	"fmt"
	"slices"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// The rows of the projection. Everything but claims and the backup is under the
// tenant whose partition it comes from, so that no row depends on the order
// between partitions; they are brought together only when they are read.
//
//	tagTenant tenant          TenantCreated
//	tagClaim  domain          claim
//	tagDomain tenant domain   DomainSet
//	tagOver   tenant domain   FailoverSet
//	tagUser   tenant address  userRow
//	tagAlias  tenant address  key of the user whose alias it is
//	tagBackup                 KeysBackedUp
//	tagEnded  tenant          the name of a tenant that has ended
const (
	tagTenant = 't'
	tagClaim  = 'c'
	tagDomain = 'd'
	tagOver   = 'f'
	tagUser   = 'u'
	tagAlias  = 'a'
	tagBackup = 'k'
	tagEnded  = 'x'
)

// row is a change of one row, as the fold emits it. A nil value is a deletion.
type row struct {
	Key   string
	Value []byte
}

type claim struct {
	Tenant event.Tenant `cbor:"1,keyasint"`
}

type userRow struct {
	Account  event.Account `cbor:"1,keyasint"`
	Address  string        `cbor:"2,keyasint"`
	Aliases  []string      `cbor:"3,keyasint,omitempty"`
	Password string        `cbor:"4,keyasint,omitempty"`
	// Removed: only the account is remembered, in case the address is listed
	// again.
	Removed bool `cbor:"5,keyasint,omitempty"`
}

// Claimed is the verdict on an [event.DomainClaimed].
type Claimed struct {
	Domain string
	Owner  event.Tenant // afterwards; zero when nobody's
	OK     bool         // the claim or the release took effect
}

// Stored is the verdict on an [event.UserSet].
type Stored struct {
	Account event.Account // the account of the first UserSet of the address
	// Refused are the aliases that belong to others, or are no addresses.
	Refused []string
	OK      bool // false: the address itself is none
}

type fold struct{}

func (fold) Name() string { return Name }
func (fold) Version() int { return 3 }

// Classes implements projection.Selective: whoever accepts mail waits for this
// projection, so it does not read mail.
func (fold) Classes() event.Classes {
	return event.ClassesOf(event.ClassSettings, event.ClassRetention)
}

// ReadsVersion makes a [Directory] start from what the new version has, so that
// what the fold emits always fits what was loaded.
func (fold) ReadsVersion(int) bool { return false }

// Apply folds settings; all other facts mean nothing here.
func (fold) Apply(t projection.Txn, r eventlog.Recorded) error {
	w := writer{t: t, tenant: r.Tenant}
	switch f := r.Fact.(type) {
	case *event.TenantCreated:
		w.set(w.key(tagTenant, ""), f)
	case *event.DomainClaimed:
		w.claimed(f)
	case *event.DomainSet:
		w.set(w.key(tagDomain, asciiLower(f.Domain)), f)
	case *event.DomainRemoved:
		w.delete(w.key(tagDomain, asciiLower(f.Domain)))
		w.delete(w.key(tagOver, asciiLower(f.Domain)))
	case *event.FailoverSet:
		w.set(w.key(tagOver, asciiLower(f.Domain)), f)
	case *event.UserSet:
		w.userSet(f)
	case *event.UserRemoved:
		w.userRemoved(f)
	case *event.KeysBackedUp:
		w.set(string(rune(tagBackup)), f)
	case *event.TenantCondemned:
		w.condemned(f)
	}
	return w.err
}

// writer changes rows of one tenant, and remembers the first error.
type writer struct {
	t      projection.Txn
	tenant event.Tenant
	err    error
}

func (w *writer) key(tag byte, rest string) string {
	return string(tag) + string(w.tenant[:]) + rest
}

func (w *writer) set(key string, v any) {
	b := event.Marshal(v)
	w.t.Set([]byte(key), b)
	w.t.Emit(row{Key: key, Value: b})
}

func (w *writer) delete(key string) {
	w.t.Delete([]byte(key))
	w.t.Emit(row{Key: key})
}

// get reports whether the row is there.
func (w *writer) get(key string, v any) bool {
	b, err := w.t.Get([]byte(key))
	if err == nil && b != nil {
		err = event.Unmarshal(b, v)
	}
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("read a row of the directory: %w", err)
	}
	return err == nil && b != nil
}

// claimed is partition 0's alone: the first claim wins until it is released.
func (w *writer) claimed(f *event.DomainClaimed) {
	if w.tenant != event.SystemTenant {
		return // a tenant cannot give itself a domain
	}
	domain := asciiLower(f.Domain)
	key := string(rune(tagClaim)) + domain
	if !f.Release && w.hasEnded(f.Tenant) {
		w.t.Emit(Claimed{Domain: domain})
		return
	}
	var c claim
	owned := w.get(key, &c)
	mine := owned && c.Tenant == f.Tenant
	v := Claimed{Domain: domain, Owner: c.Tenant}
	switch {
	case f.Release && mine:
		w.delete(key)
		v.Owner, v.OK = event.Tenant{}, true
	case f.Release:
	case !owned:
		w.set(key, claim{f.Tenant})
		v.Owner, v.OK = f.Tenant, true
	default:
		v.OK = mine
	}
	w.t.Emit(v)
}

func (w *writer) userSet(f *event.UserSet) {
	address, ok := addressKey(f.Address)
	if !ok {
		w.t.Emit(Stored{Refused: f.Aliases})
		return
	}
	u := userRow{Account: f.Account}
	if w.get(w.key(tagUser, address), &u) {
		w.dropAliases(address, u.Aliases)
	}
	w.takeOver(address)
	v := Stored{Account: u.Account, OK: true}
	var kept []string
	for _, a := range f.Aliases {
		if w.giveAlias(a, address) {
			kept = append(kept, a)
		} else {
			v.Refused = append(v.Refused, a)
		}
	}
	w.set(w.key(tagUser, address), userRow{Account: u.Account, Address: f.Address, Aliases: kept, Password: f.Password})
	w.t.Emit(v)
}

func (w *writer) userRemoved(f *event.UserRemoved) {
	address, ok := addressKey(f.Address)
	var u userRow
	if !ok || !w.get(w.key(tagUser, address), &u) || u.Removed {
		return
	}
	w.dropAliases(address, u.Aliases)
	w.set(w.key(tagUser, address), userRow{Account: u.Account, Address: u.Address, Removed: true})
}

// giveAlias makes alias one of the user's, unless it is somebody else's address
// or alias. Given twice, it is one.
func (w *writer) giveAlias(alias, user string) bool {
	a, ok := addressKey(alias)
	if !ok || a == user {
		return false
	}
	var other userRow
	if w.get(w.key(tagUser, a), &other) && !other.Removed {
		return false
	}
	var owner string
	if w.get(w.key(tagAlias, a), &owner) {
		return false // the user's own were taken back before
	}
	w.set(w.key(tagAlias, a), user)
	return true
}

func (w *writer) dropAliases(user string, aliases []string) {
	for _, alias := range aliases {
		if a, ok := addressKey(alias); ok {
			w.delete(w.key(tagAlias, a))
		}
	}
}

// takeOver ends the alias that has a new user's address: a mailbox of its own
// weighs more.
func (w *writer) takeOver(address string) {
	var owner string
	if !w.get(w.key(tagAlias, address), &owner) {
		return
	}
	w.delete(w.key(tagAlias, address))
	var u userRow
	if w.get(w.key(tagUser, owner), &u) {
		u.Aliases = slices.DeleteFunc(u.Aliases, func(a string) bool {
			k, _ := addressKey(a)
			return k == address
		})
		w.set(w.key(tagUser, owner), u)
	}
}

func (w *writer) hasEnded(t event.Tenant) bool {
	var name string
	return w.get(string(tagEnded)+string(t[:]), &name)
}

// condemned drops a tenant that ends, with its claims. Its id is remembered, so
// that it is never used again.
func (w *writer) condemned(f *event.TenantCondemned) {
	if w.tenant != event.SystemTenant {
		return // its own last event; what counts comes after it
	}
	w.t.Purge()
	var gone []string
	w.scan(string(rune(tagClaim)), func(key string, value []byte) error {
		var c claim
		err := event.Unmarshal(value, &c)
		if c.Tenant == f.Tenant {
			gone = append(gone, key)
		}
		return err
	})
	for _, tag := range []byte{tagTenant, tagDomain, tagOver, tagUser, tagAlias} {
		w.scan(string(tag)+string(f.Tenant[:]), func(key string, _ []byte) error {
			gone = append(gone, key)
			return nil
		})
	}
	for _, key := range gone {
		w.delete(key)
	}
	w.set(string(tagEnded)+string(f.Tenant[:]), f.Name)
}

// scan calls fn with each row whose key begins with prefix.
func (w *writer) scan(prefix string, fn func(key string, value []byte) error) {
	for it, err := range w.t.Scan([]byte(prefix), nil, false) {
		if err == nil {
			err = fn(string(it.Key), it.Value)
		}
		if err != nil {
			if w.err == nil {
				w.err = fmt.Errorf("read a row of the directory: %w", err)
			}
			return
		}
	}
}
