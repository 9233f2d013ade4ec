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

	"holdfast/crypto"
	"holdfast/event"
)

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
	t         *testing.T
	r         *rand.Rand
	nodes     []*node
	accounts  []event.Account
	models    map[event.Account]*model
	sessions  []*session
	emails    []event.ID // candidates for repudiation, with their accounts
	owners    map[event.ID][]event.Account
	condemned event.Day // the last day that was
}

func TestRandomHistories(t *testing.T) {
	for seed := range uint64(12) {
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
	x.condemned = event.DayOf(x.nodes[0].log.Now())
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
	// Nothing is derived from mail: without it a rebuild is the same.
	if err := x.nodes[0].keys.(*crypto.Root).AdvanceTo(x.condemned + 20); err != nil {
		x.t.Fatal(err)
	}
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
	switch x.r.IntN(26) {
	case 20, 21, 22, 23, 24:
		return x.retain(n)
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
		want := m.rename(from, to)
		for _, b := range m.boxes {
			b.decide(x.condemned)
		}
		return x.want("rename "+from+" to "+to, u.Rename(ctx, from, to), want)
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
			x.models[a].repudiate(id, x.condemned)
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
	n.days = x.expiry() - event.DayOf(n.log.Now())
	ev := n.mail("Subject: in\r\n\r\n", "Received: y\r\n", allot...)
	n.append(ev)
	for _, o := range owners {
		x.models[o].boxes["INBOX"].add(&modelMsg{size: ev.Fact.(*event.MessageAccepted).Shown, email: ev.ID, flags: map[string]bool{}, expiry: ev.Expiry, read: ev.ID})
	}
	x.remember(ev.ID, owners...)
	return "receive"
}

func (x *run) send(n *node, a event.Account) string {
	id := fmt.Sprintf("<%d@x>", x.r.IntN(6))
	n.days = x.expiry() - event.DayOf(n.log.Now())
	ev := n.sent(a, id, "Message-ID: "+id+"\r\n\r\n")
	n.append(ev)
	x.models[a].submit(id, &modelMsg{size: ev.Fact.(*event.MessageAccepted).Shown, email: ev.ID, expiry: ev.Expiry, read: ev.ID})
	x.remember(ev.ID, a)
	return "send " + id
}

func (x *run) upload(n *node, a event.Account) string {
	name, id, flags := x.boxName(a), fmt.Sprintf("<%d@x>", x.r.IntN(6)), x.flags()
	if x.r.IntN(2) == 0 {
		name = "Sent"
	}
	text := "Message-ID: " + id + "\r\n\r\n" + strings.Repeat("x", x.r.IntN(50))
	n.days = x.expiry() - event.DayOf(n.log.Now())
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
	msg := &modelMsg{size: int64(len(text)), email: msgs[len(msgs)-1].Email, expiry: n.days + event.DayOf(n.log.Now()), read: msgs[len(msgs)-1].Email}
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
		s.box.decide(x.condemned)
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
	to.decide(x.condemned)
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
