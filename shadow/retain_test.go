package shadow

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast/event"
	"holdfast/projection"
)

// keep writes a message anew under the key of another day.
func (h *history) keep(ml *modelMail, days event.Day) {
	was, meta := event.Encode(ml.fact)
	k := &event.Kept{At: h.at, Message: ml.id, From: ml.refs[len(ml.refs)-1], Why: event.KeptFiled, Was: was, Meta: &event.KeptMeta{Was: meta}}
	ev := event.Event{ID: event.NewID(), Tenant: ml.tenant, Expiry: h.today() + days, Fact: k}
	seq := h.log.append(ev)
	ml.expiry = ev.Expiry
	ml.refs = append(ml.refs, event.Ref{Position: event.Position{Partition: h.log.PartitionOf(ml.tenant), Seq: seq}, ID: ev.ID})
}

func (h *history) today() event.Day { return event.Day(int64(h.at) / 86_400_000) }

// erase takes messages of one tenant away. The keys of their copies go at once,
// sometimes only that of the last one: its day's key opens the others no more
// than those do that read the log before.
func (h *history) erase(mails ...*modelMail) {
	f := &event.Erased{At: h.at}
	for _, ml := range mails {
		f.Items = append(f.Items, event.ErasedItem{Message: ml.id, Place: ml.refs[len(ml.refs)-1]})
		from := h.r.IntN(len(ml.refs)) * h.r.IntN(2)
		for _, ref := range ml.refs[from:] {
			h.log.puncture(ref.ID)
		}
	}
	h.log.append(event.Event{ID: event.NewID(), Tenant: mails[0].tenant, Fact: f})
	h.model.countErased(mails)
	h.model.mails = slices.DeleteFunc(h.model.mails, func(ml *modelMail) bool { return slices.Contains(mails, ml) })
}

// endDay condemns a day, keeps some of what expires on it, and lets it expire.
func (h *history) endDay() {
	day := h.today()
	h.at += 86_400_000
	for _, t := range []event.Tenant{acme, other, third} {
		h.log.append(event.Event{ID: event.NewID(), Tenant: t, Fact: &event.DayCondemned{At: h.at, Day: day}})
		for _, ml := range slices.Clone(h.model.mails) {
			if ml.tenant != t || ml.expiry > day {
				continue
			}
			for range h.r.IntN(3) * h.r.IntN(2) {
				h.keep(ml, pick[event.Day](h.r, 2, 3, 9))
			}
			if h.r.IntN(20) == 0 {
				h.settle()
			}
		}
		h.log.append(event.Event{ID: event.NewID(), Tenant: t, Fact: &event.DayExpired{At: h.at, Day: day}})
		for range h.r.IntN(8) {
			h.log.append(event.Event{ID: event.NewID(), Tenant: t, Fact: &event.DaySwept{At: h.at}})
		}
		h.model.mails = slices.DeleteFunc(h.model.mails, func(ml *modelMail) bool { return ml.tenant == t && ml.expiry <= day })
	}
	h.log.expire(day)
}

// life is a step in which mail may be kept and erased.
func (h *history) life() {
	if len(h.model.mails) < 10 || h.r.IntN(12) > 0 {
		h.step()
		return
	}
	ml := h.any()
	switch h.r.IntN(3) {
	case 0:
		h.keep(ml, pick[event.Day](h.r, 2, 9, 30))
	case 1:
		h.keep(ml, pick[event.Day](h.r, 2, 9, 30))
		h.erase(ml)
	default:
		mails := []*modelMail{ml}
		if o := h.any(); o != ml && o.tenant == ml.tenant {
			mails = append(mails, o)
		}
		h.erase(mails...)
	}
}

