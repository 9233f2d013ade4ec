package delivery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/event"
	"holdfast/projection"
)

// maxOrder is how many items one order event holds.
const maxOrder = 2000

// Order is what an administrator wants delivered again, of one tenant.
type Order struct {
	Tenant event.Tenant
	Who    string
	Items  []event.Redelivery
	To     string    // replaces the recipients, or empty
	Until  event.Day // when items that are still due expire
}

// Receipt is how a redelivery of one item stands.
type Receipt struct {
	Item event.Redelivery
	Unit event.Unit
	// Outcome is nil as long as none is known.
	Outcome *event.Outcome
	// Already: the item was due anyhow, so that nothing was ordered.
	Already bool
}

// Due reports for each item whether its original unit is still due: it will be
// delivered without being ordered again.
func (s *Service) Due(ctx context.Context, items []event.Redelivery) ([]bool, error) {
	due := make([]bool, len(items))
	err := s.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		for i, it := range items {
			w, err := getRow(v, event.Unit{Source: it.Message.ID, N: it.N})
			if err != nil {
				return err
			}
			due[i] = w != nil && w.State == stateDue
		}
		return nil
	})
	return due, err
}

// Redeliver orders items to be delivered again and waits up to wait for their
// outcomes. The orders are durable when it returns without an error; a receipt
// without an outcome is still queued. Items that are due anyhow are not ordered
// again unless they go to somebody else, but are waited for, too. When
// [eventlog.ErrTimeout] is returned, some may have been ordered.
func (s *Service) Redeliver(ctx context.Context, o Order, wait time.Duration) ([]Receipt, error) {
	receipts := make([]Receipt, len(o.Items))
	w := newWatch(s)
	defer w.end()
	var due []bool
	if o.To == "" {
		for i, it := range o.Items {
			w.on(event.Unit{Source: it.Message.ID, N: it.N}, i)
		}
		var err error
		if due, err = s.Due(ctx, o.Items); err != nil {
			return nil, err
		}
	}
	var ordered []int
	for i, it := range o.Items {
		receipts[i].Item = it
		if due != nil && due[i] {
			receipts[i].Already = true
			receipts[i].Unit = event.Unit{Source: it.Message.ID, N: it.N}
			continue
		}
		ordered = append(ordered, i)
	}
	for part := range slices.Chunk(ordered, maxOrder) {
		ev := event.Event{ID: event.NewID(), Tenant: o.Tenant}
		fact := &event.RedeliveryOrdered{At: s.log.Millis(), Who: o.Who, To: o.To, Until: o.Until}
		for n, i := range part {
			fact.Items = append(fact.Items, o.Items[i])
			receipts[i].Unit = event.Unit{Source: ev.ID, N: uint32(n)}
			w.on(receipts[i].Unit, i)
		}
		ev.Fact = fact
		if _, err := s.log.Append(ctx, ev); err != nil {
			return nil, fmt.Errorf("order redelivery: %w", err)
		}
	}
	w.await(ctx, receipts, wait)
	return receipts, nil
}

// watch gathers what becomes of units, for one caller of Redeliver.
type watch struct {
	svc  *Service
	bell chan struct{}

	mu    sync.Mutex
	index map[event.Unit]int // of the receipt
	news  []news
}

type news struct {
	receipt int
	settled *Settled    // nil when
	instead *event.Unit // another unit stands for it
}

func newWatch(s *Service) *watch {
	return &watch{svc: s, bell: make(chan struct{}, 1), index: map[event.Unit]int{}}
}

// on begins to watch a unit.
func (w *watch) on(u event.Unit, receipt int) {
	w.svc.mu.Lock()
	defer w.svc.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index[u] = receipt
	w.svc.watches[u] = append(w.svc.watches[u], w)
}

// tell is told how an attempt for a watched unit ended. It does not block.
func (w *watch) tell(s Settled) {
	w.mu.Lock()
	w.news = append(w.news, news{receipt: w.index[s.Unit], settled: &s})
	w.mu.Unlock()
	signal(w.bell)
}

// alias is told that an ordered item goes on as its original unit.
func (w *watch) alias(a alreadyDue) {
	w.mu.Lock()
	i := w.index[a.Unit]
	w.index[a.Original] = i
	w.news = append(w.news, news{receipt: i, instead: &a.Original})
	w.mu.Unlock()
	signal(w.bell)
}

// end stops watching.
func (w *watch) end() {
	w.svc.mu.Lock()
	defer w.svc.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for u := range w.index {
		rest := slices.DeleteFunc(w.svc.watches[u], func(o *watch) bool { return o == w })
		if len(rest) == 0 {
			delete(w.svc.watches, u)
		} else {
			w.svc.watches[u] = rest
		}
	}
}

// await fills in outcomes as they come. A deferral is told, but may be followed
// by something better as long as there is time.
func (w *watch) await(ctx context.Context, receipts []Receipt, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	open := map[int]bool{}
	for i := range receipts {
		open[i] = true
	}
	for len(open) > 0 {
		select {
		case <-w.bell:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		all := w.news
		w.news = nil
		w.mu.Unlock()
		for _, n := range all {
			n.enter(&receipts[n.receipt], open)
		}
	}
}

func (n news) enter(r *Receipt, open map[int]bool) {
	if n.instead != nil {
		r.Already, r.Unit = true, *n.instead
		return
	}
	if n.settled.Unit != r.Unit {
		return // its original unit ended before it was ordered
	}
	o := n.settled.Outcome
	if !open[n.receipt] {
		// It had ended, and may have gone out once more.
		r.Outcome.Uncertain = r.Outcome.Uncertain || o.Doubts(r.Outcome.Result)
		return
	}
	r.Outcome = &o
	switch o.Result {
	case event.ResultDeferred, event.ResultLost:
	default:
		delete(open, n.receipt)
	}
}
