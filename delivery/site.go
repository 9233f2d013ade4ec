package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"holdfast/delivery/health"
	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/internal/turn"
	"holdfast/projection"
)

// maxProbes is how many probes of one site may be out at a time: a probe that
// hangs must not keep the next one from being made.
const maxProbes = 3

// maxChanges bounds the changes of health that wait to be appended.
const maxChanges = 64

// site watches a domain's primary.
type site struct {
	svc    *Service
	holder *holder
	routes []*route
	told   chan struct{} // changes has something
	stop   context.CancelFunc
	done   chan struct{} // closed when nothing of it runs any more

	mu      sync.Mutex
	conf    Site
	status  health.Status
	breaker health.Breaker
	changes []*event.HealthChanged // to be appended and folded, oldest first
	logged  health.State           // as the log says by what was folded; 0: nothing
}

func newSite(s *Service, h *holder, conf Site) *site {
	return &site{svc: s, holder: h, conf: conf, told: make(chan struct{}, 1), done: make(chan struct{})}
}

func (st *site) configure(conf Site) {
	st.mu.Lock()
	st.conf = conf
	st.mu.Unlock()
	st.kick()
}

func (st *site) kick() {
	for _, rt := range st.routes {
		signal(rt.wake)
	}
}

func (st *site) settings() Site {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.conf
}

func (st *site) health() health.Status {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.status
}

// restore takes up the state that the log tells.
func (st *site) restore(ctx context.Context) {
	var changed *event.HealthChanged
	err := st.svc.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		raw, err := v.Get(healthKey(st.conf.Tenant, st.conf.Domain))
		if err != nil || raw == nil {
			return err
		}
		changed = new(event.HealthChanged)
		return event.Unmarshal(raw, changed)
	})
	if err != nil && ctx.Err() == nil {
		st.svc.logger.Warn("state of a site is not known, it is watched afresh", "error", err)
	}
	if err == nil && changed != nil {
		st.mu.Lock()
		// What was learned meanwhile is newer.
		if st.logged == 0 {
			st.logged = health.State(changed.To)
		}
		if st.status.State == 0 {
			st.adopt(changed)
		}
		st.mu.Unlock()
	}
}

// learn is told of a change that was folded. While this node holds the lease
// its own view is the newer one, and the log is put right.
func (st *site) learn(c *event.HealthChanged) {
	holds := st.holder.epoch() != 0
	st.mu.Lock()
	defer st.mu.Unlock()
	st.logged = health.State(c.To)
	if holds && st.status.State != 0 {
		st.correct()
		return
	}
	st.adopt(c)
}

// correct queues a change from what the log says to what this node knows, should
// the log have ended with something else: the word of a former holder of the
// lease that was folded after it had been taken over. Without it the log would
// say so until the state changes the next time. st.mu is held.
func (st *site) correct() {
	if len(st.changes) > 0 || st.logged == 0 || st.status.State == 0 || st.logged == st.status.State {
		return
	}
	st.queue(healthChanged(st.conf.Domain, st.logged, st.status, time.Now()))
	signal(st.told)
}

func (st *site) adopt(c *event.HealthChanged) {
	at := time.UnixMilli(int64(c.At))
	st.status = health.Status{State: health.State(c.To), Since: at, NeedsDelivery: c.NeedsDelivery, Seen: at}
	switch c.To {
	case event.HealthDown, event.HealthRecovering:
		st.status.LastDown = at
	}
	if c.To == event.HealthRecovering || c.From == event.HealthRecovering {
		st.status.LastDown, st.status.Returned = at, at
	}
}

// run probes the site and appends its changes until ctx ends.
func (st *site) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { st.appendChanges(turn.Named(ctx, "changes")) })
	slots := make(chan struct{}, maxProbes)
	for n := 0; ctx.Err() == nil; n++ {
		conf := st.settings()
		if len(conf.Primary) > 0 && st.holder.epoch() != 0 {
			select {
			case slots <- struct{}{}:
				wg.Go(func() {
					defer func() { <-slots }()
					st.probe(turn.Named(ctx, "probe "+strconv.Itoa(n)), conf)
				})
			default:
			}
		}
		every := conf.Policy.ProbeEvery
		if every <= 0 {
			every = time.Second
		}
		pause(ctx, every)
		turn.Take(ctx, "tick")
	}
}

// probe asks all primaries at once, so that one that hangs takes no time from
// the others; one that answers is enough.
func (st *site) probe(ctx context.Context, conf Site) {
	answers := make(chan smtpc.Observation, len(conf.Primary))
	var wg sync.WaitGroup
	defer wg.Wait()
	asked := 0
	for _, raw := range conf.Primary {
		target, err := parseTarget(raw)
		if err != nil {
			continue
		}
		asked++
		wg.Go(func() { answers <- smtpc.Probe(ctx, target, st.svc.clientConfig(conf)) })
	}
	var last smtpc.Observation
	for range asked {
		if last = <-answers; last.OK {
			break
		}
	}
	switch {
	case asked == 0 || ctx.Err() != nil:
		return // broken off by us: it says nothing about the site
	case last.Reply.Temporary() && st.routes[0].crowds():
		// It has all the connections of ours that it takes. What it does with
		// those is seen by what they carry.
		return
	}
	o := health.Observation{At: time.Now(), Kind: health.ProbeOK}
	if !last.OK {
		o.Kind, o.Phase, o.Code = health.ProbeFailed, health.Phase(last.Phase), last.Reply.Code
	}
	st.note(o)
}

