package health

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	base := []time.Duration{sec(5), sec(15), time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, 30 * time.Minute}
	different := map[time.Duration]bool{}
	for i, want := range base {
		for s := range byte(100) {
			got := Backoff(i+1, [16]byte{s})
			if got < want*8/10 || got > want*12/10 || got > MaxBackoff {
				t.Errorf("attempt %d: %v, want about %v", i+1, got, want)
			}
			if got != Backoff(i+1, [16]byte{s}) {
				t.Errorf("attempt %d is not repeatable", i+1)
			}
			if i == 0 {
				different[got] = true
			}
		}
	}
	if len(different) < 90 {
		t.Errorf("100 seeds gave %d different pauses", len(different))
	}
	if Backoff(0, [16]byte{}) != Backoff(1, [16]byte{}) || Backoff(-5, [16]byte{}) <= 0 || Backoff(1<<40, [16]byte{}) > MaxBackoff {
		t.Error("attempts out of range")
	}
}

// drain gives p the results of a site that answers in 20 ms with up to capacity
// deliveries under way; with more it refuses, or is slower in proportion.
func drain(p Pace, results, capacity, most int, refuse bool) (Pace, int) {
	peak := 0
	for range results {
		busy := p.Limit(most)
		peak = max(peak, busy)
		r := Result{OK: true, Busy: busy, Latency: 20 * time.Millisecond}
		if busy > capacity {
			r.OK = !refuse
			r.Latency = time.Duration(busy) * 20 * time.Millisecond * 4 / time.Duration(capacity)
		}
		p = p.Next(r, most)
	}
	return p, peak
}

func TestPaceGrowsToTheMost(t *testing.T) {
	p, peak := drain(Pace{}, 100, 1000, 20, false)
	if (Pace{}).Limit(20) != 1 || p.Limit(20) != 20 || peak != 20 {
		t.Errorf("limit %d, peak %d", p.Limit(20), peak)
	}
}

func TestPaceStaysNearWhatTheSiteTakes(t *testing.T) {
	for _, refuse := range []bool{true, false} {
		p, _ := drain(Pace{}, 500, 8, 100, refuse)
		sum := 0
		const rounds = 2000
		for range rounds {
			p, _ = drain(p, 1, 8, 100, refuse)
			sum += p.Limit(100)
		}
		// Latency may triple and 50 ms more before it counts, which here is at 11.
		if mean := float64(sum) / rounds; mean < 4 || mean > 16 {
			t.Errorf("refuse %v: mean limit %.1f for a site that takes 8", refuse, mean)
		}
	}
}

func TestPaceCutsOnceForTroubleMetTogether(t *testing.T) {
	p, _ := drain(Pace{}, 100, 1000, 16, false)
	for range 16 {
		p = p.Next(Result{Busy: 16}, 16)
	}
	if p.Limit(16) != 8 {
		t.Errorf("limit %d after one volley of failures at 16, want 8", p.Limit(16))
	}
	for range 200 {
		p = p.Next(Result{Busy: p.Limit(16)}, 16)
	}
	if p.Limit(16) != 1 {
		t.Errorf("limit %d after nothing but failures, want 1", p.Limit(16))
	}
}

func TestPaceDoesNotGrowUnused(t *testing.T) {
	var p Pace
	for range 100 {
		p = p.Next(Result{OK: true, Busy: 1, Latency: time.Millisecond}, 50)
	}
	if p.Limit(50) > 3 {
		t.Errorf("limit %d though only one was under way", p.Limit(50))
	}
}

func TestPaceStaysInBounds(t *testing.T) {
	p := Pace{}
	for i := range 1000 {
		p = p.Next(Result{OK: i%7 != 0, Busy: i % 40, Latency: time.Duration(i%90) * time.Millisecond}, i%30)
		if l := p.Limit(i % 30); l < 1 || l > max(1, i%30) {
			t.Fatalf("limit %d of %d", l, i%30)
		}
	}
}
