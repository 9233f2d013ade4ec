package health

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// step is an observation made some time after the one before it.
type step struct {
	after time.Duration
	o     Observation
}

func sec(n int) time.Duration { return time.Duration(n) * time.Second }

func probe(ok bool) step {
	if ok {
		return step{sec(1), Observation{Kind: ProbeOK}}
	}
	return step{sec(1), Observation{Kind: ProbeFailed, Phase: PhaseConnect}}
}

func msg(k Kind, ph Phase, id string) step {
	return step{sec(1), Observation{Kind: k, Phase: ph, Message: id}}
}

func hung(id string) step     { return msg(DotHung, PhaseDot, id) }
func temp(id string) step     { return msg(DeliveryTempFailed4xx, PhaseData, id) }
func refused(id string) step  { return msg(DeliveryRefused5xx, PhaseRcpt, id) }
func accepted(id string) step { return msg(DeliveryOK, 0, id) }
func noConn(id string) step   { return msg(DeliveryConnFailed, PhaseBanner, id) }
func broken(id string) step   { return msg(DeliveryConnFailed, PhaseBody, id) }

// full is a message for the one recipient whose mailbox is full.
func full(id string) step {
	s := msg(DeliveryTempFailed4xx, PhaseRcpt, id)
	s.o.Recipient = "r"
	return s
}

func at(after time.Duration, s step) step { s.after = after; return s }

func join(parts ...[]step) (all []step) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func run(p Policy, steps []step) (Status, []State) {
	var s Status
	var trace []State
	now := epoch
	for _, st := range steps {
		now = now.Add(st.after)
		st.o.At = now
		var changed bool
		before := s.State
		s, changed = Next(p, s, st.o)
		if changed != (before != s.State && !(before == 0 && s.State == Up)) {
			panic("changed does not tell the truth")
		}
		trace = append(trace, s.State)
	}
	return s, trace
}

// The ways into each state from which a row begins.
var (
	upSteps       = []step{probe(true)}
	suspectSteps  = []step{probe(false)}
	downSteps     = []step{probe(false), probe(false), probe(false)}
	recovering    = join(downSteps, []step{probe(true)})
	hungDown      = []step{hung("1"), hung("2"), hung("3")}
	hungRecovered = join(hungDown, []step{at(sec(10), probe(true))})
)

