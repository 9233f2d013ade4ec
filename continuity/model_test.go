package continuity

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
func (m *model) repudiate(id event.ID) {
	boxes := slices.SortedFunc(maps.Values(m.boxes), func(x, y *modelBox) int { return x.order - y.order })
	for _, b := range boxes {
		gone := slices.DeleteFunc(slices.Clone(b.msgs), func(m *modelMsg) bool { return m.email != id })
		b.remove(gone)
		for _, g := range gone {
			if c := m.copies[g.copyOf]; c != nil && c.msg == g && c.replaced != nil {
				back := c.replaced.clone()
				b.add(back)
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

func describeSorted(msgs []Message) string {
	for i := range msgs {
		msgs[i].Flags = slices.Sorted(slices.Values(msgs[i].Flags))
	}
	return describe(msgs)
}

// apply brings a client's view up to date.
func apply(view []Message, changes []Change) []Message {
	for _, c := range changes {
		i := slices.IndexFunc(view, func(m Message) bool { return m.UID == c.Message.UID })
		switch {
		case c.Kind == ChangeAdded:
			view = append(view, c.Message)
		case c.Kind == ChangeFlags:
			view[i] = c.Message
		case c.Kind == ChangeExpunged:
			view = slices.Delete(view, i, i+1)
		}
	}
	return view
}

// session is a client that has a mailbox selected, on one of the nodes.
type session struct {
	a    event.Account
	sel  *Selected
	box  *modelBox
	view []Message // as its client knows it
	uid  event.UID // the highest seen
}

// run is one random history.
type run struct {
	t        *testing.T
	r        *rand.Rand
	nodes    []*node
	accounts []event.Account
	models   map[event.Account]*model
	sessions []*session
	emails   []event.ID // candidates for repudiation, with their accounts
	owners   map[event.ID][]event.Account
}

func TestRandomHistories(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newRun(t, seed).history(250) })
		})
	}
}

func newRun(t *testing.T, seed uint64) *run {
	w := newWorld(t, newMem())
	x := &run{
		t: t, r: rand.New(rand.NewPCG(seed, 1)), nodes: []*node{w.start(time.Second), w.start(time.Second)},
		accounts: []event.Account{alice, bob}, models: map[event.Account]*model{}, owners: map[event.ID][]event.Account{},
	}
	for _, a := range x.accounts {
		x.nodes[0].ensure(a)
		x.models[a] = newModel()
	}
	return x
}

func (x *run) history(steps int) {
	for i := range steps {
		x.settle()
		what := x.step()
		x.settle()
		if x.check(); x.t.Failed() {
			x.t.Fatalf("after step %d: %s", i, what)
		}
	}
	want := x.nodes[0].hash()
	if x.nodes[1].hash() != want {
		x.t.Error("the nodes differ")
	}
	if x.nodes[0].start(0).hash() != want {
		x.t.Error("a rebuild differs")
	}
	for _, s := range x.sessions {
		s.sel.Close()
	}
	for _, n := range x.nodes {
		if len(n.svc.boxes) != 0 || len(n.svc.origins) != 0 {
			x.t.Errorf("left behind: %d mailboxes, %d origins", len(n.svc.boxes), len(n.svc.origins))
		}
	}
}

func (x *run) settle() {
	for _, n := range x.nodes {
		n.settle()
	}
}

func pick[T any](x *run, from []T) T { return from[x.r.IntN(len(from))] }

func (x *run) boxName(a event.Account) string {
	if x.r.IntN(4) == 0 {
		return pick(x, []string{"a", "b", "a/b", "a/b/c", "b/c", "Sent", "Trash", "c"})
	}
	return pick(x, slices.Sorted(maps.Keys(x.models[a].boxes)))
}

func (x *run) ranges() (out []event.UIDRange) {
	for range 1 + x.r.IntN(3) {
		first := event.UID(1 + x.r.IntN(20))
		out = append(out, event.UIDRange{First: first, Last: first + event.UID(x.r.IntN(6))})
	}
	if x.r.IntN(5) == 0 {
		return all()
	}
	return out
}

func (x *run) flags() (out []string) {
	for range x.r.IntN(4) {
		f := pick(x, []string{`\Seen`, `\Deleted`, `\Deleted`, `\Flagged`, `\Answered`, `\Draft`, "work", "Work", "home", "$Junk"})
		if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, f) }) {
			out = append(out, f)
		}
	}
	return out
}

func (x *run) want(what string, got, want error) string {
	x.t.Helper()
	wantErr(x.t, what, got, want)
	return what
}

