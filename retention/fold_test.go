package retention

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// TestFoldAnyOrder: facts in any order. The fold's verdicts are those of a model,
// nothing expires that was not condemned, and a node that begins later comes to
// the same state.
func TestFoldAnyOrder(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 4))
				w := newWorld(t)
				n := w.start()
				m := &foldModel{holds: map[string]event.Day{}}
				letters := []*letter{n.accept(50, nil), n.accept(50, nil), n.accept(50, nil)}
				for range 120 {
					m.step(t, n, r, letters[r.IntN(len(letters))])
					time.Sleep(time.Minute)
				}
				row, err := n.svc.tenantRow(n.ctx, n.tenant)
				if err != nil || row.Condemned != m.condemned || row.Expired != m.expired || row.Changes != m.changes {
					t.Errorf("%+v, %v, want %+v", row, err, m)
				}
				holds, _, err := n.svc.holdsOf(n.ctx, n.tenant)
				if err != nil || len(holds) != len(m.holds) {
					t.Errorf("%d holds, want %d: %v", len(holds), len(m.holds), err)
				}
				for _, h := range holds {
					if after, ok := m.holds[h.Placed.Name]; !ok || after != h.After {
						t.Errorf("hold %s is after %v, want %v", h.Placed.Name, h.After, after)
					}
				}
				same(t, n, w.start())
			})
		})
	}
}

// foldModel is what the fold should say.
type foldModel struct {
	condemned, expired event.Day
	changes            uint64
	holds              map[string]event.Day // the day that was condemned before each
}

// step appends one fact, and compares the verdict.
func (m *foldModel) step(t *testing.T, n *node, r *rand.Rand, l *letter) {
	t.Helper()
	day := event.Day(10957 + r.IntN(30))
	name := fmt.Sprint(r.IntN(4))
	_, stands := m.holds[name]
	var fact event.Fact
	want := false
	switch r.IntN(7) {
	case 0:
		fact = &event.DayCondemned{At: n.log.Millis(), Day: day}
		m.condemned = max(m.condemned, day)
	case 1:
		fact = &event.DayExpired{At: n.log.Millis(), Day: day}
		m.expired = max(m.expired, min(day, m.condemned))
	case 2:
		fact, want = &event.HoldPlaced{Name: name}, !stands
		if want {
			m.holds[name] = m.condemned
			m.changes++
		}
	case 3:
		fact, want = &event.HoldReleased{Name: name}, stands
		if want {
			delete(m.holds, name)
			m.changes++
		}
	case 4:
		order := &event.ErasureOrdered{Items: []event.Ref{l.place}, Holds: m.changes + uint64(r.IntN(2))}
		fact, want = order, order.Holds == m.changes
	case 5:
		fact = &event.Erased{At: n.log.Millis(), Order: event.NewID(), Items: []event.ErasedItem{{Message: l.message, Place: l.place, Size: 10}}}
	default:
		// A day that may be condemned takes no copy: that is the log's own rule.
		if _, err := n.Keep(n.ctx, l.place, day+60, event.KeptFiled); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, got, err := n.svc.do(n.ctx, n.tenant, fact); err != nil || got != want {
		t.Errorf("%T %+v: %v, want %v: %v", fact, fact, got, want, err)
	}
}
