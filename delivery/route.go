package delivery

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"holdfast/delivery/health"
	"holdfast/event"
	"holdfast/projection"
)

const (
	// maxWindow is how many units of a route are held in memory, in queue order.
	maxWindow = 4000
	// lowWindow is when more are loaded.
	lowWindow = 1000
	// maxGroup is how many recipients share a transaction. RFC 5321 §4.5.3.1.8
	// lets a server refuse more than 100.
	maxGroup = 100
	// maxConcurrent is the most transactions under way on one route.
	maxConcurrent = 40
	// The pause after a route failed grows between these.
	minBlock, maxBlock = time.Second, time.Minute
	// idleRecheck is how often a route that waits looks again.
	idleRecheck = 30 * time.Second
)

// unit is a due unit in memory.
type unit struct {
	id  event.Unit
	row row
}

// group is the units of one message that go in one transaction.
type group struct {
	units []unit
	mail  *event.MessageAccepted // nil until it is read
	names []string               // whom the units are for, for the order per recipient
}

func (g *group) first() row { return g.units[0].row }

// finished is what an attempt's goroutine tells the route.
type finished struct {
	group    *group
	settled  bool          // outcomes are durable and folded: the units leave memory
	block    bool          // the route itself failed: nothing else is tried for a while
	deferred bool          // settled, but some unit is due again
	wait     time.Time     // its recipients' later messages wait until then
	sent     bool          // an answer came, good or bad
	ok       bool          // for the pace
	latency  time.Duration // from the final dot to its answer
}

// route carries mail to one next hop. All its fields but name, wake and done
// belong to the goroutine of run.
type route struct {
	svc      *Service
	holder   *holder
	site     *site
	name     string
	outbound bool
	wake     chan struct{}
	done     chan finished
	pool     *pool

	epoch    uint64 // under which the window was loaded
	window   []*group
	loaded   map[event.Unit]bool // in the window or under way
	busy     map[string]time.Time
	scanned  []byte // the last key of the fresh queue that was loaded
	more     bool   // the fresh queue may have more after scanned
	running  int
	pace     health.Pace
	blocked  time.Time
	block    time.Duration
	nextTime time.Time // when the next deferred unit is due
}

func newRoute(s *Service, h *holder, st *site, name string, outbound bool) *route {
	return &route{
		svc: s, holder: h, site: st, name: name, outbound: outbound,
		wake: make(chan struct{}, 1), done: make(chan finished, maxConcurrent),
		pool: newPool(), loaded: map[event.Unit]bool{}, busy: map[string]time.Time{}, more: true,
	}
}

// run delivers until ctx ends and what is under way has been recorded.
func (rt *route) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer rt.pool.close()
	defer wg.Wait()
	for ctx.Err() == nil {
		rt.fill(ctx)
		rt.expire(ctx, &wg)
		rt.start(ctx, &wg)
		timer := time.NewTimer(rt.untilNext())
		select {
		case f := <-rt.done:
			rt.finish(f)
			for range len(rt.done) {
				rt.finish(<-rt.done)
			}
		case <-rt.wake:
			rt.more = true
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// limit returns how many transactions may be under way now.
func (rt *route) limit(now time.Time) int {
	if rt.epoch == 0 || now.Before(rt.blocked) {
		return 0
	}
	conf := rt.site.settings()
	if rt.outbound {
		if conf.Outbound == "" {
			return 0
		}
		return rt.pace.Limit(maxConcurrent)
	}
	if len(conf.Primary) == 0 || conf.Failover == "on" {
		return 0
	}
	if conf.Failover != "off" {
		st := rt.site.health()
		switch {
		case !st.Delivers():
			return 0
		case st.State == health.Recovering && st.NeedsDelivery:
			return 1 // a trial
		}
	}
	return rt.pace.Limit(maxConcurrent)
}

// untilNext returns how long to wait when nothing happens.
func (rt *route) untilNext() time.Duration {
	now := time.Now()
	d := idleRecheck
	for _, t := range []time.Time{rt.blocked, rt.nextTime} {
		if t.After(now) {
			d = min(d, t.Sub(now))
		}
	}
	if rt.running == 0 && len(rt.window) > 0 {
		for _, t := range rt.busy {
			if t.After(now) {
				d = min(d, t.Sub(now))
			}
		}
	}
	return max(d, time.Millisecond)
}

// fill loads due units into the window. When the lease is new, what was in
// memory is forgotten: another node may have acted meanwhile.
func (rt *route) fill(ctx context.Context) {
	if e := rt.holder.epoch(); e != rt.epoch {
		if rt.running > 0 {
			return // their ends are awaited first
		}
		rt.epoch, rt.window, rt.scanned, rt.more = e, nil, nil, true
		clear(rt.loaded)
		clear(rt.busy)
	}
	now := time.Now()
	for name, t := range rt.busy {
		if !t.IsZero() && !t.After(now) {
			delete(rt.busy, name)
		}
	}
	if rt.epoch == 0 || len(rt.loaded) >= lowWindow || !rt.more && (rt.nextTime.IsZero() || rt.nextTime.After(now)) {
		return
	}
	err := rt.svc.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		if err := rt.loadRetries(v, now); err != nil {
			return err
		}
		return rt.loadFresh(v)
	})
	if err != nil && ctx.Err() == nil {
		rt.svc.logger.Error("queue cannot be read", "error", err)
		rt.blocked = now.Add(maxBlock)
	}
}

