package fs

import (
	"context"
	"fmt"
	"sync"

	"holdfast/objstore"
)

// keyTable knows which keys are being changed right now. Its size is the number
// of calls under way.
type keyTable struct {
	mu      sync.Mutex
	entries map[string]*keyEntry
	// limbo holds keys whose commit failed half-way, so that it is unknown what a
	// crash would leave there. The bucket is poisoned by then, so it stays small.
	limbo map[string]bool
}

// keyEntry is one key that somebody holds or waits for.
type keyEntry struct {
	users      int           // holder and waiters; the entry goes with the last
	held       chan struct{} // a semaphore of one
	committing chan struct{} // closed at the end of a commit; nil if there is none
}

// acquire waits until this caller alone may change the key, and returns the
// function that lets go of it again.
func (t *keyTable) acquire(ctx context.Context, key string) (release func(), err error) {
	t.mu.Lock()
	e := t.entries[key]
	if e == nil {
		e = &keyEntry{held: make(chan struct{}, 1)}
		t.entries[key] = e
	}
	e.users++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(t.entries, key)
		}
	}
	select {
	case e.held <- struct{}{}:
		return func() { <-e.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// begin hides the key from readers until end. The caller holds the key.
func (t *keyTable) begin(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries[key].committing = make(chan struct{})
}

// end lets readers go on; limbo says that the outcome is unknown for good.
func (t *keyTable) end(key string, limbo bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if limbo {
		t.limbo[key] = true
	}
	e := t.entries[key]
	close(e.committing)
	e.committing = nil
}

// settled waits for a commit of the key that is under way and reports whether
// there was one; then the caller has to look again. It fails for a key in limbo,
// of which neither presence nor absence may be reported.
func (t *keyTable) settled(ctx context.Context, key string) (waited bool, err error) {
	t.mu.Lock()
	limbo := t.limbo[key]
	var wait chan struct{}
	if e := t.entries[key]; e != nil {
		wait = e.committing
	}
	t.mu.Unlock()
	if limbo {
		return false, fmt.Errorf("%w: %w", objstore.ErrAmbiguous, ErrPoisoned)
	}
	if wait == nil {
		return false, nil
	}
	select {
	case <-wait:
		return true, nil
	case <-ctx.Done():
		return true, ctx.Err()
	}
}
