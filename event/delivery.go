package event

// Unit names one delivery to one recipient: recipient N of the message Source,
// or item N of the redelivery order Source.
type Unit struct {
	Source ID     `cbor:"1,keyasint"`
	N      uint32 `cbor:"2,keyasint"`
}

// DeliveryIntended says that a worker is about to send final dots for these
// units, in one transaction or several. It is durable before the dots. For each
// unit it is
// open until an [Outcome] of its epoch; an intent that follows an open one makes
// the delivery uncertain, and so does one that was still open when the unit came
// to its end by another's word.
type DeliveryIntended struct {
	At    Millis `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"` // of the lease under which the worker acts
	Units []Unit `cbor:"3,keyasint"`
}

// Result is how an attempt for one unit ended.
type Result uint8

// The results. Zero is invalid.
const (
	ResultDelivered Result = 1 // the next hop answered 250 to the final dot
	ResultDeferred  Result = 2 // not delivered; due again at RetryAt
	ResultLost      Result = 3 // the answer to the final dot never came; due again, uncertain from now on
	ResultBounced   Result = 4 // refused for good; a bounce was issued if the sender may have one
	ResultHeld      Result = 5 // refused for good in a mass; waits for an administrator
	ResultExpired   Result = 6 // its day came while it was still due
	ResultErased    Result = 7 // erased by order; no [Outcome] says it, but the [Erased]
)

// String returns one lower-case word.
func (r Result) String() string {
	switch r {
	case ResultDelivered:
		return "delivered"
	case ResultDeferred:
		return "deferred"
	case ResultLost:
		return "lost"
	case ResultBounced:
		return "bounced"
	case ResultHeld:
		return "held"
	case ResultExpired:
		return "expired"
	case ResultErased:
		return "erased"
	}
	return "unknown"
}

// Outcome is one unit's part of a [DeliverySettled].
type Outcome struct {
	Unit    Unit   `cbor:"1,keyasint"`
	Result  Result `cbor:"2,keyasint"`
	Code    uint16 `cbor:"3,keyasint,omitempty"` // SMTP reply code, 0 when there was none
	RetryAt Millis `cbor:"4,keyasint,omitempty"`
	// Normalised: bare CR or LF became CRLF on the wire.
	Normalised bool `cbor:"5,keyasint,omitempty"`
	// Phase of the transaction in which it ended (package smtpc's numbering).
	Phase uint8 `cbor:"6,keyasint,omitempty"`
	// Uncertain: an earlier attempt's answer was lost, so that the recipient may
	// have the message already.
	Uncertain bool `cbor:"7,keyasint,omitempty"`
	// Epoch is that of the intent which this settles, and of no other: a late
	// word of a former holder of the lease leaves its successor's intent open.
	// Zero: the attempt came to no intent.
	Epoch uint64 `cbor:"8,keyasint,omitempty"`
}

// Doubts reports whether an outcome makes a unit uncertain that has come to an
// end before. One that was delivered is so when the recipient may have it once
// more (the record of the first delivery, repeated, does not say that), another
// one when it was delivered after all.
func (o Outcome) Doubts(end Result) bool {
	if end == ResultDelivered {
		return o.Result == ResultDelivered && o.Uncertain || o.Result == ResultLost
	}
	return o.Result == ResultDelivered
}

// DeliverySettled records what became of units, of one transaction or several.
// It is an observation: it counts whoever made it and under whatever lease. The
// first end of a unit stands, but may turn out to be uncertain ([Outcome.Doubts]).
type DeliverySettled struct {
	At       Millis    `cbor:"1,keyasint"`
	Outcomes []Outcome `cbor:"2,keyasint"`

	// Meta is nil once the mail has expired, and when there is no reply text.
	Meta *ReplyMeta `cbor:"-"`
}

// ReplyMeta holds the next hop's words, which may quote addresses.
type ReplyMeta struct {
	Replies []string `cbor:"1,keyasint"` // one for each outcome
}

