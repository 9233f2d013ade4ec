package delivery

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/delivery/health"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
)

const (
	// maxConcurrent is the most transactions under way on one route.
	maxConcurrent = 40
	// maxOpen is the most groups that a route is at: in a transaction, or with
	// an outcome that is being recorded.
	maxOpen = 200
	// The pause after a route failed grows between these.
	minBlock, maxBlock = time.Second, time.Minute
	// maxLook is how many groups are looked at for one that may start, while at
	// least fewRunning transactions are under way: many may wait for a recipient
	// who gets much mail, and looking at all of them each time one ends took a
	// tenth of the CPU of draining a queue.
	maxLook    = 250
	fewRunning = 8
	// idleRecheck is how often a route that waits looks again.
	idleRecheck = 30 * time.Second
)

// progress is what a group's goroutine tells the route: that its connection is
// free again, and at last that the group has ended.
type progress struct {
	group *group
	ended bool
	// again: some unit may still be due.
	again bool
	// unread is why the message cannot be read, if it is the message's trouble.
	unread error

	// What follows is told when the connection is free.
	block   bool                // the next hop, or the store, failed: nothing else is tried for a while
	crowded bool                // the next hop takes no further connection now
	note    *health.Observation // of crowded: to be noted unless it was crowded by us
	sent    bool                // an answer came, good or bad
	ok      bool                // for the pace
	taken   bool                // the next hop has it, for every recipient
	latency time.Duration       // from the final dot to its answer
}

// route carries a tenant's mail to one next hop. The fields below pool belong to the
// goroutine of run.
type route struct {
	svc      *Service
	holder   *holder
	site     *site
	name     string
	outbound bool
	wake     chan struct{}
	due      atomic.Bool // there are new fresh units
	deferred atomic.Bool // units were deferred, perhaps by another node
	ended    atomic.Bool // units have ended but for an open intent
	inUse    atomic.Int32
	done     chan progress
	pool     *pool
	scribe   *scribe

	epoch   uint64 // under which the window was loaded
	window  window
	rcpts   map[string]*recipient
	rest    []*group // see startSome
	looks   uint64   // how often a group was looked for that may start
	running int      // groups that have a connection or want one
	open    int      // groups in a goroutine
	pace    health.Pace
	state   health.State // of the site when last looked at
	trial   bool         // a completed delivery is what ends the outage
	blocked time.Time
	block   time.Duration
}

func newRoute(s *Service, h *holder, st *site, name string, outbound bool) *route {
	return &route{
		svc: s, holder: h, site: st, name: name, outbound: outbound,
		wake: make(chan struct{}, 1), done: make(chan progress, 2*maxOpen),
		pool: newPool(), scribe: newScribe(s, h), window: newWindow(), rcpts: map[string]*recipient{},
	}
}

func (rt *route) queue() queue { return queue{rt.holder.tenant, rt.name} }

// hasDue is told that the fold has queued something.
func (rt *route) hasDue(deferred bool) {
	if sabotage.Count(sabotage.LoseDue)%3 == 2 {
		return
	}
	if deferred {
		rt.deferred.Store(true)
	} else {
		rt.due.Store(true)
	}
	signal(rt.wake)
}

// hasEnded is told that a unit has ended but for an open intent.
func (rt *route) hasEnded() {
	rt.ended.Store(true)
	signal(rt.wake)
}

// run delivers until ctx ends and what is under way has been recorded.
func (rt *route) run(ctx context.Context) {
	late, cancel := graceful(ctx, graceRecord)
	defer cancel()
	var recording, wg sync.WaitGroup
	recording.Go(func() { rt.scribe.run(turn.Named(late, "scribe")) })
	defer rt.pool.close()
	defer recording.Wait()
	defer rt.scribe.close()
	defer wg.Wait()
	for ctx.Err() == nil {
		rt.fill(ctx)
		rt.expire(late, &wg)
		rt.abandon(late, &wg)
		rt.start(ctx, late, &wg)
		rt.wait(ctx, &wg)
		if rt.pool.anyIdle(idleFor) {
			wg.Go(func() { rt.pool.reap(idleFor) })
		}
	}
}

