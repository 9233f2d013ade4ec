package check

import (
	"bytes"
	"maps"
	"slices"

	"holdfast/event"
)

// Mailboxes judges what users saw and were told.
//
// The rules, for each account, which one user has alone:
//
//   - UIDVALIDITY of a name holds as long as the user has not deleted it, and is
//     higher when the name is used again. UIDNEXT never falls; a UID that was not
//     there before is not below the UIDNEXT that was told before.
//   - a UID names the same bytes for ever.
//   - what was answered OK holds: a flag that was set or cleared, a message that
//     was moved, copied, uploaded or expunged, under the UIDs that were told. What
//     was refused or not answered may happen, at any later time; nothing is said
//     of that flag or that message from then on.
//   - a message that was seen stays until the user moves or expunges it, unless
//     its acceptance was repudiated.
//
// A look at a node may be older than what another node answered, so it is judged
// wholly only when the last change that was answered OK was that node's own, or
// at the end, when all nodes stand at the tail.
func Mailboxes(l *Log, h *History) []Finding {
	c := &court{rule: "mailboxes"}
	fickle := repudiatedLetters(l, h)
	models := map[string]*account{}
	for i := range h.Acts {
		a := &h.Acts[i]
		m := models[a.User]
		if m == nil {
			m = &account{court: c, user: a.User, fickle: fickle, boxes: map[string]*box{}, past: map[string]uint32{}}
			models[a.User] = m
		}
		m.take(a)
	}
	return c.found
}

// repudiatedLetters are the letters of which some acceptance was taken back.
func repudiatedLetters(l *Log, h *History) map[string]bool {
	marks := map[string]string{}
	for i := range h.Transactions {
		marks[h.Transactions[i].Mark] = h.Transactions[i].Letter
	}
	out := map[string]bool{}
	for id := range l.repudiated() {
		e := l.Find(id)
		if e == nil {
			continue
		}
		switch f := e.Fact.(type) {
		case *event.MessageAccepted:
			if f.Meta != nil {
				out[marks[f.Meta.EnvID]] = true
			}
		case *event.Appended:
			for i := range h.Acts {
				if a := &h.Acts[i]; a.Letter != "" && bytes.Contains(e.Body, []byte(a.Letter)) {
					out[a.Letter] = true
				}
			}
		}
	}
	return out
}

// account is what a user has reason to believe.
type account struct {
	*court
	user   string
	fickle map[string]bool
	fresh  string // the node that answered the last change
	boxes  map[string]*box
	past   map[string]uint32 // the highest UIDVALIDITY that a name had
}

type box struct {
	validity uint32 // 0: not looked at yet
	next     uint32 // no new message has a lower UID
	loose    bool   // a DELETE was not answered
	messages map[uint32]*held
}

type presence uint8

const (
	present presence = iota
	perhaps
	gone
)

type held struct {
	letter string
	body   []byte // nil: not seen yet
	here   presence
	flags  map[string]bool
	loose  map[string]bool // flags that may change by themselves
	fresh  bool            // flags are not known yet
}

func (a *account) box(name string) *box {
	b := a.boxes[name]
	if b == nil {
		b = &box{messages: map[uint32]*held{}, next: 1}
		a.boxes[name] = b
	}
	return b
}

func (a *account) take(u *UserAct) {
	if u.Act == Looked {
		if u.Answer == AnswerOK {
			a.look(u)
		}
		return
	}
	if u.Answer == AnswerOK {
		a.fresh = u.Node
	}
	switch u.Act {
	case Stored:
		a.store(u)
	case Expunged:
		a.expunge(u)
	case Copied, Moved:
		a.copy(u)
	case Appended:
		if u.Answer == AnswerOK && u.NewUID != 0 {
			b := a.box(u.Mailbox)
			a.newUID(u, u.Mailbox, b, u.NewUID)
			b.messages[u.NewUID] = &held{letter: u.Letter, flags: map[string]bool{}, loose: map[string]bool{}}
		}
	case Created, Idled:
		// Nothing is known of it before it is looked at.
	case Deleted:
		a.remove(u)
	}
}

func (a *account) remove(u *UserAct) {
	b := a.boxes[u.Mailbox]
	if b == nil {
		return
	}
	a.past[u.Mailbox] = max(a.past[u.Mailbox], b.validity)
	if u.Answer == AnswerOK {
		delete(a.boxes, u.Mailbox)
		return
	}
	b.loose = true
}

func (a *account) store(u *UserAct) {
	b := a.box(u.Mailbox)
	for _, uid := range u.UIDs {
		m := b.messages[uid]
		switch {
		case m == nil:
		case u.Answer != AnswerOK:
			m.loose[u.Flag] = true
		case !m.loose[u.Flag]:
			m.flags[u.Flag] = u.Set
		}
	}
}

func (a *account) expunge(u *UserAct) {
	b := a.box(u.Mailbox)
	for _, uid := range u.UIDs {
		m := b.messages[uid]
		switch {
		case m == nil || m.here == gone || !m.flags[`\Deleted`] && !m.loose[`\Deleted`]:
		case u.Answer == AnswerOK && !m.loose[`\Deleted`]:
			m.here = gone
		default:
			m.here = perhaps
		}
	}
}

