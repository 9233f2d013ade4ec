package continuity

import (
	"context"
	"slices"
	"time"

	"holdfast/event"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

const (
	// maxPending is how many changes a session may fall behind. Sessions of one
	// mailbox share them in memory.
	maxPending = 1 << 20
	// maxRanges is how many ranges of UIDs one event holds; a command with more
	// becomes several. A log's reader refuses longer lists.
	maxRanges = 10_000
	// changesWait is how long Changes waits for what is known to be in the log.
	changesWait = 500 * time.Millisecond
)

// box is a mailbox that sessions of this node look at. The Service's mutex
// guards it.
type box struct {
	sessions map[*Selected]bool
}

// take hands the changes of one event to all sessions.
func (b *box) take(changes []Change, origin any) {
	for i := range changes {
		changes[i].Origin = origin
	}
	for s := range b.sessions {
		if s.behind += len(changes); s.behind > maxPending {
			delete(b.sessions, s)
			s.pending = [][]Change{{{Kind: ChangeDropped}}}
		} else {
			s.pending = append(s.pending, changes)
		}
		if !sabotage.On(sabotage.LoseIdle) {
			signal(s.wake)
		}
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
	loaded  uint64 // the modseq of the snapshot: changes up to it are in it

	// Guarded by the Service's mutex.
	pending [][]Change // what each event changed; shared with other sessions
	behind  int        // changes in pending
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
	if err := u.view(ctx, func(v projection.View) error { return s.load(v, m.Subscribed) }); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Selected) load(v projection.View, subscribed bool) error {
	box, err := loadMailbox(v, s.key.account, s.key.mailbox)
	if err != nil {
		return err
	}
	if box == nil {
		return ErrNoMailbox
	}
	s.mailbox = box.mailbox(s.key.mailbox, subscribed)
	s.loaded = box.ModSeq
	s.first = make([]Message, 0, box.Messages)
	lists := flagLists{names: box.Keywords}
	for it, err := range v.Scan(messagePrefix(s.key.account, s.key.mailbox), nil, false) {
		if err != nil {
			return err
		}
		var row messageRow
		if err := row.decode(it.Value); err != nil {
			return err
		}
		s.first = append(s.first, row.message(uidOf(it.Key), &lists))
	}
	return nil
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
	s.pending = nil
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

// Changes takes what happened since the snapshot or the last call. It shows at
// least everything this node answered before, for which it may have to wait
// some milliseconds, and half a second at most.
func (s *Selected) Changes() []Change {
	// What does not come in time, or cannot come, is in a later call's answer.
	_ = s.user.svc.fresh(context.Background(), s.user.tenant, changesWait)
	var out []Change
	for _, list := range s.takePending() {
		for _, c := range list {
			if c.Kind == ChangeDropped || c.ModSeq > s.loaded {
				out = append(out, c)
			}
		}
	}
	return out
}

func (s *Selected) takePending() [][]Change {
	s.user.svc.mu.Lock()
	defer s.user.svc.mu.Unlock()
	lists := s.pending
	s.pending, s.behind = nil, 0
	return lists
}

// Wake is signalled when Changes may have something.
func (s *Selected) Wake() <-chan struct{} { return s.wake }

// Store changes flags.
func (s *Selected) Store(ctx context.Context, uids []event.UIDRange, op event.FlagOp, flags []string, unchangedSince uint64, origin any) error {
	for some := range slices.Chunk(uids, maxRanges) {
		_, err := s.user.do(ctx, event.Event{Fact: &event.FlagsChanged{
			Account: s.user.account, Mailbox: s.key.mailbox, UIDs: some, Op: op, Flags: flags, UnchangedSince: unchangedSince,
		}}, origin)
		if err != nil {
			return err
		}
	}
	return nil
}

// Expunge removes those of uids that have \Deleted, and returns them, ascending
// when uids are.
func (s *Selected) Expunge(ctx context.Context, uids []event.UIDRange, origin any) (gone []event.UID, err error) {
	for some := range slices.Chunk(uids, maxRanges) {
		said, err := s.user.do(ctx, event.Event{Fact: &event.Expunged{Account: s.user.account, Mailbox: s.key.mailbox, UIDs: some}}, origin)
		if err != nil {
			return nil, err
		}
		v, ok := find[expunged](said)
		if !ok {
			return nil, errNoVerdict
		}
		gone = append(gone, v.UIDs...)
	}
	return gone, nil
}

// Copy copies messages. [ErrNoMailbox] for dest.
func (s *Selected) Copy(ctx context.Context, uids []event.UIDRange, dest string) (CopyResult, error) {
	return s.copy(ctx, uids, dest, false)
}

// Move copies messages and removes them here in the same instant.
func (s *Selected) Move(ctx context.Context, uids []event.UIDRange, dest string) (CopyResult, error) {
	return s.copy(ctx, uids, dest, true)
}

func (s *Selected) copy(ctx context.Context, uids []event.UIDRange, dest string, move bool) (res CopyResult, err error) {
	to, err := s.user.Status(ctx, dest)
	if err != nil {
		return res, err
	}
	res.UIDValidity = to.UIDValidity
	for some := range slices.Chunk(uids, maxRanges) {
		said, err := s.user.do(ctx, event.Event{Fact: &event.Copied{
			Account: s.user.account, From: s.key.mailbox, UIDs: some, To: to.ID, Move: move,
		}}, nil)
		if err != nil {
			return CopyResult{}, err
		}
		v, ok := find[copied](said)
		if !ok {
			return CopyResult{}, errNoVerdict
		}
		res.Source = append(res.Source, v.Result.Source...)
		res.Dest = append(res.Dest, v.Result.Dest...)
	}
	return res, nil
}
