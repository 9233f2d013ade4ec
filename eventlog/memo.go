package eventlog

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"holdfast/internal/turn"
)

// memo keeps values that are dear to load, up to a bound, the longest unused
// going first. Concurrent callers for one key share one load. Errors are not
// kept. The bound may be exceeded by one value.
type memo[K comparable, V any] struct {
	bound  int64
	weight func(V) int64

	mu    sync.Mutex // never held while loading
	vals  map[K]*list.Element
	order list.List // of *memoEntry[K, V], the last used first
	calls map[K]*memoCall[V]
	used  int64
}

type memoEntry[K comparable, V any] struct {
	k      K
	v      V
	weight int64
}

type memoCall[V any] struct {
	done  chan struct{}
	stale bool // something was dropped since it began, maybe this; guarded by the memo's mutex
	v     V
	err   error
}

func newMemo[K comparable, V any](bound int64, weight func(V) int64) *memo[K, V] {
	return &memo[K, V]{bound: bound, weight: weight, vals: map[K]*list.Element{}, calls: map[K]*memoCall[V]{}}
}

func one[V any](V) int64 { return 1 }

// peek returns the value if it is kept.
func (m *memo[K, V]) peek(k K) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peekLocked(k)
}

func (m *memo[K, V]) peekLocked(k K) (v V, ok bool) {
	e, ok := m.vals[k]
	if !ok {
		return v, false
	}
	m.order.MoveToFront(e)
	return e.Value.(*memoEntry[K, V]).v, true
}

// get returns the kept value or loads it.
func (m *memo[K, V]) get(ctx context.Context, k K, load func(context.Context) (V, error)) (v V, err error) {
	for {
		m.mu.Lock()
		if v, ok := m.peekLocked(k); ok {
			m.mu.Unlock()
			return v, nil
		}
		c, running := m.calls[k]
		if !running {
			c = &memoCall[V]{done: make(chan struct{})}
			m.calls[k] = c
		}
		m.mu.Unlock()
		if !running {
			m.load(ctx, k, c, load)
			return c.v, c.err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
		}
		turn.Take(ctx, "shared")
		if ctx.Err() != nil {
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

func (m *memo[K, V]) load(ctx context.Context, k K, c *memoCall[V], load func(context.Context) (V, error)) {
	c.v, c.err = load(ctx)
	m.mu.Lock()
	delete(m.calls, k)
	if c.err == nil && !c.stale {
		m.keepLocked(k, c.v)
	}
	m.mu.Unlock()
	close(c.done)
}

// keep stores a value.
func (m *memo[K, V]) keep(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepLocked(k, v)
}

func (m *memo[K, V]) keepLocked(k K, v V) {
	if old, ok := m.vals[k]; ok {
		m.removeLocked(old)
	}
	e := &memoEntry[K, V]{k: k, v: v, weight: m.weight(v)}
	m.vals[k] = m.order.PushFront(e)
	m.used += e.weight
	for m.used > m.bound && m.order.Len() > 1 {
		m.removeLocked(m.order.Back())
	}
}

func (m *memo[K, V]) removeLocked(el *list.Element) {
	e := m.order.Remove(el).(*memoEntry[K, V])
	m.used -= e.weight
	delete(m.vals, e.k)
}

// drop forgets the values for which which holds. It must not call back. What is
// being loaded meanwhile is not kept: it may be what it was before.
func (m *memo[K, V]) drop(which func(K, V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.calls {
		c.stale = true
	}
	for el := m.order.Front(); el != nil; {
		next := el.Next()
		if e := el.Value.(*memoEntry[K, V]); which(e.k, e.v) {
			m.removeLocked(el)
		}
		el = next
	}
}

// dropOne forgets a value if it is the one under its key.
func (m *memo[K, V]) dropOne(k K, is func(V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if el, ok := m.vals[k]; ok && is(el.Value.(*memoEntry[K, V]).v) {
		m.removeLocked(el)
	}
}
