package eventlog

import (
	"context"
	"errors"
	"sync"
)

// memo keeps values that are dear to load, up to a bound, the longest unused
// going first. Concurrent callers for one key share one load. Errors are not
// kept.
type memo[K comparable, V any] struct {
	bound  int64
	weight func(V) int64

	mu    sync.Mutex // never held while loading
	vals  map[K]*memoEntry[V]
	calls map[K]*memoCall[V]
	used  int64
	tick  uint64
}

type memoEntry[V any] struct {
	v    V
	last uint64
}

type memoCall[V any] struct {
	done chan struct{}
	v    V
	err  error
}

func newMemo[K comparable, V any](bound int64, weight func(V) int64) *memo[K, V] {
	return &memo[K, V]{bound: bound, weight: weight, vals: map[K]*memoEntry[V]{}, calls: map[K]*memoCall[V]{}}
}

func one[V any](V) int64 { return 1 }

// peek returns the value if it is kept.
func (m *memo[K, V]) peek(k K) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.vals[k]
	if !ok {
		return v, false
	}
	m.tick++
	e.last = m.tick
	return e.v, true
}

// get returns the kept value or loads it.
func (m *memo[K, V]) get(ctx context.Context, k K, load func(context.Context) (V, error)) (v V, err error) {
	for {
		if v, ok := m.peek(k); ok {
			return v, nil
		}
		m.mu.Lock()
		c, running := m.calls[k]
		if !running {
			c = &memoCall[V]{done: make(chan struct{})}
			m.calls[k] = c
		}
		m.mu.Unlock()
		if !running {
			c.v, c.err = load(ctx)
			m.mu.Lock()
			delete(m.calls, k)
			if c.err == nil {
				m.keepLocked(k, c.v)
			}
			m.mu.Unlock()
			close(c.done)
			return c.v, c.err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return v, ctx.Err()
		}
		// The one who loaded may have left; that is no reason for us to fail.
		if errors.Is(c.err, context.Canceled) || errors.Is(c.err, context.DeadlineExceeded) {
			if ctx.Err() == nil {
				continue
			}
		}
		return c.v, c.err
	}
}

// keep stores a value.
func (m *memo[K, V]) keep(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepLocked(k, v)
}

func (m *memo[K, V]) keepLocked(k K, v V) {
	if old, ok := m.vals[k]; ok {
		m.used -= m.weight(old.v)
	}
	m.tick++
	m.vals[k] = &memoEntry[V]{v: v, last: m.tick}
	m.used += m.weight(v)
	for m.used > m.bound && len(m.vals) > 1 {
		m.evictLocked(k)
	}
}

func (m *memo[K, V]) evictLocked(except K) {
	var oldest K
	best := ^uint64(0)
	for k, e := range m.vals {
		if e.last < best && k != except {
			oldest, best = k, e.last
		}
	}
	m.used -= m.weight(m.vals[oldest].v)
	delete(m.vals, oldest)
}

// drop forgets a value.
func (m *memo[K, V]) drop(k K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.vals[k]; ok {
		m.used -= m.weight(e.v)
		delete(m.vals, k)
	}
}