// loadRetries loads deferred units whose time has come.
func (rt *route) loadRetries(v projection.View, now time.Time) error {
	rt.nextTime = time.Time{}
	prefix := queuePrefix(keyRetry, rt.name)
	for it, err := range v.Scan(prefix, nil, false) {
		if err != nil {
			return err
		}
		at := time.UnixMilli(int64(binary.BigEndian.Uint64(it.Key[len(prefix):])))
		if at.After(now) {
			rt.nextTime = at
			return nil
		}
		if len(rt.loaded) >= maxWindow {
			rt.nextTime = now.Add(minBlock)
			return nil
		}
		if err := rt.load(v, it.Value); err != nil {
			return err
		}
	}
	return nil
}

// loadFresh loads units after the last one that was loaded: what is newer in
// the log stands later in the queue.
func (rt *route) loadFresh(v projection.View) error {
	rt.more = false
	prefix := queuePrefix(keyFresh, rt.name)
	var from []byte
	if rt.scanned != nil {
		from = append(slices.Clone(rt.scanned), 0)
	}
	for it, err := range v.Scan(prefix, from, false) {
		if err != nil {
			return err
		}
		if len(rt.loaded) >= maxWindow {
			rt.more = true
			return nil
		}
		if err := rt.load(v, it.Value); err != nil {
			return err
		}
		rt.scanned = slices.Clone(it.Key)
	}
	return nil
}

func (rt *route) load(v projection.View, value []byte) error {
	u := unit{id: parseUnit(value)}
	if rt.loaded[u.id] {
		return nil
	}
	w, err := getRow(v, u.id)
	if err != nil || w == nil {
		return err
	}
	u.row = *w
	rt.loaded[u.id] = true
	if n := len(rt.window); n > 0 {
		g := rt.window[n-1]
		last := g.units[len(g.units)-1]
		if g.mail == nil && len(g.units) < maxGroup && last.id.Source == u.id.Source && last.row.Message == u.row.Message &&
			last.row.To == "" && u.row.To == "" && (last.row.RetryAt == 0) == (u.row.RetryAt == 0) {
			g.units = append(g.units, u)
			return nil
		}
	}
	rt.window = append(rt.window, &group{units: []unit{u}})
	return nil
}

// start begins as many transactions as may be under way. Messages for one
// recipient go one after another, in queue order.
func (rt *route) start(ctx context.Context, wg *sync.WaitGroup) {
	limit := rt.limit(time.Now())
	passed := map[string]bool{} // recipients of groups that must wait
	var rest []*group
	for i, g := range rt.window {
		if rt.running >= limit {
			rest = append(rest, rt.window[i:]...)
			break
		}
		if err := rt.read(ctx, g); err != nil {
			if ctx.Err() == nil {
				rt.svc.logger.Warn("due message cannot be read yet", "event", g.first().Message.ID, "error", err)
			}
			rt.blockNow()
			rest = append(rest, rt.window[i:]...)
			break
		}
		if rt.mustWait(g, passed) {
			rest = append(rest, g)
			continue
		}
		rt.begin(ctx, wg, g, rt.attempt)
	}
	rt.window = rest
}

// begin hands a group to a goroutine.
func (rt *route) begin(ctx context.Context, wg *sync.WaitGroup, g *group, do func(context.Context, *group, uint64) finished) {
	for _, name := range g.names {
		rt.busy[name] = time.Time{}
	}
	rt.running++
	epoch := rt.epoch
	wg.Go(func() {
		f := do(ctx, g, epoch)
		f.group = g
		rt.done <- f // it has room for all that may run
	})
}

// mustWait reports whether a recipient of the group has an earlier message
// under way or waiting, and then makes later ones wait too.
func (rt *route) mustWait(g *group, passed map[string]bool) bool {
	wait := false
	for _, name := range g.names {
		_, busy := rt.busy[name]
		wait = wait || busy || passed[name]
	}
	if wait {
		for _, name := range g.names {
			passed[name] = true
		}
	}
	return wait
}

// expire ends units whose day has come, whatever the state of the next hop.
func (rt *route) expire(ctx context.Context, wg *sync.WaitGroup) {
	if rt.epoch == 0 {
		return
	}
	today := event.DayOf(rt.svc.log.Now())
	var rest []*group
	for i, g := range rt.window {
		if rt.running >= maxConcurrent {
			rest = append(rest, rt.window[i:]...)
			break
		}
		if g.first().Expiry > today {
			rest = append(rest, g)
			continue
		}
		if err := rt.read(ctx, g); err != nil {
			rest = append(rest, g)
			continue
		}
		rt.begin(ctx, wg, g, rt.expireGroup)
	}
	rt.window = rest
}

// finish takes the end of an attempt into account.
func (rt *route) finish(f finished) {
	busy := rt.running
	rt.running--
	for _, name := range f.group.names {
		delete(rt.busy, name)
		if !f.wait.IsZero() {
			rt.busy[name] = f.wait
		}
	}
	switch {
	case f.settled:
		for _, u := range f.group.units {
			delete(rt.loaded, u.id)
		}
		if f.deferred {
			rt.nextTime = time.Now() // to be found out by the next fill
		}
	default:
		rt.window = append([]*group{f.group}, rt.window...)
		slices.SortStableFunc(rt.window, func(a, b *group) int {
			if a.first().Place.Less(b.first().Place) {
				return -1
			}
			if b.first().Place.Less(a.first().Place) {
				return 1
			}
			return 0
		})
	}
	switch {
	case f.block:
		rt.blockNow()
	case f.sent:
		rt.block = 0
		rt.pace = rt.pace.Next(health.Result{OK: f.ok, Latency: f.latency, Busy: busy}, maxConcurrent)
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
