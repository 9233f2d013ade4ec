package continuity

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/event"
)

// model is what mailboxes are, told as plainly as possible.
type model struct {
	boxes      map[string]*modelBox
	subscribed map[string]bool
	copies     map[string]*modelCopy // by Message-ID
}

type modelBox struct {
	use      string
	order    int // of making
	next     event.UID
	modseq   uint64
	keywords []string
	msgs     []*modelMsg
}

type modelMsg struct {
	uid    event.UID
	modseq uint64
	flags  map[string]bool
	size   int64
	email  event.ID
	copyOf string // the Message-ID, for a copy in Sent
	expiry event.Day
	read   event.ID // where it is read now
	late   bool
}

type modelCopy struct {
	box      *modelBox
	msg      *modelMsg
	ours     bool
	replaced *modelMsg
}

func newModel() *model {
	m := &model{boxes: map[string]*modelBox{}, subscribed: map[string]bool{}, copies: map[string]*modelCopy{}}
	for _, b := range firstMailboxes {
		m.make(b.name, b.use)
		m.subscribed[b.name] = true
	}
	return m
}

func (m *model) make(name, use string) *modelBox {
	order := 0
	for _, b := range m.boxes {
		order = max(order, b.order)
	}
	b := &modelBox{use: use, order: order + 1, next: 1, modseq: 1}
	m.boxes[name] = b
	return b
}

func (m *model) create(name, use string) error {
	if m.boxes[name] != nil {
		return ErrExists
	}
	m.parents(name)
	if use == "" {
		use = m.usual(name)
	}
	m.make(name, use)
	return nil
}

func (m *model) usual(name string) string {
	for _, f := range firstMailboxes {
		taken := false
		for _, b := range m.boxes {
			taken = taken || b.use == f.use
		}
		if f.name == name && !taken {
			return f.use
		}
	}
	return ""
}

func (m *model) parents(name string) {
	for i, c := range name {
		if c == '/' && m.boxes[name[:i]] == nil {
			m.make(name[:i], m.usual(name[:i]))
		}
	}
}

func (m *model) rename(from, to string) error {
	switch {
	case m.boxes[from] == nil:
		return ErrNoMailbox
	case m.boxes[to] != nil:
		return ErrExists
	case strings.HasPrefix(to, from+"/"):
		return ErrBadName
	case from == "INBOX":
		m.parents(to)
		dst, src := m.make(to, m.usual(to)), m.boxes[from]
		dst.keywords = src.keywords
		old := slices.Clone(src.msgs)
		for _, msg := range old {
			dst.add(msg.clone())
		}
		src.remove(old)
		return nil
	}
	moved := map[string]*modelBox{from: m.boxes[from]}
	for name, b := range m.boxes {
		if strings.HasPrefix(name, from+"/") {
			moved[name] = b
			if m.boxes[to+name[len(from):]] != nil {
				return ErrExists
			}
		}
	}
	for name := range moved {
		delete(m.boxes, name)
	}
	for name, b := range moved {
		m.boxes[to+name[len(from):]] = b
	}
	m.parents(to)
	return nil
}

func (msg *modelMsg) clone() *modelMsg {
	c := *msg
	c.flags = maps.Clone(msg.flags)
	return &c
}

func (b *modelBox) add(msg *modelMsg) {
	b.modseq++
	msg.uid, msg.modseq = b.next, b.modseq
	b.next++
	b.msgs = append(b.msgs, msg)
}

func (b *modelBox) remove(gone []*modelMsg) {
	if len(gone) > 0 {
		b.modseq++
		b.msgs = slices.DeleteFunc(b.msgs, func(m *modelMsg) bool { return slices.Contains(gone, m) })
	}
}

// learn gives flags the mailbox's spelling.
func (b *modelBox) learn(flags []string) (out []string) {
	for _, f := range flags {
		if f[0] != '\\' {
			i := slices.IndexFunc(b.keywords, func(k string) bool { return strings.EqualFold(k, f) })
			if i < 0 {
				b.keywords = append(slices.Clone(b.keywords), f)
				i = len(b.keywords) - 1
			}
			f = b.keywords[i]
		}
		out = append(out, f)
	}
	return out
}

func (m *model) sent() *modelBox {
	var best *modelBox
	for _, b := range m.boxes {
		if b.use == useSent && (best == nil || b.order < best.order) {
			best = b
		}
	}
	if best == nil {
		best = m.boxes["Sent"]
	}
	return best
}

// copyOf returns the copy of a sent message that is still where it was put.
func (m *model) copyOf(id string) *modelCopy {
	c := m.copies[id]
	if c == nil || !slices.Contains(c.box.msgs, c.msg) || !m.has(c.box) {
		return nil
	}
	return c
}