// step does something random to the nodes and the model.
func (x *run) step() string {
	n, a := pick(x, x.nodes), pick(x, x.accounts)
	u, m, ctx := n.user(a), x.models[a], context.Background()
	switch x.r.IntN(20) {
	case 0, 1, 2, 3:
		return x.receive(n, a)
	case 4, 5:
		return x.send(n, a)
	case 6, 7:
		return x.upload(n, a)
	case 8:
		name, use := x.boxName(a), ""
		if x.r.IntN(5) == 0 {
			use = useSent
		}
		return x.want("create "+name, u.Create(ctx, name, use), m.create(name, use))
	case 9:
		name := x.boxName(a)
		want := ErrNoMailbox
		if name == "INBOX" {
			want = ErrInbox
		} else if m.boxes[name] != nil {
			want = nil
			delete(m.boxes, name)
		}
		return x.want("delete "+name, u.Delete(ctx, name), want)
	case 10:
		from, to := x.boxName(a), x.boxName(a)
		return x.want("rename "+from+" to "+to, u.Rename(ctx, from, to), m.rename(from, to))
	case 11:
		name, on := x.boxName(a), x.r.IntN(2) == 0
		delete(m.subscribed, name)
		if on {
			m.subscribed[name] = true
		}
		return x.want("subscribe "+name, u.Subscribe(ctx, name, on), nil)
	case 12, 13:
		return x.open(n, a)
	case 14:
		if len(x.emails) == 0 {
			return "nothing"
		}
		id := pick(x, x.emails[max(0, len(x.emails)-5):])
		n.repudiate(id, x.owners[id]...)
		for _, a := range x.owners[id] {
			x.models[a].repudiate(id)
		}
		return "repudiate"
	}
	return x.act()
}

func (x *run) remember(id event.ID, owners ...event.Account) {
	x.emails = append(x.emails, id)
	x.owners[id] = owners
}

func (x *run) receive(n *node, a event.Account) string {
	owners := []event.Account{a}
	if x.r.IntN(3) == 0 {
		owners = x.accounts
	}
	var allot []event.Allotment
	for _, o := range owners {
		allot = append(allot, event.Allotment{Account: o, Place: event.PlaceInbox})
	}
	ev := n.mail("Subject: in\r\n\r\n", "Received: y\r\n", allot...)
	n.append(ev)
	for _, o := range owners {
		x.models[o].boxes["INBOX"].add(&modelMsg{size: ev.Fact.(*event.MessageAccepted).Shown, email: ev.ID, flags: map[string]bool{}})
	}
	x.remember(ev.ID, owners...)
	return "receive"
}

func (x *run) send(n *node, a event.Account) string {
	id := fmt.Sprintf("<%d@x>", x.r.IntN(6))
	ev := n.sent(a, id, "Message-ID: "+id+"\r\n\r\n")
	n.append(ev)
	x.models[a].submit(id, &modelMsg{size: ev.Fact.(*event.MessageAccepted).Shown, email: ev.ID})
	x.remember(ev.ID, a)
	return "send " + id
}

func (x *run) upload(n *node, a event.Account) string {
	name, id, flags := x.boxName(a), fmt.Sprintf("<%d@x>", x.r.IntN(6)), x.flags()
	if x.r.IntN(2) == 0 {
		name = "Sent"
	}
	text := "Message-ID: " + id + "\r\n\r\n" + strings.Repeat("x", x.r.IntN(50))
	_, uid, err := n.user(a).Append(context.Background(), name, int64(len(text)), strings.NewReader(text), flags, time.Time{})
	b := x.models[a].boxes[name]
	if b == nil {
		return x.want("append to "+name, err, ErrNoMailbox)
	}
	if err != nil {
		x.t.Errorf("append: %v", err)
		return "append"
	}
	s, err := n.user(a).Select(context.Background(), name)
	if err != nil {
		x.t.Errorf("select: %v", err)
		return "append"
	}
	defer s.Close()
	msgs := s.Snapshot()
	msg := &modelMsg{size: int64(len(text)), email: msgs[len(msgs)-1].Email}
	x.models[a].append(b, id, msg, flags)
	if msg.uid != uid {
		x.t.Errorf("append gave UID %d, want %d", uid, msg.uid)
	}
	x.remember(msg.email, a)
	return "append " + id + " to " + name
}

func (x *run) open(n *node, a event.Account) string {
	name := x.boxName(a)
	sel, err := n.user(a).Select(context.Background(), name)
	b := x.models[a].boxes[name]
	if b == nil {
		return x.want("select "+name, err, ErrNoMailbox)
	}
	if err != nil {
		x.t.Errorf("select: %v", err)
		return "select"
	}
	x.sessions = append(x.sessions, &session{a: a, sel: sel, box: b, view: sel.Snapshot()})
	return "select " + name
}

