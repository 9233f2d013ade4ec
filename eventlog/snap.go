package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

// A Base is kept in objects under snap/, each a piece of the state of at most
// MaxSnap bytes, and one more that names them in order: the index.
//
// A name is random and used once. An object that is removed therefore never
// comes back, and a removal that is late in a slow network harms nothing. A Base
// shares objects with the one before it by naming them again.
//
// docs/format.md draws the objects.
const (
	snapPrefix = "snap/"
	snapMagic  = "HFSNP\x00\x00\x01"
	snapFront  = len(snapMagic) + 32
	// MaxSnap bounds the bytes of one piece of a state.
	MaxSnap = 4 << 20
	// maxChunks bounds the pieces of a state, so that the index is a piece as well.
	maxChunks = (MaxSnap - 4) / len(event.Snap{})
	// maxSnapObject is what such a piece can become.
	maxSnapObject = MaxSnap + 1024
)

// The parts of the binding: a state's piece does not open as an index.
const (
	snapPiece = 0
	snapIndex = 1
)

// ErrBaseTooLarge says that a state has too many pieces.
var ErrBaseTooLarge = errors.New("state is too large for a Base")

func snapKey(s event.Snap) string { return snapPrefix + s.String() }

func (l *Log) snapBinding(s event.Snap, part uint32) crypto.Binding {
	return crypto.Binding{Log: l.id, Tenant: event.SystemTenant, Event: event.ID(s), Role: event.RoleSnap, Part: part}
}

// PutSnap stores a piece of a state, 1 to MaxSnap bytes, under a name of its own.
// It is durable when PutSnap returns. Until a Base that names it is published it
// may be removed after a day.
func (l *Log) PutSnap(ctx context.Context, plain []byte) (event.Snap, error) {
	return l.putSnap(ctx, plain, snapPiece)
}

func (l *Log) putSnap(ctx context.Context, plain []byte, part uint32) (event.Snap, error) {
	if l.readOnly.Load() {
		return event.Snap{}, l.refusal()
	}
	if len(plain) == 0 || len(plain) > MaxSnap {
		panic(fmt.Sprintf("internal error: a piece of a state of %d bytes", len(plain)))
	}
	keys, err := l.keys.tenant(ctx, event.SystemTenant)
	if err != nil {
		return event.Snap{}, err
	}
	name := event.NewSnap()
	sealed, commit := l.codec.SealSnap(keys, l.snapBinding(name, part), plain)
	object := make([]byte, 0, snapFront+len(sealed))
	object = append(append(append(object, snapMagic...), commit[:]...), sealed...)
	err = l.putSame(ctx, snapKey(name), object, objstore.PutOptions{IfAbsent: true})
	if errors.Is(err, objstore.ErrExists) {
		// Only an earlier try of this very put can be there.
		var got []byte
		if got, _, err = l.readAll(ctx, snapKey(name), maxSnapObject); err == nil && !bytes.Equal(got, object) {
			err = fmt.Errorf("another object is there: %w", ErrDamaged)
		}
	}
	if err != nil {
		return event.Snap{}, fmt.Errorf("store a piece of a Base: %w", noAnswer(ctx, err))
	}
	return name, nil
}

// Snap reads a piece of a state. [ErrDamaged] when it is missing, or is not what
// was stored under that name.
func (l *Log) Snap(ctx context.Context, name event.Snap) ([]byte, error) {
	return l.snap(ctx, name, snapPiece)
}

func (l *Log) snap(ctx context.Context, name event.Snap, part uint32) ([]byte, error) {
	keys, err := l.keys.tenant(ctx, event.SystemTenant)
	if err != nil {
		return nil, err
	}
	raw, _, err := l.readAll(ctx, snapKey(name), maxSnapObject)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return nil, fmt.Errorf("%s is missing: %w", snapKey(name), ErrDamaged)
	case errors.Is(err, objstore.ErrTooLarge):
		return nil, fmt.Errorf("%s: %w: %w", snapKey(name), err, ErrDamaged)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", snapKey(name), err)
	}
	if len(raw) < snapFront || string(raw[:len(snapMagic)]) != snapMagic {
		return nil, fmt.Errorf("%s is no piece of a Base of version 1: %w", snapKey(name), ErrDamaged)
	}
	commit := crypto.Commitment(raw[len(snapMagic):snapFront])
	plain, err := l.codec.OpenSnap(keys, l.snapBinding(name, part), commit, raw[snapFront:], MaxSnap)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", snapKey(name), err, ErrDamaged)
	}
	return plain, nil
}

// PutBaseIndex stores the names of a state's pieces, in order, and returns that
// of the index. [ErrBaseTooLarge] when there are more than fit, some 260,000.
func (l *Log) PutBaseIndex(ctx context.Context, chunks []event.Snap) (event.Snap, error) {
	if len(chunks) > maxChunks {
		return event.Snap{}, fmt.Errorf("%d pieces: %w", len(chunks), ErrBaseTooLarge)
	}
	plain := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(chunks)*len(event.Snap{})), uint32(len(chunks)))
	for _, c := range chunks {
		plain = append(plain, c[:]...)
	}
	return l.putSnap(ctx, plain, snapIndex)
}

// BaseChunks returns the names of a Base's pieces, in order. [ErrDamaged] when the
// index is not whole, or the log says that another Base was taken there.
func (l *Log) BaseChunks(ctx context.Context, b Base) ([]event.Snap, error) {
	if err := l.wasTaken(ctx, b); err != nil {
		return nil, err
	}
	return l.baseIndex(ctx, b.Taken)
}

func (l *Log) baseIndex(ctx context.Context, b *event.BaseTaken) ([]event.Snap, error) {
	plain, err := l.snap(ctx, b.Index, snapIndex)
	if err != nil {
		return nil, err
	}
	const size = len(event.Snap{})
	if len(plain) != 4+size*int(b.Chunks) || binary.BigEndian.Uint32(plain) != b.Chunks {
		return nil, fmt.Errorf("%s names other than %d pieces: %w", snapKey(b.Index), b.Chunks, ErrDamaged)
	}
	names := make([]event.Snap, 0, b.Chunks)
	for at := 4; at < len(plain); at += size {
		names = append(names, event.Snap(plain[at:at+size]))
	}
	return names, nil
}

// wasTaken compares a Base of the list with the signed event that it names, if the
// log still has that. Where the log begins later, or the event cannot be read,
// the MAC of the list has to do: it takes the root key to make one.
func (l *Log) wasTaken(ctx context.Context, b Base) error {
	if b.Ref.Position.Partition != l.PartitionOf(event.SystemTenant) {
		return fmt.Errorf("a Base of %s is of no event: %w", b.Taken.Projection, ErrDamaged)
	}
	if b.Ref.Position.Seq > l.TailAtLeast(b.Ref.Position.Partition) {
		if err := l.Refresh(ctx, b.Ref.Position.Partition); err != nil {
			return err
		}
	}
	rec, err := l.Event(ctx, b.Ref)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrTail):
		return fmt.Errorf("the log ends before the event of a Base of %s: %w", b.Taken.Projection, ErrDamaged)
	case errors.Is(err, ErrBeforeStart):
		return nil
	case err != nil:
		l.logger.Warn("the event of a Base is not there to compare with", "projection", b.Taken.Projection, "error", err)
		return nil
	}
	said, _ := event.Encode(rec.Fact)
	listed, _ := event.Encode(b.Taken)
	if rec.Tenant != event.SystemTenant || !bytes.Equal(said, listed) {
		return fmt.Errorf("the log has another Base of %s there: %w", b.Taken.Projection, ErrDamaged)
	}
	return nil
}
