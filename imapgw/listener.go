package imapgw

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// Limits bound what strangers can occupy. Zero fields mean the defaults.
type Limits struct {
	// Conns is the number of connections in all (default 4000; one that idles
	// costs some 20 KiB, with TLS 40 KiB).
	Conns int
	// ConnsPerAddr is the number from one IPv4 address or IPv6 /64 (default
	// 1000: a whole office may stand behind one address).
	ConnsPerAddr int
	// StrangersPerAddr is the number of those that have not logged in
	// (default 300: after an outage a whole office connects at once).
	StrangersPerAddr int
}

func (l Limits) withDefaults() Limits {
	if l.Conns <= 0 {
		l.Conns = 4000
	}
	if l.ConnsPerAddr <= 0 {
		l.ConnsPerAddr = 1000
	}
	if l.StrangersPerAddr <= 0 {
		l.StrangersPerAddr = 300
	}
	return l
}

// places counts connections.
type places struct {
	limits Limits

	mu     sync.Mutex
	total  int
	byAddr map[netip.Addr]*occupancy
}

type occupancy struct{ conns, strangers int }

func newPlaces(l Limits) *places {
	return &places{limits: l.withDefaults(), byAddr: map[netip.Addr]*occupancy{}}
}

// place is one connection's.
type place struct {
	all      *places
	addr     netip.Addr
	stranger bool
	left     bool
}

// enter takes a place for a connection from addr, or says which limit it hit.
func (p *places) enter(addr netip.Addr) (pl *place, refusal string) {
	addr = origin(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.byAddr[addr]
	if o == nil {
		o = &occupancy{}
	}
	switch {
	case p.total >= p.limits.Conns:
		return nil, "Too many connections"
	case o.conns >= p.limits.ConnsPerAddr, o.strangers >= p.limits.StrangersPerAddr:
		return nil, "Too many connections from your address"
	}
	p.total++
	o.conns++
	o.strangers++
	p.byAddr[addr] = o
	return &place{all: p, addr: addr, stranger: true}, ""
}

// known says that the connection has logged in.
func (pl *place) known() {
	pl.all.mu.Lock()
	defer pl.all.mu.Unlock()
	if pl.stranger && !pl.left {
		pl.stranger = false
		pl.all.byAddr[pl.addr].strangers--
	}
}

// leave gives the place back. It may be called again.
func (pl *place) leave() {
	p := pl.all
	p.mu.Lock()
	defer p.mu.Unlock()
	if pl.left {
		return
	}
	pl.left = true
	p.total--
	o := p.byAddr[pl.addr]
	o.conns--
	if pl.stranger {
		o.strangers--
	}
	if o.conns == 0 {
		delete(p.byAddr, pl.addr)
	}
}

// origin is what counts as one address: the IPv4 address, or the /64 that one
// IPv6 customer has.
func origin(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// listener accepts connections within the limits and wraps them.
type listener struct {
	net.Listener
	srv *Server
	ctx context.Context // of whoever serves
	tls bool            // the client speaks TLS at once
}

// Accept returns the next connection that found a place.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var addr netip.Addr
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			addr = a.AddrPort().Addr()
		}
		pl, refusal := l.srv.places.enter(addr)
		if pl != nil {
			w, ok := l.srv.wrap(l.ctx, c, pl)
			if !ok {
				pl.leave()
				_ = c.Close() // it was never used
				return nil, net.ErrClosed
			}
			return w, nil
		}
		l.srv.observer.Refused()
		if !l.tls {
			// A fresh connection has room for a line, so this does not block.
			_, _ = c.Write([]byte("* BYE [LIMIT] " + refusal + "\r\n"))
		}
		_ = c.Close() // it was never used
	}
}
