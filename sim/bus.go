package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bus is where everything waits whose order the seed decides. Its methods may be
// called by any goroutine of the bubble.
type Bus struct {
	arrived chan struct{} // something was parked

	mu     sync.Mutex // never held while anybody waits
	step   int
	parked []*ticket
	notes  []string
}

// ticket is one goroutine that waits for its turn.
type ticket struct {
	label  string
	prompt bool
	after  time.Time // it is not released earlier
	turn   chan *rand.Rand
}

func newBus() *Bus { return &Bus{arrived: make(chan struct{}, 1)} }

// Park waits until the seed releases the caller, and returns a generator for
// what is decided about it now.
func (b *Bus) Park(label string) *rand.Rand {
	return <-b.enter(label, false).turn
}

// ParkCtx is Park for a call that ends with ctx. When ctx ends first, that takes
// its turn too.
func (b *Bus) ParkCtx(ctx context.Context, label string) (*rand.Rand, error) {
	t := b.enter(label, false)
	select {
	case r := <-t.turn:
		return r, ctx.Err()
	case <-ctx.Done():
	}
	if !b.leave(t) {
		return <-t.turn, ctx.Err() // released in the same moment
	}
	r := <-b.enter(label+" given up", true).turn
	return r, ctx.Err()
}

// enter parks a ticket; a prompt one is never held up.
func (b *Bus) enter(label string, prompt bool) *ticket {
	t := &ticket{label: label, prompt: prompt, turn: make(chan *rand.Rand, 1)}
	b.mu.Lock()
	b.parked = append(b.parked, t)
	b.mu.Unlock()
	select {
	case b.arrived <- struct{}{}:
	default:
	}
	return t
}

// leave takes a ticket back. It reports false when it was released already.
func (b *Bus) leave(t *ticket) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.parked)
	b.parked = slices.DeleteFunc(b.parked, func(o *ticket) bool { return o == t })
	return len(b.parked) < n
}

// Order is a turn.Order.
func (b *Bus) Order(who, what string) { b.Park(who + " " + what) }

// Note adds a line to the trace's current step.
func (b *Bus) Note(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = append(b.notes, line)
}

// takeNotes returns what the step has noted, sorted: goroutines that run at the
// same time note in any order.
func (b *Bus) takeNotes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.notes
	b.notes = nil
	slices.Sort(n)
	return n
}

// ready returns what may be released at now, sorted by label, and when the next
// of the others may be.
func (b *Bus) ready(now time.Time) (ready []*ticket, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.parked {
		if t.after.After(now) {
			if next.IsZero() || t.after.Before(next) {
				next = t.after
			}
			continue
		}
		ready = append(ready, t)
	}
	slices.SortStableFunc(ready, func(x, y *ticket) int { return strings.Compare(x.label, y.label) })
	return ready, next
}

// release lets a ticket's goroutine go on.
func (b *Bus) release(t *ticket, seed uint64) {
	b.mu.Lock()
	b.step++
	b.mu.Unlock()
	if b.leave(t) {
		t.turn <- rand.New(rand.NewPCG(seed, 0x73696d))
	}
}
