package eventlog

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"holdfast/crypto"
	"holdfast/event"
)

// keyName is the name of an installation's public key where it is written down.
const keyName = "holdfast"

// ErrNoKey says that a text is not a public key of an installation.
var ErrNoKey = errors.New("no public key of an installation; it looks like holdfast+1a2b3c4d+A… and holdfast keys public prints it")

// FormatKey writes an installation's public key as signed notes write keys: a
// name, a check value and the key, on one line. It is not secret.
func FormatKey(key ed25519.PublicKey) (string, error) {
	return note.NewEd25519VerifierKey(keyName, key)
}

// ParseKey reads what FormatKey wrote. A mistyped key is refused with [ErrNoKey].
func ParseKey(text string) (ed25519.PublicKey, error) {
	text = strings.TrimSpace(text)
	parts := strings.Split(text, "+")
	if len(parts) < 3 || len(text) > 200 {
		return nil, ErrNoKey
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.Join(parts[2:], "+"))
	if err != nil || len(b) != 1+ed25519.PublicKeySize {
		return nil, ErrNoKey
	}
	key := ed25519.PublicKey(b[1:])
	if want, err := FormatKey(key); err != nil || want != text {
		return nil, ErrNoKey
	}
	return key, nil
}

// ParseCheckpoint reads and verifies a checkpoint of this log.
func (l *Log) ParseCheckpoint(b []byte) (*Checkpoint, error) {
	c, err := ParseCheckpoint(b, l.installation)
	if err == nil && (c.Log != l.id || int(c.Partition) >= len(l.partitions)) {
		err = fmt.Errorf("it is about the log %v, this is %v: %w", c.Log, l.id, ErrNoCheckpoint)
	}
	return c, err
}

// verify checks that a certified node signed, and that it may sign such events.
func (l *Log) verify(cert, signed, sig []byte, need event.Classes) error {
	c, err := crypto.ParseCertificate(cert)
	if err != nil {
		return fmt.Errorf("certificate: %w: %w", err, ErrDamaged)
	}
	if _, ok := l.cache.certs.peek(c); !ok {
		if err := c.Verify(l.installation); err != nil {
			return fmt.Errorf("certificate: %w: %w", err, ErrDamaged)
		}
		l.cache.certs.keep(c, struct{}{})
	}
	if err := c.VerifyHeader(signed, sig); err != nil {
		return fmt.Errorf("signature: %w: %w", err, ErrDamaged)
	}
	if need&^c.May() != 0 {
		return fmt.Errorf("the node was not allowed to sign these events: %w", ErrDamaged)
	}
	return nil
}
