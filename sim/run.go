package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"holdfast/directory"
	"holdfast/node"
	"holdfast/objstore/mem"
	"holdfast/projection"
	"holdfast/sim/check"
	"holdfast/sim/world"
)

// Plan is what a world is made of, and what befalls it.
type Plan struct {
	Nodes      int
	Partitions int
	Storm      time.Duration // how long there are faults
	Size       world.Size
	faults     rates
}

// PlanOf returns the plan of a seed. No two worlds are struck by the same
// troubles: each kind is absent from most of them, so that what it hides in one
// shows in another.
func PlanOf(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 2))
	p := Plan{Nodes: 1 + r.IntN(3), Partitions: 1 + r.IntN(2), Size: world.Small()}
	p.Storm = 20*time.Second + time.Duration(r.Int64N(int64(4*time.Minute)))
	some := func(percent int, most float64) float64 {
		x := most * r.Float64()
		if r.IntN(100) >= percent {
			return 0
		}
		return x
	}
	p.faults = rates{
		before: some(50, 0.1), lost: some(50, 0.1), hang: some(30, 0.02), late: some(50, 0.1), torn: some(30, 0.05),
		stale: some(30, 0.3), keys: some(20, 0.05), cut: some(50, 0.02), dialHang: some(30, 0.1),
		stall: some(40, 0.01), kill: some(60, 0.002), stop: some(30, 0.0005), skew: some(30, 1), outage: some(40, 0.002),
	}
	return p
}

// Result is how a world ended.
type Result struct {
	Trace  []string
	Steps  int
	Twins  map[string]int
	Took   time.Duration // by the world's clock
	Report string        // what was wrong; empty for nothing
	Note   string        // what happened, in short
}

// Run lives through a world, inside a synctest bubble. Random bytes must come
// from the seed already.
// look is given the world before it begins; it may be nil.
func Run(seed uint64, plan Plan, log *slog.Logger, look func(*World)) (res Result) {
	order := new(check.Order)
	recorder := check.NewRecorder(mem.New(), order)
	w := New(seed, plan, recorder, order)
	w.Log = log
	if look != nil {
		look(w)
	}
	var names []string
	for _, m := range w.machines {
		names = append(names, m.name)
	}
	town := world.New(world.Config{
		Seed: seed, Order: order, Nodes: names, Size: plan.Size,
		Net: func(name string) world.Network {
			h := w.net.host(name, name)
			return world.Network{Dial: h.Dial, Listen: h.Listen}
		},
		Admin: func(i int) http.Handler { return w.machines[i].admin() },
	})
	evidence, err := w.live(town)
	err = errors.Join(err, w.end())
	res = Result{Trace: w.Trace, Steps: w.Steps, Twins: w.Twins, Took: time.Since(w.began)}
	if err != nil {
		res.Report = err.Error()
		return res
	}
	evidence.Bucket, evidence.Recorder, evidence.Keys, evidence.URL = recorder, recorder, w.root, "sim:"
	evidence.LeastDays, evidence.MostDays, evidence.Bounds = world.LeastDays, world.MostDays, check.DefaultBounds()
	evidence.History = town.History()
	evidence.History.Kills = w.kills
	found, err := check.Judge(context.Background(), evidence)
	if err != nil {
		res.Report = "judge: " + err.Error()
		return res
	}
	res.Note = check.Report(nil, &evidence.History)
	if len(found) > 0 {
		res.Report = check.Report(found, &evidence.History)
	}
	return res
}

// live goes through the ages of a world: it is set up, a storm passes, it comes
// to rest, and is asked how it is.
func (w *World) live(town *world.World) (check.Evidence, error) {
	if err := w.setUp(town); err != nil {
		return check.Evidence{}, err
	}
	if w.Settled != nil {
		w.Settled()
	}
	w.faults.rates = w.plan.faults
	w.faults.on.Store(true)
	for _, a := range town.Actors() {
		w.Go(a.Name, a.Run)
	}
	w.drive(w.plan.Storm, func() bool { return false })
	w.line("  calm")
	w.faults.on.Store(false)
	w.calmClocks()
	town.Calm()
	if !w.drive(3*time.Hour, town.Done) {
		return check.Evidence{}, fmt.Errorf("still busy: %s", strings.Join(town.Busy(), ", "))
	}
	if why := ""; !w.drive(2*time.Hour, w.every(time.Second, func() bool { why = w.unrest(); return why == "" })) {
		return check.Evidence{}, fmt.Errorf("the world does not come to rest: %s", why)
	}
	w.line("  rest")
	for _, a := range town.Probes() {
		over := false
		w.Go(a.Name, func(ctx context.Context) { a.Run(ctx); over = true })
		if !w.drive(time.Hour, func() bool { return over }) {
			return check.Evidence{}, fmt.Errorf("%s does not end", a.Name)
		}
	}
	why := ""
	if !w.drive(time.Hour, w.every(time.Second, func() bool { why = w.unrest(); return why == "" })) {
		return check.Evidence{}, fmt.Errorf("the world does not come to rest again: %s", why)
	}
	return w.evidence()
}

