package crypto

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"testing"
)

// TestExpandIsHKDF compares the derivation with that of the standard library.
func TestExpandIsHKDF(t *testing.T) {
	s := newSecret()
	for n := 1; n <= 200; n++ {
		context := bytes.Repeat([]byte{byte(n)}, 3*n)
		want, err := hkdf.Expand(sha256.New, s.bytes(), "label\x00"+string(context)+"more", n)
		if err != nil {
			t.Fatal(err)
		}
		if got := expand(s, "label", n, context, []byte("more")); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
}
