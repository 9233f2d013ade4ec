package crypto

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/event"
)

func TestRootValuesAreTheRoots(t *testing.T) {
	ctx := t.Context()
	values := func(r *Root) (out [][]byte) {
		check, _ := r.CheckValue(ctx)
		id, _ := r.TenantID(ctx, "example.org")
		id2, _ := r.TenantID(ctx, "example.net")
		key, _ := r.InstallationKey(ctx)
		local, _ := r.LocalKey(ctx, "badger")
		local2, _ := r.LocalKey(ctx, "snapshots")
		return [][]byte{check[:], id[:], id2[:], key, local, local2}
	}
	r := MemoryRoot(today)
	first := values(r)
	mustAdvance(t, r, today+100)
	second, other := values(r), values(MemoryRoot(today))
	for i := range first {
		if !bytes.Equal(first[i], second[i]) {
			t.Errorf("value %d changed when the ratchet moved", i)
		}
		if bytes.Equal(first[i], other[i]) {
			t.Errorf("value %d is the same under another root", i)
		}
		for j := range i {
			if bytes.Equal(first[i], first[j]) {
				t.Errorf("values %d and %d are equal", i, j)
			}
		}
	}
}

func TestTenantOpensOnlyAsWrapped(t *testing.T) {
	ctx := t.Context()
	r := MemoryRoot(today)
	wrapped, err := r.NewTenant(ctx, testTenant, testLog)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := r.NewTenant(ctx, testTenant, testLog)
	if bytes.Equal(wrapped, again) {
		t.Error("two tenants' secrets are the same")
	}
	otherTenant, otherLog := testID[event.Tenant](1), testID[event.LogID](1)
	if _, err := r.OpenTenant(ctx, otherTenant, testLog, wrapped); !errors.Is(err, ErrNotOpened) {
		t.Errorf("as another tenant: %v", err)
	}
	if _, err := r.OpenTenant(ctx, testTenant, otherLog, wrapped); !errors.Is(err, ErrNotOpened) {
		t.Errorf("in another log: %v", err)
	}
	if _, err := MemoryRoot(today).OpenTenant(ctx, testTenant, testLog, wrapped); !errors.Is(err, ErrNotOpened) {
		t.Errorf("under another root: %v", err)
	}
	for i := range wrapped {
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		_, err := r.OpenTenant(ctx, testTenant, testLog, bad)
		if !errors.Is(err, ErrNotOpened) && !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := r.OpenTenant(ctx, testTenant, testLog, wrapped[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := r.NewTenant(ctx, event.Tenant{}, testLog); !errors.Is(err, ErrMalformed) {
		t.Errorf("the zero tenant: %v", err)
	}
}

func TestState(t *testing.T) {
	k := newWorld(t).tenant
	b := testBinding(1)
	b.Role = event.RoleState
	plain := []byte("inbox, 1234 bytes")
	sealed, commit := k.SealState(b, plain)
	if again, _ := k.SealState(b, plain); !bytes.Equal(again, sealed) {
		t.Error("sealing a state is not deterministic")
	}
	if other, _ := k.SealState(b, []byte("inbox, 1235 bytes")); bytes.Equal(other[:12], sealed[:12]) {
		t.Error("two plaintexts under one key and nonce")
	}
	if got, err := k.OpenState(b, commit, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("open: %q, %v", got, err)
	}
	refuse := func(name string, k *TenantKeys, b Binding, commit Commitment, sealed []byte) {
		t.Helper()
		if _, err := k.OpenState(b, commit, sealed); !errors.Is(err, ErrNotOpened) {
			t.Errorf("%s: %v, want ErrNotOpened", name, err)
		}
	}
	for name, o := range otherBindings(b) {
		refuse("other "+name, k, o, commit, sealed)
		if o.Tenant == testTenant && o.Log == testLog {
			_, forged := k.SealState(o, plain)
			refuse("other "+name+" with its commitment", k, o, forged, sealed)
		}
	}
	refuse("other secret", newWorld(t).tenant, b, commit, sealed)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		refuse("flipped bit", k, b, commit, bad)
		refuse("cut off", k, b, commit, sealed[:i])
	}
	commit[0] ^= 1
	refuse("other commitment", k, b, commit, sealed)
}

func TestLookup(t *testing.T) {
	w := newWorld(t)
	day, next := w.day(t, today+1).LocalSealer(NewCodec()), w.day(t, today+2).LocalSealer(NewCodec())
	value := []byte("<id@example.org>")
	all := [][16]byte{
		w.tenant.Lookup("message-id", value), w.tenant.Lookup("address", value), w.tenant.Lookup("message-id", nil),
		day.Lookup("message-id", value), next.Lookup("message-id", value), newWorld(t).tenant.Lookup("message-id", value),
	}
	for i := range all {
		for j := range i {
			if all[i] == all[j] {
				t.Errorf("lookups %d and %d are equal", i, j)
			}
		}
	}
	if all[0] != w.tenant.Lookup("message-id", value) || all[3] != day.Lookup("message-id", value) {
		t.Error("a lookup changes")
	}
}

func TestLocalSealer(t *testing.T) {
	w := newWorld(t)
	s := w.day(t, today+1).LocalSealer(NewCodec())
	other := w.day(t, today+2).LocalSealer(NewCodec())
	for _, n := range []int{0, 1, 255, 256, 5000} {
		for _, plain := range [][]byte{text(n, 4), noise(n, 4)} {
			sealed := s.Seal([]byte("ctx"), plain)
			if len(sealed) > n+29 {
				t.Errorf("%d bytes sealed are %d", n, len(sealed))
			}
			if !bytes.Equal(sealed, w.day(t, today+1).LocalSealer(NewCodec()).Seal([]byte("ctx"), plain)) {
				t.Error("a local value is not deterministic")
			}
			if got, err := s.Open([]byte("ctx"), sealed); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("open %d bytes: %d bytes, %v", n, len(got), err)
			}
			if bytes.Equal(s.Seal([]byte("cty"), plain)[:12], sealed[:12]) {
				t.Error("two contexts under one nonce")
			}
			if _, err := s.Open([]byte("cty"), sealed); !errors.Is(err, ErrNotOpened) {
				t.Errorf("another context: %v", err)
			}
			if _, err := other.Open([]byte("ctx"), sealed); !errors.Is(err, ErrNotOpened) {
				t.Errorf("another day: %v", err)
			}
			for i := 0; i < len(sealed); i += 1 + len(sealed)/100 {
				bad := bytes.Clone(sealed)
				bad[i] ^= 1
				if _, err := s.Open([]byte("ctx"), bad); !errors.Is(err, ErrNotOpened) {
					t.Errorf("byte %d changed: %v", i, err)
				}
				if _, err := s.Open([]byte("ctx"), sealed[:i]); !errors.Is(err, ErrNotOpened) {
					t.Errorf("cut at %d: %v", i, err)
				}
			}
		}
	}
	if n := len(s.Seal(nil, text(5000, 4))); n > 3500 {
		t.Errorf("5,000 bytes of text sealed are %d: not compressed", n)
	}
}

// An encoder that was used before must write what a fresh one writes, or a
// rebuilt database would differ.
func TestCompressionIsDeterministic(t *testing.T) {
	var used Codec
	for i := range uint64(300) {
		n := int(i*i*37) % 90_000
		plain := text(n, i)
		if i%3 == 0 {
			plain = append(plain, noise(n/3, i)...)
		}
		var fresh Codec
		if !bytes.Equal(used.compress(nil, plain), fresh.compress(nil, plain)) {
			t.Fatalf("value %d of %d bytes is compressed differently by a used encoder", i, len(plain))
		}
	}
}
