package continuity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/message"
	"holdfast/projection"
)

// read reads a message where it was when the session learnt of it, and if it has
// expired there, where the fold says that it is kept now.
func (s *Selected) read(ctx context.Context, m Message, from func(event.Ref) error) error {
	err := from(m.Ref)
	if !errors.Is(err, ErrExpired) {
		return err
	}
	now, err := s.where(ctx, m.UID)
	switch {
	case err != nil:
		return err
	case now == event.Ref{}:
		return ErrNoMessage
	case now == m.Ref:
		return ErrExpired
	}
	return from(now)
}

// where returns where a message is read now; zero when it is there no more.
func (s *Selected) where(ctx context.Context, uid event.UID) (ref event.Ref, err error) {
	err = s.user.view(ctx, func(v projection.View) error {
		raw, err := v.Get(messageKey(s.key.account, s.key.mailbox, uid))
		if err != nil || raw == nil {
			return err
		}
		var row messageRow
		if err := row.decode(raw); err != nil {
			return err
		}
		ref = row.Ref
		return nil
	})
	return ref, err
}

// mail returns what a message is shown with: the Received line above its own
// bytes, and its structure.
func (s *Selected) mail(ctx context.Context, ref event.Ref) (trace, index []byte, err error) {
	rec, err := s.user.svc.log.Event(ctx, ref)
	if errors.Is(err, crypto.ErrExpired) {
		return nil, nil, ErrExpired
	}
	if err != nil {
		return nil, nil, temporary(err)
	}
	if rec.Tenant != s.user.tenant {
		return nil, nil, ErrNoMessage
	}
	switch f := rec.Fact.(type) {
	case *event.MessageAccepted:
		if f.Meta != nil {
			return f.Meta.Trace, f.Meta.Index, nil
		}
	case *event.Appended:
		if f.Meta != nil {
			return nil, f.Meta.Index, nil
		}
	default:
		return nil, nil, ErrNoMessage
	}
	return nil, nil, ErrExpired
}

// Index is the structure of the message as shown. [ErrNoMessage], [ErrExpired].
func (s *Selected) Index(ctx context.Context, m Message) (*message.Index, error) {
	var raw []byte
	err := s.read(ctx, m, func(ref event.Ref) (err error) {
		_, raw, err = s.mail(ctx, ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	ix := new(message.Index)
	if err := event.Unmarshal(raw, ix); err != nil {
		return nil, temporary(err)
	}
	return ix, nil
}

// Open returns the message as shown, m.Size bytes. ctx covers all reading from
// it. [ErrNoMessage], [ErrExpired].
func (s *Selected) Open(ctx context.Context, m Message) (io.ReadSeekCloser, error) {
	var out io.ReadSeekCloser
	err := s.read(ctx, m, func(ref event.Ref) error {
		trace, _, err := s.mail(ctx, ref)
		if err != nil {
			return err
		}
		body, err := s.user.svc.log.Body(ctx, ref)
		if errors.Is(err, crypto.ErrExpired) {
			return ErrExpired
		}
		if err != nil {
			return temporary(err)
		}
		out = newShown(trace, body, m.Size)
		return nil
	})
	return out, err
}

// shown reads a trace line and the message below it as one.
type shown struct {
	trace *bytes.Reader
	body  io.ReadSeekCloser
	split int64 // where the body begins
	size  int64
	off   int64
}

func newShown(trace []byte, body io.ReadSeekCloser, size int64) *shown {
	return &shown{trace: bytes.NewReader(trace), body: body, split: int64(len(trace)), size: size}
}

// Read implements io.Reader. The body always stands where it is to be read
// next: at its beginning while the trace is being read.
func (r *shown) Read(p []byte) (int, error) {
	if r.off < r.split {
		n, err := r.trace.ReadAt(p, r.off)
		r.off += int64(n)
		if n > 0 || len(p) == 0 {
			err = nil // where the trace ends the body begins
		}
		return n, err
	}
	n, err := r.body.Read(p)
	r.off += int64(n)
	return n, err
}

var errSeek = errors.New("no such position")

// Seek implements io.Seeker. It may go beyond the end, where Read returns EOF.
func (r *shown) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.size
	default:
		return 0, fmt.Errorf("seek a message: whence %d: %w", whence, errSeek)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek a message to %d: %w", offset, errSeek)
	}
	if _, err := r.body.Seek(max(0, offset-r.split), io.SeekStart); err != nil {
		return 0, fmt.Errorf("seek a message: %w", err)
	}
	r.off = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *shown) Close() error { return r.body.Close() }
