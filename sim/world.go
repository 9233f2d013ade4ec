package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/turn"
	"holdfast/node"
	"holdfast/objstore"
	"holdfast/projection"
	"holdfast/sim/check"
)

// World is one simulation. It is made, driven and ended by one goroutine of a
// synctest bubble; others run only while that one waits.
type World struct {
	Log     *slog.Logger // of the nodes; may be nil
	Verbose bool         // the trace tells what might have been
	Settled func()       // called before the storm; may be nil

	plan     Plan
	rng      *rand.Rand
	seed     uint64
	bus      *Bus
	faults   *faults
	net      *network
	bucket   *bucket
	root     *crypto.Root
	machines []*machine
	began    time.Time
	ending   bool

	Steps int
	Trace []string
	Twins map[string]int // labels that were not unique among what was parked

	Order *check.Order
	kills []check.Kill

	actors atomic.Int32
	ctx    context.Context // of actors
	cancel context.CancelFunc
}

// New makes a world in which nothing runs yet. inner is its store.
func New(seed uint64, plan Plan, inner objstore.Bucket, order *check.Order) *World {
	w := &World{Twins: map[string]int{}, plan: plan, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), bus: newBus(), faults: &faults{}, began: time.Now()}
	w.Order = order
	w.net = newNetwork(w.bus, w.faults)
	w.bucket = newBucket(w.bus, w.faults, inner)
	w.root = crypto.MemoryRoot(event.DayOf(time.Now()))
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for i := range plan.Nodes {
		m := &machine{w: w, name: fmt.Sprintf("n%d", i+1), keep: projection.NewMemStore(), roles: []string{node.RoleSMTP, node.RoleDeliver, node.RoleIMAP}}
		w.machines = append(w.machines, m)
	}
	return w
}

// Go starts an actor in a goroutine, on a machine of its own.
func (w *World) Go(name string, run func(ctx context.Context)) {
	w.actors.Add(1)
	ctx := turn.With(w.ctx, w.bus.Order, name)
	go func() {
		defer w.actors.Add(-1)
		turn.Take(ctx, "begin")
		run(ctx)
	}()
}

// drive lets the world go on until a condition holds, which is looked at between
// two steps; false when it does not within the limit.
func (w *World) drive(limit time.Duration, until func() bool) bool {
	end := time.Now().Add(limit)
	for {
		synctest.Wait()
		now := time.Now()
		if until() {
			w.note()
			return true
		}
		if now.After(end) {
			w.note()
			return false
		}
		for _, m := range w.machines {
			m.tend(now)
		}
		w.harm()
		w.note()
		w.step(end)
	}
}

// step releases one of what is parked, or lets time go on.
func (w *World) step(end time.Time) {
	synctest.Wait()
	ready, next := w.bus.ready(time.Now())
	if len(ready) == 0 {
		w.idle(next, end)
		return
	}
	// Time moves a little with every step, so that what happened one after
	// another has timers that fire one after another.
	time.Sleep(w.latency())
	synctest.Wait()
	ready, _ = w.bus.ready(time.Now())
	if len(ready) == 0 {
		return // given up meanwhile
	}
	t := ready[w.rng.IntN(len(ready))]
	if w.faults.strikes(w.rng, w.faults.stall) && !t.prompt {
		d := time.Duration(1 + w.rng.Int64N(int64(maxStall)))
		t.after = time.Now().Add(d)
		w.line(fmt.Sprintf("  %s waits %v", t.label, d))
		return
	}
	w.Steps++
	if w.Verbose {
		for _, t := range ready {
			w.line("    may: " + t.label)
		}
	}
	w.line(t.label)
	for _, o := range ready {
		if o != t && o.label == t.label {
			w.Twins[t.label]++
		}
	}
	w.bus.release(t, w.rng.Uint64())
}

// maxStall is how long a single call, or goroutine, may be held up.
const maxStall = 20 * time.Second

// maxSilence is how long the store may be silent.
const maxSilence = 100 * time.Second

// harm kills or stops a node, now and then, and silences the store.
func (w *World) harm() {
	f := w.faults
	if d := time.Duration(w.rng.Int64N(int64(maxSilence))); f.strikes(w.rng, f.outage) && !f.silent() {
		f.silence = time.Now().Add(d)
		w.bus.Note(fmt.Sprintf("the store is silent for %v", d))
	}
	m := w.machines[w.rng.IntN(len(w.machines))]
	kill, stop := w.faults.strikes(w.rng, w.faults.kill), w.faults.strikes(w.rng, w.faults.stop)
	switch {
	case m.life == nil:
	case kill:
		m.kill(w.rng)
	case stop && !m.life.stopping:
		m.stop()
	}
}

// idle waits until something is parked, or may be released.
func (w *World) idle(next, end time.Time) {
	wake := end
	earlier := func(t time.Time) {
		if t.After(time.Now()) && t.Before(wake) {
			wake = t
		}
	}
	earlier(next)
	for _, m := range w.machines {
		earlier(m.rest)
	}
	timer := time.NewTimer(time.Until(wake) + 1)
	defer timer.Stop()
	select {
	case <-w.bus.arrived:
	case <-timer.C:
	}
}

func (w *World) latency() time.Duration {
	most := 200 * time.Microsecond
	switch p := w.rng.IntN(100); {
	case p == 0:
		most = 100 * time.Millisecond
	case p < 10:
		most = 5 * time.Millisecond
	}
	return time.Duration(1 + w.rng.Int64N(int64(most)))
}

func (w *World) line(s string) {
	w.Trace = append(w.Trace, fmt.Sprintf("%.9f %s", time.Since(w.began).Seconds(), s))
}

// note writes what the last step has noted into the trace.
func (w *World) note() {
	for _, n := range w.bus.takeNotes() {
		w.line("  " + n)
	}
}

// end stops everything. It reports what did not stop.
func (w *World) end() error {
	w.faults.on.Store(false)
	w.ending = true
	w.cancel()
	for _, m := range w.machines {
		if m.life != nil {
			m.stop()
		}
	}
	over := func() bool {
		for _, m := range w.machines {
			if m.life != nil || len(m.old) > 0 {
				return false
			}
		}
		return w.actors.Load() == 0 && w.bucket.flying.Load() == 0
	}
	if w.drive(10*time.Minute, over) {
		return nil
	}
	var left []string
	ready, _ := w.bus.ready(time.Now().Add(time.Hour))
	for _, t := range ready {
		left = append(left, t.label)
	}
	return fmt.Errorf("the world does not end: parked %s", strings.Join(left, ", "))
}

// Ready reports whether every node is ready.
func (w *World) Ready() bool {
	for _, m := range w.machines {
		if m.life == nil || !m.life.isReady() {
			return false
		}
	}
	return true
}
