package continuity

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"

	"holdfast/event"
	"holdfast/message"
	"holdfast/projection"
)

// maxPending is how many changes a session may fall behind.
const maxPending = 200_000

func mailboxIDOf(k []byte) event.MailboxID {
	return event.MailboxID(binary.BigEndian.Uint32(k[17:21]))
}

// box is a mailbox that sessions of this node look at. The Service's mutex
// guards it.
type box struct {
	sessions map[*Selected]bool
}

// take hands changes to all sessions.
func (b *box) take(changes []Change, origin any) {
	for i := range changes {
		changes[i].Origin = origin
	}
	for s := range b.sessions {
		s.pending = append(s.pending, changes...)
		if len(s.pending) > maxPending {
			s.pending = []Change{{Kind: ChangeDropped}}
		}
		signal(s.wake)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Selected is one session's hold on one mailbox.
type Selected struct {
	user    *User
	key     boxKey
	mailbox Mailbox
	first   []Message
	wake    chan struct{}

	pending []Change // guarded by the Service's mutex
	loaded  uint64   // the modseq of the snapshot: changes up to it are in it
}

// Select opens a mailbox, which the caller closes. [ErrNoMailbox].
func (u *User) Select(ctx context.Context, name string) (*Selected, error) {
	m, err := u.Status(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &Selected{user: u, key: boxKey{u.account, m.ID}, wake: make(chan struct{}, 1)}
	// Changes are collected from before the snapshot is taken; those that are in
	// it are told apart by their modseq.
	u.svc.attach(s)
	err = u.view(ctx, func(v projection.View) error {
		row, err := loadMailbox(v, u.account, m.ID)
		if err != nil {
			return err
		}
		if row == nil {
			return ErrNoMailbox
		}
		s.mailbox = row.mailbox(m.ID, m.Subscribed)
		s.loaded = row.ModSeq
		s.first = make([]Message, 0, row.Messages)
		for it, err := range v.Scan(messagePrefix(u.account, m.ID), nil, false) {
			if err != nil {
				return err
			}
			var msg messageRow
			if err := event.Unmarshal(it.Value, &msg); err != nil {
				return err
			}
			s.first = append(s.first, msg.message(uidOf(it.Key), row))
		}
		return nil
	})
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Service) attach(sel *Selected) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boxes[sel.key]
	if b == nil {
		b = &box{sessions: map[*Selected]bool{}}
		s.boxes[sel.key] = b
	}
	b.sessions[sel] = true
}

// Close ends the hold.
func (s *Selected) Close() {
	s.user.svc.mu.Lock()
	defer s.user.svc.mu.Unlock()
	if b := s.user.svc.boxes[s.key]; b != nil {
		delete(b.sessions, s)
		if len(b.sessions) == 0 {
			delete(s.user.svc.boxes, s.key)
		}
	}
}

// Mailbox is the mailbox as it was when it was selected.
func (s *Selected) Mailbox() Mailbox { return s.mailbox }

// Snapshot is the messages as they were then, ascending by UID. It may be
// called once.
func (s *Selected) Snapshot() []Message {
	first := s.first
	s.first = nil
	return first
}

// Changes takes what happened since the snapshot or the last call.
func (s *Selected) Changes() []Change {
	s.user.svc.mu.Lock()
	defer s.user.svc.mu.Unlock()
	var out []Change
	for _, c := range s.pending {
		if c.Kind == ChangeDropped || c.ModSeq > s.loaded {
			out = append(out, c)
		}
	}
	s.pending = nil
	return out
}

// Wake is signalled when Changes may have something.
func (s *Selected) Wake() <-chan struct{} { return s.wake }

// Store changes flags.
func (s *Selected) Store(ctx context.Context, uids []event.UIDRange, op event.FlagOp, flags []string, unchangedSince uint64, origin any) error {
	_, err := s.user.do(ctx, event.Event{Fact: &event.FlagsChanged{
		Account: s.user.account, Mailbox: s.key.mailbox, UIDs: uids, Op: op, Flags: flags, UnchangedSince: unchangedSince,
	}}, origin)
	return err
}

// Expunge removes those of uids that have \Deleted, and returns them.
func (s *Selected) Expunge(ctx context.Context, uids []event.UIDRange, origin any) ([]event.UID, error) {
	said, err := s.user.do(ctx, event.Event{Fact: &event.Expunged{Account: s.user.account, Mailbox: s.key.mailbox, UIDs: uids}}, origin)
	if err != nil {
		return nil, err
	}
	v, ok := find[expunged](said)
	if !ok {
		return nil, errNoVerdict
	}
	return v.UIDs, nil
}

// Copy copies messages. [ErrNoMailbox] for dest.
func (s *Selected) Copy(ctx context.Context, uids []event.UIDRange, dest string) (CopyResult, error) {
	return s.copy(ctx, uids, dest, false)
}

// Move copies messages and removes them here in the same instant.
func (s *Selected) Move(ctx context.Context, uids []event.UIDRange, dest string) (CopyResult, error) {
	return s.copy(ctx, uids, dest, true)
}

func (s *Selected) copy(ctx context.Context, uids []event.UIDRange, dest string, move bool) (CopyResult, error) {
	to, err := s.user.Status(ctx, dest)
	if err != nil {
		return CopyResult{}, err
	}
	said, err := s.user.do(ctx, event.Event{Fact: &event.Copied{
		Account: s.user.account, From: s.key.mailbox, UIDs: uids, To: to.ID, Move: move,
	}}, nil)
	if err != nil {
		return CopyResult{}, err
	}
	v, ok := find[copied](said)
	if !ok {
		return CopyResult{}, errNoVerdict
	}
	return v.Result, nil
}

// mail returns what a message is shown with: the Received line above its own
// bytes, and its structure.
func (s *Selected) mail(ctx context.Context, m Message) (trace, index []byte, err error) {
	rec, err := s.user.svc.log.Event(ctx, m.Ref)
	if err != nil {
		return nil, nil, temporary(err)
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
	_, raw, err := s.mail(ctx, m)
	if err != nil {
		return nil, err
	}
	ix := new(message.Index)
	if err := event.Unmarshal(raw, ix); err != nil {
		return nil, temporary(err)
	}
	return ix, nil
}

// Open returns the message as shown, m.Size bytes.
func (s *Selected) Open(ctx context.Context, m Message) (io.ReadSeekCloser, error) {
	trace, _, err := s.mail(ctx, m)
	if err != nil {
		return nil, err
	}
	body, err := s.user.svc.log.Body(ctx, m.Ref)
	if gone(err) {
		return nil, ErrExpired
	}
	if err != nil {
		return nil, temporary(err)
	}
	return &shown{trace: bytes.NewReader(trace), body: body, split: int64(len(trace)), size: m.Size}, nil
}

// shown reads a trace line and the message below it as one.
type shown struct {
	trace *bytes.Reader
	body  io.ReadSeekCloser
	split int64
	size  int64
	off   int64
}

// Read implements io.Reader.
func (r *shown) Read(p []byte) (int, error) {
	if r.off < r.split {
		n, err := r.trace.ReadAt(p, r.off)
		r.off += int64(n)
		if n > 0 {
			err = nil
		}
		if r.off == r.split {
			if _, err := r.body.Seek(0, io.SeekStart); err != nil {
				return n, err
			}
		}
		return n, err
	}
	n, err := r.body.Read(p)
	r.off += int64(n)
	return n, err
}

// Seek implements io.Seeker.
func (r *shown) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	r.off = offset
	if _, err := r.body.Seek(max(0, offset-r.split), io.SeekStart); err != nil {
		return 0, err
	}
	return offset, nil
}

// Close implements io.Closer.
func (r *shown) Close() error { return r.body.Close() }
