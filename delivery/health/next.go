package health

import (
	"slices"
	"time"
)

// Next returns the status after o, and whether the state changed. The Evidence
// of the returned status then is the evidence for the change. An observation
// older than one before it is taken as if made at that one's time.
func Next(p Policy, s Status, o Observation) (Status, bool) {
	p = p.withDefaults()
	if o.Kind == 0 || int(o.Kind) >= len(kindNames) {
		return s, false
	}
	if s.State == 0 {
		s.State, s.Since = Up, o.At
	}
	if o.At.Before(s.Seen) {
		o.At = s.Seen
	}
	s.Seen = o.At
	s.Failing = slices.Clone(s.Failing)
	s.forget(o.At.Add(-p.Window))

	before := s.State
	s.note(o)
	switch o.Class() {
	case ProbePassed, DeliveryPassed:
		s.passed(p, o)
	case SiteFailure:
		s.siteFailed(p, o)
	case MessageFailure:
		s.messageFailed(p, o)
	}
	s.Fails = s.fails()
	if before == Down || before == Recovering || s.AdmitsUsers() {
		s.LastDown = o.At
	}
	return s, s.State != before
}

// note keeps what is worth showing as evidence.
func (s *Status) note(o Observation) {
	c := o.Class()
	if s.State == Up && (c == ProbePassed || c == DeliveryPassed) {
		return
	}
	// A site that stays down is probed every second; the failures that brought it
	// down are worth more than the latest of thousands.
	if s.State == Down && o.Kind == ProbeFailed {
		return
	}
	keep := s.Evidence
	if len(keep) >= maxEvidence {
		keep = keep[len(keep)-maxEvidence+1:]
	}
	s.Evidence = append(slices.Clone(keep), o)
}

// forget drops message failures from before the horizon, and outside an outage
// what followed from them.
func (s *Status) forget(horizon time.Time) {
	s.Failing = slices.DeleteFunc(s.Failing, func(f Failing) bool { return f.At.Before(horizon) })
	if len(s.Failing) == 0 {
		s.Again = 0
	}
	if s.AdmitsUsers() {
		return
	}
	s.Hung = s.Hung && len(s.Failing) > 0
	if len(s.Evidence) > 0 && s.Evidence[0].At.Before(horizon) {
		s.Evidence = slices.DeleteFunc(slices.Clone(s.Evidence), func(o Observation) bool { return o.At.Before(horizon) })
	}
}

func (s *Status) enter(st State, at time.Time) {
	s.State, s.Since = st, at
	s.Successes = 0
}

func (s *Status) weak() bool { return s.Site >= 1 || len(s.Failing) >= 2 }

func (s *Status) strong(p Policy) bool {
	return s.weak() && s.fails() >= min(p.DownAfter, maxFailing)
}

func (s *Status) fails() int {
	n := s.Site + len(s.Failing)
	if len(s.Failing) >= 2 {
		n += s.Again
	}
	return n
}

// forgive forgets all message failures.
func (s *Status) forgive() { s.Failing, s.Again, s.Hung = nil, 0, false }

func (s *Status) passed(p Policy, o Observation) {
	s.Site = 0
	if o.Kind == DeliveryOK {
		s.forgive()
		s.NeedsDelivery, s.Trials = false, 0
	}
	switch s.State {
	case Up:
		s.Successes = 0
	case Suspect:
		s.Successes++
		if s.Successes >= p.UpAfter && !s.weak() {
			s.up(o.At)
		}
	case Down:
		if s.NeedsDelivery && o.At.Before(s.NotBefore) {
			return
		}
		if !s.NeedsDelivery {
			// From here on only what happens in Recovering speaks against it.
			s.forgive()
		}
		s.enter(Recovering, o.At)
		s.Returned = o.At
		if !s.NeedsDelivery {
			s.Successes = 1
		}
	case Recovering:
		if s.NeedsDelivery {
			return
		}
		s.Successes++
		if s.Successes >= p.UpAfter {
			s.up(o.At)
		}
	}
}

func (s *Status) up(at time.Time) {
	s.enter(Up, at)
	s.Trials, s.NotBefore = 0, time.Time{}
}

func (s *Status) siteFailed(p Policy, o Observation) {
	if o.Kind != ProbeFailed && s.Site > 0 && o.At.Sub(s.SiteCounted) < p.ProbeEvery {
		return
	}
	s.Site++
	s.SiteCounted = o.At
	s.Successes = 0
	switch s.State {
	case Up, Suspect:
		if s.strong(p) {
			s.down(o.At)
		} else if s.State == Up {
			s.enter(Suspect, o.At)
		}
	case Recovering:
		s.needDelivery(s.Hung, o.At)
		s.enter(Down, o.At)
	}
}

// needDelivery makes the outage one that only a delivery ends, if it was not.
func (s *Status) needDelivery(need bool, at time.Time) {
	if need && !s.NeedsDelivery {
		s.NeedsDelivery = true
		s.NotBefore = at.Add(trialPause(s.Trials))
	}
}

func (s *Status) messageFailed(p Policy, o Observation) {
	if o.Kind == DotHung {
		s.Hung = true
	}
	if s.State == Recovering && s.NeedsDelivery {
		s.trialFailed(o)
		return
	}
	if !s.countMessage(p, o) {
		return
	}
	s.Successes = 0
	switch s.State {
	case Up, Suspect:
		if s.strong(p) {
			s.down(o.At)
		} else if s.State == Up && s.weak() {
			s.enter(Suspect, o.At)
		}
	case Down:
		s.needDelivery(o.Kind == DotHung, o.At)
	case Recovering:
		if len(s.Failing) >= 2 {
			s.down(o.At)
		}
	}
}

// countMessage adds the message to those that fail and says whether that was
// news.
func (s *Status) countMessage(p Policy, o Observation) bool {
	for i, f := range s.Failing {
		same := f.Message == o.Message
		if same || o.Recipient != "" && f.Recipient == o.Recipient {
			s.Failing[i].At = o.At
			if same && o.Kind == DotHung {
				s.Again = min(s.Again+1, maxFailing)
				return s.AdmitsUsers() || len(s.Failing) >= 2
			}
			return false
		}
	}
	if o.Kind != DotHung && len(s.Failing) > 0 && o.At.Sub(s.MessageCounted) < p.ProbeEvery {
		return false
	}
	if len(s.Failing) == maxFailing {
		s.Failing = s.Failing[1:]
	}
	s.Failing = append(s.Failing, Failing{Message: o.Message, Recipient: o.Recipient, At: o.At})
	s.MessageCounted = o.At
	return true
}

// down begins an outage, or goes back to one.
func (s *Status) down(at time.Time) {
	s.needDelivery(s.Site == 0 || s.Hung, at)
	s.enter(Down, at)
}

func (s *Status) trialFailed(o Observation) {
	s.Trials++
	s.enter(Down, o.At)
	s.NotBefore = o.At.Add(trialPause(s.Trials))
}

// trialPause is how long after a failure that probes cannot see the next trial
// waits. It keeps a site that answers probes and hangs on mail from swinging
// between Down and Recovering.
func trialPause(failed int) time.Duration {
	steps := [...]time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute}
	return steps[min(failed, len(steps)-1)]
}
