package check

import (
	"holdfast/event"
)

// ending is what an intent came to, as its own process recorded it.
type ending uint8

const (
	endOpen      ending = iota // nothing was recorded: the final dot may have been sent
	endLost                    // the answer never came
	endDelivered               // the next hop said 250
	endRefused                 // the next hop refused, or no dot was sent: nothing arrived
)

// mayHaveArrived reports whether an intent accounts for a copy at the next hop.
func (e ending) mayHaveArrived() bool { return e != endRefused }

// intent is one final dot that the log allowed.
type intent struct {
	at     *Entry
	end    ending
	doubt  bool // at its time, an earlier intent of the unit may have arrived
	ended  *Entry
	marked bool // its outcome says uncertain
}

// unitState is where a unit stands.
type unitState uint8

const (
	unitDue unitState = iota
	unitHeld
	unitDelivered
	unitBounced
	unitExpired
	unitRepudiated
	unitReplaced // an administrator's order goes on with it
)

func (s unitState) String() string {
	return [...]string{"due", "held", "delivered", "bounced", "expired", "repudiated", "replaced"}[s]
}

// unit is one message for one recipient, as the log's words make it out.
type unit struct {
	id       event.Unit
	message  event.ID
	path     string // of the recipient; empty once it has expired
	from     string
	quiet    bool // no bounce
	state    unitState
	intents  []intent
	delivers []*Entry // outcomes that say delivered
	bounced  []*Entry // that say bounced or expired
}

// docket is the units of a log. It is a model of the queue, written from the
// promises of package event: an intent counts when its lease is not older than
// one that has spoken and all its units are due; an outcome ends the last open
// intent of the process that recorded it.
type docket struct {
	units map[event.Unit]*unit
	order []*unit // as they came to be
}

func newDocket(l *Log) *docket {
	d := &docket{units: map[event.Unit]*unit{}}
	epochs := map[event.Tenant]uint64{}
	l.All(func(e *Entry) {
		switch f := e.Fact.(type) {
		case *event.MessageAccepted:
			d.accepted(e, f)
		case *event.RedeliveryOrdered:
			d.ordered(l, e, f)
		case *event.Repudiated:
			for _, u := range d.order {
				if u.id.Source == f.Message {
					u.state = unitRepudiated
				}
			}
		case *event.DeliveryIntended:
			if f.Epoch >= epochs[e.Tenant] && d.allDue(f.Units) {
				epochs[e.Tenant] = f.Epoch
				for _, id := range f.Units {
					d.units[id].intend(e)
				}
			}
		case *event.DeliverySettled:
			for _, o := range f.Outcomes {
				if u := d.units[o.Unit]; u != nil {
					u.settle(e, o)
				}
			}
		}
	})
	return d
}

func (d *docket) add(u *unit) {
	d.units[u.id] = u
	d.order = append(d.order, u)
}

func (d *docket) accepted(e *Entry, f *event.MessageAccepted) {
	for i := range f.Recipients {
		u := &unit{id: event.Unit{Source: e.Ref.ID, N: i}, message: e.Ref.ID}
		if f.Meta != nil && int(i) < len(f.Meta.Recipients) {
			u.path, u.from = f.Meta.Recipients[i].Path, f.Meta.From
		}
		d.add(u)
	}
}

func (d *docket) ordered(l *Log, e *Entry, f *event.RedeliveryOrdered) {
	for i, item := range f.Items {
		u := &unit{id: event.Unit{Source: e.Ref.ID, N: uint32(i)}, message: item.Message.ID, path: f.To, quiet: true}
		original := d.units[event.Unit{Source: item.Message.ID, N: item.N}]
		if f.To == "" && original != nil {
			switch original.state {
			case unitDue:
				continue // nothing was ordered: it will come anyhow
			case unitHeld:
				original.state = unitReplaced
				u.intents = original.intents
				u.quiet = original.quiet
			}
		}
		if m := l.Find(item.Message.ID); m != nil && u.path == "" {
			if a, ok := m.Fact.(*event.MessageAccepted); ok && a.Meta != nil && int(item.N) < len(a.Meta.Recipients) {
				u.path, u.from = a.Meta.Recipients[item.N].Path, a.Meta.From
			}
		}
		d.add(u)
	}
}

func (d *docket) allDue(ids []event.Unit) bool {
	for _, id := range ids {
		if u := d.units[id]; u == nil || u.state != unitDue {
			return false
		}
	}
	return true
}

func (u *unit) intend(e *Entry) {
	in := intent{at: e}
	for i := range u.intents {
		in.doubt = in.doubt || u.intents[i].end.mayHaveArrived()
	}
	u.intents = append(u.intents, in)
}

// settle takes an outcome. It ends the last open intent of the process that
// recorded it; one that stands alone ends none.
func (u *unit) settle(e *Entry, o event.Outcome) {
	var own *intent
	for i := range u.intents {
		if in := &u.intents[i]; in.at.Writer == e.Writer && in.end == endOpen {
			own = in
		}
	}
	end, state := endRefused, u.state
	switch o.Result {
	case event.ResultDelivered:
		end, state = endDelivered, unitDelivered
		u.delivers = append(u.delivers, e)
	case event.ResultLost:
		end = endLost
	case event.ResultBounced:
		state = unitBounced
		u.bounced = append(u.bounced, e)
	case event.ResultExpired:
		state = unitExpired
		u.bounced = append(u.bounced, e)
	case event.ResultHeld:
		state = unitHeld
	}
	// An expiry ends no intent: it was recorded without a word with the next hop.
	if own != nil && o.Result != event.ResultExpired {
		own.end, own.ended, own.marked = end, e, o.Uncertain
	}
	if u.state == unitDue || u.state == unitHeld && state != unitDue {
		u.state = state
	}
}
