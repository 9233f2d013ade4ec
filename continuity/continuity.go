package continuity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
	"holdfast/projection"
)

// commandTimeout bounds a command when storage does not answer.
const commandTimeout = 30 * time.Second

// Service opens accounts. Its methods may be called by any goroutine.
type Service struct {
	log    *eventlog.Log
	runner *projection.Runner
	logger *slog.Logger

	mu      sync.Mutex // never held across a call through a seam
	boxes   map[boxKey]*box
	origins map[event.ID]any // tokens of commands under way
}

type boxKey struct {
	account event.Account
	mailbox event.MailboxID
}

// New returns a Service. Its projection is added to the runner.
func New(log *eventlog.Log, runner *projection.Runner, logger *slog.Logger) (*Service, error) {
	s := &Service{log: log, runner: runner, logger: logger, boxes: map[boxKey]*box{}, origins: map[event.ID]any{}}
	if err := runner.Add(fold{}, s.observe); err != nil {
		return nil, fmt.Errorf("continuity: %w", err)
	}
	return s, nil
}

// observe hands committed changes to the sessions that look at a mailbox.
func (s *Service) observe(es []projection.Emission) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		c, ok := e.Value.(boxChanges)
		if !ok {
			continue
		}
		if b := s.boxes[boxKey{c.Account, c.Mailbox}]; b != nil {
			b.take(c.Changes, s.origins[e.Event.Ref.ID])
		}
	}
}

// User is one account of a tenant. Its methods may be called by any goroutine;
// what they did is durable, and folded by this node, when they return.
type User struct {
	svc     *Service
	tenant  event.Tenant
	account event.Account
	days    func() event.Day // how long what the user brings is kept
	limit   int64
}

// User returns the account. days tells how many days the tenant's mail is kept;
// limit is the size of the largest message that may be appended, in bytes.
func (s *Service) User(t event.Tenant, a event.Account, days func() event.Day, limit int64) *User {
	return &User{svc: s, tenant: t, account: a, days: days, limit: limit}
}

// view reads the projection when it shows at least everything that this node
// has answered before.
func (u *User) view(ctx context.Context, fn func(projection.View) error) error {
	p := u.svc.log.PartitionOf(u.tenant)
	pos := event.Position{Partition: p, Seq: u.svc.log.TailAtLeast(p)}
	err := u.svc.runner.WaitFor(ctx, foldName, pos)
	if err == nil {
		err = u.svc.runner.View(ctx, foldName, fn)
	}
	return temporary(err)
}