// transitions has at least one case for each row of the package's table, in
// its order.
var transitions = []struct {
	name  string
	p     Policy
	from  []step
	then  []step
	state State
}{
	{"up, site failure, strong", Policy{DownAfter: 1}, upSteps, []step{probe(false)}, Down},
	{"up, site failure, else", Policy{}, upSteps, []step{probe(false)}, Suspect},
	{"up, 5xx banner", Policy{}, upSteps, []step{msg(DeliveryRefused5xx, PhaseBanner, "1")}, Suspect},
	{"up, message failure, strong", Policy{DownAfter: 2}, upSteps, []step{temp("1"), temp("2")}, Down},
	{"up, message failure, weak", Policy{}, upSteps, []step{temp("1"), temp("2")}, Suspect},
	{"up, one message", Policy{}, upSteps, []step{temp("1"), temp("1"), hung("1"), broken("1"), temp("1")}, Up},
	{"up, one message, down after one", Policy{DownAfter: 1}, upSteps, []step{hung("1"), hung("1")}, Up},
	{"up, one of many at an instant", Policy{}, upSteps, []step{broken("1"), at(0, broken("2")), at(0, broken("3")), at(0, broken("4"))}, Up},
	{"up, old message failures", Policy{}, upSteps, []step{temp("1"), at(11*time.Minute, temp("2")), at(11*time.Minute, temp("3"))}, Up},
	{"suspect, one hung often, long ago", Policy{}, upSteps, []step{hung("1"), hung("1"), hung("1"), at(11*time.Minute, temp("2")), temp("3")}, Suspect},
	{"up, refusals", Policy{}, upSteps, []step{refused("1"), refused("2"), refused("3"), refused("4")}, Up},
	{"up, passed", Policy{}, upSteps, []step{accepted("1"), probe(true)}, Up},
	{"up, deliveries pass between", Policy{}, upSteps, []step{temp("1"), accepted("2"), temp("3"), accepted("4"), temp("5")}, Up},
	{"suspect, strong", Policy{}, suspectSteps, []step{probe(false), probe(false)}, Down},
	{"suspect, mixed", Policy{}, suspectSteps, []step{temp("1"), temp("2")}, Down},
	{"suspect, hung banner seen by deliveries", Policy{}, nil, []step{noConn("1"), noConn("1"), noConn("1")}, Down},
	{"suspect, site failures at an instant", Policy{}, nil, []step{noConn("1"), at(0, noConn("2")), at(0, noConn("3"))}, Suspect},
	{"suspect, hung dots at an instant", Policy{}, nil, []step{hung("1"), at(0, hung("2")), at(0, hung("3"))}, Down},
	{"suspect, else", Policy{}, suspectSteps, []step{probe(false)}, Suspect},
	{"suspect, enough successes", Policy{}, suspectSteps, []step{probe(true), accepted("1")}, Up},
	{"suspect, too few successes", Policy{}, suspectSteps, []step{probe(true)}, Suspect},
	{"suspect, row broken", Policy{}, suspectSteps, []step{probe(true), probe(false), probe(true)}, Suspect},
	{"suspect, flapping", Policy{}, suspectSteps, []step{probe(true), probe(false), probe(true), probe(false), probe(true), probe(false)}, Suspect},
	{"suspect, probes do not see it", Policy{}, nil, []step{hung("1"), hung("2"), probe(true), probe(true), probe(true)}, Suspect},
	{"suspect, hung until down despite probes", Policy{}, nil, []step{hung("1"), probe(true), hung("2"), probe(true), hung("3")}, Down},
	{"suspect, two hang again and again", Policy{}, nil, []step{hung("1"), hung("2"), hung("1")}, Down},
	{"suspect, two fail again and again", Policy{}, nil, []step{temp("1"), temp("2"), temp("1"), temp("2")}, Suspect},
	{"up, one mailbox is full", Policy{}, nil, []step{full("1"), full("2"), full("3"), full("4")}, Up},
	{"suspect, deliveries lift it", Policy{}, nil, []step{hung("1"), hung("2"), accepted("3"), probe(true)}, Up},
	{"down, probe", Policy{}, downSteps, []step{probe(true)}, Recovering},
	{"down, probe, needs a delivery, too early", Policy{}, hungDown, []step{at(sec(9), probe(true))}, Down},
	{"down, probe, needs a delivery, in time", Policy{}, hungDown, []step{at(sec(10), probe(true))}, Recovering},
	{"down, delivery", Policy{}, hungDown, []step{accepted("1")}, Recovering},
	{"down, failures", Policy{}, downSteps, []step{probe(false), temp("1"), hung("2"), noConn("3")}, Down},
	{"down, hung dot is remembered", Policy{}, downSteps, []step{hung("9"), probe(true)}, Down},
	{"recovering, site failure", Policy{}, recovering, []step{probe(false)}, Down},
	{"recovering, site failure after a hung dot", Policy{}, recovering, []step{hung("9"), probe(false), probe(true)}, Down},
	{"recovering, trial fails", Policy{}, hungRecovered, []step{at(sec(60), hung("1"))}, Down},
	{"recovering, next trial waits longer", Policy{}, hungRecovered, []step{at(sec(60), hung("1")), at(sec(29), probe(true))}, Down},
	{"recovering, next trial", Policy{}, hungRecovered, []step{at(sec(60), hung("1")), at(sec(30), probe(true))}, Recovering},
	{"recovering, messages fail", Policy{}, recovering, []step{temp("1"), temp("2")}, Down},
	{"recovering, one message fails", Policy{}, recovering, []step{temp("1"), temp("1")}, Recovering},
	{"recovering, probes, needs a delivery", Policy{}, hungRecovered, []step{probe(true), probe(true), probe(true)}, Recovering},
	{"recovering, enough", Policy{}, recovering, []step{probe(true)}, Up},
	{"recovering, delivery, then probe", Policy{}, hungRecovered, []step{accepted("1"), probe(true)}, Up},
	{"recovering, too few", Policy{UpAfter: 4}, recovering, []step{probe(true), accepted("1")}, Recovering},
	{"recovering, up after one means two", Policy{UpAfter: 1}, recovering, nil, Recovering},
	{"recovering, refused", Policy{}, recovering, []step{refused("1"), refused("2")}, Recovering},
	{"any, neutral", Policy{}, downSteps, []step{refused("1")}, Down},
	{"any, neutral, trial", Policy{}, hungRecovered, []step{refused("1"), probe(true), probe(true)}, Recovering},
}

