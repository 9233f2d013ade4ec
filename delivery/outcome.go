package delivery

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/projection"
)

// maxOpenIntents bounds the open intents of a unit. Each is of a worker that went
// away between a final dot and its record; should there be so many, the oldest
// are forgotten, and the unit is uncertain anyhow.
const maxOpenIntents = 64

// doubtful reports that the recipient may have the message already.
func (w *row) doubtful() bool { return w.Uncertain || len(w.Open) > 0 }

// settled takes note that the intent of an epoch has its outcome.
func (w *row) settled(epoch uint64) {
	if i := slices.Index(w.Open, epoch); i >= 0 {
		w.Open = slices.Delete(w.Open, i, i+1)
	}
}

// applyOutcome takes an observation of a tenant's unit, whoever made it. It settles
// the intent that it names: another one stays open.
func applyOutcome(tx projection.Txn, t event.Tenant, o event.Outcome) error {
	w, err := getRow(tx, o.Unit)
	if err != nil || w == nil {
		return err // it has come to its end before, and in no doubt but a marked one
	}
	if w.Tenant != t {
		return nil // it would be gone with that tenant's log
	}
	tx.Emit(Settled{Unit: o.Unit, Outcome: o, Tenant: w.Tenant, Message: w.Message, Rcpt: w.Rcpt})
	w.settled(o.Epoch)
	if w.State == stateEnded {
		return settleEnded(tx, o, w)
	}
	switch o.Result {
	case event.ResultDelivered, event.ResultBounced, event.ResultExpired:
		return end(tx, o, w)
	case event.ResultDeferred, event.ResultLost, event.ResultHeld:
	default:
		return fmt.Errorf("outcome of unknown kind %d", o.Result)
	}
	w.Uncertain = w.Uncertain || o.Uncertain || o.Result == event.ResultLost
	if w.State == stateHeld {
		setRow(tx, o.Unit, w)
		return nil
	}
	if err := unqueue(tx, o.Unit, w); err != nil {
		return err
	}
	w.Attempts++
	w.RetryAt = max(o.RetryAt, 1)
	w.Refused = o.Code/100 == 5
	if o.Result == event.ResultHeld {
		w.State = stateHeld
	}
	return enqueue(tx, o.Unit, w)
}

// end ends a unit. It leaves the queue for good when nobody else was at it, and
// also when it is said here that the recipient may have it twice. Otherwise the
// other's intent must be settled first: the end that was recorded is a certain
// one.
func end(tx projection.Txn, o event.Outcome, w *row) error {
	if err := postEnd(tx, w, o); err != nil {
		return err
	}
	if len(w.Open) == 0 || o.Uncertain {
		return removeUnit(tx, o.Unit, w)
	}
	if err := unqueue(tx, o.Unit, w); err != nil {
		return err
	}
	w.State, w.End = stateEnded, o.Result
	return enqueue(tx, o.Unit, w)
}

// settleEnded takes what is said of a unit after its end.
func settleEnded(tx projection.Txn, o event.Outcome, w *row) error {
	doubts := o.Doubts(w.End)
	if doubts {
		if err := postDoubt(tx, w); err != nil {
			return err
		}
	}
	if doubts || len(w.Open) == 0 {
		return removeUnit(tx, o.Unit, w)
	}
	setRow(tx, o.Unit, w)
	return nil
}

// loadEnded looks for units that have ended while an intent of a former holder
// of the lease was open.
func (rt *route) loadEnded(v projection.View) error {
	w := &rt.window
	w.endedMore = false
	for it, err := range v.Scan(queuePrefix(keyEnded, rt.queue()), nil, false) {
		if err != nil {
			return err
		}
		id := parseUnit(it.Value)
		r, err := getRow(v, id)
		if err != nil {
			return err
		}
		former := func(epoch uint64) bool { return epoch < rt.epoch }
		if r == nil || !slices.ContainsFunc(r.Open, former) {
			continue
		}
		if w.loaded[id] || len(w.ended) == maxSweep {
			w.endedMore = true // this node is at it, too, or it is one of too many
			continue
		}
		u := unit{id, *r}
		w.take(u)
		w.ended = append(w.ended, newGroup(u))
	}
	return nil
}

// abandon settles, as lost, the intents of workers that no longer have the
// lease, where the unit has ended by somebody else's word: perhaps their final
// dot went out, and then the recipient has the message twice.
func (rt *route) abandon(late context.Context, wg *sync.WaitGroup) {
	w := &rt.window
	if rt.epoch == 0 || rt.holder.epoch() != rt.epoch {
		return
	}
	for len(w.ended) > 0 && rt.open < maxOpen {
		g := w.ended[0]
		w.ended[0] = nil
		w.ended = w.ended[1:]
		g.known = true // it is for nobody any more
		rt.begin(g, wg, func(epoch uint64) progress {
			late := g.turn(late, "abandon")
			e := &entry{expiry: g.first().Expiry}
			for _, u := range g.units {
				for _, open := range u.row.Open {
					if open < epoch {
						e.add(event.Outcome{
							Unit: u.id, Result: event.ResultLost, Phase: uint8(smtpc.PhaseDot), Uncertain: true, Epoch: open,
						}, "")
					}
				}
			}
			rt.record(late, g, nil, e, nil, try{}, false)
			return progress{}
		})
	}
}