func (a *account) copy(u *UserAct) {
	from, to := a.box(u.Mailbox), a.box(u.To)
	if u.Answer != AnswerOK {
		for _, uid := range u.UIDs {
			if m := from.messages[uid]; m != nil && u.Act == Moved && m.here == present {
				m.here = perhaps
			}
		}
		return
	}
	if u.ToValid != 0 && to.validity != 0 && u.ToValid != to.validity && !to.loose {
		a.finds("%s: %v to %s told UIDVALIDITY %d, it was %d", a.user, u.Act, u.To, u.ToValid, to.validity)
	}
	for _, uid := range u.UIDs {
		m := from.messages[uid]
		dest, told := u.ToUIDs[uid]
		if m == nil {
			continue
		}
		if !told {
			if m.here == present && !a.fickle[m.letter] {
				a.finds("%s: %v of %s/%d to %s was answered OK without it", a.user, u.Act, u.Mailbox, uid, u.To)
			}
			continue
		}
		a.newUID(u, u.To, to, dest)
		to.messages[dest] = &held{letter: m.letter, body: m.body, flags: maps.Clone(m.flags), loose: maps.Clone(m.loose), fresh: m.fresh}
		if u.Act == Moved {
			m.here = gone
		}
	}
}

// newUID takes note of a UID that was told.
func (a *account) newUID(u *UserAct, name string, b *box, uid uint32) {
	if b.messages[uid] != nil || uid < b.next {
		a.finds("%s: %v gave the message in %s the UID %d, which is not new (UIDNEXT was %d)", a.user, u.Act, name, uid, b.next)
	}
}

func (a *account) look(u *UserAct) {
	b := a.opened(u)
	judged := u.Final || u.Node == a.fresh
	if judged && u.UIDNext < b.next {
		a.finds("%s: UIDNEXT of %s fell from %d to %d", a.user, u.Mailbox, b.next, u.UIDNext)
	}
	seen, next := map[uint32]bool{}, u.UIDNext
	for i := range u.Seen {
		s := &u.Seen[i]
		seen[s.UID] = true
		next = max(next, s.UID+1) // it may have come between SELECT and FETCH
		m := b.messages[s.UID]
		if m == nil {
			if s.UID < b.next {
				a.finds("%s: %s shows a new message under UID %d, UIDNEXT was %d", a.user, u.Mailbox, s.UID, b.next)
			}
			m = &held{letter: s.Letter, body: s.Body, flags: map[string]bool{}, loose: map[string]bool{}, fresh: true}
			b.messages[s.UID] = m
		}
		a.same(u, s, m, judged)
	}
	if judged {
		for _, uid := range slices.Sorted(maps.Keys(b.messages)) {
			if m := b.messages[uid]; !seen[uid] && m.here == present && !a.fickle[m.letter] {
				a.finds("%s: %s/%d (%s) is gone at %s", a.user, u.Mailbox, uid, m.letter, u.Node)
				m.here = gone // said once
			}
		}
	}
	b.next = max(b.next, next)
}

// opened returns the mailbox that a look is about, with its UIDVALIDITY judged.
func (a *account) opened(u *UserAct) *box {
	b := a.box(u.Mailbox)
	if b.validity == u.Validity {
		return b
	}
	if b.validity != 0 && !b.loose {
		a.finds("%s: UIDVALIDITY of %s was %d and is %d", a.user, u.Mailbox, b.validity, u.Validity)
	}
	if past := max(a.past[u.Mailbox], b.validity); b.validity == 0 && past != 0 && u.Validity <= past || b.loose && u.Validity <= past {
		a.finds("%s: UIDVALIDITY of %s is %d again, it was %d before it was deleted", a.user, u.Mailbox, u.Validity, past)
	}
	if b.validity != 0 {
		delete(a.boxes, u.Mailbox)
		b = a.box(u.Mailbox)
	}
	b.validity = u.Validity
	return b
}

// same compares a message with what is known of it.
func (a *account) same(u *UserAct, s *SeenMessage, m *held, judged bool) {
	if m.letter != s.Letter || m.body != nil && !bytes.Equal(m.body, s.Body) {
		a.finds("%s: %s/%d was %q of %d bytes and is %q of %d", a.user, u.Mailbox, s.UID, m.letter, len(m.body), s.Letter, len(s.Body))
	}
	m.body = s.Body
	if !judged {
		return
	}
	if m.here == gone {
		a.finds("%s: %s/%d is back, after its removal was answered OK", a.user, u.Mailbox, s.UID)
	}
	for _, f := range s.Flags {
		if !m.fresh && !m.flags[f] && !m.loose[f] {
			a.finds("%s: %s/%d has %s, which was not set", a.user, u.Mailbox, s.UID, f)
		}
	}
	for _, f := range slices.Sorted(maps.Keys(m.flags)) {
		if m.flags[f] && !m.loose[f] && !slices.Contains(s.Flags, f) {
			a.finds("%s: %s/%d has lost %s", a.user, u.Mailbox, s.UID, f)
		}
	}
	if m.fresh {
		m.fresh = false
		for _, f := range s.Flags {
			m.flags[f] = true
		}
	}
}
