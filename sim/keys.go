package sim

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/turn"
)

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// keys is the key service as one node sees it. Fault model: a call fails.
type keys struct {
	bus    *Bus
	faults *faults
	host   *host
	root   *crypto.Root
}

var _ crypto.KeyService = (*keys)(nil)

func (k *keys) enter(ctx context.Context, what string) error {
	label := turn.Who(ctx)
	if label == "" {
		label = k.host.name
	}
	label += " keys " + what
	r, err := k.bus.ParkCtx(ctx, label)
	switch {
	case k.host.isDead():
		return errDead
	case err != nil:
		return err
	case k.faults.strikes(r, k.faults.keys):
		k.bus.Note(label + ": fails")
		return fmt.Errorf("key service: %w", errFault)
	}
	return nil
}

// call is one call of the key service.
func call[T any](ctx context.Context, k *keys, what string, do func() (T, error)) (T, error) {
	if err := k.enter(ctx, what); err != nil {
		var none T
		return none, err
	}
	return do()
}

func (k *keys) CheckValue(ctx context.Context) (crypto.CheckValue, error) {
	return call(ctx, k, "check", func() (crypto.CheckValue, error) { return k.root.CheckValue(ctx) })
}

func (k *keys) InstallationKey(ctx context.Context) (ed25519.PublicKey, error) {
	return call(ctx, k, "installation", func() (ed25519.PublicKey, error) { return k.root.InstallationKey(ctx) })
}

func (k *keys) CertifyNode(ctx context.Context, node ed25519.PublicKey, may event.Classes) (crypto.Certificate, error) {
	return call(ctx, k, "certify", func() (crypto.Certificate, error) { return k.root.CertifyNode(ctx, node, may) })
}

func (k *keys) PublishDay(ctx context.Context, day *crypto.DayPublic) ([]byte, error) {
	return call(ctx, k, "publish "+day.Day().String(), func() ([]byte, error) { return k.root.PublishDay(ctx, day) })
}

func (k *keys) LocalKey(ctx context.Context, purpose string) ([]byte, error) {
	return call(ctx, k, "local "+purpose, func() ([]byte, error) { return k.root.LocalKey(ctx, purpose) })
}

func (k *keys) TenantID(ctx context.Context, name string) (event.Tenant, error) {
	return call(ctx, k, "tenant "+name, func() (event.Tenant, error) { return k.root.TenantID(ctx, name) })
}

func (k *keys) NewTenant(ctx context.Context, t event.Tenant, log event.LogID) ([]byte, error) {
	return call(ctx, k, "new "+t.String(), func() ([]byte, error) { return k.root.NewTenant(ctx, t, log) })
}

func (k *keys) OpenTenant(ctx context.Context, t event.Tenant, log event.LogID, wrapped []byte) (*crypto.TenantKeys, error) {
	return call(ctx, k, "open "+t.String(), func() (*crypto.TenantKeys, error) { return k.root.OpenTenant(ctx, t, log, wrapped) })
}

func (k *keys) DayPair(ctx context.Context, t *crypto.TenantKeys, day event.Day) (*crypto.DayPair, error) {
	return call(ctx, k, "pair "+t.Tenant().String()+" "+day.String(), func() (*crypto.DayPair, error) { return k.root.DayPair(ctx, t, day) })
}

// Day implements retention.Ratchet: the ratchet is the installation's, and no
// request.
func (k *keys) Day() event.Day { return k.root.Day() }

// AdvanceTo implements retention.Ratchet.
func (k *keys) AdvanceTo(d event.Day) error { return k.root.AdvanceTo(d) }
