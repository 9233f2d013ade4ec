package continuity

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"holdfast/event"
)

// filed says so of a message as plainly as possible.
func (b *modelBox) filed(m *modelMsg) bool {
	switch {
	case b.use == `\Trash`, b.use == `\Junk`:
		return false
	case b.order == 1, b.use == useSent:
		return m.flags[`\Flagged`]
	}
	return true
}

// decide notes of which messages it is too late to file them.
func (b *modelBox) decide(condemned event.Day) {
	for _, m := range b.msgs {
		m.late = m.late || m.expiry <= condemned && !b.filed(m)
	}
}

// end removes the messages until day for which there is no reason.
func (m *model) end(day event.Day, reason func(*modelBox, *modelMsg) bool) {
	for _, b := range m.boxes {
		b.remove(slices.DeleteFunc(slices.Clone(b.msgs), func(msg *modelMsg) bool { return msg.expiry > day || reason(b, msg) }))
	}
}

func (b *modelBox) needs(m *modelMsg) bool { return b.filed(m) && !m.late }

// each visits every message of every account.
func (x *run) each(do func(*modelBox, *modelMsg)) {
	for _, a := range x.accounts {
		for _, b := range x.models[a].boxes {
			for _, m := range b.msgs {
				do(b, m)
			}
		}
	}
}

// expiry picks a day that is not over.
func (x *run) expiry() event.Day { return x.condemned + 1 + event.Day(x.r.IntN(6)) }

// filed compares what a node says is filed with the model, and returns it.
func (x *run) filed(n *node, until event.Day) []event.Ref {
	want := map[event.ID]bool{}
	x.each(func(b *modelBox, m *modelMsg) {
		if m.expiry <= until && b.needs(m) {
			want[m.read] = true
		}
	})
	var refs []event.Ref
	got := map[event.ID]bool{}
	for ref, err := range n.svc.Filed(context.Background(), n.tenant, until) {
		if err != nil {
			x.t.Fatal(err)
		}
		refs = append(refs, ref)
		got[ref.ID] = true
	}
	if !maps.Equal(got, want) || len(refs) != len(got) {
		x.t.Errorf("filed until %v: %v, want %v", until, refs, want)
	}
	return refs
}

// retain lets something of the life of a day happen.
func (x *run) retain(n *node) string {
	switch x.r.IntN(6) {
	case 0:
		day := x.condemned + event.Day(x.r.IntN(2))
		n.append(event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: &event.DayCondemned{Day: day}})
		for _, m := range x.models {
			m.end(day, func(b *modelBox, msg *modelMsg) bool { return b.needs(msg) })
		}
		x.condemned = day
		return fmt.Sprint("condemn ", day)
	case 1, 2, 3:
		return x.keepSome(n)
	case 4:
		day := x.condemned - event.Day(x.r.IntN(2))
		x.filed(n, day)
		n.append(event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: &event.DayExpired{Day: day}})
		for _, m := range x.models {
			m.end(min(day, x.condemned), func(*modelBox, *modelMsg) bool { return false })
		}
		return fmt.Sprint("expire ", day)
	}
	return x.eraseSome(n)
}

// keepSome keeps what is filed, and now and then something else, or something a
// second time.
func (x *run) keepSome(n *node) string {
	places := map[event.ID]event.Ref{}
	for _, ref := range x.filed(n, x.condemned) {
		places[ref.ID] = ref
	}
	emails := map[event.ID]bool{}
	x.each(func(_ *modelBox, m *modelMsg) {
		if _, ok := places[m.read]; ok || x.r.IntN(10) == 0 && (m.expiry <= x.condemned || m.read != m.email) {
			emails[m.email] = true
		}
	})
	for _, id := range slices.SortedFunc(maps.Keys(emails), func(a, b event.ID) int { return slices.Compare(a[:], b[:]) }) {
		if x.r.IntN(4) == 0 {
			continue // later
		}
		ev := event.Event{ID: event.NewID(), Tenant: n.tenant, Expiry: x.expiry(), Fact: &event.Kept{Message: id, Meta: &event.KeptMeta{Was: event.Marshal(1)}}}
		n.append(ev)
		x.each(func(_ *modelBox, m *modelMsg) {
			if m.email == id {
				m.read, m.expiry, m.late = ev.ID, ev.Expiry, false
			}
		})
	}
	return fmt.Sprint("keep some of ", len(emails))
}

func (x *run) eraseSome(n *node) string {
	var items []event.ErasedItem
	gone := map[event.ID]bool{}
	for range 1 + x.r.IntN(3) {
		if len(x.emails) > 0 {
			id := pick(x, x.emails)
			gone[id] = true
			items = append(items, event.ErasedItem{Message: id, Accounts: x.owners[id]})
		}
	}
	n.append(event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: &event.Erased{Order: event.NewID(), Items: items}})
	for _, m := range x.models {
		m.end(1<<30, func(_ *modelBox, msg *modelMsg) bool { return !gone[msg.email] })
		for _, c := range m.copies {
			if c.replaced != nil && gone[c.replaced.email] {
				c.replaced = nil
			}
		}
	}
	return fmt.Sprint("erase ", len(gone))
}