// note takes an observation into account.
func (st *site) note(o health.Observation) {
	st.mu.Lock()
	next, changed := health.Next(st.conf.Policy, st.status, o)
	from := st.status.State
	st.status = next
	st.breaker = st.breaker.Next(o)
	if changed {
		st.queue(healthChanged(st.conf.Domain, from, next, o.At))
	}
	st.mu.Unlock()
	if changed {
		st.svc.logger.Info("upstream state", "tenant", st.holder.tenant, "domain", st.settings().Domain, "from", from.String(), "to", next.State.String(),
			"observed", o.Kind.String(), "phase", int(o.Phase), "code", o.Code)
		signal(st.told)
		st.kick()
	}
}

// queue adds a change to those that wait. When there are too many, the last
// takes the newest state: the log must end with that. st.mu is held.
func (st *site) queue(c *event.HealthChanged) {
	if n := len(st.changes); n >= maxChanges {
		c.From = st.changes[n-1].From
		st.changes[n-1] = c
		return
	}
	st.changes = append(st.changes, c)
}

// decide says what becomes of a permanent refusal now.
func (st *site) decide() health.Decision {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.breaker.Decide(health.BreakerPolicy{}, st.status, time.Now())
}

func healthChanged(domain string, from health.State, s health.Status, at time.Time) *event.HealthChanged {
	c := &event.HealthChanged{
		At: event.Millis(at.UnixMilli()), Domain: domain,
		From: event.Health(max(from, health.Up)), To: event.Health(s.State), NeedsDelivery: s.NeedsDelivery,
	}
	for _, o := range s.Evidence {
		e := event.Evidence{At: event.Millis(o.At.UnixMilli()), What: o.Kind.String(), Code: uint16(o.Code)}
		if o.Phase != 0 {
			e.Phase = smtpc.Phase(o.Phase).String()
		}
		c.Evidence = append(c.Evidence, e)
	}
	return c
}

// appendChanges writes the changes to the log, in order, for as long as it
// takes, or until the tenant has ended.
func (st *site) appendChanges(ctx context.Context) {
	for {
		st.mu.Lock()
		var c *event.HealthChanged
		if len(st.changes) > 0 {
			c = st.changes[0]
		}
		st.mu.Unlock()
		if c == nil {
			select {
			case <-st.told:
				if ctx.Err() == nil {
					continue
				}
				return
			case <-ctx.Done():
				return
			}
		}
		turn.Take(ctx, "tell")
		failpoint.Hit(failpoint.HealthAppend)
		pos, err := st.svc.log.Append(ctx, event.Event{ID: event.NewID(), Tenant: st.holder.tenant, Fact: c})
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, eventlog.ErrEnded) {
				return
			}
			st.svc.logger.Warn("change of an upstream's state not recorded yet", "error", err)
			pause(ctx, time.Second)
			continue
		}
		failpoint.Hit(failpoint.HealthDurable)
		// Only then is it known whether the log ends with it.
		if err := st.svc.cfg.Runner.WaitFor(ctx, foldName, pos); err != nil && ctx.Err() == nil {
			st.svc.logger.Warn("change of an upstream's state is recorded but not folded", "error", err)
		}
		holds := st.holder.epoch() != 0
		st.mu.Lock()
		st.changes = st.changes[1:]
		if holds {
			st.correct()
		}
		st.mu.Unlock()
	}
}

func (s *Service) clientConfig(conf Site) smtpc.Config {
	return smtpc.Config{
		Hello: s.cfg.Hostname, Dial: s.cfg.Dial, RootCAs: s.cfg.RootCAs,
		Timeouts: smtpc.Timeouts{Dot: conf.DotTimeout, Quit: goodbye},
	}
}

// parseTarget reads smtp://host:port?tls=opportunistic|required|none.
func parseTarget(raw string) (smtpc.Target, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "smtp" || u.Hostname() == "" {
		return smtpc.Target{}, fmt.Errorf("a server is written smtp://host:port")
	}
	t := smtpc.Target{Host: u.Hostname()}
	if p := u.Port(); p != "" {
		if t.Port, err = strconv.Atoi(p); err != nil {
			return smtpc.Target{}, fmt.Errorf("a server is written smtp://host:port")
		}
	}
	switch u.Query().Get("tls") {
	case "", "opportunistic":
	case "required":
		t.TLS = smtpc.Required
	case "none":
		t.TLS = smtpc.None
	default:
		return smtpc.Target{}, fmt.Errorf("tls is one of opportunistic, required, none")
	}
	return t, nil
}
