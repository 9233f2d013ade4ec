package smtpc

import (
	"context"
	"errors"
	"time"
)

// ProbeTimeout is what a whole probe may take.
const ProbeTimeout = 2 * time.Second

// Observation is what a probe saw.
type Observation struct {
	At    time.Time     // when the probe began
	Took  time.Duration // until it was decided
	OK    bool          // the server greeted us and answered EHLO or HELO, and TLS if required
	Phase Phase         // of the failure; 0 if OK
	Reply Reply         // the refusal, if the server answered with one
	Err   error         // an [*Error], nil if OK
}

// Probe connects, waits for the banner, says EHLO and QUIT, all within
// [ProbeTimeout]. It uses TLS only where that is [Required]: then a server whose
// certificate does not verify takes no mail, which is what a probe is to tell.
// Otherwise it asks whether somebody is there, not who. An unanswered QUIT is no
// failure.
func Probe(ctx context.Context, t Target, cfg Config) Observation {
	o := Observation{At: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, ProbeTimeout)
	defer cancel()
	if t.TLS != Required {
		t.TLS = None
	}
	c, err := Connect(ctx, t, cfg)
	o.Took = time.Since(o.At)
	if err != nil {
		o.Err = err
		if e, ok := errors.AsType[*Error](err); ok {
			o.Phase, o.Reply = e.Phase, e.Reply
		}
		return o
	}
	o.OK = true
	if deadline, ok := ctx.Deadline(); ok {
		c.cfg.Timeouts.Quit = min(c.cfg.Timeouts.Quit, max(time.Until(deadline), time.Millisecond))
	}
	_ = c.Close()
	return o
}
