package health

import (
	"slices"
	"time"
)

// Decision is what becomes of a permanent refusal.
type Decision uint8

const (
	// Bounce: the refusal is believed; the sender gets a notice.
	Bounce Decision = iota + 1
	// Hold: refusals come in a mass from a site that was down a moment ago. The
	// message is kept until somebody has looked.
	Hold
	// Defer: the site was down a moment ago and too little was seen since to
	// tell. The message stays due and is tried again as after a 4xx.
	Defer
)

var decisionNames = [...]string{"none", "bounce", "hold", "defer"}

// String returns one lower-case word.
func (d Decision) String() string {
	if int(d) >= len(decisionNames) {
		return "invalid"
	}
	return decisionNames[d]
}

// BreakerPolicy is when refusals are mistrusted. A zero field takes its default.
type BreakerPolicy struct {
	// Settle is how long a site must have been up, without a break, until every
	// refusal is believed: 30 min.
	Settle time.Duration
	// Mass is how many different messages must have been refused to be a mass,
	// and how many must have been decided to judge at all: 5.
	Mass int
}

func (p BreakerPolicy) withDefaults() BreakerPolicy {
	if p.Settle <= 0 {
		p.Settle = 30 * time.Minute
	}
	if p.Mass <= 0 {
		p.Mass = 5
	}
	p.Mass = min(p.Mass, maxOutcomes/2)
	return p
}

// maxOutcomes bounds what a Breaker remembers.
const maxOutcomes = 64

// Breaker decides whether a permanent refusal is to be believed. A primary that
// comes back with an empty directory, or with relaying denied, refuses mail that
// it would take an hour later, and a bounce cannot be called back.
//
// A site that was not down within Settle (or never, as far as is known) is always
// believed. Otherwise the outcomes since decide, one for each message, the
// latest: with at least Mass messages refused and more than half of all refused,
// the refusal is held; with fewer than Mass outcomes it is deferred; else it is
// believed. Outcomes from before the site came back do not count.
//
// A Breaker is a value; the zero Breaker has seen nothing.
type Breaker struct {
	Outcomes []Outcome // the latest of each message, oldest first, bounded
}

// Outcome is how one message fared.
type Outcome struct {
	At      time.Time
	Message string
	Refused bool
}

// Next returns the breaker after o, which is the observation that was also given
// to the function Next. All but accepted and refused messages are ignored. A
// message with both accepted and refused recipients counts as what was seen last.
func (b Breaker) Next(o Observation) Breaker {
	refused := o.Kind == DeliveryRefused5xx
	if !refused && o.Kind != DeliveryOK {
		return b
	}
	keep := slices.DeleteFunc(slices.Clone(b.Outcomes), func(x Outcome) bool { return x.Message == o.Message })
	if len(keep) >= maxOutcomes {
		keep = keep[len(keep)-maxOutcomes+1:]
	}
	return Breaker{Outcomes: append(keep, Outcome{At: o.At, Message: o.Message, Refused: refused})}
}

// Decide says what becomes of a refusal at the time now, from a site with status
// s. The refusal itself should have been given to Next before.
func (b Breaker) Decide(p BreakerPolicy, s Status, now time.Time) Decision {
	p = p.withDefaults()
	if s.LastDown.IsZero() || !s.AdmitsUsers() && now.Sub(s.LastDown) >= p.Settle {
		return Bounce
	}
	refused, total := 0, 0
	for _, x := range b.Outcomes {
		if x.At.Before(s.Returned) {
			continue
		}
		total++
		if x.Refused {
			refused++
		}
	}
	switch {
	case refused >= p.Mass && 2*refused > total:
		return Hold
	case total < p.Mass:
		return Defer
	}
	return Bounce
}
