package shadow

import (
	"errors"

	"holdfast/event"
)

// state is the state of one (message, recipient), or of one unit of delivery.
// Zero is the state of a recipient whose message has vanished.
type state byte

const (
	gone      state = 0
	due       state = 1
	delivered state = 2
	uncertain state = 3
	held      state = 4
	bounced   state = 5
	expired   state = 6
	erased    state = 7
	// appended is the state of the owner of a message that a user put into a
	// mailbox: it is due nowhere, and stays so.
	appended state = 8

	kinds     = 9    // states, with gone
	stateMask = 0x0f // the state proper
	// lost: an answer to a final dot was lost, so that the recipient may have
	// the message.
	lost state = 0x80
	// ordered: the pair has units of redelivery orders that count, and an
	// orders record.
	ordered state = 0x40
)

var stateNames = [kinds]string{"", "due", "delivered", "uncertain", "held", "bounced", "expired", "erased", "appended"}

// States returns the words for the states of a recipient.
func States() []string { return append([]string(nil), stateNames[1:]...) }

// kind is the state without its marks.
func (s state) kind() state { return s & stateMask }

func (s state) String() string { return stateNames[s.kind()] }

// bit is the state's place in a set of states, in which gone has none.
func (s state) bit() byte {
	if s.kind() == gone {
		return 0
	}
	return 1 << (s.kind() - 1)
}

// live: the unit has not come to its end.
func (s state) live() bool { return s.kind() == due || s.kind() == held }

// has: the recipient has the message.
func (s state) has() bool { return s.kind() == delivered || s.kind() == uncertain }

// parseState returns gone for a word that is not a state.
func parseState(word string) state {
	for i, name := range stateNames[1:] {
		if name == word {
			return state(i + 1)
		}
	}
	return gone
}

var errResult = errors.New("outcome of unknown kind")

// ends are the results behind the states that a later outcome may make
// uncertain. A unit is gone when an order took the place of one that was held.
var ends = map[state]event.Result{
	gone: event.ResultHeld, delivered: event.ResultDelivered, bounced: event.ResultBounced, expired: event.ResultExpired,
}

// after returns the state of a unit after an outcome. The first end counts, but
// may turn out to be uncertain, and what is held stays held until it ends: the
// same rules as the queue's.
func (s state) after(o event.Outcome) (state, error) {
	if !s.live() {
		if end, ok := ends[s.kind()]; ok && o.Doubts(end) {
			return uncertain | lost | s&^stateMask, nil
		}
		return s, nil
	}
	if s.kind() == held && (o.Result == event.ResultDeferred || o.Result == event.ResultLost || o.Result == event.ResultHeld) {
		return s, nil
	}
	marks := s &^ stateMask
	if o.Uncertain || o.Result == event.ResultLost {
		marks |= lost
	}
	switch o.Result {
	case event.ResultDelivered:
		if marks&lost != 0 {
			return uncertain | marks, nil
		}
		return delivered | marks, nil
	case event.ResultBounced:
		return bounced | marks, nil
	case event.ResultExpired:
		return expired | marks, nil
	case event.ResultDeferred, event.ResultLost:
		return due | marks, nil
	case event.ResultHeld:
		return held | marks, nil
	}
	return s, errResult
}

// orders is what is known about a pair for which redeliveries to the recipient
// itself were ordered before it had the message. The pair is in the best state
// of its units.
type orders struct {
	First state       `cbor:"1,keyasint"` // of the message's own unit; gone once an order replaced it
	Units []orderUnit `cbor:"2,keyasint"` // those that are live
}

type orderUnit struct {
	Unit  event.Unit `cbor:"1,keyasint"`
	State state      `cbor:"2,keyasint"`
}

// shown returns the state of the pair: due if a unit is, else held if one is,
// else how the last one ended.
func (o *orders) shown(last state) state {
	best := last
	for i := -1; i < len(o.Units); i++ {
		s := o.First
		if i >= 0 {
			s = o.Units[i].State
		}
		switch {
		case s.kind() == due:
			return due
		case s.kind() == held:
			best = held
		}
	}
	return best.kind()
}

func (o *orders) live() bool { return o.First.live() || len(o.Units) > 0 }
