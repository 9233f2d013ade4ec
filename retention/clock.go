package retention

import (
	"sync"
	"time"

	"holdfast/event"
)

const (
	// maxAhead is how far the clock may be ahead of the last day that is known to
	// have begun, before it is in doubt.
	maxAhead = 48 * time.Hour
	// maxAheadOfStore is the same for a store with a clock of its own, which may be
	// that of this very machine, or of one that was repaired with it.
	maxAheadOfStore = 8 * 24 * time.Hour
	// maxDrift is how far the clock may jump while the process runs without that
	// it counts as another clock.
	maxDrift = 5 * time.Minute
	// trustAfter is how long a clock in doubt must have run evenly.
	trustAfter = 24 * time.Hour
)

// clock tells whether a machine's own clock may be believed when it says that a
// day is over. It goes by what the process has seen itself: how evenly the clock
// ran beside the monotonic one.
type clock struct {
	now func() time.Time

	mu        sync.Mutex // guards what follows
	wall      time.Time  // at the last look
	mono      time.Time
	since     time.Time // monotonic: since when the clock has run evenly
	jumped    bool
	confirmed bool // by an administrator; until it jumps
}

func newClock(now func() time.Time) *clock {
	c := &clock{now: now, mono: time.Now(), wall: now().Round(0)}
	c.since = c.mono
	return c
}

// look compares the clock with the monotonic one, and returns the time.
func (c *clock) look() time.Time {
	now, mono := c.now(), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := now.Round(0)
	drift := wall.Sub(c.wall) - mono.Sub(c.mono)
	if drift > maxDrift || drift < -maxDrift {
		c.since, c.jumped, c.confirmed = mono, true, false
	}
	c.wall, c.mono = wall, mono
	return now
}

// confirm says that the present time is right.
func (c *clock) confirm() {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.confirmed = true
}

// doubt returns for how long nothing may be condemned, 0 when the clock is
// believed. known is the latest moment that has certainly passed, and within how
// far beyond it needs no proof.
func (c *clock) doubt(known time.Time, within time.Duration) time.Duration {
	now := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	ran := c.mono.Sub(c.since)
	if c.confirmed || now.Sub(known) <= within || ran >= trustAfter {
		return 0
	}
	return trustAfter - ran
}

// latest returns the later of an instant of the log and the start of a day.
func latest(at event.Millis, d event.Day) time.Time {
	t := time.UnixMilli(int64(at)).UTC()
	if s := d.Start(); s.After(t) {
		return s
	}
	return t
}

// steadyFor is for how long a clock must have run evenly after a jump until what
// the log knows of the store's time was asked anew.
const steadyFor = 2 * time.Minute

// unsteady returns how long to wait because the machine's clock jumped a moment
// ago, 0 for not at all.
func (c *clock) unsteady() time.Duration {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	if ran := c.mono.Sub(c.since); c.jumped && ran < steadyFor {
		return steadyFor - ran
	}
	return 0
}
