package health

import (
	"fmt"
	"testing"
	"time"
)

func outcomes(b Breaker, from time.Time, refused, accepted int) Breaker {
	for i := range refused {
		b = b.Next(Observation{At: from, Kind: DeliveryRefused5xx, Message: fmt.Sprint("r", i)})
	}
	for i := range accepted {
		b = b.Next(Observation{At: from, Kind: DeliveryOK, Message: fmt.Sprint("a", i)})
	}
	return b
}

func TestBreaker(t *testing.T) {
	now := epoch.Add(time.Hour)
	returned := now.Add(-5 * time.Minute)
	never := Status{State: Up}
	fresh := Status{State: Up, LastDown: now.Add(-4 * time.Minute), Returned: returned}
	settled := Status{State: Up, LastDown: now.Add(-31 * time.Minute), Returned: now.Add(-40 * time.Minute)}
	again := Status{State: Recovering, LastDown: now, Returned: returned}
	for _, tc := range []struct {
		name string
		s    Status
		b    Breaker
		want Decision
	}{
		{"never down, one", never, outcomes(Breaker{}, now, 1, 0), Bounce},
		{"never down, mass", never, outcomes(Breaker{}, now, 50, 0), Bounce},
		{"suspect, never down", Status{State: Suspect}, outcomes(Breaker{}, now, 50, 0), Bounce},
		{"settled, mass", settled, outcomes(Breaker{}, now, 50, 0), Bounce},
		{"fresh, one", fresh, outcomes(Breaker{}, now, 1, 0), Defer},
		{"fresh, four", fresh, outcomes(Breaker{}, now, 4, 0), Defer},
		{"fresh, mass", fresh, outcomes(Breaker{}, now, 5, 0), Hold},
		{"fresh, mass among as many accepted", fresh, outcomes(Breaker{}, now, 5, 5), Bounce},
		{"fresh, mass among fewer accepted", fresh, outcomes(Breaker{}, now, 6, 5), Hold},
		{"fresh, few among many", fresh, outcomes(Breaker{}, now, 2, 20), Bounce},
		{"fresh, one message often", fresh, func() (b Breaker) {
			for range 20 {
				b = b.Next(Observation{At: now, Kind: DeliveryRefused5xx, Message: "1"})
			}
			return b
		}(), Defer},
		{"recovering, mass", again, outcomes(Breaker{}, now, 5, 1), Hold},
		{"refusals from before the outage", fresh, outcomes(Breaker{}, returned.Add(-time.Second), 50, 0), Defer},
		{"successes from before the outage", fresh, outcomes(outcomes(Breaker{}, returned.Add(-time.Second), 0, 50), now, 5, 0), Hold},
		{"other observations", fresh, Breaker{}.Next(Observation{At: now, Kind: DotHung, Message: "1"}), Defer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.b.Decide(BreakerPolicy{}, tc.s, now); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
	b := outcomes(Breaker{}, now, 500, 0)
	if len(b.Outcomes) > maxOutcomes {
		t.Errorf("%d outcomes are kept", len(b.Outcomes))
	}
}

func TestBreakerOnARealHistory(t *testing.T) {
	// A site that went down and came back with an empty directory.
	s, _ := run(Policy{}, join(downSteps, []step{at(time.Hour, probe(true)), probe(true)}))
	if s.State != Up {
		t.Fatalf("state %v", s.State)
	}
	var b Breaker
	for i := range 8 {
		o := Observation{At: s.Seen.Add(sec(1)), Kind: DeliveryRefused5xx, Phase: PhaseRcpt, Message: fmt.Sprint(i)}
		s, _ = Next(Policy{}, s, o)
		b = b.Next(o)
		want := Defer
		if i >= 4 {
			want = Hold
		}
		if got := b.Decide(BreakerPolicy{}, s, s.Seen); got != want {
			t.Errorf("refusal %d: %v, want %v", i, got, want)
		}
	}
}
