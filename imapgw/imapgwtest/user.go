package imapgwtest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/imapgw"
	"holdfast/message"
)

// userHandle is one login.
type userHandle struct{ a *Account }

// lock takes the backend's lock, for a command that appends to the log.
func (u *userHandle) lock() (unlock func(), err error) {
	u.a.b.mu.Lock()
	if u.a.b.down {
		u.a.b.mu.Unlock()
		return nil, continuity.ErrUnavailable
	}
	return u.a.b.mu.Unlock, nil
}

// List implements imapgw.User.
func (u *userHandle) List(context.Context) ([]continuity.Mailbox, error) {
	u.a.b.mu.Lock()
	defer u.a.b.mu.Unlock()
	var out []continuity.Mailbox
	for _, m := range u.a.boxes {
		out = append(out, u.a.state(m))
	}
	for name := range u.a.subscribed {
		if u.a.boxes[name] == nil {
			out = append(out, continuity.Mailbox{Name: name, Subscribed: true, NonExistent: true})
		}
	}
	return out, nil
}

// Status implements imapgw.User.
func (u *userHandle) Status(_ context.Context, name string) (continuity.Mailbox, error) {
	u.a.b.mu.Lock()
	defer u.a.b.mu.Unlock()
	m := u.a.boxes[name]
	if m == nil {
		return continuity.Mailbox{}, continuity.ErrNoMailbox
	}
	return u.a.state(m), nil
}

func goodName(name string) bool {
	if len(name) > 1000 || strings.ContainsAny(name, "%*\r\n\x00") {
		return false
	}
	return !slices.Contains(strings.Split(name, "/"), "")
}

// Create implements imapgw.User.
func (u *userHandle) Create(_ context.Context, name, use string) error {
	unlock, err := u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if !goodName(name) {
		return continuity.ErrBadName
	}
	if u.a.boxes[name] != nil {
		return continuity.ErrExists
	}
	u.a.createParents(name)
	u.a.create(name, use)
	return nil
}

func (a *Account) createParents(name string) {
	for i, c := range name {
		if c == '/' && a.boxes[name[:i]] == nil {
			a.create(name[:i], "")
		}
	}
}

// Delete implements imapgw.User.
func (u *userHandle) Delete(_ context.Context, name string) error {
	unlock, err := u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	m := u.a.boxes[name]
	switch {
	case name == "INBOX":
		return continuity.ErrInbox
	case m == nil:
		return continuity.ErrNoMailbox
	}
	delete(u.a.boxes, name)
	m.tell(continuity.Change{Kind: continuity.ChangeDropped, ModSeq: u.a.nextModSeq()})
	return nil
}

// Rename implements imapgw.User.
func (u *userHandle) Rename(_ context.Context, from, to string) error {
	unlock, err := u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	a := u.a
	switch {
	case a.boxes[from] == nil:
		return continuity.ErrNoMailbox
	case !goodName(to) || strings.HasPrefix(to, from+"/"):
		return continuity.ErrBadName
	case a.boxes[to] != nil:
		return continuity.ErrExists
	}
	a.createParents(to)
	if from == "INBOX" {
		src, dst := a.boxes[from], a.create(to, "")
		a.copyTo(src, dst, []event.UIDRange{{First: 1, Last: ^event.UID(0)}})
		src.remove(a, func(*continuity.Message) bool { return true }, nil)
		return nil
	}
	for _, name := range slices.Collect(maps.Keys(a.boxes)) {
		if name == from || strings.HasPrefix(name, from+"/") {
			m := a.boxes[name]
			delete(a.boxes, name)
			m.box.Name = to + name[len(from):]
			a.boxes[m.box.Name] = m
		}
	}
	return nil
}

// Subscribe implements imapgw.User.
func (u *userHandle) Subscribe(_ context.Context, name string, subscribed bool) error {
	unlock, err := u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if !goodName(name) {
		return continuity.ErrBadName
	}
	if subscribed {
		u.a.subscribed[name] = true
	} else {
		delete(u.a.subscribed, name)
	}
	return nil
}

// Append implements imapgw.User.
func (u *userHandle) Append(_ context.Context, name string, size int64, r io.Reader, flags []string, date time.Time) (uint32, event.UID, error) {
	if _, err := u.Status(context.Background(), name); err != nil {
		return 0, 0, err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, 0, fmt.Errorf("read message: %w", err)
	}
	unlock, err := u.lock()
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	m := u.a.boxes[name]
	if m == nil {
		return 0, 0, continuity.ErrNoMailbox
	}
	now := event.Millis(time.Now().UnixMilli())
	msg := continuity.Message{Size: size, Date: now, Saved: now, Flags: flags, Email: u.a.store(data)}
	if !date.IsZero() {
		msg.Date = event.Millis(date.UnixMilli())
	}
	return m.box.UIDValidity, m.add(u.a, msg, nil), nil
}

// AppendLimit implements imapgw.User.
func (u *userHandle) AppendLimit() int64 { return u.a.b.limit }

// Evicted implements imapgw.User.
func (u *userHandle) Evicted() <-chan struct{} { return u.a.evicted }

// Close implements imapgw.User.
func (u *userHandle) Close() {}