// TestRetention goes through random histories of mail that is accepted, kept,
// erased and expires. The state that was folded while the mail could be read is at
// the end of each day that of a fold from the beginning, to which it is gone.
func TestRetention(t *testing.T) {
	for seed := range uint64(2) {
		h := newHistory(seed, false)
		f := newFold()
		if seed == 1 {
			f = fold{dropAtOnce: 1} // so that much is left of each day
		}
		live := startFold(t, projection.NewMemStore(), h.log, f)
		live.hash(t)
		var late *node
		hits, held := 0, 0
		for day := range 12 {
			for range 150 {
				h.life()
			}
			for range 5 {
				hits += h.compare(t, live)
				hits += h.compareHold(t, live)
				held += h.compareHeld(t, live)
			}
			h.compareDomains(t, live)
			h.endDay()
			if day%3 > 0 {
				continue
			}
			again := startFold(t, projection.NewMemStore(), h.log, f)
			if live.hash(t) != again.hash(t) {
				t.Fatalf("seed %d: after day %d a fold from the beginning has another state", seed, day)
			}
			if late == nil {
				late = again
				continue
			}
			again.stop()
			if live.hash(t) != late.hash(t) {
				t.Fatalf("seed %d: after day %d a fold that began after some mail had expired has another state", seed, day)
			}
		}
		for _, n := range []*node{live, late} {
			for range 15 {
				hits += h.compare(t, n)
				hits += h.compareHold(t, n)
			}
			h.compareCounts(t, n)
			h.compareDays(t, n)
			h.compareDomains(t, n)
			h.compareRefs(t, n)
		}
		if hits < 500 || held < 500 {
			t.Errorf("seed %d: no more than %d rows were found, %d held", seed, hits, held)
		}
		for range 40 {
			h.endDay()
		}
		h.emptied(t, live, seed)
		live.stop()
		late.stop()
	}
}

