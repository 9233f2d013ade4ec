package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// ErrHash is wrapped by the errors for a password hash that cannot be used.
var ErrHash = errors.New("not a usable argon2id hash")

// What new hashes are made with: OWASP's first recommendation of 19 MiB and two
// passes, about 20 ms on one core.
const (
	hashMemory  = 19 << 10 // KiB
	hashTime    = 2
	hashThreads = 1
	hashSalt    = 16
	hashKey     = 32
)

// Bounds of the hashes that are accepted from elsewhere. The lower ones keep out
// what is broken quickly; the upper ones bound what one login can cost.
const (
	minMemory, maxMemory   = 4 << 10, 64 << 10 // KiB
	minTime, maxTime       = 1, 10
	minThreads, maxThreads = 1, 8
	minSalt, maxSalt       = 8, 64
	minKey, maxKey         = 16, 64
)

// MaxPassword is the length in bytes beyond which a password is wrong without
// being looked at.
const MaxPassword = 1024

// phc is a parsed hash: $argon2id$v=19$m=KiB,t=passes,p=threads$salt$key
type phc struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

// Hash returns the argon2id hash of a password in PHC form, with a fresh salt.
// It takes some 20 ms and 19 MiB.
func Hash(password string) string {
	h := phc{memory: hashMemory, time: hashTime, threads: hashThreads, salt: make([]byte, hashSalt), key: make([]byte, hashKey)}
	rand.Read(h.salt) // never fails: crypto/rand crashes the program instead
	h.key = h.derive(password)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads, b64(h.salt), b64(h.key))
}

// Verify reports whether hash is that of password. It takes as long as the
// hash's parameters say. The error wraps [ErrHash].
func Verify(hash, password string) (bool, error) {
	h, err := parse(hash)
	if err != nil {
		return false, err
	}
	return h.matches(password), nil
}

// CheckHash reports whether a hash can be used: the error wraps [ErrHash] and
// says what is wrong.
func CheckHash(hash string) error {
	_, err := parse(hash)
	return err
}

func (h *phc) derive(password string) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, uint32(len(h.key)))
}

func (h *phc) matches(password string) bool {
	return subtle.ConstantTimeCompare(h.derive(password), h.key) == 1
}

func parse(s string) (*phc, error) {
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" {
		return nil, fmt.Errorf("%w: want $argon2id$v=19$m=…,t=…,p=…$salt$key", ErrHash)
	}
	if f[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("%w: version is not %d", ErrHash, argon2.Version)
	}
	h := new(phc)
	p := strings.Split(f[3], ",")
	if len(p) != 3 {
		return nil, fmt.Errorf("%w: want the parameters m, t and p, in this order", ErrHash)
	}
	for i, want := range []struct {
		name     string
		min, max uint64
		set      func(uint64)
	}{
		{"m=", minMemory, maxMemory, func(n uint64) { h.memory = uint32(n) }},
		{"t=", minTime, maxTime, func(n uint64) { h.time = uint32(n) }},
		{"p=", minThreads, maxThreads, func(n uint64) { h.threads = uint8(n) }},
	} {
		digits, ok := strings.CutPrefix(p[i], want.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n < want.min || n > want.max {
			return nil, fmt.Errorf("%w: parameter %s must be a number from %d to %d", ErrHash, want.name[:1], want.min, want.max)
		}
		want.set(n)
	}
	var err1, err2 error
	enc := base64.RawStdEncoding.Strict()
	h.salt, err1 = enc.DecodeString(f[4])
	h.key, err2 = enc.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(h.salt) < minSalt || len(h.salt) > maxSalt || len(h.key) < minKey || len(h.key) > maxKey {
		return nil, fmt.Errorf("%w: salt and key must be unpadded base64 of %d to %d and %d to %d bytes", ErrHash, minSalt, maxSalt, minKey, maxKey)
	}
	return h, nil
}
