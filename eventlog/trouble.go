package eventlog

import (
	"sync"
	"time"
)

const (
	// slowPut is how long a segment may be on its way before that is trouble.
	slowPut = 5 * time.Second
	// troubleAge is how long a refusal is spoken of when nobody has tried since.
	troubleAge = time.Minute
)

// Trouble says that the store takes no segments.
type Trouble struct {
	Since time.Time
	Err   error // the last refusal; nil when there was no answer at all
}

// Trouble returns nil while the store takes what is appended, as far as that is
// known: where nothing is appended, nothing is noticed.
func (l *Log) Trouble() *Trouble {
	var worst *Trouble
	for _, p := range l.partitions {
		if t := p.puts.trouble(time.Now()); t != nil && (worst == nil || t.Since.Before(worst.Since)) {
			worst = t
		}
	}
	return worst
}

// puts is how the puts of one partition go.
type puts struct {
	mu    sync.Mutex
	out   time.Time // when what is on its way set out; zero: nothing is
	since time.Time // when the first put failed after the last that succeeded
	last  time.Time // when the last put failed
	err   error
}

func (p *puts) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = time.Now()
}

// refused notes a failed try, after which there may be others.
func (p *puts) refused(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.err = time.Now(), err
	if p.since.IsZero() {
		p.since = p.out
	}
}

// answered notes that the store took a segment, or said that it has another.
func (p *puts) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since, p.last, p.err = time.Time{}, time.Time{}, nil
}

func (p *puts) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = time.Time{}
}

func (p *puts) trouble(now time.Time) *Trouble {
	p.mu.Lock()
	defer p.mu.Unlock()
	hangs := !p.out.IsZero() && now.Sub(p.out) >= slowPut
	refuses := !p.since.IsZero() && (now.Sub(p.last) < troubleAge || !p.out.IsZero())
	switch {
	case refuses:
		return &Trouble{Since: p.since, Err: p.err}
	case hangs:
		return &Trouble{Since: p.out}
	}
	return nil
}