// emptied looks for what is left of messages that have all expired.
func (h *history) emptied(t *testing.T, n *node, seed uint64) {
	t.Helper()
	for len(h.model.mails) > 0 && h.r.IntN(9) > 0 {
		h.erase(h.model.mails[0])
	}
	h.log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.DayExpired{Day: h.today() + 60}},
		event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.DayExpired{Day: testDay}})
	for _, other := range []event.Tenant{other, third} {
		h.log.append(event.Event{ID: event.NewID(), Tenant: other, Fact: &event.DayExpired{Day: h.today() + 60}})
	}
	for _, tenant := range []event.Tenant{acme, other, third} {
		h.sweep(t, n, tenant)
	}
	n.hash(t)
	err := n.runner.View(t.Context(), foldName, func(v projection.View) error {
		for it, err := range v.Scan(nil, nil, false) {
			if err != nil {
				return err
			}
			if it.Key[0] != keyTenant && it.Key[0] != keyErased {
				t.Fatalf("seed %d: a key %q is left", seed, it.Key[0])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFullGroups keeps and erases mail in shelves with full groups.
func TestFullGroups(t *testing.T) {
	h := newHistory(5, true)
	live := startNode(t, projection.NewMemStore(), h.log)
	some := func(n int) {
		for range n {
			h.erase(h.model.mails[h.r.IntN(len(h.model.mails))])
		}
		live.hash(t)
	}
	for range 3000 {
		h.accept()
	}
	live.hash(t)
	some(60)
	for _, i := range h.r.Perm(len(h.model.mails))[:2700] {
		h.keep(h.model.mails[i], 35)
	}
	live.hash(t)
	if groups := h.groups(t, live); groups < 2 {
		t.Fatalf("%d full groups", groups)
	}
	some(60)
	again := startNode(t, projection.NewMemStore(), h.log)
	if live.hash(t) != again.hash(t) {
		t.Error("a fold that could not read what was erased has another state")
	}
	for range 20 {
		h.compare(t, live)
		h.compareHold(t, live)
		h.compareHeld(t, live)
	}
	h.at += 31 * 86_400_000
	h.endDay()
	some(20)
	h.compareDays(t, live)
	h.compareCounts(t, live)
	again = startNode(t, projection.NewMemStore(), h.log)
	if live.hash(t) != again.hash(t) {
		t.Error("a fold from the beginning has another state")
	}
	for range 20 {
		h.compare(t, again)
	}
}

// hold makes a random hold, and the same as a query.
func (h *history) hold() (Query, event.HoldMatch) {
	q := h.query()
	m := event.HoldMatch{Rcpt: q.Rcpt, From: q.From, Subject: q.Subject, MessageID: q.MessageID}
	if !q.Since.IsZero() {
		m.Since = event.Millis(q.Since.UnixMilli())
	}
	if !q.Until.IsZero() {
		m.Until = event.Millis(q.Until.UnixMilli())
	}
	if h.r.IntN(3) == 0 {
		m.Domain = pick(h.r, "acme.test", "@lists.example", "nowhere.example")
	}
	if h.r.IntN(3) == 0 {
		m.Users = append(m.Users, h.address())
		for range h.r.IntN(3) * h.r.IntN(50) {
			m.Users = append(m.Users, h.address())
		}
	}
	for range h.r.IntN(4) * h.r.IntN(2) {
		m.Messages = append(m.Messages, h.any().id, h.any().id, event.NewID())
	}
	q.State, q.Tenants, q.After = "", nil, event.ID{}
	return q, m
}

// heldBy reports whether a hold's query matches, which does not have to ask for what
// users put into mailboxes.
func (ml *modelMail) heldBy(q Query) bool {
	if ml.appended() {
		q.State = "appended"
	}
	return ml.matches(q)
}

// compareHold compares what a random hold selects.
func (h *history) compareHold(t *testing.T, n *node) (hits int) {
	t.Helper()
	q, m := h.hold()
	until := pick(h.r, 0, h.today()+event.Day(h.r.IntN(32)))
	var want, got []string
	for _, ml := range h.model.mails {
		if ml.tenant == acme && ml.heldBy(q) && ml.underHold(m) && (until == 0 || ml.expiry <= until) {
			want = append(want, ml.id.String())
		}
	}
	n.underAtOnce = 1 + len(want)%70
	for row, err := range n.Under(t.Context(), acme, m, until) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, row.ID.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%+v until %v selects %d messages, want %d, or others", m, until, len(got), len(want))
	}
	return len(got)
}

func (ml *modelMail) underHold(m event.HoldMatch) bool {
	all := slices.Concat([]string{ml.from, ml.header}, ml.to, ml.headTo)
	in := func(a string) bool { return strings.HasSuffix(a, "@"+strings.TrimPrefix(m.Domain, "@")) }
	return (m.Domain == "" || slices.ContainsFunc(all, in)) && (len(m.Users) == 0 || slices.ContainsFunc(m.Users, func(a string) bool { return slices.Contains(all, a) })) &&
		(len(m.Messages) == 0 || slices.Contains(m.Messages, ml.id))
}

func (h *history) compareDays(t *testing.T, n *node) {
	t.Helper()
	want := map[DayCount]DayCount{}
	for _, ml := range h.model.mails {
		k := DayCount{Tenant: ml.tenant, Day: ml.expiry}
		c := want[k]
		c.Messages++
		c.Bytes += uint64(ml.size)
		want[k] = c
	}
	got, err := n.Days(t.Context())
	if err != nil || len(got) != len(want) {
		t.Errorf("%d days, %v; want %d", len(got), err, len(want))
	}
	for _, c := range got {
		if w := want[DayCount{Tenant: c.Tenant, Day: c.Day}]; w.Messages != c.Messages || w.Bytes != c.Bytes {
			t.Errorf("%v: %+v, want %+v", c.Day, c, w)
		}
	}
}

// compareRefs looks at where messages are read.
func (h *history) compareRefs(t *testing.T, n *node) {
	t.Helper()
	kept := 0
	for _, ml := range h.model.mails {
		row, err := n.Get(t.Context(), ml.id)
		if err != nil {
			t.Fatal(err)
		}
		if want := ml.refs[len(ml.refs)-1]; row.Ref != want || row.Expiry != ml.expiry || row.Received.UnixMilli() != int64(ml.at) {
			t.Errorf("%v: read at %v, received %v, expires %v; want %v, %v, %v", ml.id, row.Ref, row.Received, row.Expiry, want, ml.at, ml.expiry)
		}
		if len(ml.refs) > 1 {
			kept++
		}
	}
	if kept == 0 {
		t.Error("no message is a kept one")
	}
}

// TestKeptOrder: kept mail is shown among the rest in the order in which it came
// in, page by page, in whatever order it was kept, and a search holds few rows.
func TestKeptOrder(t *testing.T) {
	log := newMemLog(1)
	h := &history{r: newHistory(1, true).r, log: log, narrow: true, at: noon, model: &model{clock: map[event.Tenant]int64{}}}
	for range 800 {
		h.accept()
	}
	for _, i := range h.r.Perm(800)[:500] {
		h.keep(h.model.mails[i], 40)
	}
	n := startNode(t, projection.NewMemStore(), log)
	for _, limit := range []int{1, 13, 200, 1000} {
		want := h.model.search(Query{Limit: 1000})
		q := Query{Limit: limit}
		for len(want) > 0 {
			got := n.ids(t, q)
			if len(got) == 0 || !slices.Equal(got, want[:len(got)]) {
				t.Fatalf("a page of %d: other rows than expected", limit)
			}
			want = want[len(got):]
			q.After = got[len(got)-1]
			if limit == 1 && len(want) < 700 {
				break
			}
		}
	}
}

// TestExpiredBefore: what is folded while a day's key is gone and the day has not
// expired is not found, and stops nothing.
func TestExpiredBefore(t *testing.T) {
	log := newMemLog(1)
	n := startNode(t, projection.NewMemStore(), log)
	var ids []event.ID
	for i := range 100 {
		if i == 50 {
			n.hash(t)
			log.expire(testDay + 7)
			n.stop()
			n = startNode(t, n.store, log)
		}
		ev := mail{tenant: acme, at: noon + event.Millis(i), days: 7, to: []string{"a@acme.test"}, text: "Subject: x\r\n\r\n"}.accepted()
		f := ev.Fact.(*event.MessageAccepted)
		f.Routes = event.RoutesOf(f.Meta.Recipients)
		ids = append(ids, ev.ID)
		log.append(ev)
	}
	log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.Erased{Items: []event.ErasedItem{{Message: ids[1]}, {Message: ids[99]}}}})
	if got := n.ids(t, Query{}); len(got) != 0 {
		t.Errorf("%d messages are found whose key is gone", len(got))
	}
	if _, err := n.Get(t.Context(), ids[3]); !errors.Is(err, ErrNotFound) {
		t.Errorf("get one: %v", err)
	}
	for _, err := range n.Under(t.Context(), acme, event.HoldMatch{Messages: ids}, 0) {
		t.Errorf("one is under hold, %v", err)
	}
	if days, err := n.Days(t.Context()); err != nil || len(days) != 1 || days[0].Messages != 98 {
		t.Errorf("%v, %v; want 98 messages that were not erased", days, err)
	}
	log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.DayExpired{Day: testDay + 7}})
	// Nothing comes into a day that has expired.
	late := mail{tenant: acme, at: noon, days: 6, to: []string{"a@elsewhere.test"}, text: "Subject: x\r\n\r\n"}.accepted()
	log.append(late)
	n.hash(t)
	if days, err := n.Days(t.Context()); err != nil || len(days) != 0 {
		t.Errorf("%v, %v are left", days, err)
	}
	if got, want := n.hash(t), startNode(t, projection.NewMemStore(), log).hash(t); got != want {
		t.Error("a fold from the beginning has another state")
	}
}

