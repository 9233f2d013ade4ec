package shadow

import (
	"slices"
	"testing"

	"holdfast/event"
	"holdfast/projection"
)

// under returns what a hold selects, and what it may select.
func (n *node) under(t testing.TB, m event.HoldMatch) (sure, doubtful []event.ID) {
	t.Helper()
	for row, err := range n.Under(t.Context(), acme, m, 0) {
		if err != nil {
			t.Fatal(err)
		}
		sure = append(sure, row.ID)
	}
	for d, err := range n.InDoubt(t.Context(), acme, m, 0) {
		if err != nil {
			t.Fatal(err)
		}
		doubtful = append(doubtful, d.Message)
	}
	return sure, doubtful
}

// TestAppended: what a user puts into a mailbox is found by who asks for it, and
// selected by holds, by its owner and by whom its header names.
func TestAppended(t *testing.T) {
	log := newMemLog(1)
	n := startNode(t, projection.NewMemStore(), log)
	draft := mail{tenant: acme, at: noon, days: 30, to: []string{"alice@acme.test"},
		text: "From: Alice <work@else.test>\r\nTo: bob@far.test\r\nBcc: boss@acme.test\r\nSubject: half a plan\r\nMessage-ID: <1@x>\r\n\r\n"}.appended()
	bare := mail{tenant: acme, at: noon + 1, days: 30, to: []string{"alice@acme.test"}, text: "\r\nno header"}.appended()
	sent := mail{tenant: acme, at: noon + 2, days: 30, from: "x@far.test", to: []string{"alice@acme.test"}, text: "Subject: a plan\r\n\r\n"}.accepted()
	for _, ev := range []event.Event{draft, bare, sent} {
		log.append(ev)
	}
	for _, q := range []Query{{}, {Rcpt: "alice@acme.test"}, {Subject: "plan"}, {State: "due"}} {
		if got := n.ids(t, q); !slices.Equal(got, []event.ID{sent.ID}) {
			t.Errorf("%+v finds %d messages, want the one that was sent", q, len(got))
		}
	}
	for _, c := range []struct {
		q    Query
		want []event.ID
	}{
		{Query{}, []event.ID{bare.ID, draft.ID}},
		{Query{Rcpt: "acme.test"}, []event.ID{bare.ID, draft.ID}},
		{Query{Rcpt: "boss@acme.test"}, []event.ID{draft.ID}},
		{Query{Rcpt: "bob@far.test"}, []event.ID{draft.ID}},
		{Query{From: "else.test"}, []event.ID{draft.ID}},
		{Query{From: "acme.test"}, []event.ID{bare.ID}},
		{Query{From: "<>"}, nil},
		{Query{MessageID: "1@x"}, []event.ID{draft.ID}},
		{Query{Subject: "plan"}, []event.ID{draft.ID}},
	} {
		c.q.State = "appended"
		if got := n.ids(t, c.q); !slices.Equal(got, c.want) {
			t.Errorf("%+v finds %d messages, want %d", c.q, len(got), len(c.want))
		}
	}
	row, err := n.Get(t.Context(), draft.ID)
	if err != nil || !row.Appended() || !slices.Equal(row.Rcpt, []string{"alice@acme.test"}) || !slices.Equal(row.State, []string{"appended"}) || row.From != "work@else.test" || !row.Selected[0] {
		t.Errorf("%+v, %v", row, err)
	}
	if row, err = n.Get(t.Context(), sent.ID); err != nil || row.Appended() {
		t.Errorf("%+v, %v", row, err)
	}
	for _, c := range []struct {
		m    event.HoldMatch
		want int
	}{
		{event.HoldMatch{}, 3}, {event.HoldMatch{Domain: "acme.test"}, 3}, {event.HoldMatch{Users: []string{"alice@acme.test"}}, 3},
		{event.HoldMatch{Users: []string{"boss@acme.test", "nobody@acme.test"}}, 1}, {event.HoldMatch{Domain: "far.test"}, 2},
		{event.HoldMatch{Messages: []event.ID{bare.ID}}, 1}, {event.HoldMatch{From: "<>"}, 0}, {event.HoldMatch{Rcpt: "bob@far.test", Subject: "half"}, 1},
	} {
		if sure, doubtful := n.under(t, c.m); len(sure) != c.want || len(doubtful) != 0 {
			t.Errorf("%+v selects %d, may select %d, want %d and none", c.m, len(sure), len(doubtful), c.want)
		}
	}
	// Nothing that is said of deliveries makes it anything else.
	log.append(settled(acme, event.Outcome{Unit: event.Unit{Source: draft.ID}, Result: event.ResultDelivered}))
	log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.RedeliveryOrdered{Items: []event.Redelivery{{Message: event.Ref{ID: draft.ID}}}}})
	if got := n.ids(t, Query{State: "appended"}); len(got) != 2 {
		t.Errorf("%d messages are appended, want 2", len(got))
	}
}

