package crypto

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/event"
)

// Errors of the root.
var (
	// ErrExpired means that the ratchet is past the day: its keys exist no more.
	ErrExpired = errors.New("the day's keys are gone")
	// ErrTooFar means that a day lies more than a hundred years ahead of the
	// ratchet.
	ErrTooFar = errors.New("day is too far ahead")
)

// maxAhead bounds the steps of the ratchet in one call, about a hundred years.
const maxAhead = 36600

// CheckValue tells in a bucket's format object which root the bucket belongs
// to. It reveals nothing of the root.
type CheckValue [16]byte

// Installation is the part of a key service that speaks for the installation
// as a whole. All methods may be called at any time, by any goroutine, again.
type Installation interface {
	// CheckValue returns the value by which a bucket recognises this root.
	CheckValue(ctx context.Context) (CheckValue, error)
	// InstallationKey returns the public key that verifies certificates and
	// published day keys.
	InstallationKey(ctx context.Context) (ed25519.PublicKey, error)
	// CertifyNode certifies that the holder of node may sign events of the given
	// classes.
	CertifyNode(ctx context.Context, node ed25519.PublicKey, may event.Classes) (Certificate, error)
	// PublishDay returns the certified form of a day's public key, which
	// [ParseDayPublic] reads.
	PublishDay(ctx context.Context, day *DayPublic) ([]byte, error)
	// LocalKey returns 32 bytes for a purpose of this installation, the same ones
	// each time.
	LocalKey(ctx context.Context, purpose string) ([]byte, error)
}

// Tenants is the part of a key service that holds the tenants' secrets. All
// methods may be called at any time, by any goroutine, again.
type Tenants interface {
	// TenantID returns the opaque id of the tenant with this name, the same one
	// each time. The name is taken as it is: callers settle its case.
	TenantID(ctx context.Context, name string) (event.Tenant, error)
	// NewTenant mints the secrets of a tenant and returns them wrapped, bound to
	// tenant and log. Two calls mint different secrets: the caller keeps one.
	NewTenant(ctx context.Context, t event.Tenant, log event.LogID) ([]byte, error)
	// OpenTenant unwraps what NewTenant returned. [ErrNotOpened] if it belongs to
	// another root, tenant or log.
	OpenTenant(ctx context.Context, t event.Tenant, log event.LogID, wrapped []byte) (*TenantKeys, error)
	// DayPair derives the tenant's key pair for an expiry day. [ErrExpired] once
	// the ratchet is past the day, [ErrTooFar] beyond a hundred years.
	DayPair(ctx context.Context, t *TenantKeys, day event.Day) (*DayPair, error)
}

// KeyService is the seam behind which the root lives. [*Root] implements it.
type KeyService interface {
	Installation
	Tenants
}

var _ KeyService = (*Root)(nil)

// Root is the first level of keys. Whoever has it reads all mail that has not
// expired; without it no mail can be read. All methods may be called by any
// goroutine.
type Root struct {
	redacted
	path string // empty: kept in memory only

	mu    sync.Mutex // guards state; held over writing the file, never over a seam
	state *rootState
}

// rootState is what the root file holds. It is never changed in place.
type rootState struct {
	redacted
	fixed    *secret
	day      event.Day   // where the ratchet stands
	ratchet  *secret     // K(day)
	backedUp int64       // Unix seconds of the last known backup, 0 for never
	log      event.LogID // of the log that the root was first used for; zero: unused
}

// MemoryRoot returns a new root that lives in memory only, for tests and
// simulations: mail sealed under it is lost with the process.
func MemoryRoot(today event.Day) *Root {
	return &Root{state: newRootState(today)}
}

func newRootState(today event.Day) *rootState {
	return &rootState{fixed: newSecret(), day: today, ratchet: newSecret()}
}

// step returns K(d+1) of K(d).
func step(k *secret) *secret {
	return secretOf(expand(k, "holdfast ratchet v1", 32))
}

