package eventlog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/crypto"
	"holdfast/event"
)

const (
	// maxSpan bounds the segments of one checkpoint's tree, and so what a prover
	// reads and what a verifier remembers.
	maxSpan = 4096
	// maxCheckpoint bounds the bytes of one.
	maxCheckpoint = 8 << 10
	// checkpointTime is how its time is written: UTC, with milliseconds.
	checkpointTime = "2006-01-02T15:04:05.000Z"
)

// ErrNoCheckpoint says that bytes are no checkpoint of this installation: not in
// its form, changed, or signed by a key that the installation did not certify
// for it.
var ErrNoCheckpoint = errors.New("no checkpoint signed for this installation")

// Checkpoint is the signed statement of a node that a partition of a log held
// certain segments at a time. It is a signed note of the form that transparency
// logs use (C2SP signed-note and tlog-checkpoint); docs/format.md draws it. It
// holds nothing of anybody's mail, and is made to be kept elsewhere: against it
// a log that was rolled back or rewritten shows.
type Checkpoint struct {
	Log       event.LogID
	Partition event.Partition
	Seq       event.Seq // of the last segment
	Hash      Hash      // of that segment
	Time      event.Millis
	// From and Tree: Tree is the Merkle tree hash (RFC 6962 §2.1) over the hashes
	// of the segments From+1 to Seq, so that one of them is proved by a few
	// hashes.
	From event.Seq
	Tree Hash
	Cert crypto.Certificate

	note []byte
}

// Note returns the checkpoint's own bytes.
func (c *Checkpoint) Note() []byte { return bytes.Clone(c.note) }

// At returns the time of the checkpoint.
func (c *Checkpoint) At() time.Time { return time.UnixMilli(int64(c.Time)).UTC() }

// String names the checkpoint in one word.
func (c *Checkpoint) String() string { return checkpointKey(c.Partition, c.Seq) }

func (c *Checkpoint) covers(s event.Seq) bool { return c.From < s && s <= c.Seq }

func checkpointPrefix(p event.Partition) string { return fmt.Sprintf("checkpoint/%02x/", uint8(p)) }

func checkpointKey(p event.Partition, s event.Seq) string {
	return fmt.Sprintf("%s%020d", checkpointPrefix(p), uint64(s))
}

// parseCheckpointKey reads what checkpointKey wrote, without the partition.
func parseCheckpointKey(key string) (event.Seq, bool) {
	rest, ok := strings.CutPrefix(key, "checkpoint/")
	if !ok {
		return 0, false
	}
	return parseSegmentKey("log/" + rest)
}

// origin names a partition of a log; it is also the name of its signers' keys.
func origin(id event.LogID, p event.Partition) string {
	return fmt.Sprintf("holdfast/%v/%02x", id, uint8(p))
}

// text returns the part that is signed.
func (c *Checkpoint) text() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s\n%d\n%s\ntime %s\ntree %d %s\ncertificate %s\n", origin(c.Log, c.Partition), c.Seq, b64(c.Hash[:]),
		c.At().Format(checkpointTime), c.From, b64(c.Tree[:]), b64(c.Cert[:]))
}

// parseText reads what text wrote. Only those very bytes are read: there are no
// two ways to say the same.
func parseText(text string) (*Checkpoint, error) {
	bad := func(what string) error { return fmt.Errorf("%s: %w", what, ErrNoCheckpoint) }
	lines := strings.Split(text, "\n")
	if len(lines) != 7 || lines[6] != "" {
		return nil, bad("not six lines")
	}
	c := &Checkpoint{}
	name := strings.Split(lines[0], "/")
	if len(name) != 3 || len(name[1]) != 32 || len(name[2]) != 2 {
		return nil, bad("origin")
	}
	id, err1 := hex.DecodeString(name[1])
	p, err2 := strconv.ParseUint(name[2], 16, 8)
	seq, err3 := strconv.ParseUint(lines[1], 10, 62)
	at, err4 := time.Parse("time "+checkpointTime, lines[3])
	tree := strings.Split(lines[4], " ")
	if err := errors.Join(err1, err2, err3, err4); err != nil || len(tree) != 3 {
		return nil, bad("number")
	}
	from, err := strconv.ParseUint(tree[1], 10, 62)
	if err != nil || from >= seq || seq-from > maxSpan || p >= maxPartitions {
		return nil, bad("range")
	}
	cert, _ := strings.CutPrefix(lines[5], "certificate ")
	for _, f := range []struct {
		to   []byte
		from string
	}{{c.Hash[:], lines[2]}, {c.Tree[:], tree[2]}, {c.Cert[:], cert}} {
		b, err := base64.StdEncoding.Strict().DecodeString(f.from)
		if err != nil || len(b) != len(f.to) {
			return nil, bad("base64")
		}
		copy(f.to, b)
	}
	c.Log, c.Partition = event.LogID(id), event.Partition(p)
	c.Seq, c.From, c.Time = event.Seq(seq), event.Seq(from), event.Millis(at.UnixMilli())
	if c.text() != text {
		return nil, bad("spelling")
	}
	return c, nil
}

