// Package keytest is the conformance suite of [crypto.KeyService]: what every
// place where the root may live has to do.
package keytest

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"holdfast/crypto"
	"holdfast/event"
)

// Service is a key service under test.
type Service struct {
	crypto.KeyService
	Today event.Day // where its ratchet stands
}

// Test runs the suite. Each call of open returns a service with a root of its
// own.
func Test(t *testing.T, open func(t *testing.T) Service) {
	for name, test := range map[string]func(*testing.T, func(*testing.T) Service){
		"repeats itself":          repeats,
		"roots differ":            rootsDiffer,
		"tenants are apart":       tenantsApart,
		"days":                    days,
		"expired and far days":    expired,
		"mail from edge to owner": endToEnd,
		"certificates":            certificates,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

var (
	log    = event.LogID{1, 2, 3}
	tenant = event.Tenant{4, 5, 6}
)

func must[T any](t *testing.T, what string) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func openTenant(t *testing.T, s Service, id event.Tenant) *crypto.TenantKeys {
	t.Helper()
	wrapped := must[[]byte](t, "new tenant")(s.NewTenant(t.Context(), id, log))
	return must[*crypto.TenantKeys](t, "open tenant")(s.OpenTenant(t.Context(), id, log, wrapped))
}

// values returns what a root gives the same way each time.
func values(t *testing.T, s Service) map[string][]byte {
	t.Helper()
	ctx := t.Context()
	check := must[crypto.CheckValue](t, "check value")(s.CheckValue(ctx))
	id := must[event.Tenant](t, "tenant id")(s.TenantID(ctx, "example.org"))
	other := must[event.Tenant](t, "tenant id")(s.TenantID(ctx, "example.com"))
	return map[string][]byte{
		"check value":      check[:],
		"tenant id":        id[:],
		"other tenant id":  other[:],
		"installation key": must[ed25519.PublicKey](t, "installation key")(s.InstallationKey(ctx)),
		"local key":        must[[]byte](t, "local key")(s.LocalKey(ctx, "a")),
		"other local key":  must[[]byte](t, "local key")(s.LocalKey(ctx, "b")),
	}
}

func repeats(t *testing.T, open func(*testing.T) Service) {
	s := open(t)
	first, second := values(t, s), values(t, s)
	for name, v := range first {
		if !bytes.Equal(v, second[name]) {
			t.Errorf("%s changes", name)
		}
		for other, w := range first {
			if name != other && bytes.Equal(v, w) {
				t.Errorf("%s and %s are the same", name, other)
			}
		}
	}
	if n := len(first["local key"]); n != 32 {
		t.Errorf("local key of %d bytes", n)
	}
}

func rootsDiffer(t *testing.T, open func(*testing.T) Service) {
	a, b := values(t, open(t)), values(t, open(t))
	for name := range a {
		if bytes.Equal(a[name], b[name]) {
			t.Errorf("two roots have the same %s", name)
		}
	}
}

func tenantsApart(t *testing.T, open func(*testing.T) Service) {
	ctx := t.Context()
	s := open(t)
	wrapped := must[[]byte](t, "new tenant")(s.NewTenant(ctx, tenant, log))
	for name, try := range map[string]func() (*crypto.TenantKeys, error){
		"another tenant": func() (*crypto.TenantKeys, error) { return s.OpenTenant(ctx, event.Tenant{9}, log, wrapped) },
		"another log":    func() (*crypto.TenantKeys, error) { return s.OpenTenant(ctx, tenant, event.LogID{9}, wrapped) },
		"another root":   func() (*crypto.TenantKeys, error) { return open(t).OpenTenant(ctx, tenant, log, wrapped) },
	} {
		if _, err := try(); !errors.Is(err, crypto.ErrNotOpened) {
			t.Errorf("%s opens a tenant: %v", name, err)
		}
	}
	if _, err := s.NewTenant(ctx, event.Tenant{}, log); !errors.Is(err, crypto.ErrMalformed) {
		t.Errorf("the zero tenant is minted: %v", err)
	}
	if _, err := s.OpenTenant(ctx, tenant, log, wrapped[:1]); !errors.Is(err, crypto.ErrMalformed) {
		t.Errorf("a tenant of one byte: %v", err)
	}
}

func days(t *testing.T, open func(*testing.T) Service) {
	s := open(t)
	keys, other := openTenant(t, s, tenant), openTenant(t, s, event.Tenant{7})
	seen := map[string]bool{}
	for _, k := range []*crypto.TenantKeys{keys, other} {
		for _, day := range []event.Day{s.Today, s.Today + 1, s.Today + 30, s.Today + 3660} {
			a := must[*crypto.DayPair](t, "day pair")(s.DayPair(t.Context(), k, day)).Public()
			b := must[*crypto.DayPair](t, "day pair")(s.DayPair(t.Context(), k, day)).Public()
			if !bytes.Equal(a.Bytes(), b.Bytes()) {
				t.Errorf("the pair of %v changes", day)
			}
			if a.Day() != day || a.Tenant() != k.Tenant() || a.Log() != log {
				t.Errorf("the pair of %v is of another tenant, log or day", day)
			}
			if key := string(a.Bytes()[37:]); seen[key] {
				t.Errorf("the pair of %v is another's", day)
			} else {
				seen[key] = true
			}
		}
	}
}

func expired(t *testing.T, open func(*testing.T) Service) {
	s := open(t)
	keys := openTenant(t, s, tenant)
	if _, err := s.DayPair(t.Context(), keys, s.Today-1); !errors.Is(err, crypto.ErrExpired) {
		t.Errorf("yesterday's pair: %v", err)
	}
	if _, err := s.DayPair(t.Context(), keys, s.Today+1_000_000); !errors.Is(err, crypto.ErrTooFar) {
		t.Errorf("a pair for a distant day: %v", err)
	}
}

// endToEnd is the way of a sealed part: an edge with nothing but a published
// key, and an owner with the key service.
func endToEnd(t *testing.T, open func(*testing.T) Service) {
	ctx := t.Context()
	s := open(t)
	keys := openTenant(t, s, tenant)
	pair := must[*crypto.DayPair](t, "day pair")(s.DayPair(ctx, keys, s.Today+30))
	published := must[[]byte](t, "publish")(s.PublishDay(ctx, pair.Public()))
	installation := must[ed25519.PublicKey](t, "installation key")(s.InstallationKey(ctx))

	pub := must[*crypto.DayPublic](t, "parse")(crypto.ParseDayPublic(installation, published))
	where := crypto.PageBinding{Log: log, Tenant: tenant, Day: s.Today + 30, Page: event.NewPage(), Writer: event.NewWriter()}
	sealer, object, err := crypto.NewPage(pub, where)
	if err != nil {
		t.Fatal(err)
	}
	what := crypto.Binding{Log: log, Tenant: tenant, Event: event.NewID(), Role: event.RoleMeta}
	leaf := must[crypto.Leaf](t, "next leaf")(sealer.Next())
	sealed, commitment := crypto.NewCodec().SealSmall(leaf, what, []byte("Subject: hello"))

	page := must[*crypto.Page](t, "open page")(crypto.OpenPage(pair, where, object))
	again := must[crypto.Leaf](t, "leaf")(page.Leaf(leaf.Index()))
	plain, err := crypto.NewCodec().OpenSmall(again, what, commitment, sealed, 100)
	if err != nil || string(plain) != "Subject: hello" {
		t.Errorf("opens as %q, %v", plain, err)
	}
}

func certificates(t *testing.T, open func(*testing.T) Service) {
	ctx := t.Context()
	s := open(t)
	may := event.ClassesOf(event.ClassAcceptance)
	node := must[*crypto.NodeKey](t, "node key")(crypto.NewNodeKey(ctx, s, may))
	installation := must[ed25519.PublicKey](t, "installation key")(s.InstallationKey(ctx))
	header := []byte("header")
	if err := crypto.VerifyHeader(node.Certificate(), installation, header, node.Sign(header)); err != nil {
		t.Error(err)
	}
	if got := node.Certificate().May(); got != may {
		t.Errorf("certified for %#x", got)
	}
	stranger := must[ed25519.PublicKey](t, "installation key")(open(t).InstallationKey(ctx))
	if err := node.Certificate().Verify(stranger); !errors.Is(err, crypto.ErrSignature) {
		t.Errorf("another installation's certificate: %v", err)
	}
}
