package health

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

// MaxBackoff is the longest pause between two attempts.
const MaxBackoff = 30 * time.Minute

// Backoff returns the pause after the attempt-th failed attempt (the first is
// 1) to deliver the event that seed identifies. Most troubles are short, so the
// first pauses are; later ones spare a primary that is in trouble. Each pause is
// moved by up to a fifth either way, the same for the same attempt and seed, so
// that messages that failed together do not come back together.
func Backoff(attempt int, seed [16]byte) time.Duration {
	steps := [...]time.Duration{
		5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute,
		10 * time.Minute, 20 * time.Minute, MaxBackoff,
	}
	attempt = max(attempt, 1)
	step := steps[min(attempt, len(steps))-1]
	h := fnv.New64a()
	h.Write(seed[:])
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(attempt)))
	// FNV's low bits are the better mixed ones.
	fraction := float64(h.Sum64()&(1<<32-1)) / (1 << 32)
	return min(time.Duration(float64(step)*(0.8+0.4*fraction)), MaxBackoff)
}

// Pace decides how many deliveries to one site may be under way at once: more as
// long as the site keeps up, fewer as soon as it does not (additive increase,
// multiplicative decrease). A Pace is a value; the zero Pace allows one.
//
// It begins at one and grows by one with each success until the first trouble,
// later by one with each full round of successes. A temporary refusal or a
// broken connection halves it; latency of more than three times the best known
// (and 50 ms more) takes a quarter away. Deliveries that were under way together
// meet the same trouble together, so after a cut none follows until as many
// results as were under way have come.
type Pace struct {
	limit   float64
	settled bool    // past the first trouble
	grace   int     // results that cannot cut again
	best    float64 // seconds: the latency of the unburdened site, slowly forgotten
	mean    float64 // seconds: recent latency
}

// Result is one finished delivery, as Pace sees it.
type Result struct {
	// OK: the server answered the final dot with 2xx or 5xx. Not OK: 4xx, a broken
	// connection, or no answer in time.
	OK bool
	// Latency is from the final dot to its answer, if OK.
	Latency time.Duration
	// Busy is how many deliveries were under way, this one included. A limit that
	// is not used is not raised.
	Busy int
}

const (
	slowFactor = 3.0
	slowFloor  = 0.050
	// A good latency is forgotten over some ten thousand results: sites change,
	// but a slow spell must not come to look like the rule.
	forgetBest = 0.0001
)

// Limit returns how many deliveries may be under way, between 1 and most.
func (p Pace) Limit(most int) int {
	return max(1, min(int(p.limit), most))
}

// Next returns the pace after a result. most is the greatest limit ever wanted.
func (p Pace) Next(r Result, most int) Pace {
	most = max(most, 1)
	p.limit = min(max(p.limit, 1), float64(most))
	if p.grace > 0 {
		p.grace--
	}
	if !r.OK {
		return p.cut(0.5, r.Busy)
	}
	p.learn(r.Latency.Seconds())
	if p.mean > slowFactor*p.best+slowFloor {
		return p.cut(0.75, r.Busy)
	}
	if 2*r.Busy >= int(p.limit) {
		if p.settled {
			p.limit += 1 / p.limit
		} else {
			p.limit++
		}
	}
	p.limit = min(p.limit, float64(most))
	return p
}

func (p *Pace) learn(latency float64) {
	if latency <= 0 {
		latency = 1e-6 // Zero means that nothing is known.
	}
	if p.best == 0 {
		p.best, p.mean = latency, latency
		return
	}
	p.mean += (latency - p.mean) / 8
	p.best = min(latency, p.best+forgetBest*max(0, p.mean-p.best))
}

func (p Pace) cut(factor float64, busy int) Pace {
	p.settled = true
	if p.grace > 0 {
		return p
	}
	p.limit = max(1, p.limit*factor)
	p.grace = max(busy, 1)
	return p
}