// setUp starts the nodes and makes the domains.
func (w *World) setUp(town *world.World) error {
	if !w.drive(time.Minute, w.Ready) {
		return errNotReady
	}
	var err error
	over := false
	w.Go("setup", func(ctx context.Context) {
		err = w.apply(ctx, town.File())
		over = true
	})
	if !w.drive(time.Minute, func() bool { return over }) || err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if !w.drive(time.Minute, w.every(time.Second, func() bool { return w.behind() == "" })) {
		return errors.New("the nodes do not learn of the domains: " + w.behind())
	}
	return nil
}

func (w *World) apply(ctx context.Context, f directory.File) error {
	body, err := json.Marshal(node.ApplyRequest{File: f})
	if err != nil {
		return err
	}
	rec := httptest.NewRecorder()
	w.machines[0].admin().ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodPost, "/apply", bytes.NewReader(body)))
	if rec.Code != http.StatusOK {
		return fmt.Errorf("%d: %s", rec.Code, rec.Body)
	}
	return nil
}

// every returns a condition that is looked at once in a while only.
func (w *World) every(d time.Duration, cond func() bool) func() bool {
	next := time.Now()
	return func() bool {
		if time.Now().Before(next) {
			return false
		}
		next = time.Now().Add(d)
		return cond()
	}
}

// unrest says what is not at rest, or nothing.
func (w *World) unrest() string {
	if why := w.behind(); why != "" {
		return why
	}
	for _, m := range w.machines {
		for _, d := range m.life.node.Status(context.Background()).Domains {
			if d.Queued != 0 || d.Outbound != 0 || d.Held != 0 || d.State != "up" {
				return fmt.Sprintf("%s: %s is %s, %d queued, %d out, %d held", m.name, d.Name, d.State, d.Queued, d.Outbound, d.Held)
			}
		}
	}
	return ""
}

// behind says which node is not ready, or has not folded all there is.
func (w *World) behind() string {
	for _, m := range w.machines {
		l := m.life
		if l == nil || !l.isReady() {
			return m.name + " is not ready"
		}
		s := l.node.Status(context.Background())
		for _, p := range s.Projections {
			if p.Lag != 0 || p.Rebuilding {
				return fmt.Sprintf("%s: %s is behind by %d", m.name, p.Name, p.Lag)
			}
			if p.Stopped != "" {
				return fmt.Sprintf("%s: %s has stopped: %s", m.name, p.Name, p.Stopped)
			}
		}
		for i, tail := range s.Log.Tails {
			if other := w.machines[0]; other.life != nil && other.life.isReady() {
				if o := other.life.node.Status(context.Background()); o.Log.Tails[i] != tail {
					return fmt.Sprintf("%s is at %d of partition %d, %s at %d", m.name, tail, i, other.name, o.Log.Tails[i])
				}
			}
		}
	}
	if n := w.bucket.flying.Load(); n > 0 {
		return fmt.Sprintf("%d changes land late", n)
	}
	return ""
}

// evidence asks every node, one that begins with the log alone, and one that
// begins with the Bases of a node that has lived through it all.
func (w *World) evidence() (e check.Evidence, err error) {
	if err := w.begin("rebuilt"); err != nil {
		return e, err
	}
	over := false
	w.Go("bases", func(ctx context.Context) { err = w.machines[0].life.node.TakeBases(ctx); over = true })
	if !w.drive(time.Minute, func() bool { return over }) || err != nil {
		return e, fmt.Errorf("no Bases are taken: %w", err)
	}
	if err := w.begin("based"); err != nil {
		return e, err
	}
	e.Stores = map[string]projection.Store{}
	for _, m := range w.machines {
		n := m.life.node
		folds, err := n.Folds(context.Background())
		if err != nil {
			return e, err
		}
		e.Nodes = append(e.Nodes, check.NodeState{Name: m.name, Folds: folds, Status: n.Status(context.Background())})
		e.Stores[m.name] = m.keep
	}
	return e, nil
}

// begin adds a node that has nothing, and waits until it has folded everything.
func (w *World) begin(name string) error {
	w.machines = append(w.machines, &machine{w: w, name: name, keep: projection.NewMemStore()})
	if !w.drive(time.Minute, w.every(time.Second, func() bool { return w.unrest() == "" })) {
		return fmt.Errorf("the node %s, which begins with nothing, does not get ready: %s", name, w.unrest())
	}
	return nil
}

// calmClocks sets all clocks about right.
func (w *World) calmClocks() {
	for _, m := range w.machines {
		if s := time.Duration(m.skew.Load()); s > time.Minute || s < -time.Minute {
			m.skew.Store(int64(time.Duration(w.rng.Int64N(int64(2*time.Second))) - time.Second))
		}
	}
}
