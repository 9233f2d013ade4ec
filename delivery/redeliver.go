package delivery

import (
	"context"
	"fmt"
	"slices"
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
// again unless they go to somebody else.
func (s *Service) Redeliver(ctx context.Context, o Order, wait time.Duration) ([]Receipt, error) {
	receipts := make([]Receipt, len(o.Items))
	var due []bool
	if o.To == "" {
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
	settled := make(chan Settled, len(o.Items))
	byUnit := map[event.Unit]int{}
	defer func() { s.unwatch(byUnit, settled) }()
	for part := range slices.Chunk(ordered, maxOrder) {
		ev := event.Event{ID: event.NewID(), Tenant: o.Tenant}
		fact := &event.RedeliveryOrdered{At: s.log.Millis(), Who: o.Who, To: o.To, Until: o.Until}
		for n, i := range part {
			fact.Items = append(fact.Items, o.Items[i])
			u := event.Unit{Source: ev.ID, N: uint32(n)}
			receipts[i].Unit = u
			byUnit[u] = i
			s.watch(u, settled)
		}
		ev.Fact = fact
		if _, err := s.log.Append(ctx, ev); err != nil {
			return nil, fmt.Errorf("order redelivery: %w", err)
		}
	}
	s.await(ctx, receipts, byUnit, settled, wait)
	return receipts, nil
}

// await fills in outcomes as they come. A deferral is told, but may be followed
// by something better as long as there is time.
func (s *Service) await(ctx context.Context, receipts []Receipt, byUnit map[event.Unit]int, settled <-chan Settled, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	open := len(byUnit)
	for open > 0 {
		select {
		case st := <-settled:
			i, ok := byUnit[st.Unit]
			if !ok {
				continue
			}
			o := st.Outcome
			receipts[i].Outcome = &o
			switch o.Result {
			case event.ResultDeferred, event.ResultLost:
			default:
				open--
			}
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) watch(u event.Unit, c chan Settled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[u] = append(s.waiters[u], c)
}

func (s *Service) unwatch(units map[event.Unit]int, c chan Settled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for u := range units {
		rest := slices.DeleteFunc(s.waiters[u], func(o chan Settled) bool { return o == c })
		if len(rest) == 0 {
			delete(s.waiters, u)
		} else {
			s.waiters[u] = rest
		}
	}
}
