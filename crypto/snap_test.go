package crypto

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/event"
)

func TestSnapRoundTrip(t *testing.T) {
	keys := newWorld(t).tenant
	c := NewCodec()
	b := Binding{Log: keys.Log(), Tenant: keys.Tenant(), Event: event.ID{9}, Role: event.RoleSnap}
	for _, n := range []int{1, 700, 100_000, 4 << 20} {
		for _, plain := range [][]byte{text(n, 1), noise(n, 1)} {
			sealed, commit := c.SealSnap(keys, b, plain)
			if len(sealed) > n+29 {
				t.Errorf("%d bytes sealed are %d, want at most 29 more", n, len(sealed))
			}
			got, err := c.OpenSnap(keys, b, commit, sealed, int64(n))
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("open %d bytes: %d bytes, %v", n, len(got), err)
			}
			if _, err := c.OpenSnap(keys, b, commit, sealed, int64(n-1)); !errors.Is(err, ErrTooLarge) {
				t.Errorf("open %d bytes with a bound of %d: %v, want ErrTooLarge", n, n-1, err)
			}
			other := b
			other.Part = 1
			if _, err := c.OpenSnap(keys, other, commit, sealed, int64(n)); !errors.Is(err, ErrNotOpened) {
				t.Errorf("open with another binding: %v", err)
			}
		}
	}
}
