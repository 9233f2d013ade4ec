// Package health judges whether a domain's primary server is up, from nothing
// but what was observed. Everything in it is a pure function: no clock, no
// goroutine, no I/O. Who makes the observations does not matter, and the same
// observations in the same order always give the same states, so the states can
// be folded from a log.
//
// # Observations
//
// They fall into five classes, by [Observation.Class]:
//
//	ProbePassed     a probe connected, was greeted and had its EHLO answered, and
//	                got TLS where the site must have it
//	DeliveryPassed  a message was accepted with 2xx to its final dot
//	SiteFailure     the site failed before any message came into play: a failed
//	                probe, or a delivery that did not get past TLS (no connection,
//	                a hung banner, a 5xx banner)
//	MessageFailure  a delivery failed later, or with 4xx anywhere: perhaps it is
//	                the message's fault
//	Neutral         5xx after EHLO: the answer of a working server about one
//	                message. Whether it is to be believed is [Breaker]'s affair.
//
// # Counting
//
// Site failures are counted as long as nothing passes in between. A failed probe
// always counts. A site failure seen by a delivery counts only when none was
// counted within ProbeEvery before it: twenty workers whose connections break at
// the same moment have seen one failure.
//
// Message failures are counted by distinct message: a message that fails again
// is still one. So are several messages refused for the same recipient, where the
// observation names it: that is a full mailbox, not a broken site. Failures that
// happen at an instant (all but a hung dot, which has already taken its timeout)
// also count at most once in ProbeEvery. They are forgotten after Window and
// whenever a delivery passes, but not when a probe passes, because a probe does
// not see what failed.
//
// Let site and msgs be the two counts, and again how often a dot hung for a
// message that was counted already; again is 0 unless msgs >= 2. The evidence is
//
//	weak   if site >= 1 or msgs >= 2
//	strong if it is weak and site + msgs + again >= DownAfter
//
// so that one message alone, however often it fails, is never evidence, and two
// that hang at every attempt are, even if no third comes.
//
// An outage needs a delivery (Status.NeedsDelivery) when its evidence contained
// no site failure, so that probes were blind to it, or when a final dot hung
// during it. Passed probes then lead to Recovering only, where trials are made,
// and no sooner than Status.NotBefore, which moves further away with each trial
// that fails. The first passed delivery lifts the need.
//
// # Transitions
//
//	From        Observation      Condition                       To
//	Up          SiteFailure      strong                          Down
//	Up          SiteFailure      else                            Suspect
//	Up          MessageFailure   strong                          Down
//	Up          MessageFailure   weak                            Suspect
//	Up          any other        –                               Up
//	Suspect     ...Failure       strong                          Down
//	Suspect     ...Failure       else                            Suspect
//	Suspect     ...Passed        UpAfter in a row and msgs < 2   Up
//	Suspect     ...Passed        else                            Suspect
//	Down        ProbePassed      needs no delivery, or NotBefore Recovering
//	                             has come
//	Down        ProbePassed      else                            Down
//	Down        DeliveryPassed   –                               Recovering
//	Down        ...Failure       –                               Down
//	Recovering  SiteFailure      –                               Down
//	Recovering  MessageFailure   needs a delivery (trial failed) Down
//	Recovering  MessageFailure   msgs >= 2                       Down
//	Recovering  MessageFailure   else                            Recovering
//	Recovering  ProbePassed      needs a delivery                Recovering
//	Recovering  ...Passed        UpAfter in a row                Up
//	Recovering  ...Passed        else                            Recovering
//	any         Neutral          –                               same
//
// The success that leads from Down to Recovering is the first in the row, unless
// it was a probe and a delivery is needed. There is no way from Down to Up but
// through Recovering, so at least two successes are needed. A failure that
// counts, in Suspect, starts the row again.
package health

import "time"

// State is what is believed about a site.
type State uint8

// The states. The zero State means that nothing was observed yet and is treated
// as Up.
const (
	// Up: mail is delivered as it comes.
	Up State = iota + 1
	// Suspect: something is wrong; mail is still delivered.
	Suspect
	// Down: mail is kept; users are admitted.
	Down
	// Recovering: the primary answers, the queue drains with care, users are
	// still admitted.
	Recovering
)

var stateNames = [...]string{"unknown", "up", "suspect", "down", "recovering"}

// String returns one lower-case word.
func (s State) String() string {
	if int(s) >= len(stateNames) {
		return "invalid"
	}
	return stateNames[s]
}

// Kind is what was observed.
type Kind uint8

