package eventlog

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

// The files of an evidence bundle, in their order; docs/evidence.md draws it.
const (
	fileText       = "evidence.txt"
	fileCheckpoint = "checkpoint.txt"
	filePath       = "path"
	fileHeader     = "header"
	fileKeys       = "keys"
	fileState      = "state"
	fileMeta       = "meta"
	fileMessage    = "message.eml"
)

const tarBlock = 512

// Evidence is what a bundle proves of one message.
type Evidence struct {
	Log     event.LogID
	Tenant  event.Tenant
	Ref     event.Ref
	Written event.Millis // when the segment was written, as its writer says
	// Fact is a *event.MessageAccepted or *event.Appended, with its metadata, or in
	// a certificate of an erasure the *event.Erased, in that of the end of a tenant
	// the *event.TenantEnded, which is of the system tenant.
	Fact event.Fact
	// Kept is what stands at Ref where the message was kept; else nil.
	Kept       *event.Kept
	Checkpoint *Checkpoint
	SHA256     [32]byte // of the message
	Size       int64    // of the message; in a certificate there is none
}

// Received returns when the message came in, as the event says, or was erased,
// or the tenant ended.
func (e *Evidence) Received() time.Time {
	var at event.Millis
	switch f := e.Fact.(type) {
	case *event.MessageAccepted:
		at = f.At
	case *event.Appended:
		at = f.At
	case *event.Erased:
		at = f.At
	case *event.TenantEnded:
		at = f.At
	}
	return time.UnixMilli(int64(at)).UTC()
}

// Kind says in words what happened to the message.
func (e *Evidence) Kind() string {
	switch e.Fact.(type) {
	case *event.Appended:
		return "put into a mailbox by its user"
	case *event.Erased:
		return "erased"
	case *event.TenantEnded:
		return "a tenant has ended"
	}
	return "accepted"
}

// text is what stands in the bundle for a person to read. It says nothing that
// the rest does not prove.
func (e *Evidence) text() string {
	switch f := e.Fact.(type) {
	case *event.Erased:
		return e.erasureText(f)
	case *event.TenantEnded:
		return e.endText(f)
	}
	at := func(t time.Time) string { return t.UTC().Format(checkpointTime) }
	return fmt.Sprintf(`Holdfast evidence, version 1

This archive shows that the log of a Holdfast installation holds the message in
message.eml, byte for byte, and what else it says of it. Check it with the public
key of that installation, and with nothing else:

    holdfast log check FILE --key KEY

It holds the message in the clear, the keys that open it in the log, and the
addresses of its envelope. docs/evidence.md of Holdfast says what it proves, and
what it does not.

log: %v
tenant: %v
event: %v
partition: %d
segment: %d
index: %d
what: %s
received: %s
written: %s
checkpoint: %d
signed: %s
size: %d
sha256: %x
%s`, e.Log, e.Tenant, e.Ref.ID, e.Ref.Position.Partition, e.Ref.Position.Seq, e.Ref.Position.Index, e.Kind(),
		at(e.Received()), at(time.UnixMilli(int64(e.Written))), e.Checkpoint.Seq, at(e.Checkpoint.At()), e.Size, e.SHA256, e.keptText())
}

// describe takes what a fact says of the message.
func (e *Evidence) describe(f event.Fact) error {
	if k, ok := f.(*event.Kept); ok {
		first, err := original(k)
		if err != nil {
			return err
		}
		e.Kept, f = k, first
	}
	e.Fact = f
	switch f := f.(type) {
	case *event.MessageAccepted:
		if f.Meta != nil {
			e.SHA256, e.Size = f.Meta.SHA256, f.Size
			return nil
		}
	case *event.Appended:
		if f.Meta != nil {
			e.SHA256, e.Size = f.Meta.SHA256, f.Size
			return nil
		}
	}
	return errors.New("the event is not about a message, or its metadata is missing")
}

