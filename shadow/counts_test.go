package shadow

import (
	"maps"
	"testing"

	"holdfast/event"
	"holdfast/projection"
)

func (m *model) countErased(mails []*modelMail) {
	if m.erased == nil {
		m.erased = map[DomainCount]*DomainCount{}
	}
	for _, ml := range mails {
		for _, d := range ml.domains() {
			k := DomainCount{Tenant: ml.tenant, Domain: d}
			if m.erased[k] == nil {
				m.erased[k] = &DomainCount{Tenant: ml.tenant, Domain: d}
			}
			m.erased[k].Erased++
			m.erased[k].ErasedBytes += uint64(ml.size)
		}
	}
}

// compareDomains compares the counters of the domains.
func (h *history) compareDomains(t *testing.T, n *node) {
	t.Helper()
	want := map[DomainCount]DomainCount{}
	for k, c := range h.model.erased {
		want[k] = *c
	}
	for _, ml := range h.model.mails {
		for _, d := range ml.domains() {
			k := DomainCount{Tenant: ml.tenant, Domain: d}
			c := want[k]
			c.Tenant, c.Domain = ml.tenant, d
			c.Messages++
			c.Bytes += uint64(ml.size)
			if c.Oldest == 0 || ml.expiry < c.Oldest {
				c.Oldest = ml.expiry
			}
			if len(ml.refs) > 1 {
				c.Past++
			}
			want[k] = c
		}
	}
	n.hash(t)
	got, err := n.Domains(t.Context())
	if err != nil || len(got) < len(want) {
		t.Errorf("%d domains, %v; want %d", len(got), err, len(want))
	}
	for _, c := range got {
		w, ok := want[DomainCount{Tenant: c.Tenant, Domain: c.Domain}]
		if !ok {
			w = DomainCount{Tenant: c.Tenant, Domain: c.Domain}
		}
		if c != w {
			t.Errorf("%+v, want %+v", c, w)
		}
	}
}

// compareHeld compares what random holds select together.
func (h *history) compareHeld(t *testing.T, n *node) (hits int) {
	t.Helper()
	var holds []Hold
	var queries []Query
	for range 1 + h.r.IntN(3) {
		q, m := h.hold()
		if h.r.IntN(6) == 0 {
			q, m = Query{}, event.HoldMatch{}
		}
		holds = append(holds, Hold{m, h.today() + event.Day(h.r.IntN(60)-30)})
		queries = append(queries, q)
	}
	for range 2 { // what was remembered is the same
		want := HeldCount{Domains: map[string]uint64{}}
		for _, ml := range h.model.mails {
			if ml.tenant != acme {
				continue
			}
			for i, hold := range holds {
				if ml.expiry > hold.After && ml.heldBy(queries[i]) && ml.underHold(hold.Match) {
					want.Messages++
					for _, d := range ml.domains() {
						want.Domains[d]++
					}
					break
				}
			}
		}
		n.hash(t)
		got, err := n.Held(t.Context(), acme, holds)
		if err != nil || got.Messages != want.Messages || !maps.Equal(got.Domains, want.Domains) {
			t.Fatalf("%+v hold %+v, %v; want %+v", holds, got, err, want)
		}
		hits += int(got.Messages)
		h.life()
	}
	return hits
}

// TestSenderCounts: a message counts for its sender's domain, too, and once where
// that is a recipient's.
func TestSenderCounts(t *testing.T) {
	log := newMemLog(1)
	n := startNode(t, projection.NewMemStore(), log)
	send := func(sender string, to ...string) {
		ev := mail{tenant: acme, at: noon, days: 7, to: to, text: "Subject: x\r\n\r\n"}.accepted()
		f := ev.Fact.(*event.MessageAccepted)
		f.Routes, f.Sender = event.RoutesOf(f.Meta.Recipients), sender
		log.append(ev)
	}
	send("", "a@acme.test", "b@acme.test")
	send("acme.test", "a@acme.test", "b@shop.example", "c@shop.example")
	send("quiet.example", "a@acme.test")
	n.hash(t)
	got, err := n.Domains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"acme.test": 3, "quiet.example": 1, "shop.example": 1}
	for _, c := range got {
		if c.Messages != want[c.Domain] || c.Bytes != c.Messages*14 || c.Oldest != testDay+7 {
			t.Errorf("%+v, want %d messages", c, want[c.Domain])
		}
		delete(want, c.Domain)
	}
	if len(want) > 0 {
		t.Errorf("nothing of %v", want)
	}
	// The others, to which nobody sends, have no recipients to count.
	counts, err := n.Counts(t.Context())
	if err != nil || len(counts) != 2 {
		t.Errorf("%v, %v; want recipients of two domains", counts, err)
	}
}
