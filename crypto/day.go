package crypto

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"holdfast/event"
)

const (
	dayPublicVersion = 1
	kemPublicSize    = 1216 // ML-KEM-768 and X25519
	kemEncSize       = 1120
	dayPublicSize    = 1 + 16 + 16 + 4 + kemPublicSize
	publishedSize    = dayPublicSize + ed25519.SignatureSize
)

// The HPKE suite of key pages (RFC 9180, draft-ietf-hpke-pq): MLKEM768-X25519,
// HKDF-SHA256, AES-256-GCM.
func hpkeKEM() hpke.KEM   { return hpke.MLKEM768X25519() }
func hpkeKDF() hpke.KDF   { return hpke.HKDFSHA256() }
func hpkeAEAD() hpke.AEAD { return hpke.AES256GCM() }

// DayPublic is the public half of a tenant's expiry-day key pair. It is made by
// a [DayPair] or by [ParseDayPublic], which believes only what the installation
// signed. It never changes and holds no secret.
type DayPublic struct {
	log    event.LogID
	tenant event.Tenant
	day    event.Day
	key    hpke.PublicKey
}

// Log returns the log the key is for.
func (p *DayPublic) Log() event.LogID { return p.log }

// Tenant returns the tenant the key is for.
func (p *DayPublic) Tenant() event.Tenant { return p.tenant }

// Day returns the expiry day the key is for.
func (p *DayPublic) Day() event.Day { return p.day }

// Bytes returns the key without its certification.
func (p *DayPublic) Bytes() []byte {
	b := make([]byte, 0, publishedSize)
	b = append(b, dayPublicVersion)
	b = append(b, p.log[:]...)
	b = append(b, p.tenant[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.day))
	return append(b, p.key.Bytes()...)
}

// ParseDayPublic reads what [Installation.PublishDay] wrote. [ErrSignature] if
// the installation did not sign it, [ErrMalformed] if it is none. The caller
// compares tenant, log and day with what it looked for.
func ParseDayPublic(installation ed25519.PublicKey, published []byte) (*DayPublic, error) {
	if len(published) != publishedSize || published[0] != dayPublicVersion {
		return nil, fmt.Errorf("published day key of %d bytes: %w", len(published), ErrMalformed)
	}
	b, sig := published[:dayPublicSize], published[dayPublicSize:]
	if !verify(installation, labelled("holdfast day public v1", b), sig) {
		return nil, fmt.Errorf("published day key: %w", ErrSignature)
	}
	key, err := hpkeKEM().NewPublicKey(bytes.Clone(b[37:]))
	if err != nil {
		return nil, fmt.Errorf("published day key: %w", ErrMalformed)
	}
	return &DayPublic{
		log:    event.LogID(b[1:17]),
		tenant: event.Tenant(b[17:33]),
		day:    event.Day(binary.BigEndian.Uint32(b[33:])),
		key:    key,
	}, nil
}

// DayPair is a tenant's key pair for one expiry day. Deriving it costs some
// 0.2 ms, so callers keep it, and drop it when the day has passed. All methods
// may be called by any goroutine.
type DayPair struct {
	redacted
	public *DayPublic
	sec    *daySecrets
}

type daySecrets struct {
	redacted
	kem   hpke.PrivateKey
	local *secret
}

// deriveDayPair needs both K(day) and the tenant's secret: the loss of either
// ends the pair.
func deriveDayPair(k *secret, t *TenantKeys, day event.Day) (*DayPair, error) {
	prk, err := hkdf.Extract(sha256.New, k.bytes(), t.secret.bytes())
	if err != nil {
		panic("internal error: hkdf: " + err.Error())
	}
	both := expand(secretOf(prk), "holdfast day pair v1", 64, t.log[:], t.tenant[:], dayBytes(day))
	defer clear(both)
	key, err := hpkeKEM().DeriveKeyPair(both[:32])
	if err != nil {
		return nil, fmt.Errorf("derive the key pair of %v: %w", day, err)
	}
	return &DayPair{
		public: &DayPublic{log: t.log, tenant: t.tenant, day: day, key: key.PublicKey()},
		sec:    &daySecrets{kem: key, local: secretOf(both[32:])},
	}, nil
}

// Public returns the public half.
func (p *DayPair) Public() *DayPublic { return p.public }

// LocalSealer returns what seals values of this tenant and day in a local
// database.
func (p *DayPair) LocalSealer(c *Codec) *LocalSealer { return newLocalSealer(p.sec.local, c) }
