package shadow

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/event"
	"holdfast/projection"
)

func TestSelectors(t *testing.T) {
	log := newMemLog(2)
	n := startNode(t, projection.NewMemStore(), log)
	at := func(min int) event.Millis { return noon + event.Millis(min)*60_000 }
	text := func(from, to, subject, id string) string {
		return fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <%s>\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\n\r\ntext\r\n", from, to, subject, id)
	}
	mails := []mail{
		{at: at(0), from: "Billing@Shop.example", to: []string{"alice@acme.test"}, text: text("Shop <billing@shop.example>", "alice@acme.test", "Invoice for March", "One@x")},
		{at: at(1), from: "bounce-77@lists.example", to: []string{"bob@acme.test", "Alice@ACME.test"}, text: text("Carol <carol@partner.example>", "bob@acme.test", "Meeting: the_march budget", "two@x")},
		{at: at(2), from: `"carol"@partner.example`, to: []string{"sales@acme.test"}, text: text("carol@partner.example", "sales@acme.test", "=?utf-8?Q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=", "three@x")},
		{at: at(3), from: "", to: []string{"alice@acme.test"}, text: text("mailer-daemon@x.example", "alice@acme.test", "Undelivered", "four@x")},
		{at: at(4), from: "a@b.example", to: []string{"Postmaster"}, text: "no header"},
		{at: at(5), from: "a@b.example", to: []string{`"odd @ name"@acme.test`}, text: text("a@b.example", "x", "=?utf-8?B?5pel5pys6Kqe44Gu44OG44K544OI?= ΟΔΥΣΣΕΥΣ !?", "six@x")},
		{at: at(6), from: "bob@acme.test", to: []string{"x@outside.example"}, outside: true, text: text("bob@acme.test", "x", "out", "seven@x")},
	}
	names := map[event.ID]string{}
	for i, m := range mails {
		m.tenant = acme
		ev := m.accepted()
		if len(m.to) == 1 && m.to[0] == "Postmaster" {
			ev.Fact.(*event.MessageAccepted).Meta.Recipients[0].Domain = "acme.test"
		}
		log.append(ev)
		names[ev.ID] = fmt.Sprint(i + 1)
	}
	time := func(min int) time.Time { return time.UnixMilli(int64(at(min))) }
	tests := []struct {
		q    Query
		want string
	}{
		{Query{}, "7654321"},
		{Query{Limit: 2}, "76"},
		{Query{Rcpt: "alice@acme.test"}, "421"},
		{Query{Rcpt: " <ALICE@acme.Test> "}, "421"},
		{Query{Rcpt: `"alice"@acme.test`}, "421"},
		{Query{Rcpt: "alice"}, ""},
		{Query{Rcpt: "acme.test"}, "654321"},
		{Query{Rcpt: "@Acme.Test"}, "654321"},
		{Query{Rcpt: "cme.test"}, ""},
		{Query{Rcpt: "postmaster"}, "5"},
		{Query{Rcpt: "postmaster@acme.test"}, "5"},
		{Query{Rcpt: `"odd @ name"@acme.test`}, "6"},
		{Query{Rcpt: "outside.example"}, "7"},
		{Query{From: "carol@partner.example"}, "32"},
		{Query{From: "bounce-77@lists.example"}, "2"},
		{Query{From: "shop.example"}, "1"},
		{Query{From: "<>"}, "4"},
		{Query{From: "mailer-daemon@x.example"}, "4"},
		{Query{Subject: "march"}, "21"},
		{Query{Subject: "MARCH invoice"}, "1"},
		{Query{Subject: "budget, meeting?"}, "2"},
		{Query{Subject: "mar"}, ""},
		{Query{Subject: "grüsse"}, ""},
		{Query{Subject: "GRÜßE köln"}, "3"},
		{Query{Subject: "οδυσσευσ"}, "6"},
		{Query{Subject: "日本"}, "6"},
		{Query{Subject: "テスト 語"}, "6"},
		{Query{Subject: "本日"}, ""},
		{Query{Subject: "!?"}, "6"},
		{Query{Subject: "?!"}, ""},
		{Query{MessageID: "<two@x>"}, "2"},
		{Query{MessageID: "two@x"}, "2"},
		{Query{MessageID: "one@x"}, ""},
		{Query{MessageID: "One@x"}, "1"},
		{Query{State: "due"}, "7654321"},
		{Query{State: "delivered"}, ""},
		{Query{Since: time(3)}, "7654"},
		{Query{Until: time(3)}, "321"},
		{Query{Since: time(2), Until: time(4)}, "43"},
		{Query{From: "carol@partner.example", Subject: "march"}, "2"},
		{Query{Tenants: []event.Tenant{other}}, ""},
		{Query{Tenants: []event.Tenant{acme, acme}, Limit: 1}, "7"},
	}
	for _, tt := range tests {
		got := ""
		for _, id := range n.ids(t, tt.q) {
			got += names[id]
		}
		if got != tt.want {
			t.Errorf("search %+v: %q, want %q", tt.q, got, tt.want)
		}
	}
	for _, err := range n.Search(t.Context(), Query{State: "nonsense"}) {
		if !errors.Is(err, ErrState) {
			t.Errorf("an unknown state: %v", err)
		}
	}
	for _, err := range n.Search(t.Context(), Query{After: event.NewID()}) {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("after an unknown message: %v", err)
		}
	}
	testRow(t, n)
}

