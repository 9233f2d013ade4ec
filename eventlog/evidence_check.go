package eventlog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"

	"holdfast/crypto"
	"holdfast/event"
)

// ErrEvidence says that a file is no evidence bundle of the installation, or that
// it does not prove what it says.
var ErrEvidence = errors.New("the evidence does not hold")

// The limits of a bundle's files, but for the message.
const (
	maxText = 8 << 20 // of a certificate that names many messages
	maxPath = 12 * 32 // of a tree of maxSpan segments
)

// CheckEvidence verifies an evidence bundle of size bytes with the installation's
// public key alone. It returns what the bundle proves, and the message. The error
// wraps [ErrEvidence], unless reading failed. The file may be anybody's: no more is
// allocated than a small multiple of what it has beside the message, and every byte
// of it counts: no other bytes are a bundle of the same.
func CheckEvidence(r io.ReaderAt, size int64, installation ed25519.PublicKey) (*Evidence, *io.SectionReader, error) {
	b := &bundle{r: r, size: size}
	e, err := b.check(installation)
	if err == nil && e.certificate() {
		err = b.nothing()
	} else if err == nil {
		err = b.message(e)
	}
	if err != nil {
		return nil, nil, err
	}
	return e, io.NewSectionReader(r, b.at, e.Size), nil
}

// bundle is a bundle as far as it was read.
type bundle struct {
	r    io.ReaderAt
	size int64
	at   int64
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrEvidence)
}

func (b *bundle) read(p []byte) error {
	if int64(len(p)) > b.size-b.at {
		return bad("it is cut short")
	}
	if n, err := b.r.ReadAt(p, b.at); n < len(p) {
		return fmt.Errorf("read the evidence: %w", err)
	}
	b.at += int64(len(p))
	return nil
}

// open reads the block before a file and returns the file's size.
func (b *bundle) open(name string, limit int64) (int64, error) {
	block := make([]byte, tarBlock)
	if err := b.read(block); err != nil {
		return 0, err
	}
	const sizeAt, sizeLen = 124, 11
	size, err := strconv.ParseInt(string(block[sizeAt:sizeAt+sizeLen]), 8, 64)
	if err != nil || size < 0 {
		return 0, bad("%s is not where it should be", name)
	}
	want, err := entryHeader(name, size)
	if err != nil || !bytes.Equal(block, want) {
		return 0, bad("%s is not where it should be", name)
	}
	if size > limit || size > b.size-b.at {
		return 0, bad("%s has %d bytes", name, size)
	}
	return size, nil
}

// zeros reads n bytes that must be zero.
func (b *bundle) zeros(n int64) error {
	p := make([]byte, n)
	if err := b.read(p); err != nil {
		return err
	}
	if len(bytes.Trim(p, "\x00")) > 0 {
		return bad("there is something between its files")
	}
	return nil
}

// file reads a small file.
func (b *bundle) file(name string, limit int64) ([]byte, error) {
	size, err := b.open(name, limit)
	if err != nil {
		return nil, err
	}
	p := make([]byte, size)
	if err := b.read(p); err != nil {
		return nil, err
	}
	return p, b.zeros(padding(size))
}

// check verifies all but the message.
func (b *bundle) check(installation ed25519.PublicKey) (*Evidence, error) {
	text, err := b.file(fileText, maxText)
	if err != nil {
		return nil, err
	}
	note, err := b.file(fileCheckpoint, maxCheckpoint)
	if err != nil {
		return nil, err
	}
	e := &Evidence{}
	if e.Checkpoint, err = ParseCheckpoint(note, installation); err != nil {
		return nil, fmt.Errorf("its checkpoint: %w: %w", err, ErrEvidence)
	}
	h, err := b.header(e, installation)
	if err != nil {
		return nil, err
	}
	if err := b.event(e, h, string(text)); err != nil {
		return nil, err
	}
	if e.text() != string(text) {
		return nil, bad("%s says what is not proved", fileText)
	}
	return e, nil
}