// at returns K(day).
func (s *rootState) at(day event.Day) (*secret, error) {
	switch ahead := int64(day) - int64(s.day); {
	case ahead < 0:
		return nil, fmt.Errorf("ratchet stands at %v, asked for %v: %w", s.day, day, ErrExpired)
	case ahead > maxAhead:
		return nil, fmt.Errorf("ratchet stands at %v, asked for %v: %w", s.day, day, ErrTooFar)
	}
	k := secretOf(s.ratchet.bytes())
	for d := s.day; d < day; d++ {
		next := step(k)
		k.wipe()
		k = next
	}
	return k, nil
}

// current returns the present state. Its ratchet may be wiped as soon as the
// ratchet advances, so only what does not change is to be read from it.
func (r *Root) current() *rootState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// keyOf returns K(day), which the caller wipes.
func (r *Root) keyOf(day event.Day) (*secret, error) {
	r.mu.Lock() // so that the ratchet is not wiped meanwhile
	defer r.mu.Unlock()
	return r.state.at(day)
}

// replace makes next the present state and wipes a ratchet that is left behind.
// The mutex is held.
func (r *Root) replace(next *rootState) {
	if old := r.state.ratchet; old != next.ratchet {
		old.wipe()
	}
	r.state = next
}

// Day returns the day at which the ratchet stands: the first one whose keys can
// still be derived.
func (r *Root) Day() event.Day { return r.current().day }

// AdvanceTo moves the ratchet to day and forgets the keys of all earlier days,
// in memory and in the root file, durably when it returns. A day at or before
// the present one is a no-op: the ratchet never goes back. After an error the
// ratchet stands where it stood, or at day; the call may be repeated.
//
// What it cannot reach are backups, copies of the file, and blocks that a disk
// or file system keeps of a file that was replaced.
func (r *Root) AdvanceTo(day event.Day) error {
	err := r.update(func(s *rootState) (*rootState, error) {
		if day <= s.day {
			return s, nil
		}
		k, err := s.at(day)
		if err != nil {
			return nil, err
		}
		return &rootState{fixed: s.fixed, day: day, ratchet: k, backedUp: s.backedUp, log: s.log}, nil
	})
	if err != nil {
		return fmt.Errorf("advance the ratchet to %v: %w", day, err)
	}
	return nil
}

// BackupMade reports whether a backup of this root is known to exist. Another
// process may have made it, so the root file is looked at until it says so.
func (r *Root) BackupMade() bool {
	if r.current().backedUp == 0 {
		// An unreadable file leaves the answer at no, which is the safe one.
		_ = r.update(func(s *rootState) (*rootState, error) { return s, nil })
	}
	return r.current().backedUp != 0
}

// Used returns the log that the root was first used for, and false if it has
// not been used: only then may an empty bucket become a new log.
func (r *Root) Used() (event.LogID, bool) {
	log := r.current().log
	return log, log != event.LogID{}
}

// MarkUsed records, durably when it returns, that the root is used for a log.
// Later calls change nothing.
func (r *Root) MarkUsed(log event.LogID) error {
	err := r.update(func(s *rootState) (*rootState, error) {
		if s.log != (event.LogID{}) {
			return s, nil
		}
		return &rootState{fixed: s.fixed, day: s.day, ratchet: s.ratchet, backedUp: s.backedUp, log: log}, nil
	})
	if err != nil {
		return fmt.Errorf("mark the root key used: %w", err)
	}
	return nil
}

// MarkBackedUp records, durably when it returns, that a backup was made and
// kept. It may be called again.
func (r *Root) MarkBackedUp(now time.Time) error {
	err := r.update(func(s *rootState) (*rootState, error) {
		return &rootState{fixed: s.fixed, day: s.day, ratchet: s.ratchet, backedUp: max(now.Unix(), 1), log: s.log}, nil
	})
	if err != nil {
		return fmt.Errorf("remember the backup: %w", err)
	}
	return nil
}

