package delivery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/projection"
)

// A node loses its lease while it waits for the answer to a final dot, and
// records the answer after the intent of its successor. Whatever becomes of the
// successor, the duplicate is marked.
func TestLateWordOfAFormerHolder(t *testing.T) {
	tests := []struct {
		name  string
		reply string // to the former holder
		dies  bool   // the successor, before it has its answer
		want  string
	}{
		{name: "both delivered", want: "delivered/1 delivered!/2"},
		{name: "the successor dies", dies: true, want: "delivered/1 lost!/2"},
		{name: "deferred", reply: "451 4.3.0 later", dies: true, want: "deferred/1 delivered!/3"},
		{name: "deferred, then delivered", reply: "451 4.3.0 later", want: "deferred/1 delivered!/2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.poll = 200 * time.Millisecond
				a := w.start()
				defer a.stop()
				time.Sleep(time.Second)
				b := w.start()
				defer b.stop()
				w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 40 * time.Second, Reply: tt.reply}))
				l := a.accept("s@far.test", text("x"), "alice@"+domain)
				a.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "lease/", Kind: fault.Hang, Times: -1})
				time.Sleep(2 * time.Second)
				w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: 50 * time.Second}))
				time.Sleep(43 * time.Second)
				if os := a.outcomes(event.Unit{Source: l.id}); len(os) != 1 || os[0].Uncertain {
					t.Fatalf("the former holder's word: %+v", os)
				}
				if tt.dies {
					b.vanish()
				}
				w.mx().Script(smtptest.Script{})
				c := w.start()
				defer c.stop()
				c.drained(5 * time.Minute)
				time.Sleep(time.Minute)
				got := ""
				for i, o := range c.outcomes(event.Unit{Source: l.id}) {
					if i > 0 {
						got += " "
					}
					got += o.Result.String()
					if o.Uncertain {
						got += "!"
					}
					got += fmt.Sprint("/", o.Epoch)
				}
				if got != tt.want {
					t.Errorf("outcomes %q, want %q", got, tt.want)
				}
				if n := c.units(); n != 0 {
					t.Errorf("%d units are left", n)
				}
			})
		})
	}
}

// units returns how many units the fold knows.
func (n *node) units() (count int) {
	n.w.t.Helper()
	n.w.check(n.svc.cfg.Runner.View(context.Background(), foldName, func(v projection.View) error {
		for _, err := range v.Scan([]byte{keyUnit}, nil, false) {
			if err != nil {
				return err
			}
			count++
		}
		return nil
	}))
	return count
}

// courier is one holding of the lease, as the fold sees it. It may speak long
// after it has lost it, or never.
type courier struct {
	epoch uint64
	runs  []*run
}

// run is one transaction that was allowed its final dot.
type run struct {
	unit    event.Unit
	result  event.Result // what the courier knows
	doubt   bool         // what the verdict said
	landed  bool         // the recipient has it from this
	tellsAt int
}

// doubtModel drives the fold with couriers that overlap, and knows how many
// copies each recipient really has.
type doubtModel struct {
	n        *node
	rng      *rand.Rand
	units    []event.Unit
	couriers []*courier
	copies   map[event.Unit]int
	step     int
}

// TestEveryDuplicateIsMarked lets couriers that follow each other be at the same
// units, and speak late or never. A second copy goes out only when the fold has
// said before that the first may be there; once all is quiet, whoever has two is
// marked, and whoever is not marked has one.
func TestEveryDuplicateIsMarked(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runDoubt(t, seed) })
		})
	}
}

func runDoubt(t *testing.T, seed uint64) {
	w := newWorld(t)
	n := w.open()
	defer n.stop()
	m := &doubtModel{n: n, rng: rand.New(rand.NewPCG(seed, 11)), copies: map[event.Unit]int{}}
	byUnit := map[event.Unit]letter{}
	for i := range 30 {
		l := n.accept("", text(fmt.Sprint(i)), fmt.Sprintf("u%d@%s", i, domain))
		u := event.Unit{Source: l.id}
		m.units, byUnit[u] = append(m.units, u), l
	}
	for m.step = range 600 {
		m.act()
	}
	// A node takes over, and somebody who was thought dead speaks afterwards.
	late := m.couriers
	n.deliver()
	n.drained(time.Hour)
	time.Sleep(time.Minute)
	for _, c := range late {
		for _, r := range c.runs {
			if m.rng.IntN(2) == 0 {
				m.tell(c, r)
			}
		}
	}
	time.Sleep(time.Minute)
	if left, held := n.units(), n.status().Held; left != int(held) {
		t.Errorf("%d units are left, %d held", left, held)
	}
	for _, u := range m.units {
		m.copies[u] += len(subjects(w.mx(), byUnit[u].rcpts[0]))
		m.judge(u)
	}
}