// sweep removes what is left of days of a tenant that have expired, and returns in
// how many steps.
func (h *history) sweep(t *testing.T, n *node, tenant event.Tenant) (steps int) {
	t.Helper()
	for {
		left, err := n.Unswept(t.Context(), tenant)
		if err != nil {
			t.Fatal(err)
		}
		if !left {
			return steps
		}
		if steps++; steps > 10_000 {
			t.Fatal("there is always more")
		}
		h.log.append(event.Event{ID: event.NewID(), Tenant: tenant, Fact: &event.DaySwept{}})
	}
}

// TestDropInSteps: of a day with much mail each event removes a part, and in the
// end nothing is left of it.
func TestDropInSteps(t *testing.T) {
	h := newHistory(3, false)
	for len(h.model.mails) < 300 {
		h.step()
	}
	n := startFold(t, projection.NewMemStore(), h.log, fold{dropAtOnce: 1})
	day := event.Day(0)
	for _, ml := range h.model.mails {
		day = max(day, ml.expiry)
	}
	steps := 0
	for _, tenant := range []event.Tenant{acme, other, third} {
		h.log.append(event.Event{ID: event.NewID(), Tenant: tenant, Fact: &event.DayExpired{Day: day}})
		steps += h.sweep(t, n, tenant)
	}
	if steps < 3 {
		t.Errorf("%d steps", steps)
	}
	h.model.mails = nil
	if err := n.fresh(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	err := n.runner.View(t.Context(), foldName, func(v projection.View) error {
		for it, err := range v.Scan(nil, nil, false) {
			if err != nil {
				return err
			}
			if it.Key[0] != keyTenant {
				t.Errorf("%q is left", it.Key)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
