package imapgw

import (
	"net/netip"
	"sync"
	"time"
)

const (
	firstPenalty = time.Second
	maxPenalty   = 16 * time.Second
	// penaltyMemory is how long an address's failed logins are remembered
	// after the last one.
	penaltyMemory = 15 * time.Minute
	// maxOffenders bounds the addresses that are remembered.
	maxOffenders = 10000
	// maxPenitents bounds the connections that wait for their answer at one
	// time. Further ones are answered and ended at once.
	maxPenitents = 500
	// maxFailures is how many failed logins end a connection.
	maxFailures = 5
)

// penalties delays the answers to failed logins: more with each failure from
// the same address. A right password is never delayed, so one broken client
// does not hurt the others behind its address.
type penalties struct {
	mu        sync.Mutex
	offenders map[netip.Addr]offence
	swept     time.Time // when forget last ran
	waiting   int
}

type offence struct {
	failures int
	last     time.Time
}

func newPenalties() *penalties { return &penalties{offenders: map[netip.Addr]offence{}} }

// failed notes a failed login and returns how long to wait before answering.
// ok is false when too many wait already; else the caller calls done after.
func (p *penalties) failed(addr netip.Addr, now time.Time) (delay time.Duration, ok bool) {
	addr = origin(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	o, known := p.offenders[addr]
	if !known && len(p.offenders) >= maxOffenders {
		p.forget(now)
	}
	if known && now.Sub(o.last) > penaltyMemory {
		o.failures = 0
	}
	delay = firstPenalty << min(o.failures, 10)
	o.failures++
	o.last = now
	if known || len(p.offenders) < maxOffenders {
		p.offenders[addr] = o
	} else {
		delay = maxPenalty // so many offenders are an attack
	}
	if p.waiting >= maxPenitents {
		return 0, false
	}
	p.waiting++
	return min(delay, maxPenalty), true
}

// done says that the wait is over.
func (p *penalties) done() {
	p.mu.Lock()
	p.waiting--
	p.mu.Unlock()
}

// forget drops the addresses whose time is over. It looks through all of them,
// so it does so once a minute at most.
func (p *penalties) forget(now time.Time) {
	if now.Sub(p.swept) < time.Minute {
		return
	}
	p.swept = now
	for a, o := range p.offenders {
		if now.Sub(o.last) > penaltyMemory {
			delete(p.offenders, a)
		}
	}
}
