package delivery

import (
	"cmp"
	"encoding/binary"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

// foldName is the name of the delivery projection.
const foldName = "delivery"

// The keys of the projection. A unit that has come to its end has none: the
// queue is as large as what is in it.
//
//	u <source 16> <n 4>                        a unit: row
//	d <queue> <position 13> <n 4> ...          a unit that was never deferred
//	r <queue> <retry at 8> <position> ...      a unit that waits for its time
//	H <queue> <position> <n 4> ...             a unit that is held
//	E <queue> <position> <n 4> ...             a unit that has ended, but for an open intent
//	c <tenant 16> <route>                      number of due units
//	C <tenant 16> <route>                      number of held units
//	h <tenant 16> <domain>                     the newest HealthChanged
//	e <tenant 16>                              the newest epoch of an intent
//	b ...                                      the ledger, see ledger.go
//	m <message 16> <source 16> <n 4>           a unit of an order, by its message
//	x <tenant 16> <day 4> <route>              number of units in the queue that expire on a day
//	D <tenant 16>                              the last day that was condemned
//	w <tenant 16>                              sweepRow: how far the units of a day that has expired are ended
//
// where <queue> is <tenant 16> <len> <route>. The values of d, r, H and E are the
// unit, and what [entryOf] adds.
const (
	keyUnit   = 'u'
	keyFresh  = 'd'
	keyRetry  = 'r'
	keyPark   = 'H'
	keyEnded  = 'E'
	keyDue    = 'c'
	keyHeld   = 'C'
	keyHealth = 'h'
	keyEpoch  = 'e'
	keyOrder  = 'm'
	keyDays   = 'x'
	keyOver   = 'D'
	keySweep  = 'w'
)

type unitState uint8

const (
	stateDue  unitState = 1
	stateHeld unitState = 2
	// stateEnded: it has come to its end for certain, while another worker's
	// intent was open. It is kept until it is known what became of that.
	stateEnded unitState = 3
)

// row is what is known about a unit that has not come to its end. It holds
// nothing derived from mail: who the recipient is stands in the message.
type row struct {
	Tenant    event.Tenant `cbor:"1,keyasint"`
	Message   event.Ref    `cbor:"2,keyasint"` // the message's id, and the place where it is read
	Rcpt      uint32       `cbor:"3,keyasint"` // which of its recipients
	Route     string       `cbor:"4,keyasint"`
	Expiry    event.Day    `cbor:"5,keyasint"`
	State     unitState    `cbor:"6,keyasint"`
	Attempts  uint32       `cbor:"7,keyasint,omitempty"`
	RetryAt   event.Millis `cbor:"8,keyasint,omitempty"`
	Uncertain bool         `cbor:"9,keyasint,omitempty"`
	// Open are the epochs of the intents without an outcome, the oldest first.
	Open []uint64 `cbor:"10,keyasint,omitempty"`
	// To replaces the recipient, for a redelivery to somebody else.
	To string `cbor:"11,keyasint,omitempty"`
	// Place orders the unit in its queue: where the event that made it stands.
	Place event.Position `cbor:"12,keyasint"`
	// Quiet: a failure is not told to the sender, to whom the message was
	// delivered, bounced or reported before.
	Quiet bool `cbor:"13,keyasint,omitempty"`
	// Refused: the last answer was a permanent refusal that was not believed
	// yet. Such a unit holds back nobody.
	Refused bool `cbor:"14,keyasint,omitempty"`
	// Day and Again are where the unit is entered in the ledger: by the day of its
	// acceptance, or of the order that made it.
	Day   event.Day `cbor:"15,keyasint"`
	Again bool      `cbor:"16,keyasint,omitempty"`
	// End is how a unit ended that is kept for an open intent.
	End event.Result `cbor:"17,keyasint,omitempty"`
	// Kept is the id of the event at the message's place, when that is a Kept.
	Kept event.ID `cbor:"18,keyasint,omitzero"`
}

// at returns the event in which the unit's message is read.
func (w *row) at() event.Ref { return event.Redelivery{Message: w.Message, Kept: w.Kept}.At() }

// The values that the fold emits.
type (
	// dueEmission says that a route has something to deliver, or later.
	dueEmission struct {
		Queue queue
		Retry bool
	}
	// verdict answers an intent, unit by unit.
	verdict []opinion
	// opinion says whether a unit's final dot may be sent, and whether it may have
	// been delivered before.
	opinion struct{ OK, Uncertain bool }
	// endedEmission says that a unit of a route has ended with an open intent.
	endedEmission struct{ Queue queue }
	// alreadyDue says that an item of an order is no unit of its own, because the
	// original unit is still due.
	alreadyDue struct{ Unit, Original event.Unit }
	// Settled tells how an attempt for a unit ended.
	Settled struct {
		Unit    event.Unit
		Outcome event.Outcome
		Tenant  event.Tenant
		Message event.Ref
		Rcpt    uint32
	}
	// healthEmission tells of a new state of a domain.
	healthEmission struct {
		Tenant  event.Tenant
		Changed *event.HealthChanged
	}
)

// fold is the delivery projection.
type fold struct {
	// atOnce is how many units one event ends when a day has expired. It is constant
	// for a version.
	atOnce int
}

// newFold ends so many that it takes some 50 ms.
func newFold() fold { return fold{atOnce: 1000} }

// Name implements projection.Projection.
func (fold) Name() string { return foldName }

// Version implements projection.Projection.
func (fold) Version() int { return 9 }

// ReadsVersion implements projection.OldReader: the units of version 1 belong to
// no account, those of version 2 know of one intent only, the entries of the queue
// of version 3 do not say where they are entered, those of version 4 not when they
// expire, and the ledger of version 5 and the queues of version 7 not whose the mail
// is.
func (fold) ReadsVersion(v int) bool { return v >= 8 }

// Apply implements projection.Projection.
func (f fold) Apply(tx projection.Txn, r eventlog.Recorded) error {
	switch e := r.Fact.(type) {
	case *event.MessageAccepted:
		return applyAccepted(tx, r, e)
	case *event.Repudiated:
		return applyRepudiated(tx, e)
	case *event.DeliveryIntended:
		return applyIntended(tx, r, e)
	case *event.DeliverySettled:
		for _, o := range e.Outcomes {
			if err := applyOutcome(tx, r.Tenant, o); err != nil {
				return err
			}
		}
	case *event.RedeliveryOrdered:
		return applyOrdered(tx, r, e)
	case *event.HealthChanged:
		tx.Set(healthKey(r.Tenant, e.Domain), event.Marshal(e))
		tx.Emit(healthEmission{r.Tenant, e})
	default:
		return f.applyRetention(tx, r)
	}
	return nil
}

// applyAccepted makes a unit of each recipient. It does not need what dies with
// the mail: a unit whose day came while no node ran still gets its outcome.
func applyAccepted(tx projection.Txn, r eventlog.Recorded, f *event.MessageAccepted) error {
	routes, err := f.Carried()
	if err != nil {
		return err
	}
	w := row{
		Tenant: r.Tenant, Message: r.Ref, Expiry: r.Expiry, State: stateDue, Place: r.Ref.Position,
		Day: event.DayOf(millis(r.Time)),
	}
	for _, route := range routes {
		w.Route = routeOf(route.Domain, route.Outside)
		err := post(tx, &w, func(a *account) {
			a.Accepted += uint64(route.N)
			if f.Origin == event.OriginBounce {
				a.Notices += uint64(route.N)
			}
		})
		if err != nil {
			return err
		}
		for range route.N {
			if err := addUnit(tx, event.Unit{Source: r.Ref.ID, N: w.Rcpt}, w); err != nil {
				return err
			}
			w.Rcpt++
		}
	}
	return nil
}

func applyOrdered(tx projection.Txn, r eventlog.Recorded, f *event.RedeliveryOrdered) error {
	over, err := lastOver(tx, r.Tenant)
	if err != nil {
		return err
	}
	for i, item := range f.Items {
		u := event.Unit{Source: r.Ref.ID, N: uint32(i)}
		w := row{
			Tenant: r.Tenant, Message: item.Message, Kept: item.Kept, Rcpt: item.N, Route: routeOf(item.Domain, item.Outside),
			Expiry: cmp.Or(item.Expiry, f.Until), State: stateDue, To: f.To, Place: r.Ref.Position, Quiet: true,
			Day: event.DayOf(millis(r.Time)), Again: true,
		}
		var old *row
		if f.To == "" {
			var err error
			if old, err = resume(tx, u, &w); err != nil {
				return err
			}
			if old != nil && old.State == stateDue {
				continue
			}
		}
		if old == nil && item.Expiry != 0 && item.Expiry <= over {
			// It is too late for it, and it becomes no unit.
			tx.Emit(Settled{Unit: u, Outcome: event.Outcome{Unit: u, Result: event.ResultExpired}, Tenant: r.Tenant, Message: w.Message, Rcpt: w.Rcpt})
			continue
		}
		if old == nil {
			if err := post(tx, &w, func(a *account) { a.Accepted++ }); err != nil {
				return err
			}
		}
		if err := addUnit(tx, u, w); err != nil {
			return err
		}
	}
	return nil
}

// resume looks for the original of an ordered unit, and returns its row; nil
// when it has come to its end. One that is due stays as it is, for somebody may
// be at it; one that is held goes on as the order's unit, in the same account.
func resume(tx projection.Txn, u event.Unit, w *row) (*row, error) {
	original := event.Unit{Source: w.Message.ID, N: w.Rcpt}
	old, err := getRow(tx, original)
	if err != nil || old == nil || old.Tenant != w.Tenant {
		return nil, err
	}
	if old.State == stateDue {
		tx.Emit(alreadyDue{Unit: u, Original: original})
		return old, nil
	}
	w.Uncertain = old.doubtful()
	if old.State == stateEnded {
		return nil, nil
	}
	w.Quiet, w.Route, w.Day, w.Again = old.Quiet, old.Route, old.Day, old.Again
	w.Message, w.Kept, w.Expiry = old.Message, old.Kept, old.Expiry
	return old, removeUnit(tx, original, old)
}

func applyRepudiated(tx projection.Txn, f *event.Repudiated) error {
	prefix := append([]byte{keyUnit}, f.Message[:]...)
	var units []event.Unit
	for it, err := range tx.Scan(prefix, nil, false) {
		if err != nil {
			return err
		}
		units = append(units, parseUnit(it.Key[1:]))
	}
	for _, u := range units {
		w, err := getRow(tx, u)
		if err != nil {
			return err
		}
		if w.State != stateEnded {
			if err := post(tx, w, func(a *account) { a.Repudiated++ }); err != nil {
				return err
			}
		}
		if err := removeUnit(tx, u, w); err != nil {
			return err
		}
	}
	return nil
}

// applyIntended gives the verdict on an intent. It is refused when a later
// holder of the lease has spoken, and for units that are not due any more, or are
// another tenant's: so two workers never send the same unit knowingly.
func applyIntended(tx projection.Txn, r eventlog.Recorded, f *event.DeliveryIntended) error {
	key := append([]byte{keyEpoch}, r.Tenant[:]...)
	raw, err := tx.Get(key)
	if err != nil {
		return err
	}
	var newest uint64
	if len(raw) == 8 {
		newest = binary.BigEndian.Uint64(raw)
	}
	v := make(verdict, len(f.Units))
	if f.Epoch < newest {
		tx.Emit(v)
		return nil
	}
	for i, u := range f.Units {
		w, err := getRow(tx, u)
		if err != nil {
			return err
		}
		if w == nil || w.Tenant != r.Tenant || w.State != stateDue {
			continue
		}
		w.Uncertain = w.doubtful()
		if len(w.Open) == maxOpenIntents {
			w.Open = w.Open[1:]
		}
		w.Open = append(w.Open, f.Epoch)
		v[i] = opinion{OK: true, Uncertain: w.Uncertain}
		setRow(tx, u, w)
	}
	if f.Epoch > newest {
		tx.Set(key, binary.BigEndian.AppendUint64(nil, f.Epoch))
	}
	tx.Emit(v)
	return nil
}

// take returns what is said about the next n units.
func (v *verdict) take(n int) []opinion {
	n = min(n, len(*v))
	some := (*v)[:n]
	*v = (*v)[n:]
	return some
}

func addUnit(tx projection.Txn, u event.Unit, w row) error {
	if u.Source != w.Message.ID {
		tx.Set(orderKey(u, &w), []byte{1})
	}
	return enqueue(tx, u, &w)
}

func removeUnit(tx projection.Txn, u event.Unit, w *row) error {
	tx.Delete(unitKey(u))
	if u.Source != w.Message.ID {
		tx.Delete(orderKey(u, w))
	}
	return unqueue(tx, u, w)
}

// enqueue stores a unit's row and its place among the due, the held or the
// ended.
func enqueue(tx projection.Txn, u event.Unit, w *row) error {
	setRow(tx, u, w)
	if !sabotage.On(sabotage.QueueDropped) || u.Source[0]%4 != 0 {
		tx.Set(queueKey(u, w), entryOf(u, w))
	}
	if w.State != stateEnded {
		if err := countDay(tx, w, 1); err != nil {
			return err
		}
	}
	switch w.State {
	case stateHeld:
		return count(tx, keyHeld, w.queue().key(), 1)
	case stateEnded:
		tx.Emit(endedEmission{w.queue()})
		return nil
	}
	tx.Emit(dueEmission{Queue: w.queue(), Retry: w.RetryAt != 0})
	return count(tx, keyDue, w.queue().key(), 1)
}

func unqueue(tx projection.Txn, u event.Unit, w *row) error {
	tx.Delete(queueKey(u, w))
	if w.State != stateEnded {
		if err := countDay(tx, w, -1); err != nil {
			return err
		}
	}
	switch w.State {
	case stateHeld:
		return count(tx, keyHeld, w.queue().key(), -1)
	case stateEnded:
		return nil
	}
	return count(tx, keyDue, w.queue().key(), -1)
}

func count(tx projection.Txn, kind byte, of string, by int64) error {
	key := append([]byte{kind}, of...)
	n, err := getCount(tx, kind, of)
	if err != nil {
		return err
	}
	if n += by; n == 0 {
		tx.Delete(key)
		return nil
	}
	tx.Set(key, binary.BigEndian.AppendUint64(nil, uint64(n)))
	return nil
}

func getCount(v projection.View, kind byte, of string) (int64, error) {
	raw, err := v.Get(append([]byte{kind}, of...))
	if err != nil || len(raw) != 8 {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(raw)), nil
}

func getRow(v projection.View, u event.Unit) (*row, error) {
	raw, err := v.Get(unitKey(u))
	if err != nil || raw == nil {
		return nil, err
	}
	w := new(row)
	return w, event.Unmarshal(raw, w)
}

func setRow(tx projection.Txn, u event.Unit, w *row) { tx.Set(unitKey(u), event.Marshal(w)) }

func unitKey(u event.Unit) []byte { return appendUnit([]byte{keyUnit}, u) }

func appendUnit(b []byte, u event.Unit) []byte {
	b = append(b, u.Source[:]...)
	return binary.BigEndian.AppendUint32(b, u.N)
}

// unitLen is the length of what appendUnit adds.
const unitLen = 20

func parseUnit(b []byte) event.Unit {
	return event.Unit{Source: event.ID(b[:16]), N: binary.BigEndian.Uint32(b[16:20])}
}

func healthKey(t event.Tenant, domain string) []byte {
	return append(append([]byte{keyHealth}, t[:]...), domain...)
}