// CheckValue implements [KeyService].
func (r *Root) CheckValue(context.Context) (CheckValue, error) {
	return CheckValue(expand(r.current().fixed, "holdfast check v1", 16)), nil
}

// TenantID implements [KeyService].
func (r *Root) TenantID(_ context.Context, name string) (event.Tenant, error) {
	key := expand(r.current().fixed, "holdfast tenant id v1", 32)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(name))
	return event.Tenant(m.Sum(nil)[:16]), nil
}

// LocalKey implements [KeyService].
func (r *Root) LocalKey(_ context.Context, purpose string) ([]byte, error) {
	return expand(r.current().fixed, "holdfast local key v1", 32, []byte(purpose)), nil
}

func (r *Root) installation() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(expand(r.current().fixed, "holdfast installation key v1", 32))
}

// InstallationKey implements [KeyService].
func (r *Root) InstallationKey(context.Context) (ed25519.PublicKey, error) {
	return r.installation().Public().(ed25519.PublicKey), nil
}

// CertifyNode implements [KeyService].
func (r *Root) CertifyNode(_ context.Context, node ed25519.PublicKey, may event.Classes) (Certificate, error) {
	return certify(r.installation(), node, may)
}

// PublishDay implements [KeyService].
func (r *Root) PublishDay(_ context.Context, day *DayPublic) ([]byte, error) {
	b := day.Bytes()
	return append(b, ed25519.Sign(r.installation(), labelled("holdfast day public v1", b))...), nil
}

// wrapKey returns the key that wraps a tenant's secrets and its associated data.
func (r *Root) wrapKey(t event.Tenant, log event.LogID) (key, ad []byte) {
	const label = "holdfast tenant wrap v1"
	return expand(r.current().fixed, label, 32, log[:], t[:]), labelled(label, log[:], t[:])
}

// A wrapped tenant is a version byte, a nonce, and two sealed secrets.
const (
	wrapVersion = 1
	wrapSize    = 1 + nonceSize + 64 + tagSize
)

// NewTenant implements [KeyService].
func (r *Root) NewTenant(_ context.Context, t event.Tenant, log event.LogID) ([]byte, error) {
	if t == (event.Tenant{}) {
		return nil, fmt.Errorf("mint a tenant's secrets: the zero tenant: %w", ErrMalformed)
	}
	key, ad := r.wrapKey(t, log)
	var secrets [64]byte
	rand.Read(secrets[:])
	defer clear(secrets[:])
	b := make([]byte, 1+nonceSize, wrapSize)
	b[0] = wrapVersion
	rand.Read(b[1:])
	return newAEAD(key).Seal(b, b[1:1+nonceSize], secrets[:], ad), nil
}

// OpenTenant implements [KeyService].
func (r *Root) OpenTenant(_ context.Context, t event.Tenant, log event.LogID, wrapped []byte) (*TenantKeys, error) {
	if len(wrapped) != wrapSize || wrapped[0] != wrapVersion {
		return nil, fmt.Errorf("open tenant %v: wrapped secrets of %d bytes: %w", t, len(wrapped), ErrMalformed)
	}
	key, ad := r.wrapKey(t, log)
	b, err := newAEAD(key).Open(nil, wrapped[1:1+nonceSize], wrapped[1+nonceSize:], ad)
	if err != nil {
		return nil, fmt.Errorf("open tenant %v: %w", t, ErrNotOpened)
	}
	defer clear(b)
	return &TenantKeys{tenant: t, log: log, secret: secretOf(b[:32]), state: secretOf(b[32:])}, nil
}

// DayPair implements [KeyService].
func (r *Root) DayPair(_ context.Context, t *TenantKeys, day event.Day) (*DayPair, error) {
	k, err := r.keyOf(day)
	if err != nil {
		return nil, fmt.Errorf("derive a day pair of tenant %v: %w", t.tenant, err)
	}
	defer k.wipe()
	return deriveDayPair(k, t, day)
}