func (m *model) has(b *modelBox) bool {
	for _, o := range m.boxes {
		if o == b {
			return true
		}
	}
	return false
}

func (m *model) submit(id string, msg *modelMsg) {
	if m.copyOf(id) != nil {
		return
	}
	b := m.sent()
	if b == nil {
		b = m.make("Sent", useSent)
		m.subscribed["Sent"] = true
	}
	msg.flags, msg.copyOf = map[string]bool{`\Seen`: true}, id
	b.add(msg)
	m.copies[id] = &modelCopy{box: b, msg: msg, ours: true}
}

func (m *model) append(b *modelBox, id string, msg *modelMsg, flags []string) {
	var replaced *modelMsg
	isCopy := b == m.sent()
	if c := m.copyOf(id); isCopy && c != nil && c.ours && c.box == b {
		replaced = c.msg
		b.remove([]*modelMsg{c.msg})
	}
	msg.flags = map[string]bool{}
	for _, f := range b.learn(flags) {
		msg.flags[f] = true
	}
	b.add(msg)
	if isCopy {
		msg.copyOf = id
		m.copies[id] = &modelCopy{box: b, msg: msg, replaced: replaced}
	}
}

func (b *modelBox) store(uids []event.UIDRange, op event.FlagOp, flags []string, since uint64) {
	msgs := slices.DeleteFunc(b.within(uids), func(m *modelMsg) bool { return since != 0 && m.modseq > since })
	if len(msgs) == 0 {
		return
	}
	if op != event.FlagsRemove {
		flags = b.learn(flags)
	}
	step := b.modseq + 1
	for _, msg := range msgs {
		next := maps.Clone(msg.flags)
		if op == event.FlagsReplace {
			clear(next)
		}
		for _, f := range flags {
			if op == event.FlagsRemove {
				maps.DeleteFunc(next, func(have string, _ bool) bool { return strings.EqualFold(have, f) })
			} else {
				next[f] = true
			}
		}
		if !maps.Equal(next, msg.flags) {
			msg.flags, msg.modseq, b.modseq = next, step, step
		}
	}
}

func (b *modelBox) within(uids []event.UIDRange) (out []*modelMsg) {
	for _, m := range b.msgs {
		if slices.ContainsFunc(uids, func(r event.UIDRange) bool { return r.First <= m.uid && m.uid <= r.Last }) {
			out = append(out, m)
		}
	}
	return out
}

func (b *modelBox) expunge(uids []event.UIDRange) []event.UID {
	gone := slices.DeleteFunc(b.within(uids), func(m *modelMsg) bool { return !m.flags[`\Deleted`] })
	b.remove(gone)
	return uidsOf(gone)
}

func uidsOf(msgs []*modelMsg) (out []event.UID) {
	for _, m := range msgs {
		out = append(out, m.uid)
	}
	return out
}

func (b *modelBox) copy(to *modelBox, uids []event.UIDRange, move bool) (src, dst []event.UID) {
	msgs := b.within(uids)
	for _, m := range msgs {
		c := m.clone()
		c.flags = map[string]bool{}
		for _, k := range append([]string{`\Seen`, `\Answered`, `\Flagged`, `\Deleted`, `\Draft`}, b.keywords...) {
			if m.flags[k] {
				c.flags[to.learn([]string{k})[0]] = true
			}
		}
		to.add(c)
		src, dst = append(src, m.uid), append(dst, c.uid)
	}
	if move {
		b.remove(msgs)
	}
	return src, dst
}

// repudiate visits mailboxes in the order in which they were made, as a copy
// that comes back must not be met again.
func (m *model) repudiate(id event.ID, condemned event.Day) {
	boxes := slices.SortedFunc(maps.Values(m.boxes), func(x, y *modelBox) int { return x.order - y.order })
	for _, b := range boxes {
		gone := slices.DeleteFunc(slices.Clone(b.msgs), func(m *modelMsg) bool { return m.email != id })
		b.remove(gone)
		for _, g := range gone {
			if c := m.copies[g.copyOf]; c != nil && c.msg == g && c.replaced != nil {
				back := c.replaced.clone()
				b.add(back)
				b.decide(condemned)
				m.copies[g.copyOf] = &modelCopy{box: b, msg: back, ours: true}
			}
		}
	}
}

func (b *modelBox) describe() string {
	var out strings.Builder
	for _, m := range b.msgs {
		fmt.Fprintf(&out, "%d %d %v %d %x\n", m.uid, m.modseq, slices.Sorted(maps.Keys(m.flags)), m.size, m.email[:4])
	}
	return out.String()
}
