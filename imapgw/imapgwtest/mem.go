// Package imapgwtest holds an in-memory [imapgw.Backend] for tests.
//
// Fault model: it loses everything when the process ends, and nothing before.
// Every command takes effect in one total order (one lock), and is seen by every
// session of the account as soon as it has returned, as with a log that the node
// has folded. Nothing fails by itself; [Backend.SetDown] makes every command that
// would append to the log fail with continuity.ErrUnavailable, while reading goes
// on.
package imapgwtest

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/imapgw"
	"holdfast/message"
)

// MaxChanges is how many changes wait for a session before it is dropped.
const MaxChanges = 1 << 20

// Backend is an imapgw.Backend in memory.
type Backend struct {
	mu       sync.Mutex
	accounts map[string]*Account
	down     bool
	limit    int64
}

// New returns a backend without accounts.
func New() *Backend { return &Backend{accounts: map[string]*Account{}, limit: 64 << 20} }

// SetDown makes storage take no events, or take them again.
func (b *Backend) SetDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

// AddAccount makes an account with an INBOX, Sent, Drafts, Trash, Junk and
// Archive.
func (b *Backend) AddAccount(user, password string) *Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := &Account{
		b: b, password: password, boxes: map[string]*mailbox{}, subscribed: map[string]bool{},
		evicted: make(chan struct{}), bodies: map[event.ID]body{},
	}
	b.accounts[user] = a
	a.create("INBOX", "")
	for _, use := range []string{"Sent", "Drafts", "Trash", "Junk", "Archive"} {
		a.create(use, `\`+use)
	}
	for name := range a.boxes {
		a.subscribed[name] = true
	}
	return a
}

// Login implements imapgw.Backend.
func (b *Backend) Login(_ context.Context, _ imapgw.Peer, user, password string) (imapgw.User, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[user]
	switch {
	case a == nil || a.password != password:
		return nil, imapgw.ErrBadCredentials
	case a.refusal != "":
		return nil, &imapgw.NotAdmittedError{Reason: a.refusal}
	}
	return &userHandle{a}, nil
}

// Account is the state of one user. Its exported methods are for tests.
type Account struct {
	b        *Backend // whose lock guards all below
	password string
	refusal  string
	evicted  chan struct{}

	boxes      map[string]*mailbox
	subscribed map[string]bool
	lastBox    event.MailboxID
	modseq     uint64
	bodies     map[event.ID]body
}

type body struct {
	data []byte
	ix   *message.Index
	err  error // of Open, when set
}

type mailbox struct {
	box      continuity.Mailbox
	msgs     []continuity.Message
	sessions map[*selected]struct{}
}

// Refuse makes logins fail for a reason; an empty one admits them again.
func (a *Account) Refuse(reason string) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	a.refusal = reason
}

// Evict ends the sessions of the account. It may be called once.
func (a *Account) Evict() { close(a.evicted) }

// Deliver puts a message into INBOX and returns its UID.
func (a *Account) Deliver(data []byte, at time.Time) event.UID {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	id := a.store(data)
	return a.boxes["INBOX"].add(a, continuity.Message{
		Size: int64(len(data)), Date: event.Millis(at.UnixMilli()), Email: id,
	}, nil)
}

// Break makes reading the bytes of all messages fail with err; nil mends it.
func (a *Account) Break(err error) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	for id, b := range a.bodies {
		b.err = err
		a.bodies[id] = b
	}
}

// UIDs returns the UIDs in a mailbox.
func (a *Account) UIDs(name string) []event.UID {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	var uids []event.UID
	for _, m := range a.boxes[name].msgs {
		uids = append(uids, m.UID)
	}
	return uids
}

// Flags returns the flags of a message, or nil.
func (a *Account) Flags(name string, uid event.UID) []string {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	for _, m := range a.boxes[name].msgs {
		if m.UID == uid {
			return slices.Clone(m.Flags)
		}
	}
	return nil
}

func (a *Account) store(data []byte) event.ID {
	id := event.NewID()
	a.bodies[id] = body{data: data, ix: message.ReadIndex(data)}
	return id
}

func (a *Account) create(name, use string) *mailbox {
	a.lastBox++
	m := &mailbox{sessions: map[*selected]struct{}{}, box: continuity.Mailbox{
		ID: a.lastBox, Name: name, Use: use, UIDValidity: 1000 + uint32(a.lastBox), UIDNext: 1,
	}}
	a.boxes[name] = m
	return m
}

func (a *Account) nextModSeq() uint64 {
	a.modseq++
	return a.modseq
}

// state returns the mailbox with its counts.
func (a *Account) state(m *mailbox) continuity.Mailbox {
	box := m.box
	box.Keywords = slices.Clone(m.box.Keywords)
	box.Subscribed = a.subscribed[box.Name]
	box.Messages = uint32(len(m.msgs))
	for i := range m.msgs {
		box.Size += m.msgs[i].Size
		if !slices.Contains(m.msgs[i].Flags, `\Seen`) {
			box.Unseen++
		}
		if slices.Contains(m.msgs[i].Flags, `\Deleted`) {
			box.Deleted++
		}
	}
	return box
}

// add gives a message the next UID.
func (m *mailbox) add(a *Account, msg continuity.Message, origin any) event.UID {
	msg.UID = m.box.UIDNext
	m.box.UIDNext++
	msg.ModSeq = a.nextModSeq()
	m.box.HighestModSeq = msg.ModSeq
	msg.Flags = m.learn(msg.Flags, msg.ModSeq)
	m.msgs = append(m.msgs, msg)
	m.tell(continuity.Change{Kind: continuity.ChangeAdded, Message: msg, ModSeq: msg.ModSeq, Origin: origin})
	return msg.UID
}

// learn returns flags in the spelling of the mailbox, and announces keywords
// that are new to it.
func (m *mailbox) learn(flags []string, modseq uint64) []string {
	out := make([]string, 0, len(flags))
	fresh := false
	for _, f := range flags {
		if !strings.HasPrefix(f, `\`) {
			i := slices.IndexFunc(m.box.Keywords, func(k string) bool { return strings.EqualFold(k, f) })
			if i >= 0 {
				f = m.box.Keywords[i]
			} else {
				m.box.Keywords = append(slices.Clone(m.box.Keywords), f)
				fresh = true
			}
		}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	if fresh {
		m.tell(continuity.Change{Kind: continuity.ChangeKeywords, Keywords: slices.Clone(m.box.Keywords), ModSeq: modseq})
	}
	return out
}

func (m *mailbox) tell(c continuity.Change) {
	for s := range m.sessions {
		if len(s.changes) >= MaxChanges {
			s.changes = []continuity.Change{{Kind: continuity.ChangeDropped}}
			delete(m.sessions, s)
		} else {
			s.changes = append(s.changes, c)
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// remove expunges the messages for which gone is true.
func (m *mailbox) remove(a *Account, gone func(*continuity.Message) bool, origin any) (uids []event.UID) {
	var kept []continuity.Message
	var removed []continuity.Message
	for i := range m.msgs {
		if gone(&m.msgs[i]) {
			removed = append(removed, m.msgs[i])
		} else {
			kept = append(kept, m.msgs[i])
		}
	}
	if len(removed) == 0 {
		return nil
	}
	m.msgs = kept
	modseq := a.nextModSeq()
	m.box.HighestModSeq = modseq
	for _, msg := range removed {
		uids = append(uids, msg.UID)
		m.tell(continuity.Change{Kind: continuity.ChangeExpunged, Message: msg, ModSeq: modseq, Origin: origin})
	}
	return uids
}

// within reports whether a UID is in one of the ranges.
func within(uid event.UID, rs []event.UIDRange) bool {
	return slices.ContainsFunc(rs, func(r event.UIDRange) bool { return r.First <= uid && uid <= r.Last })
}

type reader struct{ *bytes.Reader }

func newReader(b []byte) reader { return reader{bytes.NewReader(b)} }

func (reader) Close() error { return nil }

// failing is a message of which the first bytes can be read.
type failing struct {
	reader
	left int
	err  error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, f.err
	}
	n, err := f.reader.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

var _ io.ReadSeekCloser = (*failing)(nil)