func (m *doubtModel) act() {
	if m.rng.IntN(25) == 0 || len(m.couriers) == 0 {
		le, err := m.n.log.Acquire(context.Background(), "deliver-"+m.n.w.tenant.String(), time.Second, true)
		m.n.w.check(err)
		m.couriers = append(m.couriers, &courier{epoch: le.Epoch()})
	}
	// Mostly the newest, sometimes one that does not know that it is not.
	c := m.couriers[max(0, len(m.couriers)-1-m.rng.IntN(3))]
	u := m.units[m.rng.IntN(len(m.units))]
	switch {
	case m.rng.IntN(40) == 0:
		m.expire(u)
	case !slices.ContainsFunc(c.runs, func(r *run) bool { return r.unit == u }):
		m.intend(c, u)
	}
	for _, c := range m.couriers {
		for _, r := range slices.Clone(c.runs) {
			if r.tellsAt == m.step {
				m.tell(c, r)
				c.runs = slices.DeleteFunc(c.runs, func(o *run) bool { return o == r })
			}
		}
	}
}

// intend asks for a final dot, sends it if it may, and learns something or
// nothing.
func (m *doubtModel) intend(c *courier, u event.Unit) {
	ev := event.Event{ID: event.NewID(), Tenant: m.n.w.tenant, Fact: &event.DeliveryIntended{Epoch: c.epoch, Units: []event.Unit{u}}}
	said, err := m.n.runner.Do(context.Background(), foldName, ev.ID, func(ctx context.Context) (event.Position, error) {
		return m.n.log.Append(ctx, ev)
	})
	m.n.w.check(err)
	v := said[0].(verdict)[0]
	if !v.OK {
		return
	}
	r := &run{unit: u, doubt: v.Uncertain, tellsAt: m.step + 1 + m.rng.IntN(60)}
	if m.rng.IntN(5) == 0 {
		r.tellsAt = -1 // it dies, or speaks when all is over
	}
	switch m.rng.IntN(6) {
	case 0, 1:
		r.landed, r.result = true, event.ResultDelivered
	case 2:
		r.landed, r.result = true, event.ResultLost
	case 3:
		r.result = event.ResultLost
	case 4:
		r.result = event.ResultDeferred // refused, or withdrawn before the dot
	case 5:
		r.result = event.ResultBounced
		if m.rng.IntN(2) == 0 {
			r.result = event.ResultHeld
		}
	}
	if r.landed {
		if m.copies[u]++; m.copies[u] > 1 && !r.doubt {
			m.n.w.t.Errorf("step %d: copy %d of %v goes out unmarked", m.step, m.copies[u], u)
		}
	}
	c.runs = append(c.runs, r)
}

// tell records what a courier knows of a run.
func (m *doubtModel) tell(c *courier, r *run) {
	o := event.Outcome{Unit: r.unit, Result: r.result, Epoch: c.epoch, Uncertain: r.doubt || r.result == event.ResultLost}
	m.append(o)
	if m.rng.IntN(8) == 0 {
		m.append(o) // the answer of the store was lost
	}
}

// expire ends a unit by what somebody saw of it in the fold.
func (m *doubtModel) expire(u event.Unit) {
	o := event.Outcome{Unit: u, Result: event.ResultExpired}
	m.n.w.check(m.n.runner.View(context.Background(), foldName, func(v projection.View) error {
		w, err := getRow(v, u)
		if w != nil && m.rng.IntN(2) == 0 { // else it looked before the intent was there
			o.Uncertain = w.doubtful()
		}
		return err
	}))
	m.append(o)
}

func (m *doubtModel) append(o event.Outcome) {
	ctx := context.Background()
	pos, err := m.n.log.Append(ctx, event.Event{ID: event.NewID(), Tenant: m.n.w.tenant, Fact: &event.DeliverySettled{Outcomes: []event.Outcome{o}}})
	m.n.w.check(err)
	m.n.w.check(m.n.runner.WaitFor(ctx, foldName, pos))
}

// judge compares what is recorded of a unit with what its recipient has.
func (m *doubtModel) judge(u event.Unit) {
	os := m.n.outcomes(u)
	var end event.Result
	marked, held := false, false
	for _, o := range os {
		if end == 0 {
			marked = marked || o.Uncertain || o.Result == event.ResultLost
			switch o.Result {
			case event.ResultHeld:
				held = true
			case event.ResultDelivered, event.ResultBounced, event.ResultExpired:
				end = o.Result
			}
			continue
		}
		marked = marked || o.Doubts(end) || end != event.ResultDelivered && o.Result == event.ResultLost
	}
	have := m.copies[u]
	switch {
	case end == 0 && !held:
		m.n.w.t.Errorf("%v has no end: %+v", u, os)
	case !marked && end == event.ResultDelivered && have != 1, !marked && end != event.ResultDelivered && have != 0:
		m.n.w.t.Errorf("%v is there %d times, %v, unmarked: %+v", u, have, end, os)
	case end == event.ResultDelivered && have == 0:
		m.n.w.t.Errorf("%v is lost: %+v", u, os)
	}
}