// header verifies that a segment is under the checkpoint.
func (b *bundle) header(e *Evidence, installation ed25519.PublicKey) (*parsed, error) {
	raw, err := b.file(filePath, maxPath)
	if err != nil {
		return nil, err
	}
	if len(raw)%32 != 0 {
		return nil, bad("%s is not a row of hashes", filePath)
	}
	var path []Hash
	for ; len(raw) > 0; raw = raw[32:] {
		path = append(path, Hash(raw[:32]))
	}
	if raw, err = b.file(fileHeader, prefixBytes+maxHeaderBytes+signatureBytes); err != nil {
		return nil, err
	}
	verifier := &Log{installation: installation, cache: newCache()}
	h, err := parseHeader(raw, verifier.verify)
	if err != nil {
		return nil, fmt.Errorf("its segment: %w: %w", err, ErrEvidence)
	}
	c := e.Checkpoint
	if h.front != int64(len(raw)) || h.Log != c.Log || h.Partition != c.Partition || !c.proves(h.Seq, h.hash, path) {
		return nil, bad("its segment is not under its checkpoint")
	}
	e.Log, e.Written = h.Log, h.Time
	return h, nil
}

// event verifies that the segment holds the event that the text names, and opens
// it.
func (b *bundle) event(e *Evidence, h *parsed, text string) error {
	id, err := event.ParseID(textField(text, "event"))
	i := -1
	for j := range h.Events {
		if h.Events[j].ID == id && i < 0 {
			i = j
		}
	}
	if err != nil || i < 0 {
		return bad("its segment does not hold the event")
	}
	ev := &h.Events[i]
	e.Tenant = ev.Tenant
	e.Ref = event.Ref{ID: id, Position: event.Position{Partition: h.Partition, Seq: h.Seq, Index: uint32(i)}}
	raw, err := b.file(fileKeys, crypto.RevealedKeysSize)
	if err != nil {
		return err
	}
	keys, err := crypto.ParseRevealedKeys(raw)
	if err != nil {
		return bad("%s has %d bytes", fileKeys, len(raw))
	}
	binding := func(r event.Role) crypto.Binding {
		return crypto.Binding{Log: h.Log, Tenant: ev.Tenant, Event: id, Role: r}
	}
	sealed, _, err := b.sealed(fileState, ev, event.RoleState)
	if err != nil {
		return err
	}
	state, err := keys.OpenState(binding(event.RoleState), sealed)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", fileState, err, ErrEvidence)
	}
	if !keys.HasLeaf() {
		return b.gone(e, ev, state)
	}
	sealed, part, err := b.sealed(fileMeta, ev, event.RoleMeta)
	if err != nil {
		return err
	}
	meta, err := crypto.NewCodec().OpenSmall(keys.Leaf(), binding(event.RoleMeta), part.Commit, sealed, maxMeta)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", fileMeta, err, ErrEvidence)
	}
	fact, err := event.Decode(state, meta)
	if err != nil {
		return fmt.Errorf("its event: %w: %w", err, ErrEvidence)
	}
	if err := e.describe(fact); err != nil || fact.Class() != ev.Class || ev.part(event.RoleBody) < 0 {
		return bad("its event is not about a message")
	}
	return nil
}

// sealed reads a sealed part and compares it with the signed header.
func (b *bundle) sealed(name string, ev *eventEntry, r event.Role) ([]byte, *partEntry, error) {
	j := ev.part(r)
	if j < 0 {
		return nil, nil, bad("its event has no %s", name)
	}
	part := &ev.Parts[j]
	raw, err := b.file(name, maxMeta)
	if err != nil {
		return nil, nil, err
	}
	if int64(len(raw)) != part.Length || sha256.Sum256(raw) != part.Digest {
		return nil, nil, bad("%s is not the one that was signed", name)
	}
	return raw, part, nil
}

// message verifies that the message is the one of the event, and that nothing
// follows it. b.at is where it begins, afterwards.
func (b *bundle) message(e *Evidence) error {
	size, err := b.open(fileMessage, e.Size)
	if err != nil {
		return err
	}
	begin := b.at
	sum := sha256.New()
	if n, err := io.Copy(sum, io.NewSectionReader(b.r, begin, size)); err != nil || n != size {
		return fmt.Errorf("read the evidence: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	if size != e.Size || [32]byte(sum.Sum(nil)) != e.SHA256 {
		return bad("%s is not the message of the event", fileMessage)
	}
	b.at += size
	if err := b.zeros(padding(size) + 2*tarBlock); err != nil {
		return err
	}
	if b.at != b.size {
		return bad("there is something behind it")
	}
	b.at = begin
	return nil
}