// testRow looks at all of one row.
func testRow(t *testing.T, n *node) {
	id := n.ids(t, Query{MessageID: "two@x"})[0]
	row, err := n.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if row.ID != id || row.Ref.ID != id || row.Ref.Position.Seq != 2 || row.Tenant != acme || row.Expiry != testDay+1 ||
		row.Received.UnixMilli() != int64(noon+60_000) || row.From != "bounce-77@lists.example" ||
		!slices.Equal(row.Rcpt, []string{"bob@acme.test", "Alice@ACME.test"}) || !slices.Equal(row.State, []string{"due", "due"}) ||
		!slices.Equal(row.Domain, []string{"acme.test", "acme.test"}) || !slices.Equal(row.Outside, []bool{false, false}) ||
		!slices.Equal(row.Selected, []bool{true, true}) || !slices.Equal(row.HeaderFrom, []string{"carol@partner.example"}) ||
		!slices.Equal(row.HeaderTo, []string{"bob@acme.test"}) || row.Subject != "Meeting: the_march budget" || row.MessageID != "two@x" ||
		row.Date != "Sat, 21 Nov 2026 12:00:00 +0000" || row.Origin != event.OriginInbound || row.Size == 0 {
		t.Errorf("the row is %+v", row)
	}
	raw, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := json.Unmarshal(raw, &keys); err != nil {
		t.Fatal(err)
	}
	if len(keys) != 7 || keys["id"] != id.String() || keys["received"] != "2026-12-13T12:01:00Z" || keys["from"] != row.From ||
		keys["subject"] != row.Subject || keys["size"] != float64(row.Size) || len(keys["rcpt"].([]any)) != 2 || len(keys["state"].([]any)) != 2 {
		t.Errorf("as JSON: %s", raw)
	}
	for r, err := range n.Search(t.Context(), Query{Rcpt: "alice@acme.test", Subject: "budget"}) {
		if err != nil || !slices.Equal(r.Selected, []bool{false, true}) {
			t.Errorf("selected %v, %v; want the second recipient", r.Selected, err)
		}
	}
	for r, err := range n.Search(t.Context(), Query{Subject: "out"}) {
		if err != nil || r.Domain[0] != "acme.test" || !r.Outside[0] {
			t.Errorf("mail to the outside is carried by %v, %v, %v", r.Domain, r.Outside, err)
		}
	}
	if _, err := n.Get(t.Context(), event.NewID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("get an unknown message: %v", err)
	}
}

