package delivery

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/turn"
	"holdfast/projection"
)

const (
	// maxWindow is how many fresh units of a route are held in memory, in queue
	// order, and how many that were deferred.
	maxWindow = 2000
	// lowWindow is when more are loaded.
	lowWindow = 1000
	// maxGroup is how many recipients share a transaction. RFC 5321 §4.5.3.1.8
	// lets a server refuse more than 100.
	maxGroup = 100
	// holdBack is how far ahead of their time deferred units are in the window,
	// where they hold back later messages for the same recipient: so a short
	// trouble changes no order, and a long one of a single message holds up
	// nobody for long.
	holdBack = 90 * time.Second
	// maxSweep is how many units whose day has come, or that have ended but for an
	// intent, are taken at a time.
	maxSweep = 500
	// readTimeout bounds reading one message's envelope from the log.
	readTimeout = 20 * time.Second
)

// unit is a unit in memory.
type unit struct {
	id  event.Unit
	row row
}

// group is the units of one message that go in one transaction.
type group struct {
	units  []unit
	known  bool // whom they are for
	rcpts  []*recipient
	failed int // how often in a row the message could not be read
	// notBefore is when the group may be tried, by the store's clock.
	notBefore time.Time
	// damaged: the message cannot be read. It is tried again, but holds nobody
	// back.
	damaged bool
}

func (g *group) first() row { return g.units[0].row }

// name is the group's in a simulation: no two that are open share a unit.
func (g *group) name() string { return fmt.Sprintf("%v.%d", g.units[0].id.Source, g.units[0].id.N) }

// turn waits until the group's goroutine may begin, and returns its context.
func (g *group) turn(ctx context.Context, what string) context.Context {
	ctx = turn.Named(ctx, g.name())
	turn.Take(ctx, what)
	return ctx
}

// compareGroups orders by the log.
func compareGroups(a, b *group) int {
	x, y := a.units[0], b.units[0]
	switch {
	case x.row.Place.Less(y.row.Place):
		return -1
	case y.row.Place.Less(x.row.Place):
		return 1
	}
	return cmp.Compare(x.id.N, y.id.N)
}

// window is what of a route's queue is in memory, in queue order, and how far
// the queue has been read. It belongs to the route's goroutine.
type window struct {
	groups   []*group
	expiring []*group            // whose day has come, on a route that leads nowhere
	ended    []*group            // that have ended but for a former holder's intent
	loaded   map[event.Unit]bool // in the window or under way
	retries  int                 // of them, deferred

	scanned   []byte    // the last key of the fresh queue that was loaded
	more      bool      // the fresh queue may have more after scanned
	nextRetry time.Time // when to look for deferred units; zero: when told
	swept     event.Day // the day for which expired units were looked for; 0: none expire
	sweepMore bool      // and there may be more of them
	endedMore bool      // there may be units for ended
	timed     bool      // some group may have to wait for its time
}

func newWindow() window {
	return window{loaded: map[event.Unit]bool{}, more: true, endedMore: true}
}

// fill loads units into the window. When the lease is new, what was in memory
// is forgotten: another node may have acted meanwhile.
func (rt *route) fill(ctx context.Context) {
	now := rt.svc.log.Now()
	if e := rt.holder.epoch(); e != rt.epoch {
		if rt.open > 0 {
			return // their ends are awaited first
		}
		rt.epoch, rt.window, rt.rcpts = e, newWindow(), map[string]*recipient{}
		rt.window.nextRetry = now
	}
	w := &rt.window
	if rt.epoch == 0 {
		return
	}
	retry := !w.nextRetry.IsZero() && !w.nextRetry.After(now)
	fresh := w.more && len(w.loaded)-w.retries < lowWindow
	today := event.Day(0)
	if len(rt.servers(rt.site.settings())) == 0 {
		today = event.DayOf(now)
	}
	sweep := today != w.swept || w.sweepMore && len(w.expiring) == 0
	ended := w.endedMore && len(w.ended) == 0
	if !retry && !fresh && !sweep && !ended {
		return
	}
	err := rt.svc.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		if sweep {
			if err := rt.sweep(v, today); err != nil {
				return err
			}
		}
		if ended {
			if err := rt.loadEnded(v); err != nil {
				return err
			}
		}
		if retry {
			if err := rt.loadRetries(v, now); err != nil {
				return err
			}
		}
		if fresh {
			return rt.loadFresh(v)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		rt.svc.logger.Error("queue cannot be read", "error", err)
		rt.blocked = time.Now().Add(maxBlock)
	}
	slices.SortStableFunc(w.groups, compareGroups)
}

