package retention

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

// killer ends a process before its nth put into the log: that put and all later
// ones fail.
type killer struct {
	objstore.Bucket

	mu   sync.Mutex
	left int
	kill func()
	dead bool
}

// arm lets the process die before the nth put; 0 for never.
func (k *killer) arm(n int, kill func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.kill, k.dead = n, kill, false
}

func (k *killer) fired() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dead
}

func (k *killer) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	k.mu.Lock()
	if k.kill != nil && strings.HasPrefix(key, "log/") {
		if k.left--; k.left <= 0 {
			k.dead = true
			k.kill()
		}
	}
	dead := k.dead
	k.mu.Unlock()
	if dead {
		return objstore.Info{}, errors.New("the process is dead")
	}
	return k.Bucket.Put(ctx, key, body, size, opt)
}

// Now implements objstore.Clock.
func (k *killer) Now(ctx context.Context) (time.Time, error) {
	return k.Bucket.(objstore.Clock).Now(ctx)
}

// place puts what has a subject under hold.
func place(t *testing.T, n *node, subject string) Verdict {
	t.Helper()
	v, err := n.svc.PlaceHold(n.ctx, n.tenant, &event.HoldPlaced{
		At: n.log.Millis(), Who: "root", Name: subject, Reason: "r", Match: event.HoldMatch{Subject: subject},
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// same checks that two nodes have come to the same state.
func same(t *testing.T, a, b *node) {
	t.Helper()
	var sums [2][32]byte
	for i, n := range []*node{a, b} {
		if err := n.svc.refresh(n.ctx); err != nil {
			t.Fatal(err)
		}
		var err error
		if sums[i], err = n.runner.Hash(n.ctx, foldName); err != nil {
			t.Fatal(err)
		}
	}
	if sums[0] != sums[1] {
		t.Error("two nodes have come to different states")
	}
}