// The kinds. The zero Kind is invalid and changes nothing.
const (
	ProbeOK Kind = iota + 1
	ProbeFailed
	// DeliveryOK: at least one recipient was accepted and the final dot
	// was answered with 2xx.
	DeliveryOK
	// DeliveryTempFailed4xx: the message as a whole got 4xx: at the banner, EHLO,
	// MAIL, DATA or the final dot, or for all of its recipients.
	DeliveryTempFailed4xx
	// DeliveryRefused5xx: the message or some recipient got 5xx.
	DeliveryRefused5xx
	// DeliveryConnFailed: no connection, or it broke or timed out before the
	// final dot was sent. A reused connection that the server had closed while it
	// was idle is not to be reported.
	DeliveryConnFailed
	// DotHung: no answer to the final dot in time.
	DotHung
	// DotLost: the connection was lost between the final dot and its answer.
	DotLost
)

var kindNames = [...]string{
	"none", "probe ok", "probe failed", "delivery ok", "delivery failed temporarily",
	"delivery refused", "delivery lost its connection", "final dot hung", "answer to final dot lost",
}

// String returns a few lower-case words.
func (k Kind) String() string {
	if int(k) >= len(kindNames) {
		return "invalid"
	}
	return kindNames[k]
}

// Phase is how far a conversation had come.
type Phase uint8

// The phases, in their order and with the numbers that smtpc gives them. The
// zero Phase is that of a success.
const (
	PhaseConnect Phase = iota + 1
	PhaseBanner
	PhaseHelo
	PhaseTLS
	PhaseMail
	PhaseRcpt
	PhaseData
	PhaseBody
	PhaseDot
)

// Observation is one thing that was seen. It contains no address.
type Observation struct {
	At      time.Time
	Kind    Kind
	Phase   Phase
	Code    int    // the reply's code, 0 if there was none
	Message string // the message's id; of no meaning for probes
	// Recipient is an opaque id of the first recipient, for a failure at RCPT; ""
	// if it is not known.
	Recipient string
}

// Class is what an observation means for the state.
type Class uint8

// The classes; see the package's documentation.
const (
	Neutral Class = iota
	ProbePassed
	DeliveryPassed
	SiteFailure
	MessageFailure
)

// Class returns the class of o.
func (o Observation) Class() Class {
	early := o.Phase >= PhaseConnect && o.Phase <= PhaseTLS
	switch o.Kind {
	case ProbeOK:
		return ProbePassed
	case ProbeFailed:
		return SiteFailure
	case DeliveryOK:
		return DeliveryPassed
	case DeliveryTempFailed4xx, DotHung, DotLost:
		return MessageFailure
	case DeliveryConnFailed:
		if early {
			return SiteFailure
		}
		return MessageFailure
	case DeliveryRefused5xx:
		if early {
			return SiteFailure
		}
	}
	return Neutral
}

// Policy is how a domain wants to be judged. A zero field takes its default.
type Policy struct {
	ProbeEvery time.Duration // 1 s
	DownAfter  int           // 3
	UpAfter    int           // 2
	Window     time.Duration // how long a message failure is remembered: 10 min
}

func (p Policy) withDefaults() Policy {
	if p.ProbeEvery <= 0 {
		p.ProbeEvery = time.Second
	}
	if p.DownAfter <= 0 {
		p.DownAfter = 3
	}
	if p.UpAfter <= 0 {
		p.UpAfter = 2
	}
	if p.Window <= 0 {
		p.Window = 10 * time.Minute
	}
	return p
}

// Bounds of a Status.
const (
	maxEvidence = 16
	// maxFailing is also the most message failures that DownAfter can ask for.
	maxFailing = 32
)

// Failing is a message whose failure counts.
type Failing struct {
	Message   string
	Recipient string
	At        time.Time // of its last failure
}

// Status is all that is remembered about a site. The zero Status is that of a
// site never observed. A Status is a value: Next never alters one it was given.
type Status struct {
	State State
	Since time.Time // when State was entered

	Fails     int // all failures that count: site + msgs + again
	Successes int // successes in a row that count towards Up
	// Evidence is the last observations that were not routine, oldest first:
	// failures, refusals, and the successes of a site that is not Up.
	Evidence []Observation
	// NeedsDelivery says that only a completed delivery can end the outage.
	NeedsDelivery bool
	// NotBefore is when a passed probe may lead to the next trial.
	NotBefore time.Time
	// LastDown is when the site was last known to be Down or Recovering; zero if
	// never.
	LastDown time.Time
	// Returned is when the site was last seen to answer after having been Down;
	// zero if never.
	Returned time.Time

	Site    int       // site failures in a row
	Failing []Failing // distinct messages that failed, oldest first
	Again   int       // hung dots of messages in Failing, but the first of each
	Hung    bool      // a final dot hung since a delivery passed last
	Trials  int       // trials that failed in this outage
	Seen    time.Time // the latest time of any observation

	SiteCounted    time.Time // when a site failure was counted last
	MessageCounted time.Time // when a message failure was counted last
}

// AdmitsUsers says that mailboxes are open because of the site's state.
func (s Status) AdmitsUsers() bool { return s.State == Down || s.State == Recovering }

// Delivers says that mail may be sent to the site.
func (s Status) Delivers() bool { return s.State != Down }
