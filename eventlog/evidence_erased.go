package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"time"

	"holdfast/event"
)

// certificate reports whether a bundle certifies that something is gone, so that
// there is no message in it.
func (e *Evidence) certificate() bool { return e != nil && certifies(e.Fact) }

// certifies tells the facts that certificates are about.
func certifies(f event.Fact) bool {
	switch f.(type) {
	case *event.Erased, *event.TenantEnded:
		return true
	}
	return false
}

// erasureText is what stands in a certificate for a person to read. What
// administrators wrote is quoted, so that it cannot look like anything else.
func (e *Evidence) erasureText(f *event.Erased) string {
	at := func(t time.Time) string { return t.UTC().Format(checkpointTime) }
	var b strings.Builder
	fmt.Fprintf(&b, `Holdfast certificate of erasure, version 1

This archive shows that the log of a Holdfast installation says that the messages
below were erased by order: the keys that opened them were destroyed. Check it with
the public key of that installation, and with nothing else:

    holdfast log check FILE --key KEY

It holds nothing of the messages but digests of their sealed bytes, which stand in
the signed headers of the log. docs/evidence.md of Holdfast says what it proves,
and what it does not.

log: %v
tenant: %v
event: %v
partition: %d
segment: %d
index: %d
what: %s
erased: %s
by: %q
reason: %q
order: %v
written: %s
checkpoint: %d
signed: %s
messages: %d
places: %d
`, e.Log, e.Tenant, e.Ref.ID, e.Ref.Position.Partition, e.Ref.Position.Seq, e.Ref.Position.Index, e.Kind(),
		at(e.Received()), f.Who, f.Reason, f.Order,
		at(time.UnixMilli(int64(e.Written))), e.Checkpoint.Seq, at(e.Checkpoint.At()), len(f.Messages()), len(f.Items))
	for _, item := range f.Items {
		pos := item.Place.Position
		fmt.Fprintf(&b, "\nmessage: %v\nevent: %v\nplace: %d/%d/%d\nsize: %d\n",
			item.Message, item.Place.ID, pos.Partition, pos.Seq, pos.Index, item.Size)
		for _, a := range item.Accounts {
			fmt.Fprintf(&b, "account: %v\n", a)
		}
		for _, d := range item.Digests {
			fmt.Fprintf(&b, "sha256: %x\n", d)
		}
	}
	return b.String()
}

// keptText says where a message comes from that was kept.
func (e *Evidence) keptText() string {
	if e.Kept == nil {
		return ""
	}
	return fmt.Sprintf("message: %v\nkept: %s\n", e.Kept.Message, time.UnixMilli(int64(e.Kept.At)).UTC().Format(checkpointTime))
}

// certify writes the certificate of an erasure or of the end of a tenant; nothing,
// and nil, when ref is neither.
func (l *Log) certify(ctx context.Context, ref event.Ref, w io.Writer) (*Evidence, error) {
	pos := ref.Position
	if int(pos.Partition) >= len(l.partitions) {
		return nil, nil
	}
	h, err := l.readHeader(ctx, pos.Partition, pos.Seq)
	if err != nil || int(pos.Index) >= len(h.Events) || h.Events[pos.Index].Class != event.ClassRetention || h.Events[pos.Index].Page != 0 {
		return nil, nil // who wants a message finds what is wrong
	}
	m, err := l.encoded(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("prove %v: %w", ref.ID, err)
	}
	fact, err := event.Decode(m.state, nil)
	if err != nil {
		return nil, fmt.Errorf("prove %v: %w", ref.ID, err)
	}
	if !certifies(fact) {
		return nil, nil
	}
	e := &Evidence{Log: l.id, Tenant: m.entry().Tenant, Ref: ref, Written: m.h.Time, Fact: fact}
	if err := l.writeCertificate(ctx, e, &m, w); err != nil {
		return nil, fmt.Errorf("prove %v: %w", ref.ID, err)
	}
	return e, nil
}

func (l *Log) writeCertificate(ctx context.Context, e *Evidence, m *encodedEvent, w io.Writer) error {
	header := m.front.bytes[:m.h.front]
	if Hash(sha256.Sum256(header)) != m.h.hash {
		return fmt.Errorf("segment changed: %w", ErrDamaged)
	}
	state, _, err := l.sealedPart(m.h, m.i, event.RoleState, m.front)
	if err != nil {
		return err
	}
	tenant, err := l.keys.tenant(ctx, e.Tenant)
	if err != nil {
		return err
	}
	keys := tenant.RevealState(l.binding(e.Tenant, e.Ref.ID, event.RoleState))
	var path []byte
	if e.Checkpoint, path, err = l.cover(ctx, m.h.Partition, m.h.Seq); err != nil {
		return err
	}
	for _, f := range []bundled{
		{fileText, []byte(e.text())}, {fileCheckpoint, e.Checkpoint.note}, {filePath, path},
		{fileHeader, header}, {fileKeys, keys.Bytes()}, {fileState, state},
	} {
		if err := writeEntry(w, f.name, int64(len(f.bytes)), bytes.NewReader(f.bytes)); err != nil {
			return err
		}
	}
	_, err = w.Write(make([]byte, 2*tarBlock))
	return err
}

// gone verifies that an event without mail-derived parts is one that a certificate
// is about.
func (b *bundle) gone(e *Evidence, ev *eventEntry, state []byte) error {
	fact, err := event.Decode(state, nil)
	if err != nil {
		return fmt.Errorf("its event: %w: %w", err, ErrEvidence)
	}
	if !certifies(fact) || fact.Class() != ev.Class || len(ev.Parts) != 1 {
		return bad("its event is not about a message")
	}
	e.Fact = fact
	return nil
}

// nothing verifies that a bundle ends here.
func (b *bundle) nothing() error {
	if err := b.zeros(2 * tarBlock); err != nil {
		return err
	}
	if b.at != b.size {
		return bad("there is something behind it")
	}
	return nil
}
