package shadow

import (
	"bytes"
	"slices"
	"testing"

	"holdfast/event"
	"holdfast/projection"
)

// TestUnderGoesOn: what a hold selects until a day is looked up where the log is
// by then: what was erased or kept for longer since the first message came does not
// come any more, what got another day until then does, and each comes once.
func TestUnderGoesOn(t *testing.T) {
	var all []event.Event
	var ids []event.ID
	for i := range 300 {
		ev := mail{tenant: acme, at: noon + event.Millis(i), days: 7, to: []string{"a@acme.test"}, text: "Subject: x\r\n\r\n"}.accepted()
		f := ev.Fact.(*event.MessageAccepted)
		f.Routes = event.RoutesOf(f.Meta.Recipients)
		all, ids = append(all, ev), append(ids, ev.ID)
	}
	order := func(a, b event.ID) int { return bytes.Compare(a[:], b[:]) }
	slices.SortFunc(ids, order) // so that one is the last by any order
	for i := range all {
		all[i].ID = ids[i]
	}
	for _, c := range []struct {
		name  string
		match event.HoldMatch
		until event.Day
		want  []event.ID
	}{
		{"all mail", event.HoldMatch{}, testDay + 9, ids[:298]},
		{"a subject", event.HoldMatch{Subject: "x"}, testDay + 9, ids[:298]},
		{"by id", event.HoldMatch{Messages: ids}, testDay + 9, ids[:298]},
		{"of all days", event.HoldMatch{}, 0, ids},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := newMemLog(1)
			n := startNode(t, projection.NewMemStore(), log)
			n.underAtOnce = 40
			for _, ev := range all {
				log.append(ev)
			}
			keep := func(i int, until event.Day) {
				was, meta := event.Encode(all[i].Fact)
				log.append(event.Event{ID: event.NewID(), Tenant: acme, Expiry: until, Fact: &event.Kept{
					Message: ids[i], From: event.Ref{Position: event.Position{Seq: event.Seq(i + 1)}, ID: ids[i]},
					Why: event.KeptHold, Was: was, Meta: &event.KeptMeta{Was: meta},
				}})
			}
			var got []event.ID
			for row, err := range n.Under(t.Context(), acme, c.match, c.until) {
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, row.ID); len(got) > 1 {
					continue
				}
				keep(297, testDay+9)
				keep(298, testDay+20)
				log.append(event.Event{ID: event.NewID(), Tenant: acme, Fact: &event.Erased{Items: []event.ErasedItem{{Message: ids[299]}}}})
				n.hash(t)
			}
			slices.SortFunc(got, order)
			if !slices.Equal(got, c.want) {
				t.Errorf("%d messages came, want %d", len(got), len(c.want))
			}
		})
	}
}
