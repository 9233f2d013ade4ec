package crypto

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/argon2"

	"holdfast/event"
)

// ErrPassphrase means that a backup does not open with the passphrase given:
// it is wrong, or the backup is damaged. An empty passphrase is refused too.
var ErrPassphrase = errors.New("wrong passphrase or damaged backup")

const (
	backupPEM     = "HOLDFAST ROOT KEY BACKUP"
	backupVersion = 1
	backupHeader  = 1 + 4 + 4 + 1 + 16 + nonceSize
	backupPlain   = 32 + 4 + 32 + 8 + 16
	backupSize    = backupHeader + backupPlain + tagSize
)

// What a backup file may ask of the machine that restores it.
const (
	maxArgonTime    = 32
	maxArgonMemory  = 1 << 20 // KiB, 1 GiB
	maxArgonThreads = 64
)

const backupPreamble = `This is a backup of the root key of a Holdfast installation, protected by a
passphrase. With both, all mail can be read that had not expired when the
backup was made, so renew the backup and destroy old ones.

`

// Backup writes the root to w, sealed under a passphrase, as text. The caller
// makes it durable where it wants it and then calls [Root.MarkBackedUp].
//
// The backup holds the ratchet where it stands now: together with a copy of the
// bucket it opens what expires from today on, even after that has expired.
func (r *Root) Backup(w io.Writer, passphrase []byte, now time.Time) error {
	return r.backup(w, passphrase, now, backupCost())
}

func (r *Root) backup(w io.Writer, passphrase []byte, now time.Time, cost argonCost) error {
	if len(passphrase) == 0 {
		return fmt.Errorf("back up the root key: the passphrase is empty: %w", ErrPassphrase)
	}
	b := make([]byte, 0, backupSize)
	b = append(b, backupVersion)
	b = binary.BigEndian.AppendUint32(b, cost.time)
	b = binary.BigEndian.AppendUint32(b, cost.memory)
	b = append(b, cost.threads)
	b = b[:backupHeader]
	rand.Read(b[10:])
	key, err := backupKey(b, passphrase)
	if err != nil {
		return fmt.Errorf("back up the root key: %w", err)
	}
	plain := r.backupPlain(now)
	defer clear(plain)
	nonce := b[backupHeader-nonceSize:]
	b = newAEAD(key).Seal(b, nonce, plain, labelled("holdfast root backup v1", b))
	if _, err := w.Write(armorBackup(b)); err != nil {
		return fmt.Errorf("back up the root key: %w", err)
	}
	return nil
}

func armorBackup(b []byte) []byte {
	return append([]byte(backupPreamble), pem.EncodeToMemory(&pem.Block{Type: backupPEM, Bytes: b})...)
}

func (r *Root) backupPlain(now time.Time) []byte {
	r.mu.Lock() // so that the ratchet is not wiped meanwhile
	defer r.mu.Unlock()
	b := make([]byte, 0, backupPlain)
	b = append(b, r.state.fixed.bytes()...)
	b = binary.BigEndian.AppendUint32(b, uint32(r.state.day))
	b = append(b, r.state.ratchet.bytes()...)
	b = binary.BigEndian.AppendUint64(b, uint64(max(now.Unix(), 1)))
	return append(b, r.state.log[:]...)
}

// argonCost is what a guess of the passphrase costs, and what a backup asks of
// the machine that restores it. Memory is in KiB.
type argonCost struct {
	time, memory uint32
	threads      uint8
}

// backupCost is the second recommended option of RFC 9106 §4.
func backupCost() argonCost { return argonCost{time: 3, memory: 64 << 10, threads: 4} }

// readCost reads the cost from a backup's header, within the bounds.
func readCost(header []byte) (argonCost, error) {
	a := argonCost{binary.BigEndian.Uint32(header[1:]), binary.BigEndian.Uint32(header[5:]), header[9]}
	if a.time == 0 || a.time > maxArgonTime || a.threads == 0 || a.threads > maxArgonThreads ||
		a.memory < 8*uint32(a.threads) || a.memory > maxArgonMemory { // RFC 9106 §3.1
		return a, fmt.Errorf("argon2 with time %d, memory %d KiB, threads %d: %w", a.time, a.memory, a.threads, ErrMalformed)
	}
	return a, nil
}

// backupKey derives the key from a backup's header and the passphrase.
func backupKey(header, passphrase []byte) ([]byte, error) {
	a, err := readCost(header)
	if err != nil {
		return nil, err
	}
	return argon2.IDKey(passphrase, header[10:26], a.time, a.memory, a.threads, 32), nil
}

// RestoreRoot opens a backup and writes the root to path with mode 0600, durably
// when it returns. It never overwrites: [ErrRootExists]. [ErrPassphrase] if the
// passphrase is wrong, [ErrMalformed] if this is no backup. The ratchet stands
// where it stood when the backup was made.
func RestoreRoot(path string, r io.Reader, passphrase []byte) (*Root, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxRootFile))
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	s, err := openBackup(text, passphrase)
	if err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	if err := writeRootFile(path, s, false); err != nil {
		return nil, fmt.Errorf("restore the root key: %w", err)
	}
	return &Root{path: path, state: s}, nil
}

// decodeBackup returns the bytes of a backup's armor, which are of its size.
func decodeBackup(text []byte) ([]byte, error) {
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil || block.Type != backupPEM {
		return nil, fmt.Errorf("not a backup of a root key: %w", ErrMalformed)
	}
	if b := block.Bytes; len(b) != backupSize || b[0] != backupVersion {
		return nil, fmt.Errorf("backup of %d bytes: %w", len(b), ErrMalformed)
	}
	return block.Bytes, nil
}

func openBackup(text, passphrase []byte) (*rootState, error) {
	b, err := decodeBackup(text)
	if err != nil {
		return nil, err
	}
	header, sealed := b[:backupHeader], b[backupHeader:]
	key, err := backupKey(header, passphrase)
	if err != nil {
		return nil, err
	}
	plain, err := newAEAD(key).Open(nil, header[backupHeader-nonceSize:], sealed, labelled("holdfast root backup v1", header))
	if err != nil {
		return nil, ErrPassphrase
	}
	defer clear(plain)
	return &rootState{
		fixed:    secretOf(plain[:32]),
		day:      event.Day(binary.BigEndian.Uint32(plain[32:])),
		ratchet:  secretOf(plain[36:68]),
		backedUp: int64(binary.BigEndian.Uint64(plain[68:])),
		log:      event.LogID(plain[76:92]),
	}, nil
}