// Kind returns KindDeliveryIntended.
func (*DeliveryIntended) Kind() Kind { return KindDeliveryIntended }

// Class returns ClassDelivery.
func (*DeliveryIntended) Class() Class { return ClassDelivery }

// Kind returns KindDeliverySettled.
func (*DeliverySettled) Kind() Kind { return KindDeliverySettled }

// Class returns ClassDelivery.
func (*DeliverySettled) Class() Class    { return ClassDelivery }
func (d *DeliverySettled) metaPart() any { return &d.Meta }

// Health is the state of a domain's primary.
type Health uint8

// The states. Zero is invalid.
const (
	HealthUp         Health = 1
	HealthSuspect    Health = 2
	HealthDown       Health = 3
	HealthRecovering Health = 4
)

// String returns up, suspect, down or recovering.
func (h Health) String() string {
	switch h {
	case HealthUp:
		return "up"
	case HealthSuspect:
		return "suspect"
	case HealthDown:
		return "down"
	case HealthRecovering:
		return "recovering"
	}
	return "unknown"
}

// Evidence is one observation that led to a change of health.
type Evidence struct {
	At     Millis `cbor:"1,keyasint"`
	What   string `cbor:"2,keyasint"` // a fixed word such as "probe-failed"
	Phase  string `cbor:"3,keyasint,omitempty"`
	Code   uint16 `cbor:"4,keyasint,omitempty"`
	Detail string `cbor:"5,keyasint,omitempty"` // a fixed word such as "timeout"; never text from the peer
}

// HealthChanged says that the state of a domain's primary changed, and why.
type HealthChanged struct {
	At       Millis     `cbor:"1,keyasint"`
	Domain   string     `cbor:"2,keyasint"`
	From     Health     `cbor:"3,keyasint"`
	To       Health     `cbor:"4,keyasint"`
	Evidence []Evidence `cbor:"5,keyasint,omitempty"`
	// NeedsDelivery: only a completed delivery counts as up again.
	NeedsDelivery bool `cbor:"6,keyasint,omitempty"`
}

// Kind returns KindHealthChanged.
func (*HealthChanged) Kind() Kind { return KindHealthChanged }

// Class returns ClassDelivery.
func (*HealthChanged) Class() Class { return ClassDelivery }

// Redelivery is one item of an order: send recipient N of Message again.
type Redelivery struct {
	// Message has the id of the message and the place where it is read.
	Message Ref    `cbor:"1,keyasint"`
	N       uint32 `cbor:"2,keyasint"`
	Domain  string `cbor:"3,keyasint"`           // whose route carries it
	Outside bool   `cbor:"4,keyasint,omitempty"` // through that domain's smart host
	// Expiry is the day on which the message expires there. When that day was
	// condemned before, the item is no unit. Zero: not known, Until counts.
	Expiry Day `cbor:"5,keyasint,omitempty"`
	// Kept is the id of the event at the place, when that is not the message's own
	// but a [Kept] of it.
	Kept ID `cbor:"6,keyasint,omitzero"`
}

// At returns the event in which the message is read.
func (r Redelivery) At() Ref {
	at := r.Message
	if r.Kept != (ID{}) {
		at.ID = r.Kept
	}
	return at
}

// RedeliveryOrdered says that an administrator asked for messages to be
// delivered again. Item i of the order is the unit {order's id, i}.
type RedeliveryOrdered struct {
	At    Millis       `cbor:"1,keyasint"`
	Who   string       `cbor:"2,keyasint"`
	Items []Redelivery `cbor:"3,keyasint"`
	// To, when not empty, replaces every recipient.
	To string `cbor:"4,keyasint,omitempty"`
	// Until is the day on which items that are still due expire of which it is not
	// known on which day their message does.
	Until Day `cbor:"5,keyasint"`
}

// Kind returns KindRedeliveryOrdered.
func (*RedeliveryOrdered) Kind() Kind { return KindRedeliveryOrdered }

// Class returns ClassSettings: it is an administrator's act.
func (*RedeliveryOrdered) Class() Class { return ClassSettings }
