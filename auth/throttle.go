package auth

import (
	"container/list"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What one source may do wrong.
const (
	failsPerMinute = 10
	failsPerDay    = 50
	// maxSources bounds the memory of a throttle to a few megabytes. Beyond it
	// the source that was quiet for longest is forgotten.
	maxSources = 20_000
	// known is how many wrong logins of a source are remembered.
	known = 8
)

// throttle counts failed logins by source: an IPv4 address, or the /64 of an
// IPv6 address, since a customer of any provider has that many to himself.
type throttle struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*source
	recent  *list.List // of *source, the quietest last
}

type source struct {
	key       netip.Prefix
	at        *list.Element
	minute    time.Time // when the first failure of this minute was
	inMinute  int
	day       time.Time
	inDay     int
	inFlight  int
	changed   chan struct{} // closed when inFlight falls
	fails     [][32]byte    // the last wrong logins
	waiting   int
	forgotten bool
}

func newThrottle() *throttle {
	return &throttle{sources: map[netip.Prefix]*source{}, recent: list.New()}
}

func sourceOf(peer netip.Addr) netip.Prefix {
	peer = peer.Unmap().WithZone("")
	if peer.Is6() {
		p, _ := peer.Prefix(64) // fails for more bits than there are
		return p
	}
	return netip.PrefixFrom(peer, peer.BitLen())
}

// enter lets a login of peer begin. No more run at once than may still fail, so
// that a burst of guesses is counted like a sequence of them; the others wait.
// [ErrThrottled] when the source has failed too often. The caller calls leave.
func (t *throttle) enter(ctx context.Context, peer netip.Addr) (*source, error) {
	for {
		t.mu.Lock()
		s := t.get(sourceOf(peer))
		left := s.left(time.Now())
		if left > s.inFlight {
			s.inFlight++
			t.mu.Unlock()
			return s, nil
		}
		if left <= 0 || s.waiting >= maxWaiting {
			t.mu.Unlock()
			return nil, ErrThrottled
		}
		s.waiting++
		changed := s.changed
		t.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ErrUnavailable
		}
		t.mu.Lock()
		s.waiting--
		t.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// get returns the entry of a source, and makes it when there is none. t.mu is
// held.
func (t *throttle) get(key netip.Prefix) *source {
	if s, ok := t.sources[key]; ok {
		t.recent.MoveToFront(s.at)
		return s
	}
	if t.recent.Len() >= maxSources {
		t.drop(t.recent.Back().Value.(*source))
	}
	s := &source{key: key, changed: make(chan struct{})}
	s.at = t.recent.PushFront(s)
	t.sources[key] = s
	return s
}

func (t *throttle) drop(s *source) {
	if !s.forgotten {
		s.forgotten = true
		t.recent.Remove(s.at)
		delete(t.sources, s.key)
	}
}

// left returns how many logins may still fail now.
func (s *source) left(now time.Time) int {
	if now.Sub(s.minute) >= time.Minute {
		s.inMinute = 0
	}
	if now.Sub(s.day) >= 24*time.Hour {
		s.inDay, s.fails = 0, nil
	}
	return min(failsPerMinute-s.inMinute, failsPerDay-s.inDay)
}

// failedBefore reports whether this login is among the last wrong ones.
func (t *throttle) failedBefore(s *source, what [32]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(s.fails, what)
}

// leave ends a login. For a failed one, what says which: the same wrong login
// again counts once, because it is a client with an old password, and teaches
// a guesser nothing. It returns how many failures of the source this minute has.
func (t *throttle) leave(s *source, failed bool, what [32]byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.inFlight--
	close(s.changed)
	s.changed = make(chan struct{})
	now := time.Now()
	s.left(now)
	if failed && !slices.Contains(s.fails, what) {
		if s.inMinute++; s.inMinute == 1 {
			s.minute = now
		}
		if s.inDay++; s.inDay == 1 {
			s.day = now
		}
		if len(s.fails) == known {
			s.fails = s.fails[1:]
		}
		s.fails = append(slices.Clip(s.fails), what)
	}
	if s.inDay == 0 && s.inFlight == 0 && s.waiting == 0 {
		t.drop(s) // nothing to remember
	}
	return s.inMinute
}