// act lets a session do something.
func (x *run) act() string {
	ctx := context.Background()
	if len(x.sessions) == 0 {
		return "nothing"
	}
	s, uids := pick(x, x.sessions), x.ranges()
	switch x.r.IntN(4) {
	case 0, 1:
		op, flags, since := pick(x, []event.FlagOp{event.FlagsReplace, event.FlagsAdd, event.FlagsRemove}), x.flags(), uint64(0)
		if x.r.IntN(4) == 0 {
			since = uint64(1 + x.r.IntN(int(s.box.modseq)))
		}
		s.box.store(uids, op, flags, since)
		return x.want(fmt.Sprint("store ", uids, op, flags, since), s.sel.Store(ctx, uids, op, flags, since, s), nil)
	case 2:
		got, err := s.sel.Expunge(ctx, uids, s)
		if want := s.box.expunge(uids); !slices.Equal(got, want) {
			x.t.Errorf("expunged %v, want %v", got, want)
		}
		return x.want(fmt.Sprint("expunge ", uids), err, nil)
	}
	name, move := x.boxName(s.a), x.r.IntN(2) == 0
	do := s.sel.Copy
	if move {
		do = s.sel.Move
	}
	res, err := do(ctx, uids, name)
	to := x.models[s.a].boxes[name]
	if to == nil {
		return x.want("copy to "+name, err, ErrNoMailbox)
	}
	if src, dst := s.box.copy(to, uids, move); !slices.Equal(res.Source, src) || !slices.Equal(res.Dest, dst) {
		x.t.Errorf("copied %v to %v, want %v to %v", res.Source, res.Dest, src, dst)
	}
	return x.want(fmt.Sprint("copy ", uids, " to ", name, " move ", move), err, nil)
}

// check compares everything everywhere with the model.
func (x *run) check() {
	for _, n := range x.nodes {
		for _, a := range x.accounts {
			x.checkAccount(n, a)
		}
	}
	x.sessions = slices.DeleteFunc(x.sessions, func(s *session) bool { return !x.checkSession(s) })
}

// checkSession compares what a client sees with the model. It reports whether
// the session goes on.
func (x *run) checkSession(s *session) bool {
	changes := s.sel.Changes()
	dropped := slices.ContainsFunc(changes, func(c Change) bool { return c.Kind == ChangeDropped })
	if dropped == x.models[s.a].has(s.box) {
		x.t.Errorf("dropped: %v", dropped)
	}
	if dropped {
		wantErr(x.t, "store in a deleted mailbox", s.sel.Store(context.Background(), all(), event.FlagsAdd, nil, 0, nil), ErrNoMailbox)
		s.sel.Close()
		return false
	}
	for _, c := range changes {
		if c.Kind == ChangeAdded {
			if c.Message.UID <= s.uid {
				x.t.Errorf("UID %d after %d", c.Message.UID, s.uid)
			}
			s.uid = c.Message.UID
		}
	}
	s.view = apply(s.view, changes)
	if got, want := describeSorted(s.view), s.box.describe(); got != want {
		x.t.Errorf("a session sees\n%swant\n%s", got, want)
	}
	return true
}

func (x *run) checkAccount(n *node, a event.Account) {
	m, u, ctx := x.models[a], n.user(a), context.Background()
	boxes, err := u.List(ctx)
	if err != nil {
		x.t.Fatal(err)
	}
	seen := 0
	validity := map[uint32]bool{}
	for _, b := range boxes {
		want := m.boxes[b.Name]
		if b.NonExistent != (want == nil) || b.Subscribed != m.subscribed[b.Name] {
			x.t.Errorf("%s: listed as %+v", b.Name, b)
			continue
		}
		if want == nil {
			continue
		}
		seen++
		if validity[b.UIDValidity] || b.UIDNext != want.next || b.HighestModSeq != want.modseq || b.Use != want.use || !slices.Equal(b.Keywords, want.keywords) {
			x.t.Errorf("%s: %+v, want %+v", b.Name, b, want)
		}
		validity[b.UIDValidity] = true
		s, err := u.Select(ctx, b.Name)
		if err != nil {
			x.t.Fatal(err)
		}
		msgs := s.Snapshot()
		s.Close()
		if got := describeSorted(msgs); got != want.describe() {
			x.t.Errorf("%s has\n%swant\n%s", b.Name, got, want.describe())
		}
		recount(x.t, b, msgs)
	}
	if seen != len(m.boxes) {
		x.t.Errorf("%d mailboxes, want %d", seen, len(m.boxes))
	}
}

func recount(t *testing.T, b Mailbox, msgs []Message) {
	t.Helper()
	c := Mailbox{Messages: uint32(len(msgs))}
	for _, m := range msgs {
		c.Size += m.Size
		if !slices.Contains(m.Flags, `\Seen`) {
			c.Unseen++
		}
		if slices.Contains(m.Flags, `\Deleted`) {
			c.Deleted++
		}
	}
	if b.Messages != c.Messages || b.Unseen != c.Unseen || b.Deleted != c.Deleted || b.Size != c.Size {
		t.Errorf("%s counts %+v, but it is %+v", b.Name, b, c)
	}
}