// wait returns when there may be something to do.
func (rt *route) wait(ctx context.Context, wg *sync.WaitGroup) {
	timer := time.NewTimer(rt.untilNext())
	defer timer.Stop()
	var told []progress
	select {
	case p := <-rt.done:
		told = append(told, p)
	case <-rt.wake:
	case <-timer.C:
	case <-ctx.Done():
	}
	// Whichever woke it, all that has come is taken in one order.
	turn.Take(ctx, "look")
	select {
	case <-rt.wake:
	default:
	}
	for range len(rt.done) {
		told = append(told, <-rt.done)
	}
	for _, p := range told {
		rt.take(ctx, wg, p)
	}
	if rt.due.Swap(false) {
		rt.window.more = true
	}
	if rt.ended.Swap(false) {
		rt.window.endedMore = true
	}
	if rt.deferred.Swap(false) {
		// Ours are known. Another node's late word may have moved a unit, which
		// is then found a little later.
		rt.lookForRetries(rt.svc.log.Now().Add(idleRecheck))
	}
}

func (rt *route) lookForRetries(at time.Time) {
	if w := &rt.window; w.nextRetry.IsZero() || at.Before(w.nextRetry) {
		w.nextRetry = at
	}
}

// untilNext returns how long to wait when nothing happens.
func (rt *route) untilNext() time.Duration {
	d := idleRecheck
	if rt.pool.size() > 0 {
		d = idleFor / 2
	}
	soonest := func(t, now time.Time) {
		if t.After(now) {
			d = min(d, t.Sub(now))
		}
	}
	soonest(rt.blocked, time.Now())
	now := rt.svc.log.Now()
	soonest(rt.window.nextRetry, now)
	if w := &rt.window; w.timed {
		w.timed = false
		for _, g := range w.groups {
			w.timed = w.timed || !g.notBefore.IsZero()
			soonest(g.notBefore, now)
		}
	}
	return max(d, time.Millisecond)
}

// limit returns how many transactions may be under way now.
func (rt *route) limit(now time.Time) int {
	rt.trial = false
	if rt.epoch == 0 || rt.holder.epoch() != rt.epoch || now.Before(rt.blocked) {
		return 0
	}
	conf := rt.site.settings()
	if len(rt.servers(conf)) == 0 {
		return 0
	}
	if rt.outbound {
		return rt.pace.Limit(maxConcurrent)
	}
	st := rt.site.health()
	if st.State == health.Recovering && rt.state == health.Down {
		rt.pace = health.Pace{} // what it could take before says nothing now
	}
	rt.state = st.State
	switch {
	case conf.Failover == "on":
		return 0
	case conf.Failover == "off":
	case !st.Delivers():
		return 0
	case st.State == health.Recovering && st.NeedsDelivery:
		rt.trial = true
		return 1
	}
	return rt.pace.Limit(maxConcurrent)
}

// start begins as many transactions as may be under way. Messages for one
// recipient go one after another, in queue order.
func (rt *route) start(ctx, late context.Context, wg *sync.WaitGroup) {
	limit := rt.limit(time.Now())
	if rt.running >= limit {
		return
	}
	// The message that hung says less about the site than another one does.
	if rt.trial && rt.startSome(ctx, late, wg, limit, true) {
		return
	}
	rt.startSome(ctx, late, wg, limit, false)
}

// startSome begins transactions in queue order up to the limit; with certain,
// only of units of which no answer was lost. It reports whether there was one.
func (rt *route) startSome(ctx, late context.Context, wg *sync.WaitGroup, limit int, certain bool) (some bool) {
	w := &rt.window
	now := rt.svc.log.Now()
	rt.looks++
	look := len(w.groups)
	if rt.running >= fewRunning {
		look = min(look, maxLook)
	}
	rest := rt.rest[:0] // of those looked at, what stays
	n := 0
	for ; n < look && rt.running < limit && rt.open < maxOpen; n++ {
		g := w.groups[n]
		if err := rt.identify(ctx, g); err != nil {
			if ctx.Err() != nil || rt.unreadable(g, err) {
				rt.blockNow()
				break
			}
		}
		if rt.mustWait(g, now) || certain && g.first().Uncertain {
			if !g.damaged && !g.first().Refused {
				for _, r := range g.rcpts {
					r.passed = rt.looks
				}
			}
			rest = append(rest, g)
			continue
		}
		some = true
		rt.running++
		rt.inUse.Add(1)
		rt.begin(g, wg, func(epoch uint64) progress {
			return rt.attempt(g.turn(ctx, "attempt"), turn.Named(late, g.name()), g, epoch)
		})
	}
	// The few that stay move up to the many that were not looked at.
	gone := n - len(rest)
	copy(w.groups[gone:], rest)
	clear(w.groups[:gone])
	w.groups = w.groups[gone:]
	clear(rest)
	rt.rest = rest
	return some
}