func TestTransitions(t *testing.T) {
	for _, tc := range transitions {
		t.Run(tc.name, func(t *testing.T) {
			s, trace := run(tc.p, join(tc.from, tc.then))
			if s.State != tc.state {
				t.Errorf("state %v, want %v; way %v", s.State, tc.state, trace)
			}
		})
	}
}

func TestOutageIsInStatus(t *testing.T) {
	s, _ := run(Policy{}, downSteps)
	if s.NeedsDelivery || s.Since != epoch.Add(sec(3)) || s.Fails != 3 || len(s.Evidence) != 3 || s.LastDown != s.Since || !s.AdmitsUsers() || s.Delivers() {
		t.Errorf("status of an outage seen by probes: %+v", s)
	}
	s, _ = run(Policy{}, hungDown)
	if !s.NeedsDelivery || s.NotBefore != s.Since.Add(sec(10)) {
		t.Errorf("status of an outage of hung dots: %+v", s)
	}
	s, _ = run(Policy{}, join(hungRecovered, []step{accepted("1"), probe(true)}))
	if s.NeedsDelivery || s.Fails != 0 || s.Trials != 0 || !s.NotBefore.IsZero() || s.Returned.IsZero() || s.AdmitsUsers() {
		t.Errorf("status after it: %+v", s)
	}
	// One hung dot and then a dead server: probes alone do not end that outage.
	s, _ = run(Policy{}, join([]step{hung("1")}, downSteps, []step{at(sec(20), probe(true)), probe(true), probe(true)}))
	if s.State != Recovering || !s.NeedsDelivery {
		t.Errorf("hung dot before the outage: %+v", s)
	}
	s, _ = run(Policy{}, join([]step{hung("1"), at(11*time.Minute, probe(true))}, downSteps))
	if s.State != Down || s.NeedsDelivery {
		t.Errorf("hung dot long before the outage: %+v", s)
	}
}

func TestInvalidAndOldObservations(t *testing.T) {
	s, _ := run(Policy{}, suspectSteps)
	for _, k := range []Kind{0, 200} {
		if got, changed := Next(Policy{}, s, Observation{Kind: k, At: epoch.Add(time.Hour)}); changed || !reflect.DeepEqual(got, s) {
			t.Errorf("kind %d changed the status", k)
		}
	}
	got, _ := Next(Policy{DownAfter: 2}, s, Observation{Kind: ProbeFailed, At: epoch.Add(-time.Hour)})
	if got.State != Down || got.Since.Before(s.Since) {
		t.Errorf("an observation that came late: %+v", got)
	}
}

