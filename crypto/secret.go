package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"holdfast/event"
)

// Errors of sealed values and their decoders. Tests use errors.Is.
var (
	// ErrNotOpened means that sealed bytes are not what was sealed under this
	// key and binding: damaged, moved, or sealed with another key.
	ErrNotOpened = errors.New("sealed value does not open")
	// ErrTooLarge means that a value would exceed the size the caller allows.
	ErrTooLarge = errors.New("value is too large")
	// ErrSignature means that a signature does not verify.
	ErrSignature = errors.New("signature does not verify")
)

// ErrMalformed is wrapped by errors for bytes that cannot be a value of their
// format. It is [event.ErrMalformed].
var ErrMalformed = event.ErrMalformed

// secret is key material. Structs hold it as *secret, two pointers away from its
// bytes: fmt prints the unexported fields of a struct inside another struct
// without asking their methods, and where a verb does not fit a pointer it
// follows one of them, but not the second.
type secret struct{ key *[32]byte }

func newSecret() *secret {
	s := &secret{new([32]byte)}
	rand.Read(s.key[:]) // never fails: crypto/rand crashes the program instead
	return s
}

// secretOf returns a copy of b, which has 32 bytes.
func secretOf(b []byte) *secret {
	if len(b) != 32 {
		panic(fmt.Sprintf("internal error: secret of %d bytes", len(b)))
	}
	key := [32]byte(b)
	return &secret{&key}
}

func (s *secret) bytes() []byte { return s.key[:] }

// wipe forgets the secret as far as the language allows: the runtime may hold
// copies it made while growing a stack.
func (s *secret) wipe() { clear(s.key[:]) }

const redaction = "[secret]"

// redacted is embedded in every type that holds secrets.
type redacted struct{}

// Format writes "[secret]" for every verb.
func (redacted) Format(f fmt.State, _ rune) { fmt.Fprint(f, redaction) }

// String returns "[secret]".
func (redacted) String() string { return redaction }

// GoString returns "[secret]".
func (redacted) GoString() string { return redaction }

// MarshalJSON returns the string "[secret]".
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + redaction + `"`), nil }

// MarshalText returns "[secret]".
func (redacted) MarshalText() ([]byte, error) { return []byte(redaction), nil }

// LogValue returns "[secret]".
func (redacted) LogValue() slog.Value { return slog.StringValue(redaction) }

// expand derives n bytes from s: HKDF-Expand with SHA-256 (RFC 5869 §2.3) and
// the info label, 0x00, context. Labels contain no zero byte, so no label and
// context can be read as another label and context.
//
// It is written out because three such keys are derived for every message, and
// crypto/hkdf makes and clears four hashes for each 32 bytes of output.
func expand(s *secret, label string, n int, context ...[]byte) []byte {
	const block = sha256.BlockSize
	if n > 255*sha256.Size {
		panic("internal error: hkdf: too much is wanted")
	}
	var inner, outer [block]byte
	copy(inner[:], s.bytes())
	outer = inner
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	// The inner hash is of: key, T(i-1), info, i; the outer one of: key, inner.
	in := append(make([]byte, 0, 256), inner[:]...)
	out := make([]byte, 0, n+sha256.Size)
	for i := byte(1); len(out) < n; i++ {
		in = in[:block]
		if i > 1 {
			in = append(in, out[len(out)-sha256.Size:]...)
		}
		in = append(append(in, label...), 0)
		for _, c := range context {
			in = append(in, c...)
		}
		first := sha256.Sum256(append(in, i))
		var last [block + sha256.Size]byte
		copy(last[:], outer[:])
		copy(last[block:], first[:])
		t := sha256.Sum256(last[:])
		out = append(out, t[:]...)
	}
	return out[:n:n]
}

// labelled returns label, 0x00 and the parts, the form of everything that is
// signed or authenticated.
func labelled(label string, parts ...[]byte) []byte {
	b := make([]byte, 0, 128)
	b = append(b, label...)
	b = append(b, 0)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// newAEAD returns AES-256-GCM under a 32-byte key.
func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("internal error: aes: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("internal error: gcm: " + err.Error())
	}
	return aead
}

const (
	nonceSize = 12
	tagSize   = 16
)

func dayBytes(d event.Day) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d))
}