// Prove writes an evidence bundle for a message: the original bytes, its event,
// and the hashes up to a signed checkpoint. It reveals the keys of this event and
// of no other. Where no checkpoint covers the message yet, one is made. Errors
// are those of [Log.Body]; what was written when one is returned is no bundle.
//
// For an [event.Erased] or [event.TenantEnded] it writes the certificate of that,
// which has no message.
func (l *Log) Prove(ctx context.Context, ref event.Ref, w io.Writer) (*Evidence, error) {
	e, err := l.certify(ctx, ref, w)
	if e != nil || err != nil {
		return e, err
	}
	e, files, body, err := l.evidence(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("prove %v: %w", ref.ID, err)
	}
	defer body.Close()
	files = append([]bundled{{fileText, []byte(e.text())}}, files...)
	for _, f := range files {
		if err := writeEntry(w, f.name, int64(len(f.bytes)), bytes.NewReader(f.bytes)); err != nil {
			return nil, fmt.Errorf("prove %v: %w", ref.ID, err)
		}
	}
	sum := sha256.New()
	err = writeEntry(w, fileMessage, e.Size, io.TeeReader(body, sum))
	if err == nil && [32]byte(sum.Sum(nil)) != e.SHA256 {
		err = fmt.Errorf("the body is not the one of which the event speaks: %w", ErrDamaged)
	}
	if err == nil {
		_, err = w.Write(make([]byte, 2*tarBlock))
	}
	if err != nil {
		return nil, fmt.Errorf("prove %v: %w", ref.ID, err)
	}
	return e, nil
}

// bundled is one small file of a bundle.
type bundled struct {
	name  string
	bytes []byte
}

// evidence gathers what a bundle holds beside the text, and opens the body.
func (l *Log) evidence(ctx context.Context, ref event.Ref) (*Evidence, []bundled, *Body, error) {
	body, err := l.Body(ctx, ref)
	if err != nil {
		return nil, nil, nil, err
	}
	pos := ref.Position
	h, err := l.readHeader(ctx, pos.Partition, pos.Seq)
	if err != nil {
		return nil, nil, nil, err
	}
	ev := &h.Events[pos.Index] // Body has looked whether it is there
	if ev.part(event.RoleState) < 0 || ev.part(event.RoleMeta) < 0 {
		return nil, nil, nil, fmt.Errorf("the event has no metadata: %w", objstore.ErrNotExist)
	}
	read, err := l.readFront(ctx, pos.Partition, pos.Seq, event.AllClasses)
	if err != nil {
		return nil, nil, nil, l.missing(pos.Partition, pos.Seq, err)
	}
	front := read.front.bytes
	if Hash(sha256.Sum256(front[:h.front])) != h.hash {
		return nil, nil, nil, fmt.Errorf("segment changed: %w", ErrDamaged)
	}
	rec, err := l.openEvent(ctx, h, int(pos.Index), read.front)
	if err != nil {
		return nil, nil, nil, err
	}
	e := &Evidence{Log: l.id, Tenant: ev.Tenant, Ref: ref, Written: h.Time}
	if err := e.describe(rec.Fact); err != nil {
		return nil, nil, nil, err
	}
	if body.Size() != e.Size {
		return nil, nil, nil, fmt.Errorf("the body has %d bytes, the event says %d: %w", body.Size(), e.Size, ErrDamaged)
	}
	page, _ := h.page(ev)
	leaf, err := l.leafOf(ctx, h, ev, page)
	if err != nil {
		return nil, nil, nil, err
	}
	tenant, err := l.keys.tenant(ctx, ev.Tenant)
	if err != nil {
		return nil, nil, nil, err
	}
	keys := tenant.Reveal(leaf, l.binding(ev.Tenant, ev.ID, event.RoleState))
	var path []byte
	if e.Checkpoint, path, err = l.cover(ctx, pos.Partition, pos.Seq); err != nil {
		return nil, nil, nil, err
	}
	part := func(r event.Role) []byte {
		j := ev.part(r)
		return front[h.offsets[pos.Index][j]:][:ev.Parts[j].Length]
	}
	return e, []bundled{
		{fileCheckpoint, e.Checkpoint.note}, {filePath, path}, {fileHeader, front[:h.front]},
		{fileKeys, keys.Bytes()}, {fileState, part(event.RoleState)}, {fileMeta, part(event.RoleMeta)},
	}, body, nil
}