// mustWait reports whether it is not the group's time, or a recipient of the
// group has an earlier message under way or waiting.
func (rt *route) mustWait(g *group, now time.Time) bool {
	if g.notBefore.After(now) {
		return true
	}
	for _, r := range g.rcpts {
		if r.busy != nil || r.passed == rt.looks {
			return true
		}
	}
	return false
}

// begin hands a group to a goroutine.
func (rt *route) begin(g *group, wg *sync.WaitGroup, do func(epoch uint64) progress) {
	for _, r := range g.rcpts {
		r.busy = g
	}
	rt.open++
	epoch := rt.epoch
	wg.Go(func() {
		p := do(epoch)
		p.group, p.ended = g, true
		rt.done <- p // it has room for all that is open
	})
}

// expire ends units whose day has come, when there is no next hop. Others are kept
// past their day, see package retention.
func (rt *route) expire(late context.Context, wg *sync.WaitGroup) {
	w := &rt.window
	if rt.epoch == 0 || rt.holder.epoch() != rt.epoch {
		return
	}
	for len(w.expiring) > 0 && rt.open < maxOpen {
		g := w.expiring[0]
		w.expiring[0] = nil
		w.expiring = w.expiring[1:]
		rt.leave(g)
		g.known = true // it holds back nobody
		rt.begin(g, wg, func(uint64) progress { return rt.expireGroup(g.turn(late, "expire"), g) })
	}
}

// take takes into account what a group's goroutine tells.
func (rt *route) take(ctx context.Context, wg *sync.WaitGroup, p progress) {
	if p.ended {
		rt.open--
		rt.free(p.group)
		if p.unread != nil {
			rt.unreadable(p.group, p.unread)
			rt.window.putBack(p.group)
			return
		}
		if p.again {
			rt.reload(ctx, p.group)
			return
		}
		rt.leave(p.group)
		for _, u := range p.group.units {
			rt.window.forget(u)
		}
		return
	}
	busy := rt.running
	rt.running--
	rt.inUse.Add(-1)
	switch {
	case p.crowded:
		rt.pace = rt.pace.Next(health.Result{Busy: busy}, maxConcurrent)
		// Our idle connections are among the crowd.
		idle := rt.pool.size()
		wg.Go(func() { rt.pool.reap(0) })
		if rt.running+idle > 0 {
			return // it was only one too many
		}
		rt.blockNow()
		if !rt.outbound {
			rt.site.note(*p.note)
		}
	case p.block:
		rt.pace = rt.pace.Next(health.Result{Busy: busy}, maxConcurrent)
		rt.blockNow()
	case p.sent:
		if p.taken {
			// The order is settled there; recording it need not be waited for.
			rt.free(p.group)
		}
		rt.block = 0
		rt.pace = rt.pace.Next(health.Result{OK: p.ok, Latency: p.latency, Busy: busy}, maxConcurrent)
	}
}

// free lets later messages for a group's recipients go.
func (rt *route) free(g *group) {
	for _, r := range g.rcpts {
		if r.busy == g {
			r.busy = nil
		}
	}
}

// blockNow stops the route for a while that grows each time. A site that comes
// back is seen by its probes, not by this.
func (rt *route) blockNow() {
	now := time.Now()
	if now.Before(rt.blocked) {
		return // one failure, met by several at once
	}
	rt.block = min(max(2*rt.block, minBlock), maxBlock)
	if !rt.outbound {
		rt.block = minBlock
	}
	rt.blocked = now.Add(rt.block)
}