// TestStates follows one recipient through outcomes and orders.
func TestStates(t *testing.T) {
	// In a script, "a>R" settles unit a with result R: the message's own unit is
	// m, those of orders are a, b, c. "+a" orders, and "!" makes an outcome
	// uncertain. After each step comes the state.
	tests := []string{
		"m>D delivered m>B delivered m>H delivered",
		"m>d due m>L due m>D uncertain",
		"m>D! uncertain",
		"m>D delivered m>D delivered m>d delivered m>D! uncertain",
		"m>D delivered m>L uncertain m>B uncertain",
		"m>D delivered m>d! delivered m>B! delivered",
		"m>B bounced +a due a>D delivered m>L delivered a>L uncertain",
		"m>B bounced +a due +b due a>D delivered b>L delivered +c delivered a>D! uncertain a>L uncertain",
		"m>B bounced m>L bounced m>D uncertain",
		"m>E expired m>D uncertain m>D uncertain",
		"m>E expired",
		"m>H held m>d held m>H held m>D delivered",
		"m>L due m>H held m>D uncertain",
		"m>H held +a due m>L due a>d due a>D delivered m>B delivered",
		"m>H held +a due a>B bounced m>L bounced m>D uncertain",
		"m>H held +a due m>D uncertain a>D uncertain",
		"m>B bounced +a due m>D uncertain a>D uncertain",
		"m>B bounced +a due a>H held +b due b>B held a>E expired +c due c>D! uncertain",
		"m>B bounced +a due +b due a>B due b>D delivered +c delivered c>B delivered",
		"m>D delivered +a delivered a>B delivered a>D delivered",
		"+a due m>B due a>D delivered",
		"+a due a>B due m>B bounced",
		"+a due m>D delivered a>B delivered",
		"+a due m>H due a>B held +b due b>B bounced",
		"+A due A>D due m>D delivered",
		"m>B bounced +A bounced A>D bounced",
	}
	results := map[byte]event.Result{'D': event.ResultDelivered, 'd': event.ResultDeferred, 'L': event.ResultLost,
		'B': event.ResultBounced, 'H': event.ResultHeld, 'E': event.ResultExpired}
	log := newMemLog(1)
	n := startNode(t, projection.NewMemStore(), log)
	for _, script := range tests {
		ev := mail{tenant: acme, at: noon, to: []string{"bystander@acme.test", "alice@acme.test"}, text: "x"}.accepted()
		log.append(ev)
		units := map[byte]event.Unit{'m': {Source: ev.ID, N: 1}}
		words := strings.Fields(script)
		for i := 0; i < len(words); i += 2 {
			switch w := words[i]; w[0] {
			case '+':
				order := &event.RedeliveryOrdered{Items: []event.Redelivery{
					{Message: event.Ref{ID: event.NewID()}, N: 0}, {Message: event.Ref{ID: ev.ID}, N: 7}, {Message: event.Ref{ID: ev.ID}, N: 1},
				}}
				if w[1] < 'a' {
					order.To = "somebody.else@acme.test" // capitals
				}
				oe := event.Event{ID: event.NewID(), Tenant: acme, Fact: order}
				log.append(oe)
				units[w[1]] = event.Unit{Source: oe.ID, N: 2}
			default:
				log.append(settled(acme, event.Outcome{Unit: units[w[0]], Result: results[w[2]], Uncertain: strings.HasSuffix(w, "!")},
					event.Outcome{Unit: event.Unit{Source: event.NewID()}, Result: event.ResultDelivered},
					event.Outcome{Unit: event.Unit{Source: ev.ID, N: 9}, Result: event.ResultDelivered}))
			}
			row, err := n.Get(t.Context(), ev.ID)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(row.State, []string{"due", words[i+1]}) {
				t.Errorf("%q, step %q: %v, want %s", script, words[i], row.State, words[i+1])
			}
		}
		// Another tenant can neither order it nor take it back.
		before, _ := n.Get(t.Context(), ev.ID)
		log.append(event.Event{ID: event.NewID(), Tenant: other, Fact: &event.RedeliveryOrdered{Items: []event.Redelivery{{Message: event.Ref{ID: ev.ID}, N: 1}}}},
			event.Event{ID: event.NewID(), Tenant: other, Fact: &event.Repudiated{Message: ev.ID}})
		if row, err := n.Get(t.Context(), ev.ID); err != nil || !slices.Equal(row.State, before.State) {
			t.Errorf("%q: after another tenant's acts: %v, %v", script, row.State, err)
		}
		log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.Repudiated{Message: ev.ID}})
		if _, err := n.Get(t.Context(), ev.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: after its repudiation: %v", script, err)
		}
	}
	if got := n.ids(t, Query{}); len(got) != 0 {
		t.Errorf("%d messages are found that were repudiated", len(got))
	}
	if c, err := n.Counts(t.Context()); err != nil || len(c) != 0 {
		t.Errorf("counts of nothing: %v, %v", c, err)
	}
	if err := n.runner.View(t.Context(), foldName, func(v projection.View) error {
		for _, k := range []byte{keyOrders, keyUnit, keyID} {
			for it, err := range v.Scan([]byte{k}, nil, false) {
				t.Errorf("%c: a key of %d bytes is left, %v", k, len(it.Key), err)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	log.append(mail{tenant: acme, at: noon, to: []string{"a@acme.test"}, text: "x"}.accepted())
	if got := n.ids(t, Query{}); len(got) != 1 {
		t.Errorf("%d messages, want the new one", len(got))
	}
}

// TestAnotherTenantSaysNothing: outcomes in the log of one tenant are not those of
// another's messages, nor of its orders.
func TestAnotherTenantSaysNothing(t *testing.T) {
	log := newMemLog(1)
	n := startNode(t, projection.NewMemStore(), log)
	var units []event.Unit
	for i := range 2 {
		ev := mail{at: noon, tenant: acme, from: "a@b.example", to: []string{"alice@acme.test"}, text: "Subject: x\r\n\r\ntext\r\n"}.accepted()
		log.append(ev)
		u := event.Unit{Source: ev.ID}
		if i == 1 {
			log.append(settled(acme, event.Outcome{Unit: u, Result: event.ResultBounced}))
			order := event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.RedeliveryOrdered{
				Items: []event.Redelivery{{Message: event.Ref{ID: ev.ID}, Domain: "acme.test"}},
			}}
			log.append(order)
			u.Source = order.ID
		}
		units = append(units, u)
	}
	for _, tt := range []struct {
		from      event.Tenant
		delivered int
	}{{other, 0}, {acme, 2}} {
		for _, u := range units {
			log.append(settled(tt.from, event.Outcome{Unit: u, Result: event.ResultDelivered}))
		}
		if got := len(n.ids(t, Query{State: "delivered"})); got != tt.delivered {
			t.Errorf("after the word of %v %d are delivered, want %d", tt.from, got, tt.delivered)
		}
	}
}