// temporary marks errors that are not the user's fault.
func temporary(err error) error {
	for _, own := range []error{ErrNoMailbox, ErrExists, ErrBadName, ErrInbox, ErrNoMessage, ErrExpired, ErrTooBig} {
		if errors.Is(err, own) {
			return err
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// do appends a command's event and returns the fold's verdict.
func (u *User) do(ctx context.Context, ev event.Event, origin any) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	ev.Tenant = u.tenant
	if ev.ID == (event.ID{}) {
		ev.ID = event.NewID()
	}
	if origin != nil {
		u.svc.setOrigin(ev.ID, origin)
		defer u.svc.setOrigin(ev.ID, nil)
	}
	said, err := u.svc.runner.Do(ctx, foldName, ev.ID, func(ctx context.Context) (event.Position, error) {
		return u.svc.log.Append(ctx, ev)
	})
	if err != nil {
		return nil, temporary(err)
	}
	for _, v := range said {
		if d, ok := v.(done); ok {
			return said, d.Err
		}
	}
	return said, nil
}

func (s *Service) setOrigin(id event.ID, origin any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if origin == nil {
		delete(s.origins, id)
		return
	}
	s.origins[id] = origin
}

// find returns what was said of a type.
func find[T any](said []any) (T, bool) {
	for _, v := range said {
		if t, ok := v.(T); ok {
			return t, true
		}
	}
	var zero T
	return zero, false
}

// errNoVerdict cannot happen while fold and commands agree.
var errNoVerdict = errors.New("internal error: no verdict on a command")

// List returns all mailboxes, and names that are only subscribed.
func (u *User) List(ctx context.Context) ([]Mailbox, error) {
	var out []Mailbox
	err := u.view(ctx, func(v projection.View) error {
		subscribed := map[string]bool{}
		for it, err := range v.Scan(key(keySubscribe, u.account), nil, false) {
			if err != nil {
				return err
			}
			subscribed[string(it.Key[17:])] = true
		}
		for it, err := range v.Scan(key(keyMailbox, u.account), nil, false) {
			if err != nil {
				return err
			}
			var row mailboxRow
			if err := event.Unmarshal(it.Value, &row); err != nil {
				return err
			}
			out = append(out, row.mailbox(mailboxIDOf(it.Key), subscribed[row.Name]))
			delete(subscribed, row.Name)
		}
		for name := range subscribed {
			out = append(out, Mailbox{Name: name, Subscribed: true, NonExistent: true})
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Mailbox) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

func (b *mailboxRow) mailbox(id event.MailboxID, subscribed bool) Mailbox {
	return Mailbox{
		ID: id, Name: b.Name, Use: b.Use, UIDValidity: b.Validity, UIDNext: b.UIDNext, HighestModSeq: b.ModSeq,
		Subscribed: subscribed, Keywords: b.Keywords, Messages: b.Messages, Unseen: b.Unseen, Deleted: b.Deleted, Size: b.Size,
	}
}

// Status returns one mailbox, or [ErrNoMailbox].
func (u *User) Status(ctx context.Context, name string) (m Mailbox, err error) {
	err = u.view(ctx, func(v projection.View) error {
		m, err = u.byName(v, name)
		return err
	})
	return m, err
}

func (u *User) byName(v projection.View, name string) (Mailbox, error) {
	id, err := lookup(v, u.account, name)
	if err != nil {
		return Mailbox{}, err
	}
	if id == 0 {
		return Mailbox{}, ErrNoMailbox
	}
	row, err := loadMailbox(v, u.account, id)
	if err != nil {
		return Mailbox{}, err
	}
	if row == nil {
		return Mailbox{}, ErrNoMailbox
	}
	sub, err := v.Get(nameKey(keySubscribe, u.account, name))
	return row.mailbox(id, sub != nil), err
}

// goodName refuses names that cannot be mailboxes: empty levels, control
// characters, wildcards, or more than 255 bytes (RFC 9051 §5.1).
func goodName(name string) bool {
	if name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsAny(name, "*%") {
		return false
	}
	for level := range strings.SplitSeq(name, "/") {
		if level == "" {
			return false
		}
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// Create makes a mailbox and the missing levels above it. [ErrExists],
// [ErrBadName].
func (u *User) Create(ctx context.Context, name, use string) error {
	name = strings.TrimSuffix(name, "/") // RFC 9051 §6.3.4
	if !goodName(name) {
		return ErrBadName
	}
	_, err := u.do(ctx, event.Event{Fact: &event.MailboxCreated{Account: u.account, Name: name, Use: use}}, nil)
	return err
}

// Delete removes a mailbox with its messages. [ErrNoMailbox], [ErrInbox].
func (u *User) Delete(ctx context.Context, name string) error {
	_, err := u.do(ctx, event.Event{Fact: &event.MailboxDeleted{Account: u.account, Name: name}}, nil)
	return err
}

// Rename renames a mailbox and those below it. [ErrNoMailbox], [ErrExists],
// [ErrBadName].
func (u *User) Rename(ctx context.Context, from, to string) error {
	if !goodName(to) {
		return ErrBadName
	}
	_, err := u.do(ctx, event.Event{Fact: &event.MailboxRenamed{Account: u.account, From: from, To: to}}, nil)
	return err
}

// Subscribe sets or clears the subscription of a name.
func (u *User) Subscribe(ctx context.Context, name string, subscribed bool) error {
	if !goodName(name) {
		return ErrBadName
	}
	_, err := u.do(ctx, event.Event{Fact: &event.MailboxSubscribed{Account: u.account, Name: name, Subscribed: subscribed}}, nil)
	return err
}

// AppendLimit is the largest size that Append takes, in bytes.
func (u *User) AppendLimit() int64 { return u.limit }

// Append stores exactly size bytes of r as a new message. [ErrNoMailbox],
// [ErrTooBig]; an error of r is returned wrapped.
func (u *User) Append(ctx context.Context, name string, size int64, r io.Reader, flags []string, date time.Time) (uint32, event.UID, error) {
	if size > u.limit {
		return 0, 0, ErrTooBig
	}
	box, err := u.Status(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	now := u.svc.log.Now()
	if date.IsZero() {
		date = now
	}
	ev := event.Event{ID: event.NewID(), Tenant: u.tenant, Expiry: event.DayOf(now) + u.days()}
	w, err := u.svc.log.NewMail(ctx, ev.ID, u.tenant, ev.Expiry, nil)
	if err != nil {
		return 0, 0, temporary(err)
	}
	defer w.Discard()
	n, err := io.Copy(w, io.LimitReader(r, size))
	if err != nil {
		return 0, 0, temporary(err)
	}
	if n != size {
		return 0, 0, fmt.Errorf("append: %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	mail, err := w.Finish()
	if err != nil {
		return 0, 0, temporary(err)
	}
	fact := &event.Appended{
		Account: u.account, Mailbox: box.ID, At: event.Millis(now.UnixMilli()), Date: event.Millis(date.UnixMilli()),
		Size: size, Flags: flags, Meta: &event.AppendedMeta{SHA256: mail.SHA256, Index: mail.Raw},
	}
	if fact.Copy, err = u.svc.CopyMark(ctx, u.tenant, u.account, mail.Index); err != nil {
		return 0, 0, temporary(err)
	}
	ev.Fact, ev.Body = fact, mail.Body
	said, err := u.do(ctx, ev, nil)
	if err != nil {
		return 0, 0, err
	}
	v, ok := find[appended](said)
	if !ok {
		return 0, 0, errNoVerdict
	}
	return v.Validity, v.UID, nil
}

// CopyMark returns the mark by which the copies of one sent message recognise
// each other in the Sent mailbox of an account; zero when the message has no
// Message-ID.
func (s *Service) CopyMark(ctx context.Context, t event.Tenant, a event.Account, ix *message.Index) ([16]byte, error) {
	id := message.NormaliseMessageID(ix.Envelope.MessageID)
	if id == "" {
		return [16]byte{}, nil
	}
	keys, err := s.log.TenantKeys(ctx, t)
	if err != nil {
		return [16]byte{}, err
	}
	return keys.Lookup("sent copy", append(a[:], id...)), nil
}

// gone says whether a message cannot be read any more, for good.
func gone(err error) bool { return errors.Is(err, crypto.ErrExpired) }