// loadRetries loads deferred units whose time has come or comes soon.
func (rt *route) loadRetries(v projection.View, now time.Time) error {
	w := &rt.window
	prefix := queuePrefix(keyRetry, rt.queue())
	for it, err := range v.Scan(prefix, nil, false) {
		if err != nil {
			return err
		}
		at := millis(event.Millis(binary.BigEndian.Uint64(it.Key[len(prefix):])))
		if at.After(now.Add(holdBack)) {
			w.nextRetry = at.Add(-holdBack)
			return nil
		}
		if w.retries >= maxWindow {
			w.nextRetry = now.Add(minBlock)
			return nil
		}
		if err := rt.load(v, it.Value); err != nil {
			return err
		}
	}
	w.nextRetry = time.Time{}
	return nil
}

// loadFresh loads units after the last one that was loaded: what is newer in
// the log stands later in the queue.
func (rt *route) loadFresh(v projection.View) error {
	w := &rt.window
	w.more = false
	prefix := queuePrefix(keyFresh, rt.queue())
	var from []byte
	if w.scanned != nil {
		from = append(slices.Clone(w.scanned), 0)
	}
	for it, err := range v.Scan(prefix, from, false) {
		if err != nil {
			return err
		}
		if len(w.loaded)-w.retries >= maxWindow {
			w.more = true
			return nil
		}
		if err := rt.load(v, it.Value); err != nil {
			return err
		}
		w.scanned = slices.Clone(it.Key)
	}
	return nil
}

// load takes up a unit that is not in memory yet.
func (rt *route) load(v projection.View, value []byte) error {
	id := parseUnit(value)
	if rt.window.loaded[id] {
		return nil
	}
	w, err := getRow(v, id)
	if err != nil || w == nil {
		return err
	}
	u := unit{id, *w}
	rt.window.take(u)
	if w.Expiry <= rt.window.swept {
		rt.window.expiring = append(rt.window.expiring, newGroup(u))
		return nil
	}
	rt.window.groups = gather(rt.window.groups, u)
	return nil
}

// take notes that a unit is in memory.
func (w *window) take(u unit) {
	w.loaded[u.id] = true
	if u.row.RetryAt != 0 {
		w.timed = true
		w.retries++
	}
}

// gather puts a unit behind the others, to the recipients of the same message if
// they come just before.
func gather(groups []*group, u unit) []*group {
	if n := len(groups); n > 0 {
		g := groups[n-1]
		last := g.units[len(g.units)-1]
		if !g.known && len(g.units) < maxGroup && last.id.Source == u.id.Source && last.row.at() == u.row.at() &&
			last.row.To == "" && u.row.To == "" && last.row.RetryAt == u.row.RetryAt && last.row.Quiet == u.row.Quiet {
			g.units = append(g.units, u)
			return groups
		}
	}
	return append(groups, newGroup(u))
}

func newGroup(u unit) *group {
	g := &group{units: []unit{u}}
	if u.row.RetryAt > 1 {
		g.notBefore = millis(u.row.RetryAt)
	}
	return g
}

// forget drops a unit from memory.
func (w *window) forget(u unit) {
	if w.loaded[u.id] && u.row.RetryAt != 0 {
		w.retries--
	}
	delete(w.loaded, u.id)
}

// putBack puts a group back that was taken out of the window.
func (w *window) putBack(g *group) {
	w.timed = true
	w.groups = append(w.groups, g)
	slices.SortStableFunc(w.groups, compareGroups)
}