// Select implements imapgw.User.
func (u *userHandle) Select(_ context.Context, name string) (imapgw.Selected, error) {
	u.a.b.mu.Lock()
	defer u.a.b.mu.Unlock()
	m := u.a.boxes[name]
	if m == nil {
		return nil, continuity.ErrNoMailbox
	}
	s := &selected{u: u, m: m, wake: make(chan struct{}, 1), box: u.a.state(m), snapshot: slices.Clone(m.msgs)}
	m.sessions[s] = struct{}{}
	return s, nil
}

// selected is one session's hold on a mailbox.
type selected struct {
	u        *userHandle
	m        *mailbox
	box      continuity.Mailbox
	snapshot []continuity.Message
	wake     chan struct{}
	changes  []continuity.Change // guarded by the backend's lock
}

func (s *selected) Mailbox() continuity.Mailbox    { return s.box }
func (s *selected) Snapshot() []continuity.Message { return s.snapshot }
func (s *selected) Wake() <-chan struct{}          { return s.wake }

func (s *selected) Changes() []continuity.Change {
	s.u.a.b.mu.Lock()
	defer s.u.a.b.mu.Unlock()
	out := s.changes
	s.changes = nil
	return out
}

func (s *selected) Close() {
	s.u.a.b.mu.Lock()
	defer s.u.a.b.mu.Unlock()
	delete(s.m.sessions, s)
}

// Store implements imapgw.Selected.
func (s *selected) Store(_ context.Context, uids []event.UIDRange, op event.FlagOp, flags []string, unchangedSince uint64, origin any) error {
	unlock, err := s.u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	modseq := s.u.a.nextModSeq()
	if op != event.FlagsRemove {
		flags = s.m.learn(flags, modseq)
	}
	for i := range s.m.msgs {
		msg := &s.m.msgs[i]
		if !within(msg.UID, uids) || unchangedSince != 0 && msg.ModSeq > unchangedSince {
			continue
		}
		next := apply(msg.Flags, op, flags)
		if slices.Equal(next, msg.Flags) {
			continue
		}
		msg.Flags, msg.ModSeq, s.m.box.HighestModSeq = next, modseq, modseq
		s.m.tell(continuity.Change{Kind: continuity.ChangeFlags, Message: *msg, ModSeq: modseq, Origin: origin})
	}
	return nil
}

func apply(have []string, op event.FlagOp, flags []string) []string {
	in := func(list []string, f string) bool {
		return slices.ContainsFunc(list, func(g string) bool { return strings.EqualFold(f, g) })
	}
	var out []string
	switch op {
	case event.FlagsReplace:
		out = slices.Clone(flags)
	case event.FlagsAdd:
		out = slices.Clone(have)
		for _, f := range flags {
			if !in(out, f) {
				out = append(out, f)
			}
		}
	case event.FlagsRemove:
		for _, f := range have {
			if !in(flags, f) {
				out = append(out, f)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Expunge implements imapgw.Selected.
func (s *selected) Expunge(_ context.Context, uids []event.UIDRange, origin any) ([]event.UID, error) {
	unlock, err := s.u.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return s.m.remove(s.u.a, func(m *continuity.Message) bool {
		return within(m.UID, uids) && slices.Contains(m.Flags, `\Deleted`)
	}, origin), nil
}

// Copy implements imapgw.Selected.
func (s *selected) Copy(_ context.Context, uids []event.UIDRange, dest string) (continuity.CopyResult, error) {
	unlock, err := s.u.lock()
	if err != nil {
		return continuity.CopyResult{}, err
	}
	defer unlock()
	d := s.u.a.boxes[dest]
	if d == nil {
		return continuity.CopyResult{}, continuity.ErrNoMailbox
	}
	return s.u.a.copyTo(s.m, d, uids), nil
}

// Move implements imapgw.Selected.
func (s *selected) Move(_ context.Context, uids []event.UIDRange, dest string) (continuity.CopyResult, error) {
	unlock, err := s.u.lock()
	if err != nil {
		return continuity.CopyResult{}, err
	}
	defer unlock()
	d := s.u.a.boxes[dest]
	if d == nil {
		return continuity.CopyResult{}, continuity.ErrNoMailbox
	}
	res := s.u.a.copyTo(s.m, d, uids)
	s.m.remove(s.u.a, func(m *continuity.Message) bool { return slices.Contains(res.Source, m.UID) }, nil)
	return res, nil
}

func (a *Account) copyTo(src, dst *mailbox, uids []event.UIDRange) continuity.CopyResult {
	res := continuity.CopyResult{UIDValidity: dst.box.UIDValidity}
	for _, m := range slices.Clone(src.msgs) {
		if within(m.UID, uids) {
			res.Source = append(res.Source, m.UID)
			res.Dest = append(res.Dest, dst.add(a, m, nil))
		}
	}
	return res
}

// Index implements imapgw.Selected.
func (s *selected) Index(_ context.Context, m continuity.Message) (*message.Index, error) {
	s.u.a.b.mu.Lock()
	defer s.u.a.b.mu.Unlock()
	return s.u.a.bodies[m.Email].ix, nil
}

// Open implements imapgw.Selected.
func (s *selected) Open(_ context.Context, m continuity.Message) (io.ReadSeekCloser, error) {
	s.u.a.b.mu.Lock()
	defer s.u.a.b.mu.Unlock()
	b := s.u.a.bodies[m.Email]
	r := newReader(b.data)
	if b.err != nil {
		return &failing{reader: r, left: len(b.data) / 2, err: b.err}, nil
	}
	return r, nil
}