// ParseCheckpoint reads a checkpoint and verifies it with the installation's
// public key: the certificate that it carries, and the signature. Nothing but
// the one signature may follow the text. The error wraps [ErrNoCheckpoint].
func ParseCheckpoint(b []byte, installation ed25519.PublicKey) (*Checkpoint, error) {
	text, _, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok || len(b) > maxCheckpoint {
		return nil, fmt.Errorf("not a signed note: %w", ErrNoCheckpoint)
	}
	c, err := parseText(string(text) + "\n")
	if err != nil {
		return nil, err
	}
	if cert, err := crypto.ParseCertificate(c.Cert[:]); err != nil || cert.Verify(installation) != nil {
		return nil, fmt.Errorf("its signer is not certified by this installation: %w", ErrNoCheckpoint)
	}
	if !c.Cert.May().Has(event.ClassCheckpoint) {
		return nil, fmt.Errorf("its signer may not sign checkpoints: %w", ErrNoCheckpoint)
	}
	v, err := c.verifier()
	if err != nil {
		return nil, fmt.Errorf("its signer's key: %w", ErrNoCheckpoint)
	}
	n, err := note.Open(b, note.VerifierList(v))
	if err != nil || n.Text != c.text() || len(n.Sigs) != 1 {
		return nil, fmt.Errorf("its signature does not verify: %w", ErrNoCheckpoint)
	}
	// A note may be spelt in more than one way; ours are not.
	c.note = bytes.Clone(b)
	if want := fmt.Sprintf("%s\n— %s %s\n", c.text(), v.Name(), n.Sigs[0].Base64); string(b) != want || !strictBase64(n.Sigs[0].Base64) {
		return nil, fmt.Errorf("more than one signature, or spare bits: %w", ErrNoCheckpoint)
	}
	return c, nil
}

func strictBase64(s string) bool {
	_, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil
}

func (c *Checkpoint) verifier() (note.Verifier, error) {
	key, err := note.NewEd25519VerifierKey(origin(c.Log, c.Partition), c.Cert.Node())
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(key)
}

// noteSigner signs notes with the node's key. It implements note.Signer.
type noteSigner struct {
	note.Verifier
	key *crypto.NodeKey
}

// Sign implements note.Signer.
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return s.key.SignText(msg), nil }

// sign completes a checkpoint.
func (c *Checkpoint) sign(key *crypto.NodeKey) error {
	c.Cert = key.Certificate()
	v, err := c.verifier()
	if err != nil {
		return err
	}
	c.note, err = note.Sign(&note.Note{Text: c.text()}, noteSigner{v, key})
	return err
}

// SplitNotes cuts a file of several signed notes, one after the other, into the
// notes. What is no note is returned as it is, for ParseCheckpoint to refuse.
func SplitNotes(b []byte) (notes [][]byte) {
	const dash = "\n\n— "
	for b = bytes.TrimLeft(b, "\n"); len(b) > 0; b = bytes.TrimLeft(b, "\n") {
		end := len(b)
		if at := bytes.Index(b, []byte(dash)); at >= 0 {
			end = at + len(dash)
			for {
				nl := bytes.IndexByte(b[end:], '\n')
				if nl < 0 {
					end = len(b)
					break
				}
				if end += nl + 1; !bytes.HasPrefix(b[end:], []byte("— ")) {
					break
				}
			}
		}
		notes, b = append(notes, b[:end]), b[end:]
	}
	return notes
}

// hashTree is the Merkle tree over the hashes of consecutive segments. It
// implements tlog.HashReader.
type hashTree struct {
	n      int64
	stored []tlog.Hash
}

func newHashTree(hashes []Hash) *hashTree {
	t := &hashTree{}
	for _, h := range hashes {
		more, err := tlog.StoredHashes(t.n, h[:], t)
		if err != nil {
			panic("internal error: hash tree: " + err.Error())
		}
		t.stored = append(t.stored, more...)
		t.n++
	}
	return t
}

// ReadHashes implements tlog.HashReader.
func (t *hashTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, 0, len(indexes))
	for _, i := range indexes {
		if i < 0 || i >= int64(len(t.stored)) {
			return nil, fmt.Errorf("hash %d of %d", i, len(t.stored))
		}
		out = append(out, t.stored[i])
	}
	return out, nil
}

// root returns the tree hash of all segments.
func (t *hashTree) root() Hash {
	h, err := tlog.TreeHash(t.n, t)
	if err != nil {
		panic("internal error: hash tree: " + err.Error())
	}
	return Hash(h)
}

// path returns the hashes by which segment i of the tree, from 0, leads to its
// root.
func (t *hashTree) path(i int64) []Hash {
	p, err := tlog.ProveRecord(t.n, i, t)
	if err != nil {
		panic("internal error: hash tree: " + err.Error())
	}
	out := make([]Hash, len(p))
	for i, h := range p {
		out[i] = Hash(h)
	}
	return out
}

// proves reports whether a path leads from a segment's hash to the checkpoint's
// tree.
func (c *Checkpoint) proves(s event.Seq, h Hash, path []Hash) bool {
	if !c.covers(s) || s == c.Seq && h != c.Hash {
		return false
	}
	p := make(tlog.RecordProof, len(path))
	for i := range path {
		p[i] = tlog.Hash(path[i])
	}
	return tlog.CheckRecord(p, int64(c.Seq-c.From), tlog.Hash(c.Tree), int64(s-c.From-1), tlog.RecordHash(h[:])) == nil
}
