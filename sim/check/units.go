package check

import (
	"cmp"
	"slices"

	"holdfast/event"
)

// ending is what an intent came to, as the log has it.
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
	epoch  uint64
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
	unitOver     // its message's day has expired, and nobody said so of the unit
	unitErased
)

func (s unitState) String() string {
	return [...]string{"due", "held", "delivered", "bounced", "expired", "repudiated", "replaced", "over", "erased"}[s]
}

// unit is one message for one recipient, as the log's words make it out.
type unit struct {
	id       event.Unit
	message  event.ID
	path     string // of the recipient; empty once it has expired
	from     string
	quiet    bool // no bounce
	tenant   event.Tenant
	expiry   event.Day // of its message, where that is read now
	line     string    // of the balance sheet: domain and direction; empty when unknown
	notice   bool      // a bounce made here
	next     *unit     // the order that goes on with it
	order    bool      // made by an order, and not going on with another
	state    unitState
	intents  []intent
	twice    []*Entry // intents of a process that had not ended an earlier one of its own
	delivers []*Entry // outcomes that say delivered
	bounced  []*Entry // that say bounced or expired
	doubtful bool     // it ended while somebody else's intent was open
}

// docket is the units of a log. It is a model of the queue, written from the
// promises of package event: an intent counts when its lease is not older than
// one that has spoken, for each unit that is due; an outcome ends the open intent
// of its epoch. A day ends all units that are left of it at once, as the queue does
// with up to 1000 of a tenant; of more, an intent between two steps would be told
// apart from the queue's.
type docket struct {
	units map[event.Unit]*unit
	order []*unit // as they came to be
}

func newDocket(l *Log) *docket {
	d := &docket{units: map[event.Unit]*unit{}}
	epochs := map[event.Tenant]uint64{}
	condemned := map[event.Tenant]event.Day{}
	l.All(func(e *Entry) {
		switch f := e.Fact.(type) {
		case *event.MessageAccepted:
			d.accepted(e, f)
		case *event.RedeliveryOrdered:
			d.ordered(l, e, f, condemned[e.Tenant])
		case *event.DayCondemned:
			condemned[e.Tenant] = max(condemned[e.Tenant], f.Day)
		case *event.Kept:
			d.kept(e, f, condemned[e.Tenant])
		case *event.DayExpired:
			day := min(f.Day, condemned[e.Tenant])
			d.end(unitOver, func(u *unit) bool { return u.tenant == e.Tenant && u.expiry != 0 && u.expiry <= day })
		case *event.Erased:
			for _, item := range f.Items {
				d.end(unitErased, func(u *unit) bool { return u.tenant == e.Tenant && u.message == item.Message })
			}
		case *event.Repudiated:
			for _, u := range d.order {
				if u.id.Source == f.Message && (u.state == unitDue || u.state == unitHeld) {
					u.state = unitRepudiated
				}
			}
		case *event.DeliveryIntended:
			if f.Epoch >= epochs[e.Tenant] {
				epochs[e.Tenant] = f.Epoch
				for _, id := range f.Units {
					if u := d.units[id]; u != nil && u.state == unitDue {
						u.intend(e, f.Epoch)
					}
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

// end ends what is due or held.
func (d *docket) end(as unitState, which func(*unit) bool) {
	for _, u := range d.order {
		if (u.state == unitDue || u.state == unitHeld) && which(u) {
			u.state = as
		}
	}
}

func (d *docket) kept(e *Entry, f *event.Kept, condemned event.Day) {
	for _, u := range d.order {
		if u.message == f.Message && u.tenant == e.Tenant && e.Expiry > condemned && (u.state == unitDue || u.state == unitHeld) {
			u.expiry = e.Expiry
		}
	}
}

func (d *docket) accepted(e *Entry, f *event.MessageAccepted) {
	for i := range f.Recipients {
		u := &unit{id: event.Unit{Source: e.Ref.ID, N: i}, message: e.Ref.ID, tenant: e.Tenant, expiry: e.Expiry, notice: f.Origin == event.OriginBounce}
		if f.Meta != nil && int(i) < len(f.Meta.Recipients) {
			r := f.Meta.Recipients[i]
			u.path, u.from, u.line = r.Path, f.Meta.From, r.Domain+" in"
			if r.Outside {
				u.line = r.Via + " out"
			}
		}
		d.add(u)
	}
}

func (d *docket) ordered(l *Log, e *Entry, f *event.RedeliveryOrdered, condemned event.Day) {
	for i, item := range f.Items {
		u := &unit{id: event.Unit{Source: e.Ref.ID, N: uint32(i)}, message: item.Message.ID, path: f.To, quiet: true, order: true}
		u.tenant, u.expiry = e.Tenant, cmp.Or(item.Expiry, f.Until)
		original := d.units[event.Unit{Source: item.Message.ID, N: item.N}]
		if f.To == "" && original != nil {
			switch original.state {
			case unitDue:
				continue // nothing was ordered: it will come anyhow
			case unitHeld:
				original.state, original.next, u.order = unitReplaced, u, false
				u.intents = original.intents
				u.quiet, u.expiry = original.quiet, original.expiry
			}
		}
		if u.order && item.Expiry != 0 && item.Expiry <= condemned {
			continue // it is too late
		}
		if m := l.Find(item.Message.ID); m != nil && u.path == "" {
			if a, ok := m.Fact.(*event.MessageAccepted); ok && a.Meta != nil && int(item.N) < len(a.Meta.Recipients) {
				u.path, u.from = a.Meta.Recipients[item.N].Path, a.Meta.From
			}
		}
		d.add(u)
	}
}

// last returns the unit that stands for u now: u, or the order that goes on
// with it.
func (u *unit) last() *unit {
	for u.next != nil {
		u = u.next
	}
	return u
}

func (u *unit) intend(e *Entry, epoch uint64) {
	in := intent{at: e, epoch: epoch}
	for i := range u.intents {
		old := &u.intents[i]
		in.doubt = in.doubt || old.end.mayHaveArrived()
		if old.end == endOpen && old.at.Writer == e.Writer {
			u.twice = append(u.twice, e)
		}
	}
	u.intents = append(u.intents, in)
}

// settle takes an outcome. It ends the open intent of its epoch; one without an
// epoch ends none.
func (u *unit) settle(e *Entry, o event.Outcome) {
	var own *intent
	for i := range u.intents {
		if in := &u.intents[i]; in.epoch == o.Epoch && in.end == endOpen {
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
	for i := range u.intents {
		if in := &u.intents[i]; in.end == endOpen && in != own && state >= unitDelivered {
			u.doubtful = true
		}
	}
	if own != nil && state == unitDelivered && slices.Contains([]unitState{unitBounced, unitExpired, unitOver, unitErased}, u.state) {
		u.state = state // it was under way when another ended it
	}
	if own != nil {
		own.end, own.ended, own.marked = end, e, o.Uncertain
	}
	if u.state == unitDue || u.state == unitHeld && state != unitDue {
		u.state = state
	}
}
