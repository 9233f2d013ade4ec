package shadow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// model is the index as one would write it without any thought of speed: all
// messages in a list, and every unit of delivery with its state.
type model struct {
	clock  map[event.Tenant]int64
	mails  []*modelMail                 // in the order in which they were accepted
	erased map[DomainCount]*DomainCount // by tenant and domain
}

type modelMail struct {
	mail
	id      event.ID
	clock   int64
	pos     event.Position
	subject string
	header  string
	msgID   string
	pairs   []*modelPair
	headTo  []string // of what a user has put into a mailbox: To and Cc
	expiry  event.Day
	size    int64
	refs    []event.Ref // the message's event, and those of its copies
	fact    event.Fact
	sender  string // domain of the user who sent it, or empty
}

// domains are those for which the message counts.
func (ml *modelMail) domains() []string {
	all := []string{}
	for _, to := range ml.to {
		all = append(all, canonical(to).domain)
	}
	if ml.sender != "" {
		all = append(all, ml.sender)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// modelPair has every unit there ever was for a recipient.
type modelPair struct {
	has   string // how the recipient got it, or empty
	by    event.Unit
	last  string // how the unit that ended last ended
	units []*modelUnit
}

type modelUnit struct {
	unit  event.Unit
	state string // due, held, or over
	lost  bool
	own   bool
}

func (p *modelPair) state() string {
	if p.has != "" {
		return p.has
	}
	for _, s := range []string{"due", "held"} {
		if slices.ContainsFunc(p.units, func(u *modelUnit) bool { return u.state == s }) {
			return s
		}
	}
	return p.last
}

func (m *model) settle(o event.Outcome) {
	for _, ml := range m.mails {
		for _, p := range ml.pairs {
			for _, u := range p.units {
				if p.has == "delivered" && p.by == o.Unit && o.Doubts(event.ResultDelivered) {
					p.has = "uncertain"
				}
				if p.has == "" && u.unit == o.Unit && u.own && u.state == "over" && o.Result == event.ResultDelivered {
					p.has = "uncertain"
				}
				if u.unit != o.Unit || u.state == "over" || p.has != "" {
					continue
				}
				end := map[event.Result]string{event.ResultBounced: "bounced", event.ResultExpired: "expired"}[o.Result]
				switch {
				case o.Result == event.ResultDelivered:
					u.state, p.has, p.by = "over", "delivered", u.unit
					if u.lost || o.Uncertain {
						p.has = "uncertain"
					}
				case end != "":
					u.state, p.last = "over", end
				case u.state == "held":
				default:
					u.lost = u.lost || o.Uncertain || o.Result == event.ResultLost
					if o.Result == event.ResultHeld {
						u.state = "held"
					}
				}
			}
		}
	}
}

func (m *model) order(unit event.Unit, item event.Redelivery) {
	for _, ml := range m.mails {
		if ml.id != item.Message.ID || int(item.N) >= len(ml.pairs) {
			continue
		}
		p := ml.pairs[item.N]
		if p.has != "" {
			continue
		}
		for _, u := range p.units {
			if u.own && u.state == "held" {
				u.state = "over"
			}
		}
		p.units = append(p.units, &modelUnit{unit: unit, state: "due"})
	}
}

// search returns what matches in the order that Search promises.
func (m *model) search(q Query) []event.ID {
	all := slices.Clone(m.mails)
	slices.SortFunc(all, func(a, b *modelMail) int {
		return cmp.Or(cmp.Compare(b.clock, a.clock), cmp.Compare(b.pos.Partition, a.pos.Partition),
			cmp.Compare(b.pos.Seq, a.pos.Seq), cmp.Compare(b.pos.Index, a.pos.Index))
	})
	var out []event.ID
	behind := q.After == event.ID{}
	for _, ml := range all {
		if behind && ml.matches(q) && len(out) < q.Limit {
			out = append(out, ml.id)
		}
		behind = behind || ml.id == q.After
	}
	return out
}

func (ml *modelMail) matches(q Query) bool {
	addr := func(have, want string) bool {
		if strings.HasPrefix(want, "@") {
			return strings.HasSuffix(have, want)
		}
		return have == want
	}
	rcpt := false
	for i, to := range ml.to {
		is := func(a string) bool { return addr(a, q.Rcpt) }
		rcpt = rcpt || (q.Rcpt == "" || is(to) || slices.ContainsFunc(ml.headTo, is)) &&
			(q.State == "" && !ml.appended() || ml.pairs[i].state() == q.State)
	}
	for _, w := range strings.Fields(q.Subject) {
		if !slices.Contains(strings.Fields(ml.subject), w) {
			return false
		}
	}
	at := time.UnixMilli(int64(ml.at))
	return rcpt && (len(q.Tenants) == 0 || slices.Contains(q.Tenants, ml.tenant)) &&
		(q.From == "" || addr(ml.from, q.From) || addr(ml.header, q.From)) && (q.MessageID == "" || ml.msgID == q.MessageID) &&
		(q.Since.IsZero() || !at.Before(q.Since)) && (q.Until.IsZero() || at.Before(q.Until))
}

// appended: a user has put it into a mailbox.
func (ml *modelMail) appended() bool { return len(ml.headTo) > 0 }

// history makes random events, in a log and in a model.
type history struct {
	r      *rand.Rand
	log    *memLog
	model  *model
	at     event.Millis
	narrow bool // all in one shelf
}

func newHistory(seed uint64, narrow bool) *history {
	return &history{narrow: narrow, r: rand.New(rand.NewPCG(seed, 1)), log: newMemLog(2), model: &model{clock: map[event.Tenant]int64{}}, at: noon}
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

var modelWords = strings.Fields("invoice march budget report lost urgent hello offer")

func (h *history) address() string {
	return fmt.Sprintf("user%d@%s", h.r.IntN(12), pick(h.r, "acme.test", "shop.example", "lists.example"))
}

// draft takes what a user puts into a mailbox.
func (h *history) draft() {
	h.at += event.Millis(h.r.IntN(3_000))
	m := mail{tenant: acme, at: h.at, days: 30, from: h.address(), to: []string{h.address()}}
	if !h.narrow {
		m.tenant = pick(h.r, acme, acme, other)
	}
	ml := &modelMail{header: m.from, msgID: fmt.Sprintf("%d@x", h.r.IntN(300)), subject: pick(h.r, modelWords...) + " draft", headTo: []string{h.address(), h.address()}}
	m.text = fmt.Sprintf("From: %s\r\nTo: %s\r\nCc: %s\r\nSubject: %s\r\nMessage-ID: <%s>\r\n\r\n", m.from, ml.headTo[0], ml.headTo[1], ml.subject, ml.msgID)
	ev := m.appended()
	ml.id, ml.mail, ml.expiry, ml.size, ml.fact = ev.ID, m, ev.Expiry, int64(len(m.text)), ev.Fact
	ml.pairs = []*modelPair{{has: "appended"}}
	h.add(ml, ev)
}

// add appends a message's event and notes the message.
func (h *history) add(ml *modelMail, ev event.Event) {
	ml.pos = event.Position{Partition: h.log.PartitionOf(ml.tenant), Seq: h.log.append(ev)}
	h.model.clock[ml.tenant] = max(h.model.clock[ml.tenant], int64(ml.at)/1000)
	ml.refs = []event.Ref{{Position: ml.pos, ID: ev.ID}}
	ml.clock = h.model.clock[ml.tenant]
	h.model.mails = append(h.model.mails, ml)
}

func (h *history) accept() {
	// Reception times go back and forth a little, as those of large messages do.
	h.at += event.Millis(h.r.IntN(3_000))
	m := mail{tenant: pick(h.r, acme, acme, other, third), at: h.at - event.Millis(h.r.IntN(4)*900), days: pick[event.Day](h.r, 7, 30), from: h.address()}
	if h.narrow {
		m.tenant, m.days = acme, 30
	} else if h.r.IntN(400) == 0 {
		h.at += 86_400_000 / 2
	}
	for range 1 + h.r.IntN(3)*h.r.IntN(2) {
		m.to = append(m.to, h.address())
	}
	if h.r.IntN(100) == 0 {
		for range 300 {
			m.to = append(m.to, h.address())
		}
	}
	ml := &modelMail{header: h.address(), msgID: fmt.Sprintf("%d@x", h.r.IntN(300))}
	for range h.r.IntN(4) {
		ml.subject += pick(h.r, modelWords...) + " "
	}
	m.text = fmt.Sprintf("From: %s\r\nSubject: %s\r\nMessage-ID: <%s>\r\n\r\n", ml.header, ml.subject, ml.msgID)
	ev := m.accepted()
	f := ev.Fact.(*event.MessageAccepted)
	f.Routes = event.RoutesOf(f.Meta.Recipients)
	if h.r.IntN(3) == 0 {
		ml.sender = canonical(h.address()).domain
	}
	f.Sender = ml.sender
	ml.id, ml.mail, ml.expiry, ml.size, ml.fact = ev.ID, m, ev.Expiry, f.Size, f
	for i := range m.to {
		u := event.Unit{Source: ev.ID, N: uint32(i)}
		ml.pairs = append(ml.pairs, &modelPair{units: []*modelUnit{{unit: u, state: "due", own: true}}})
	}
	h.add(ml, ev)
}

// any returns a message, mostly one of the newest.
func (h *history) any() *modelMail {
	n := len(h.model.mails)
	if h.r.IntN(4) > 0 {
		return h.model.mails[n-1-h.r.IntN(min(n, 20))]
	}
	return h.model.mails[h.r.IntN(n)]
}

func (h *history) settle() {
	ml := h.any()
	var os []event.Outcome
	for range 1 + h.r.IntN(3) {
		u := event.Unit{Source: ml.id, N: uint32(h.r.IntN(len(ml.to)))}
		if p := ml.pairs[u.N]; h.r.IntN(2) == 0 && len(p.units) > 0 {
			u = pick(h.r, p.units...).unit
		}
		os = append(os, event.Outcome{Unit: u, Uncertain: h.r.IntN(10) == 0, Result: pick(h.r, event.ResultDelivered, event.ResultDelivered,
			event.ResultDeferred, event.ResultLost, event.ResultBounced, event.ResultHeld, event.ResultHeld, event.ResultExpired)})
	}
	h.log.append(settled(ml.tenant, os...))
	for _, o := range os {
		h.model.settle(o)
	}
}

func (h *history) step() {
	switch n := h.r.IntN(100); {
	case n < 45 || len(h.model.mails) == 0:
		h.accept()
	case n < 55:
		h.draft()
	case n < 90:
		h.settle()
	case n < 98:
		ml := h.any()
		f := &event.RedeliveryOrdered{To: pick(h.r, "", "", "somebody@acme.test")}
		for range 1 + h.r.IntN(3) {
			f.Items = append(f.Items, event.Redelivery{Message: event.Ref{ID: ml.id}, N: uint32(h.r.IntN(len(ml.to)))})
		}
		ev := event.Event{ID: event.NewID(), Tenant: ml.tenant, Fact: f}
		h.log.append(ev)
		for i, item := range f.Items {
			if f.To == "" {
				h.model.order(event.Unit{Source: ev.ID, N: uint32(i)}, item)
			}
		}
	default:
		ml := h.any()
		h.log.append(event.Event{ID: event.NewID(), Tenant: ml.tenant, Fact: &event.Repudiated{Message: ml.id}})
		h.model.mails = slices.DeleteFunc(h.model.mails, func(o *modelMail) bool { return o == ml })
	}
}

func (h *history) query() Query {
	var q Query
	some := func(n int, set func()) {
		if h.r.IntN(n) == 0 {
			set()
		}
	}
	addr := func() string { return pick(h.r, h.address(), h.address(), "@shop.example") }
	some(3, func() { q.Rcpt = addr() })
	some(4, func() { q.From = addr() })
	some(3, func() { q.Subject = pick(h.r, modelWords...) })
	some(5, func() { q.Subject += " " + pick(h.r, modelWords...) })
	some(12, func() { q.MessageID = fmt.Sprintf("%d@x", h.r.IntN(300)) })
	some(3, func() { q.State = pick(h.r, States()...) })
	some(5, func() { q.Since = time.UnixMilli(int64(h.at) - h.r.Int64N(int64(h.at-noon)+1)) })
	some(5, func() { q.Until = time.UnixMilli(int64(h.at) - h.r.Int64N(int64(h.at-noon)+1)) })
	some(4, func() { q.Tenants = []event.Tenant{pick(h.r, acme, other)} })
	q.Limit = pick(h.r, 1, 7, 50, MaxLimit)
	return q
}

// TestModel compares searches with a list of everything, through random
// histories.
func TestModel(t *testing.T) {
	seeds := uint64(3)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		h := newHistory(seed, seed == 0)
		n := startNode(t, projection.NewMemStore(), h.log)
		hits := 0
		for range 10 {
			for range 600 {
				h.step()
			}
			for range 10 {
				hits += h.compare(t, n)
			}
		}
		if groups := h.groups(t, n); h.narrow && groups == 0 {
			t.Error("no group became full")
		}
		h.compareCounts(t, n)
		if hits < 1000 {
			t.Errorf("the searches found no more than %d rows", hits)
		}
		n.stop()
	}
}

// groups returns how many groups of blocks are full.
func (h *history) groups(t *testing.T, n *node) (groups int) {
	t.Helper()
	err := n.runner.View(t.Context(), foldName, func(v projection.View) error {
		for _, err := range v.Scan([]byte{keyGroup}, nil, false) {
			if err != nil {
				return err
			}
			groups++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

// compare pages through a random query.
func (h *history) compare(t *testing.T, n *node) (hits int) {
	t.Helper()
	q := h.query()
	for range 3 {
		want := h.model.search(q)
		var got []event.ID
		for row, err := range n.Search(t.Context(), q) {
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			got = append(got, row.ID)
			i := slices.IndexFunc(h.model.mails, func(m *modelMail) bool { return m.id == row.ID })
			if i < 0 {
				t.Fatalf("%+v finds a message that is not there", q)
			}
			for j, s := range h.model.mails[i].states() {
				if row.State[j] != s {
					t.Fatalf("%+v: recipient %d is %s, want %s", q, j, row.State[j], s)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v finds %d rows, want %d, or in another order", q, len(got), len(want))
		}
		hits += len(got)
		if len(got) < q.Limit {
			break
		}
		q.After = got[len(got)-1]
	}
	return hits
}

func (m *modelMail) states() (out []string) {
	for _, p := range m.pairs {
		out = append(out, p.state())
	}
	return out
}

func (h *history) compareCounts(t *testing.T, n *node) {
	t.Helper()
	want := map[Count]uint64{}
	for _, m := range h.model.mails {
		for i, s := range m.states() {
			want[Count{Tenant: m.tenant, Domain: canonical(m.to[i]).domain, State: s}]++
		}
	}
	got, err := n.Counts(t.Context())
	if err != nil || len(got) != len(want) {
		t.Errorf("%d counts, %v; want %d", len(got), err, len(want))
	}
	for _, c := range got {
		k := c
		k.N = 0
		if want[k] != c.N {
			t.Errorf("%s %s: %d, want %d", c.Domain, c.State, c.N, want[k])
		}
	}
}

// sliced shows a log that ends at times, so that its segments are folded in
// other batches.
type sliced struct {
	*memLog
	size int
}

func (s sliced) Segments(ctx context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		n := 0
		for seg, err := range s.memLog.Segments(ctx, p, after) {
			if n++; n > s.size || !yield(seg, err) {
				return
			}
		}
	}
}

// TestRebuild folds one history in batches of different sizes, and from the
// middle on by another process, and gets the same state bit for bit.
func TestRebuild(t *testing.T) {
	h := newHistory(99, true)
	whole := startNode(t, projection.NewMemStore(), h.log)
	for range 3000 {
		h.step()
	}
	st := projection.NewMemStore()
	first := startNode(t, st, h.log)
	first.hash(t)
	first.stop()
	for range 3000 {
		h.step()
	}
	want := whole.hash(t)
	if h.groups(t, whole) == 0 {
		t.Error("no group became full")
	}
	if got := startNode(t, st, h.log).hash(t); got != want {
		t.Error("another process goes on with another state")
	}
	if got := startNode(t, projection.NewMemStore(), h.log).hash(t); got != want {
		t.Error("a rebuild has another state")
	}
	sizes := []int{1, 7, 40, 10000}
	if testing.Short() {
		sizes = sizes[1:2]
	}
	for _, size := range sizes {
		if got := startNode(t, projection.NewMemStore(), sliced{h.log, size}).hash(t); got != want {
			t.Errorf("in batches of at most %d segments the state is another one", size)
		}
	}
	badger, err := projection.OpenBadger(projection.BadgerOptions{Dir: t.TempDir() + "/db", Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t, badger, h.log)
	if got := n.hash(t); got != want {
		t.Error("in Badger the state is another one")
	}
	for range 40 {
		h.compare(t, n)
	}
	n.stop()
	if err := badger.Close(); err != nil {
		t.Error(err)
	}
}

// TestExpiry: when the key of a day is gone its mail is not found, and the rest
// is.
func TestExpiry(t *testing.T) {
	log := newMemLog(1)
	st := projection.NewMemStore()
	n := startNode(t, st, log)
	var ids [2][]event.ID
	for i := range 200 {
		m := mail{tenant: acme, at: noon + event.Millis(i), days: event.Day(7 + i%2*23), to: []string{"a@acme.test"}, text: "Subject: x\r\n\r\n"}
		ev := m.accepted()
		log.append(ev)
		ids[i%2] = append(ids[i%2], ev.ID)
	}
	if got := n.ids(t, Query{Limit: MaxLimit}); len(got) != 200 {
		t.Fatalf("%d messages, want 200", len(got))
	}
	n.stop()
	log.expire(testDay + 7)
	n = startNode(t, st, log)
	slices.Reverse(ids[1])
	if got := n.ids(t, Query{Subject: "x", Limit: MaxLimit}); !slices.Equal(got, ids[1]) {
		t.Errorf("%d messages are found once half have expired, want the other 100", len(got))
	}
	if _, err := n.Get(t.Context(), ids[0][0]); !errors.Is(err, ErrNotFound) {
		t.Errorf("get an expired message: %v", err)
	}
	// What happens to expired mail stops nothing, nor does mail that expires
	// before it was folded.
	log.append(settled(acme, event.Outcome{Unit: event.Unit{Source: ids[0][0]}, Result: event.ResultExpired}))
	late := mail{tenant: acme, at: noon + 1000, days: 7, to: []string{"a@acme.test"}, text: "Subject: x\r\n\r\n"}.accepted()
	log.append(late)
	nothing := mail{tenant: acme, at: noon + 1000, days: 30, to: []string{"a@acme.test"}}.accepted()
	nothing.Fact.(*event.MessageAccepted).Meta = nil
	log.append(nothing)
	if got := n.ids(t, Query{Limit: MaxLimit}); !slices.Equal(got, ids[1]) {
		t.Errorf("%d messages, want the other 100", len(got))
	}
}
