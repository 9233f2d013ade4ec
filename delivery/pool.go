package delivery

import (
	"context"
	"slices"
	"sync"
	"time"

	"holdfast/delivery/smtpc"
)

const (
	// maxIdle connections of a route are kept for reuse, each for idleFor at
	// most and for maxReuse transactions.
	maxIdle  = maxConcurrent
	idleFor  = 20 * time.Second
	maxReuse = 500
	// goodbye is how long a server may take to answer QUIT.
	goodbye = time.Second
)

// pool keeps a route's idle connections. Its methods may be called by any
// goroutine.
type pool struct {
	mu     sync.Mutex // never held while talking to a server
	idle   []idleConn // the newest last
	closed bool
}

// conn is a connection with the server it is to.
type conn struct {
	*smtpc.Conn
	server string // as it is configured
}

type idleConn struct {
	conn
	since time.Time
}

func newPool() *pool { return &pool{} }

// get returns a connection to one of the servers that is still alive.
func (p *pool) get(servers []string) (conn, bool) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return conn{}, false
		}
		found := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if time.Since(found.since) < idleFor && slices.Contains(servers, found.server) && found.Alive() {
			return found.conn, true
		}
		found.Close()
	}
}

// put takes a connection back, or closes it.
func (p *pool) put(c conn) {
	if c.Transactions() >= maxReuse || c.Broken() {
		c.Close()
		return
	}
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < maxIdle
	if keep {
		p.idle = append(p.idle, idleConn{c, time.Now()})
	}
	p.mu.Unlock()
	if !keep {
		c.Close()
	}
}

// size returns how many connections are idle.
func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// anyIdle reports whether a connection has been idle for at least d.
func (p *pool) anyIdle(d time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle) > 0 && time.Since(p.idle[0].since) >= d
}

// reap closes connections that have been idle for at least d, all at a time:
// a server that does not answer QUIT holds up nobody but the caller, and him
// for one goodbye.
func (p *pool) reap(d time.Duration) {
	now := time.Now()
	p.mu.Lock()
	var old []idleConn
	p.idle = slices.DeleteFunc(p.idle, func(c idleConn) bool {
		if now.Sub(c.since) < d {
			return false
		}
		old = append(old, c)
		return true
	})
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range old {
		wg.Go(func() { c.Close() })
	}
	wg.Wait()
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.reap(0)
}

// crowds reports whether the route has connections that may keep the next hop
// from taking another, and closes those that are idle.
func (rt *route) crowds() bool {
	idle := rt.pool.size()
	rt.pool.reap(0)
	return idle > 0 || rt.inUse.Load() > 0
}

// servers returns where the route may deliver to, in order.
func (rt *route) servers(conf Site) []string {
	if !rt.outbound {
		return conf.Primary
	}
	if conf.Outbound == "" {
		return nil
	}
	return []string{conf.Outbound}
}

// connect returns a connection to the first server that takes one; a fresh one
// if asked for.
func (rt *route) connect(ctx context.Context, conf Site, fresh bool) (conn, error) {
	servers := rt.servers(conf)
	if !fresh {
		if c, ok := rt.pool.get(servers); ok {
			return c, nil
		}
	}
	last := errNoServer
	for _, server := range servers {
		target, err := parseTarget(server)
		if err != nil {
			last = err
			continue
		}
		c, err := smtpc.Connect(ctx, target, rt.svc.clientConfig(conf))
		if err == nil {
			return conn{c, server}, nil
		}
		last = err
	}
	return conn{}, last
}