// TestInDoubt: a message that could not be read may be what a hold selects, until
// its erasure is certified or its day ends.
func TestInDoubt(t *testing.T) {
	log := newMemLog(1)
	var ids []event.ID
	for i := range 40 { // more than a block
		m := mail{tenant: acme, at: noon + event.Millis(i), days: 7, to: []string{"alice@acme.test"}, text: "Subject: x\r\n\r\n"}
		ev := m.accepted()
		ev.Fact.(*event.MessageAccepted).Routes = event.RoutesOf(ev.Fact.(*event.MessageAccepted).Meta.Recipients)
		if i%2 == 1 {
			ev = m.appended()
		}
		ids = append(ids, ev.ID)
		log.append(ev)
	}
	live := startNode(t, projection.NewMemStore(), log)
	live.hash(t)
	for _, i := range []int{3, 4, 35} {
		log.puncture(ids[i])
	}
	late := startNode(t, projection.NewMemStore(), log)
	all := event.HoldMatch{Domain: "elsewhere.test"}
	if sure, doubtful := live.under(t, all); len(sure)+len(doubtful) != 0 {
		t.Errorf("all could be read: %d are selected, %d in doubt", len(sure), len(doubtful))
	}
	for _, c := range []struct {
		m    event.HoldMatch
		want int
	}{
		{all, 3}, {event.HoldMatch{Subject: "y"}, 3}, {event.HoldMatch{Messages: ids[4:20]}, 1},
		{event.HoldMatch{Since: noon + 4}, 2}, {event.HoldMatch{Until: noon + 4}, 1},
	} {
		if _, doubtful := late.under(t, c.m); len(doubtful) != c.want {
			t.Errorf("%+v may select %d, want %d", c.m, len(doubtful), c.want)
		}
	}
	// One of them is kept, and can be read again; one is kept and cannot; one was
	// erased.
	keep := func(i int, readable bool) event.Ref {
		was, meta := event.Encode(mail{tenant: acme, at: noon, to: []string{"alice@acme.test"}, text: "Subject: x\r\n\r\n"}.appended().Fact)
		ev := event.Event{ID: event.NewID(), Tenant: acme, Expiry: testDay + 9, Fact: &event.Kept{Message: ids[i], Was: was, Meta: &event.KeptMeta{Was: meta}}}
		if !readable {
			log.puncture(ev.ID)
		}
		return event.Ref{Position: event.Position{Seq: log.append(ev)}, ID: ev.ID}
	}
	keep(3, true)
	at := keep(35, false)
	log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.Erased{Items: []event.ErasedItem{{Message: ids[4]}}}})
	for d, err := range late.InDoubt(t.Context(), acme, all, 0) {
		if err != nil || d != (Doubtful{Message: ids[35], Ref: at, Expiry: testDay + 9}) {
			t.Errorf("in doubt: %+v, %v", d, err)
		}
	}
	if _, doubtful := late.under(t, all); len(doubtful) != 1 {
		t.Errorf("%d are in doubt, want 1", len(doubtful))
	}
	for _, err := range late.InDoubt(t.Context(), acme, all, testDay+8) {
		t.Errorf("one in doubt expires too late, %v", err)
	}
	log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.DayExpired{Day: testDay + 9}})
	if _, doubtful := late.under(t, all); len(doubtful) != 0 {
		t.Errorf("%d are in doubt whose day has expired", len(doubtful))
	}
	if live.hash(t) != late.hash(t) {
		t.Error("a fold that could read all has another state")
	}
	err := late.runner.View(t.Context(), foldName, func(v projection.View) error {
		for it, err := range v.Scan([]byte{keyUnread}, nil, false) {
			t.Errorf("%x is left, %v", it.Key, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
