package year

import (
	"strings"
	"sync"
	"time"
)

// nap makes one of the nodes stand still in the middle of a night's work: from one
// of its steps on all its requests wait, while the other one takes the work over;
// and then it goes on where it was, after its lease.
type nap struct {
	at   int           // at which of a node's steps, from 1
	long time.Duration // how long

	mu      sync.Mutex
	sleeper *keeper
	steps   map[*keeper]int
	until   time.Time
	what    string // the step
}

// counts says whether a request is a step of a night's work: a change of the
// bucket, but for leases of deliveries and checkpoints, which come by the clock.
func counts(op, key string) bool {
	return (op == "put" || op == "delete") && !strings.HasPrefix(key, "lease/deliver") && !strings.HasPrefix(key, "checkpoint/") && !strings.HasPrefix(key, "probe/")
}

// lieDown arms a nap, in which the first node falls that comes so far.
func (w *World) lieDown(at int, long time.Duration) *nap {
	n := &nap{at: at, long: long, steps: map[*keeper]int{}}
	for _, k := range w.keepers {
		k.meter.Hook(func(op, key string) error { n.before(k, op, key); return nil }, nil)
	}
	return n
}

func (n *nap) before(k *keeper, op, key string) {
	n.mu.Lock()
	if counts(op, key) {
		n.steps[k]++
		if n.sleeper == nil && n.steps[k] == n.at {
			n.sleeper, n.until, n.what = k, time.Now().Add(n.long), op+" "+key
		}
	}
	var wait time.Duration
	if n.sleeper == k {
		wait = time.Until(n.until)
	}
	n.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
}

// naps are how long: two workers at once, as the lease has just run out; and one
// who wakes when all is done.
var naps = []time.Duration{80 * time.Second, 5 * time.Minute, 40 * time.Minute}

// napping lets a night's work begin, with a nap in some nights.
func (w *World) napping(day int) *nap {
	if w.plan.Calm || day%3 != 1 {
		return nil
	}
	most := 60 // the work of a night with little mail
	if w.rng.IntN(2) == 0 {
		most += 4 * w.plan.Daily
	}
	return w.lieDown(1+w.rng.IntN(most), naps[w.rng.IntN(len(naps))])
}

// wakeUp waits until a nap is over and what was under way has come to its end.
func (w *World) wakeUp(n *nap) {
	if n == nil {
		return
	}
	n.mu.Lock()
	left := time.Until(n.until)
	n.mu.Unlock()
	if left > 0 {
		time.Sleep(left + 5*time.Minute)
	}
	for _, k := range w.keepers {
		k.meter.Hook(nil, nil)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sleeper == nil {
		return
	}
	w.Naps++
	w.tell("%s stood still for %v from %q on", n.sleeper.name, n.long, n.what)
}
