package delivery

import (
	"context"
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
)

// pool keeps a route's idle connections. Its methods may be called by any
// goroutine.
type pool struct {
	mu     sync.Mutex // never held while talking to a server
	idle   []idleConn // the newest last
	closed bool
}

type idleConn struct {
	conn  *smtpc.Conn
	since time.Time
}

func newPool() *pool { return &pool{} }

// get returns a connection that is still alive, or nil.
func (p *pool) get() *smtpc.Conn {
	for {
		p.mu.Lock()
		var found idleConn
		if n := len(p.idle); n > 0 {
			found = p.idle[n-1]
			p.idle = p.idle[:n-1]
		}
		p.mu.Unlock()
		if found.conn == nil {
			return nil
		}
		if time.Since(found.since) < idleFor && found.conn.Alive() {
			return found.conn
		}
		found.conn.Close()
	}
}

// put takes a connection back, or closes it.
func (p *pool) put(c *smtpc.Conn) {
	if c.Transactions() >= maxReuse || !c.Alive() {
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

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.conn.Close()
	}
}

// connect returns a connection to the first server that takes one.
func (rt *route) connect(ctx context.Context, conf Site, fresh bool) (*smtpc.Conn, error) {
	if !fresh {
		if c := rt.pool.get(); c != nil {
			return c, nil
		}
	}
	targets := conf.Primary
	if rt.outbound {
		targets = []string{conf.Outbound}
	}
	var last error
	for _, raw := range targets {
		target, err := parseTarget(raw)
		if err != nil {
			last = err
			continue
		}
		conn, err := smtpc.Connect(ctx, target, rt.svc.clientConfig(conf))
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}