// reload takes the units of a group that has ended as the fold knows them now:
// those that are due again soon go back into the window, the others leave
// memory.
func (rt *route) reload(ctx context.Context, g *group) {
	w := &rt.window
	now := rt.svc.log.Now()
	var again []unit
	err := rt.svc.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		for _, u := range g.units {
			r, err := getRow(v, u.id)
			if err != nil {
				return err
			}
			if r != nil && r.State == stateDue {
				again = append(again, unit{u.id, *r})
			}
		}
		return nil
	})
	if err != nil {
		// What is in memory is not the newest, but the fold will say so when it is
		// asked for the dot.
		if ctx.Err() == nil {
			rt.svc.logger.Error("queue cannot be read", "error", err)
		}
		w.putBack(g)
		return
	}
	rt.leave(g)
	for _, u := range g.units {
		w.forget(u)
	}
	var groups []*group
	for _, u := range again {
		at := millis(u.row.RetryAt)
		if u.row.RetryAt != 0 && at.After(now.Add(holdBack)) {
			if next := at.Add(-holdBack); w.nextRetry.IsZero() || next.Before(w.nextRetry) {
				w.nextRetry = next
			}
			continue
		}
		w.take(u)
		if u.row.Expiry <= w.swept {
			w.expiring = append(w.expiring, newGroup(u))
			continue
		}
		groups = gather(groups, u)
	}
	w.groups = append(w.groups, groups...)
	slices.SortStableFunc(w.groups, compareGroups)
}

// sweep looks for units whose day has come, wherever they stand: the window
// need not come to them in time, and held ones never get there.
func (rt *route) sweep(v projection.View, today event.Day) error {
	w := &rt.window
	w.swept, w.sweepMore = today, false
	if today == 0 {
		w.spare()
		return nil
	}
	w.groups = slices.DeleteFunc(w.groups, func(g *group) bool {
		if g.first().Expiry > today {
			return false
		}
		w.expiring = append(w.expiring, g)
		return true
	})
	n := 0
	for _, kind := range []byte{keyRetry, keyFresh, keyPark} {
		for it, err := range v.Scan(queuePrefix(kind, rt.queue()), nil, false) {
			if err != nil {
				return err
			}
			id := parseUnit(it.Value)
			if w.loaded[id] {
				continue
			}
			r, err := getRow(v, id)
			if err != nil {
				return err
			}
			if r == nil || r.Expiry > today {
				continue
			}
			if n++; n > maxSweep {
				w.sweepMore = true
				return nil
			}
			u := unit{id, *r}
			w.take(u)
			w.expiring = append(w.expiring, newGroup(u))
		}
	}
	return nil
}

// spare takes back what was to expire: there is somewhere to go again.
func (w *window) spare() {
	for _, g := range w.expiring {
		if g.first().State == stateDue {
			w.groups = append(w.groups, g)
			continue
		}
		for _, u := range g.units {
			w.forget(u)
		}
	}
	w.expiring = nil
}

// identify finds out whom a group is for.
func (rt *route) identify(ctx context.Context, g *group) error {
	if g.known {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	mail, err := rt.mail(ctx, g)
	if gone(mail, err) {
		g.known = true // nobody can say so any more; see vanished
		return nil
	}
	if err != nil {
		return err
	}
	g.known, g.rcpts = true, make([]*recipient, 0, len(g.units))
	for _, u := range g.units {
		path := recipientOf(mail, u.row)
		if path == "" {
			continue
		}
		name := foldCase(path)
		r := rt.rcpts[name]
		if r == nil {
			r = &recipient{name: name}
			rt.rcpts[name] = r
		}
		r.groups++
		g.rcpts = append(g.rcpts, r)
	}
	return nil
}

// recipient is somebody for whom there are groups in memory. There is one value
// for each, so that it is looked up once for a group and not whenever a group is
// looked for that may start.
type recipient struct {
	name   string
	groups int    // that hold it
	busy   *group // what is under way for it, until the next hop has it
	passed uint64 // the last look (see startSome) at which an earlier group had to wait
}

// leave ends that a group holds its recipients.
func (rt *route) leave(g *group) {
	for _, r := range g.rcpts {
		if r.groups--; r.groups == 0 {
			delete(rt.rcpts, r.name)
		}
	}
	g.rcpts = nil
}

// unreadable puts a group off whose message cannot be read. It reports whether
// the store is the trouble, and other messages need not be tried.
func (rt *route) unreadable(g *group, err error) bool {
	rt.svc.logger.Warn("due message cannot be read yet", "event", g.first().Message.ID, "error", err)
	if !damaged(err) && !errors.Is(err, crypto.ErrExpired) {
		return true
	}
	g.damaged, rt.window.timed = true, true
	g.failed = min(g.failed+1, 7)
	g.notBefore = rt.svc.log.Now().Add(time.Minute << g.failed)
	return false
}

func millis(m event.Millis) time.Time { return time.UnixMilli(int64(m)) }
