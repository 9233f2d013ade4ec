package sim

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// errDead is what every call through a seam gives once the node was killed.
var errDead = errors.New("this process is dead")

// errFault is what the world does to its calls.
var errFault = errors.New("injected fault")

// faults says what goes wrong now.
type faults struct {
	on atomic.Bool
	rates
	silence time.Time // until when the store answers nobody; the driver's, and of those whose turn it is
}

// silent reports whether the store answers nobody now.
func (f *faults) silent() bool { return f.on.Load() && time.Now().Before(f.silence) }

// rates say how often what goes wrong, as probabilities per call.
type rates struct {
	// Of the bucket.
	before float64 // fails, without effect
	lost   float64 // takes effect, fails at once as ambiguous
	hang   float64 // ends with its context, with or without effect
	late   float64 // fails at once as ambiguous, takes effect later
	torn   float64 // a read breaks off
	stale  float64 // a list misses the newest keys
	keys   float64 // the key service fails
	// Of the network.
	cut      float64 // per read or write
	dialHang float64
	// Of the machines, per step.
	stall float64 // what was chosen waits for a while
	kill  float64
	stop  float64
	// outage is the chance per step that the store falls silent for a while.
	outage float64
	// skew is the chance of a start with a clock that is wrong.
	skew float64
}

// strikes reports whether a fault of this rate strikes now.
func (f *faults) strikes(r *rand.Rand, rate float64) bool {
	x := r.Float64() // always drawn, so that a rate changes nothing else
	return f.on.Load() && x < rate
}
