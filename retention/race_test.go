package retention

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
)

// gate lets a process stand still at one of its changes of the bucket, as one does
// that was stopped: before the change takes effect, or when it has and the answer
// is not there. It knows of no timeout.
type gate struct {
	objstore.Bucket

	mu     sync.Mutex
	at     int // the change, from 1; 0 for none
	after  bool
	n      int // below 0 until it is armed
	key    string
	stands chan struct{} // closed when it does
	opened chan struct{} // to be closed
}

func newGate(b objstore.Bucket, at int, after bool) *gate {
	return &gate{Bucket: b, at: at, after: after, n: -1, stands: make(chan struct{}), opened: make(chan struct{})}
}

func (g *gate) arm() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n = 0
}

// pass counts a change and reports whether it is the one.
func (g *gate) pass(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if strings.Contains(key, " lease/") || strings.Contains(key, " checkpoint/") || g.n < 0 {
		return false
	}
	g.n++
	if g.n == g.at {
		g.key = key
	}
	return g.n == g.at
}

func (g *gate) stand() {
	close(g.stands)
	<-g.opened
}

// Put implements objstore.Bucket.
func (g *gate) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	here := g.pass("put " + key)
	if here && !g.after {
		g.stand()
	}
	info, err := g.Bucket.Put(ctx, key, body, size, opt)
	if here && g.after {
		g.stand()
	}
	return info, err
}

// Delete implements objstore.Bucket.
func (g *gate) Delete(ctx context.Context, key string) error {
	here := g.pass("delete " + key)
	if here && !g.after {
		g.stand()
	}
	err := g.Bucket.Delete(ctx, key)
	if here && g.after {
		g.stand()
	}
	return err
}

// Now implements objstore.Clock.
func (g *gate) Now(ctx context.Context) (time.Time, error) {
	return g.Bucket.(objstore.Clock).Now(ctx)
}

// older is a bucket as it is seen later.
type older struct {
	objstore.Bucket
	by time.Duration
}

// List implements objstore.Bucket.
func (o older) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		for info, err := range o.Bucket.List(ctx, prefix, after) {
			info.Modified = info.Modified.Add(-o.by)
			if !yield(info, err) {
				return
			}
		}
	}
}

// Now implements objstore.Clock.
func (o older) Now(ctx context.Context) (time.Time, error) {
	return o.Bucket.(objstore.Clock).Now(ctx)
}

// raceSize makes a body of several parts.
const raceSize = 5 << 20

// TestACommitRacesWithTheRemovalOfItsBody: a node stands still at each point of
// taking a large message, and does not notice. Meanwhile a day passes for another
// node, which takes the body for one without an event and removes it. Either the
// message is refused for now, or it is accepted and can be read.
func TestACommitRacesWithTheRemovalOfItsBody(t *testing.T) {
	raceCommit(t, 20, 25*time.Hour, func(t *testing.T, b *node, ev event.Event, err error) {
		if named := facts[*event.ObjectsCondemned](b); err != nil && len(named) == 0 {
			t.Error("refused, and nothing was condemned")
		}
		b.whole(ev.ID, err == nil)
	})
}

// TestACommitRacesWithTheEndOfItsDay: the same, and the other node ends the day of
// the message, so that its key page is removed, too. Either the message is refused
// for now, or it was accepted before its day was condemned.
func TestACommitRacesWithTheEndOfItsDay(t *testing.T) {
	raceCommit(t, 1, 49*time.Hour, func(t *testing.T, b *node, ev event.Event, err error) {
		condemned, there := false, false
		p := b.log.PartitionOf(ev.Tenant)
		for seg, err := range b.log.Segments(b.ctx, p, b.log.Start(p)) {
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range seg.Events {
				if f, ok := r.Fact.(*event.DayCondemned); ok && r.Tenant == ev.Tenant && f.Day >= ev.Expiry {
					condemned = true
				}
				if r.Ref.ID == ev.ID {
					if there = true; condemned {
						t.Error("in the log behind the end of its day")
					}
				}
			}
		}
		if there != (err == nil) {
			t.Errorf("in the log: %v, accepted: %v", there, err == nil)
		}
		if !condemned {
			t.Error("its day did not end")
		}
	})
}

// raceCommit lets one node stand still at each change of the bucket in turn while
// it takes a message that expires in some days, and another one work so much later.
func raceCommit(t *testing.T, days int, later time.Duration, judge func(*testing.T, *node, event.Event, error)) {
	refused, accepted := 0, 0
	for i := 0; ; i++ {
		over := false
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				first, second := twoRoots(t)
				below := w.bucket
				g := newGate(below, 1+i/2, i%2 == 1)
				w.keys, w.bucket = first, g
				a := w.start()
				g.arm()
				var ev event.Event
				taken := make(chan error, 1)
				go func() {
					ev = a.uploadOf(days, raceSize)
					_, err := a.log.Append(a.ctx, ev)
					taken <- err
				}()
				select {
				case <-g.stands:
				case err := <-taken: // there is no such point
					if over = true; err != nil {
						t.Error(err)
					}
					return
				}
				w.keys, w.bucket, w.shift = second, older{below, later}, later
				b := w.start()
				if err := b.svc.work(b.ctx); err != nil {
					t.Fatal(err)
				}
				close(g.opened)
				err := <-taken
				time.Sleep(2 * time.Minute)
				switch {
				case err == nil:
					accepted++
				case errors.Is(err, eventlog.ErrCondemned):
					refused++
				default:
					t.Errorf("%s: %v", g.key, err)
				}
				if err := b.svc.refresh(b.ctx); err != nil {
					t.Fatal(err)
				}
				judge(t, b, ev, err)
			})
		})
		if over || t.Failed() {
			break
		}
	}
	t.Logf("%d refused, %d accepted", refused, accepted)
	if refused < 3 || accepted < 1 {
		t.Errorf("%d were refused, %d accepted: that is no race", refused, accepted)
	}
}

// twoRoots returns an installation's root as two nodes have it, each in a file of
// its own.
func twoRoots(t *testing.T) (a, b *crypto.Root) {
	t.Helper()
	dir := t.TempDir()
	a, err := crypto.CreateRoot(filepath.Join(dir, "a"), event.DayOf(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "a"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "b"), data, 0o600)
	}
	if err == nil {
		b, err = crypto.LoadRoot(filepath.Join(dir, "b"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// whole checks that a message is in the log and can be read, or is not.
func (n *node) whole(id event.ID, want bool) {
	n.t.Helper()
	there := false
	for p := range n.log.Partitions() {
		for seg, err := range n.log.Segments(n.ctx, event.Partition(p), n.log.Start(event.Partition(p))) {
			if err != nil {
				n.t.Fatal(err)
			}
			for _, r := range seg.Events {
				if r.Ref.ID != id {
					continue
				}
				there = true
				body, err := n.log.Body(n.ctx, r.Ref)
				if err != nil {
					n.t.Fatalf("accepted, and cannot be read: %v", err)
				}
				if size, err := io.Copy(io.Discard, body); err != nil || size != raceSize {
					n.t.Errorf("accepted, and %d bytes can be read: %v", size, err)
				}
				body.Close()
			}
		}
	}
	if there != want {
		n.t.Errorf("in the log: %v, accepted: %v", there, want)
	}
}