// cover returns a checkpoint that covers a segment, and the path by which the
// segment leads to its tree. One that is in the bucket is preferred: it was signed
// earlier.
func (l *Log) cover(ctx context.Context, p event.Partition, s event.Seq) (*Checkpoint, []byte, error) {
	c, path, err := l.findCover(ctx, p, s)
	if err != nil || c != nil {
		return c, path, err
	}
	if !l.readOnly.Load() {
		if _, err := l.Checkpoint(ctx, p); err != nil {
			return nil, nil, err
		}
		if c, path, err = l.findCover(ctx, p, s); err != nil || c != nil {
			return c, path, err
		}
	}
	// A copy that is only read, or one whose checkpoint is damaged: this one is
	// good without being kept.
	to := min(l.TailAtLeast(p), s-1+maxSpan)
	if c, err = l.newCheckpoint(ctx, p, s-1, to); errors.Is(err, ErrBeforeStart) {
		// A message that lives longer than what stood around it.
		to = s
		c, err = l.newCheckpoint(ctx, p, s-1, to)
	}
	if err != nil {
		return nil, nil, err
	}
	hashes, err := l.hashes(ctx, p, s-1, to)
	if err != nil {
		return nil, nil, err
	}
	return c, joined(newHashTree(hashes).path(0)), nil
}

// findCover looks in the bucket for a checkpoint that covers a segment; nil when
// there is none.
func (l *Log) findCover(ctx context.Context, p event.Partition, s event.Seq) (*Checkpoint, []byte, error) {
	looked := 0
	for info, err := range l.bucket.List(ctx, checkpointPrefix(p), checkpointKey(p, s-1)) {
		if err != nil {
			return nil, nil, fmt.Errorf("look for checkpoints: %w", err)
		}
		at, ok := parseCheckpointKey(info.Key)
		if !ok {
			continue
		}
		if looked++; looked > maxLooked {
			break
		}
		c, err := l.readCheckpoint(ctx, p, at)
		if errors.Is(err, ErrNoCheckpoint) || errors.Is(err, objstore.ErrTooLarge) || err == nil && !c.covers(s) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		err = l.Holds(ctx, c)
		var hashes []Hash
		if err == nil {
			hashes, err = l.hashes(ctx, p, c.From, c.Seq)
		}
		if errors.Is(err, ErrBeforeStart) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if tree := newHashTree(hashes); tree.root() == c.Tree {
			return c, joined(tree.path(int64(s - c.From - 1))), nil
		}
	}
	return nil, nil, nil
}

func joined(path []Hash) []byte {
	out := make([]byte, 0, 32*len(path))
	for _, h := range path {
		out = append(out, h[:]...)
	}
	return out
}

// entryHeader returns the block that precedes a file in a bundle: of ustar (POSIX
// 1003.1-1988), with nothing in it that could differ.
func entryHeader(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
	if err != nil {
		return nil, fmt.Errorf("%s of %d bytes: %w", name, size, err)
	}
	return b.Bytes()[:tarBlock], nil
}

// padding returns how many zeros follow a file of a size.
func padding(size int64) int64 { return -size & (tarBlock - 1) }

func writeEntry(w io.Writer, name string, size int64, r io.Reader) error {
	h, err := entryHeader(name, size)
	if err != nil {
		return err
	}
	if _, err := w.Write(h); err != nil {
		return err
	}
	n, err := io.Copy(w, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes instead of %d: %w", name, n, size, ErrDamaged)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(make([]byte, padding(size)))
	return err
}

// textField returns what a bundle's text says under a name.
func textField(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSuffix(v, "\n")
		}
	}
	return ""
}