// randomStep draws from everything that may be observed; oneMessage draws only
// from failures and refusals of a single message, and passed probes.
func randomStep(rng *rand.Rand, oneMessage bool) step {
	st := step{after: time.Duration(rng.IntN(3000)) * time.Millisecond}
	st.o.Kind = Kind(1 + rng.IntN(len(kindNames)-1))
	st.o.Phase = Phase(1 + rng.IntN(int(PhaseDot)))
	st.o.Message = fmt.Sprint(rng.IntN(5))
	if rng.IntN(4) == 0 {
		st.o.Recipient = fmt.Sprint(rng.IntN(3))
	}
	if oneMessage {
		kinds := []Kind{ProbeOK, DeliveryTempFailed4xx, DeliveryRefused5xx, DeliveryConnFailed, DotHung, DotLost}
		st.o.Kind = kinds[rng.IntN(len(kinds))]
		st.o.Message = "1"
		if st.o.Kind == DeliveryConnFailed || st.o.Kind == DeliveryRefused5xx {
			st.o.Phase = PhaseMail + Phase(rng.IntN(int(PhaseDot-PhaseMail)+1))
		}
	}
	return st
}

func TestOneMessageNeverTakesASiteDown(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 1))
		steps := make([]step, 200)
		for i := range steps {
			steps[i] = randomStep(rng, true)
		}
		_, trace := run(Policy{DownAfter: 1 + rng.IntN(4), UpAfter: 1 + rng.IntN(3)}, steps)
		for i, st := range trace {
			if st != Up {
				t.Fatalf("seed %d: %v after step %d", seed, st, i)
			}
		}
	}
}

// TestProperties runs random histories and checks after each step what must hold
// for all of them.
func TestProperties(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 2))
		p := Policy{DownAfter: 1 + rng.IntN(5), UpAfter: 1 + rng.IntN(4)}
		var s Status
		now := epoch
		successes, failedProbes := 0, 0
		for i := range 300 {
			st := randomStep(rng, false)
			if rng.IntN(3) > 0 { // long runs of probes
				st = probe((i/10)%2 == 0)
			}
			now = now.Add(st.after)
			st.o.At = now
			given := s
			given.Evidence, given.Failing = slices.Clone(s.Evidence), slices.Clone(s.Failing)
			next, changed := Next(p, s, st.o)
			if i%16 == 0 {
				again, _ := Next(p, s, st.o)
				if !reflect.DeepEqual(given, s) || !reflect.DeepEqual(next, again) {
					t.Fatalf("seed %d step %d: Next is not pure", seed, i)
				}
			}
			class := st.o.Class()
			if class == ProbePassed || class == DeliveryPassed {
				successes, failedProbes = successes+1, 0
			} else if class != Neutral {
				successes = 0
			}
			if st.o.Kind == ProbeFailed {
				failedProbes++
			}
			fail := func(what string) {
				t.Fatalf("seed %d step %d: %s: %v -> %v by %+v", seed, i, what, s.State, next.State, st.o)
			}
			switch {
			case changed && s.State == Down && next.State != Recovering:
				fail("left Down for another state than Recovering")
			case changed && next.State == Up && class != ProbePassed && class != DeliveryPassed:
				fail("up without success")
			case s.State == Recovering && next.State == Up && s.NeedsDelivery && class != DeliveryPassed:
				fail("up without the delivery that is needed")
			case next.State == Down && s.State != Down && (class == ProbePassed || class == DeliveryPassed || class == Neutral):
				fail("down without failure")
			case failedProbes >= p.DownAfter && next.State != Down:
				fail("not down after enough failed probes")
			case len(next.Evidence) > maxEvidence || len(next.Failing) > maxFailing:
				fail("memory grows")
			case next.State == Down && s.State != Down && len(next.Evidence) == 0:
				fail("no evidence")
			}
			s = next
		}
	}
}

func TestManyFailingMessagesAreBounded(t *testing.T) {
	p := Policy{DownAfter: 1000}
	var s Status
	for i := range 100 {
		s, _ = Next(p, s, Observation{At: epoch.Add(sec(i)), Kind: DotHung, Message: fmt.Sprint(i)})
	}
	if s.State != Down || len(s.Failing) > maxFailing {
		t.Errorf("state %v with %d failing", s.State, len(s.Failing))
	}
}
