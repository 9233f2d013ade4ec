package continuity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"holdfast/event"
	"holdfast/projection"
)

// commandTimeout bounds a command when storage does not answer.
const commandTimeout = 30 * time.Second

// User is one account of a tenant. Its methods may be called by any goroutine;
// what they did is durable, and folded by this node, when they return.
type User struct {
	svc     *Service
	tenant  event.Tenant
	account event.Account
	address string
	days    func() event.Day // how long what the user brings is kept
	limit   int64
}

// User returns the account of the user with an address, as it is listed. days tells
// how many days the tenant's mail is kept; limit is the size of the largest message that may be appended, in bytes.
func (s *Service) User(t event.Tenant, a event.Account, address string, days func() event.Day, limit int64) *User {
	return &User{svc: s, tenant: t, account: a, address: address, days: days, limit: limit}
}

// freshWait is how long a reader waits for what is known to be in the log.
const freshWait = 5 * time.Second

// view reads the projection when it shows at least everything that this node
// has answered before.
func (u *User) view(ctx context.Context, fn func(projection.View) error) error {
	err := u.svc.fresh(ctx, u.tenant, freshWait)
	if err == nil {
		err = u.svc.runner.View(ctx, foldName, fn)
	}
	return temporary(err)
}

// fresh waits until the tenant's partition is folded as far as it is known. While
// storage does not show what it is known to hold, mailboxes are served as they
// stand: whatever this node has answered about them is folded. But never from a
// projection that is still being built; clients would forget mail that is only
// not there yet.
func (s *Service) fresh(ctx context.Context, t event.Tenant, wait time.Duration) error {
	p := s.log.PartitionOf(t)
	short, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := s.runner.WaitFor(short, foldName, event.Position{Partition: p, Seq: s.log.TailAtLeast(p)})
	if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if s.runner.CaughtUp(short, foldName) != nil { // the wait is over: this only looks
		return err
	}
	return nil
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
	if u.svc.stuck() {
		// The event would land, but nobody could say what became of it.
		return nil, ErrUnavailable
	}
	landed := false
	said, err := u.svc.runner.Do(ctx, foldName, ev.ID, func(ctx context.Context) (event.Position, error) {
		pos, err := u.svc.log.Append(ctx, ev)
		landed = err == nil
		return pos, err
	})
	if err != nil && landed {
		err = errors.Join(err, u.takeBack(ctx, ev))
	}
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

// stuck says that the projection does not go on for now, for instance because
// the local disk is full.
func (s *Service) stuck() bool {
	for _, st := range s.runner.Status() {
		if st.Name == foldName {
			return st.Trouble != nil || st.Stopped != nil
		}
	}
	return true
}

// takeBackTimeout bounds the repudiation of a message whose client has been told
// that it was not stored.
const takeBackTimeout = 10 * time.Second

// takeBack repudiates an appended message that is in the log, but which the
// client hears nothing of; it will append it again. Other commands may as well
// take effect late: to repeat them changes nothing, or is the client's choice.
func (u *User) takeBack(ctx context.Context, ev event.Event) error {
	if _, ok := ev.Fact.(*event.Appended); !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTimeout)
	defer cancel()
	_, err := u.svc.log.Append(ctx, event.Event{
		ID: event.NewID(), Tenant: u.tenant, Fact: &event.Repudiated{Message: ev.ID, Accounts: []event.Account{u.account}},
	})
	if err != nil {
		return fmt.Errorf("take event %v back: %w", ev.ID, err)
	}
	return nil
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
			subscribed[nameOf(it.Key)] = true
		}
		list, err := loadMailboxes(v, u.account)
		if err != nil {
			return err
		}
		for i := range list {
			name := list[i].row.Name
			out = append(out, list[i].row.mailbox(list[i].id, subscribed[name]))
			delete(subscribed, name)
		}
		for name := range subscribed {
			out = append(out, Mailbox{Name: name, Subscribed: true, NonExistent: true})
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Mailbox) int { return strings.Compare(a.Name, b.Name) })
	return out, err
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

// maxName bounds the names of mailboxes, in bytes.
const maxName = 1000

// goodName refuses names that cannot be mailboxes: empty levels, control
// characters, wildcards, or too many bytes (RFC 9051 §5.1).
func goodName(name string) bool {
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsAny(name, "*%") {
		return false
	}
	for level := range strings.SplitSeq(name, "/") {
		if level == "" {
			return false
		}
	}
	return !strings.ContainsFunc(name, unicode.IsControl)
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
