package retention

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

var stride = flag.Int("stride", 15, "at every how many changes of a night a worker stands still; make crash lets it at each")

// TestAPausedWorkerWakes: a node stands still at each change of the bucket that the
// work of a night makes, without noticing: at what it keeps, decides, removes and
// packs, at a floor, and at a Base. Its lease runs out, another node does all of the
// work, and then it goes on where it stood. Both come to the same end, and a node
// that begins with nothing, too.
func TestAPausedWorkerWakes(t *testing.T) {
	kinds := map[string]bool{}
	step := *stride
	if testing.Short() {
		step = 29
	}
	for i := 0; ; i += step {
		over := false
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				key := pausedNight(t, 1+i/2, i%2 == 1)
				dir, _, _ := strings.Cut(key, "/")
				kinds[dir], over = true, key == ""
			})
		})
		if over || t.Failed() {
			break
		}
	}
	t.Logf("stood still at %v", kinds)
	for _, kind := range []string{"put log", "put snap", "delete snap", "delete key", "delete blob", "put floor", "put pack"} {
		if !kinds[kind] && step == 1 {
			t.Errorf("never stood still at: %s", kind)
		}
	}
}

// pausedNight lets a node stand still at one change of a night, and returns which
// one that was; "" when there are fewer.
func pausedNight(t *testing.T, at int, after bool) string {
	w := newWorld(t)
	first, second := twoRoots(t)
	below := w.bucket
	g := newGate(below, at, after)
	w.keys, w.bucket = first, g
	a := w.start()
	filed := a.accept(1, func(l *letter) { l.filed = true })
	held := a.accept(1, func(l *letter) { l.held = "x" })
	place(t, a, "x")
	for range 3 {
		for range 70 {
			a.accept(1, nil)
			time.Sleep(time.Minute)
		}
		if _, err := a.log.Append(a.ctx, a.upload(1)); err != nil {
			t.Fatal(err)
		}
		eachDay(t, a, 1)
		a.svc.packAt = time.Time{}
	}
	plain := a.accept(1, nil)
	a.upload(3) // without an event
	time.Sleep(2*oneDay + 2*time.Minute)

	w.bucket, w.keys, w.shift = older{below, 3 * time.Minute}, second, 3*time.Minute
	b := w.start() // follows the log, and its ratchet with it
	g.arm()
	done := make(chan error, 1)
	go func() { done <- a.svc.underLease(a.ctx, a.svc.work) }()
	select {
	case <-g.stands:
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
		return ""
	}
	if err := b.svc.RunOnce(b.ctx); err != nil {
		t.Errorf("%s: the other node's work: %v", g.key, err)
	}
	close(g.opened)
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, eventlog.ErrLeased) && !errors.Is(err, eventlog.ErrCondemned) {
		t.Errorf("%s: the work that was interrupted: %v", g.key, err)
	}
	for _, n := range []*node{a, b} { // and the night after
		time.Sleep(oneDay)
		if err := n.svc.RunOnce(n.ctx); err != nil {
			t.Errorf("%s: afterwards: %v", g.key, err)
		}
	}
	if !w.alive(filed) || !w.alive(held) || w.alive(plain) {
		t.Errorf("%s: filed %v, held %v, plain %v", g.key, w.alive(filed), w.alive(held), w.alive(plain))
	}
	same(t, a, b)
	c := w.start()
	same(t, b, c)
	for _, l := range []*letter{filed, held} {
		if r, err := c.log.Event(c.ctx, l.place); err != nil || r.Fact.(*event.MessageAccepted).Meta == nil {
			t.Errorf("%s: a message that was kept cannot be read: %v", g.key, err)
		}
	}
	return g.key
}
