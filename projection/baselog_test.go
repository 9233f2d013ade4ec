package projection

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore/mem"
)

// archiveNode is a node of the tests: a log of its own on a shared bucket.
type archiveNode struct {
	*Runner
	log  *eventlog.Log
	stop func()
}

func startNode(t *testing.T, b *mem.Bucket, keys crypto.KeyService, st Store, y Projection) (*archiveNode, event.Tenant) {
	t.Helper()
	l, tenant := openLog(t, b, keys)
	r, err := Open(Options{Store: st, Source: l, Snaps: l, Scratch: func() (Store, error) {
		return OpenScratch(filepath.Join(t.TempDir(), "second"))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Add(y); err != nil {
		t.Fatal(err)
	}
	n := &archiveNode{Runner: r, log: l}
	stop := runs(t, r)
	n.stop = func() {
		stop()
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	return n, tenant
}

// take takes a Base and publishes it.
func (n *archiveNode) take(ctx context.Context, name string) (eventlog.Base, error) {
	taken, err := n.TakeBase(ctx, name)
	if err != nil {
		return eventlog.Base{}, err
	}
	ev := event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: taken}
	pos, err := n.log.Append(ctx, ev)
	if err != nil {
		return eventlog.Base{}, err
	}
	b := eventlog.Base{Taken: taken, Ref: event.Ref{Position: pos, ID: ev.ID}}
	return b, n.log.PublishBases(ctx, b)
}

func (n *archiveNode) fill(t *testing.T, tenant event.Tenant, name string, events int) {
	t.Helper()
	for i := range events {
		e := note(fmt.Sprint("topic", i%5), i)
		e.Tenant, e.Expiry = tenant, 0
		pos, err := n.log.Append(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.WaitFor(t.Context(), name, pos); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheLogMayBeginAtABase: a log whose beginning was removed is enough for a new
// node that finds a Base, also when that node takes the next one; without one it
// says so.
func TestTheLogMayBeginAtABase(t *testing.T) {
	b, keys := mem.New(), crypto.MemoryRoot(event.DayOf(time.Now()))
	y := &sealing{tally{name: "tally", version: 1, keep: 5}, event.DayOf(time.Now()) + 30}
	old, tenant := startNode(t, b, keys, NewMemStore(), y)
	defer old.stop()
	var last eventlog.Base
	for range 3 {
		old.fill(t, tenant, "tally", 20)
		var err error
		if last, err = old.take(t.Context(), "tally"); err != nil {
			t.Fatal(err)
		}
	}
	for p, c := range last.Taken.Cursors {
		if err := old.log.RaiseStart(t.Context(), event.Partition(p), eventlog.Cursor{Seq: c.Seq, Hash: c.Hash}); err != nil {
			t.Fatal(err)
		}
	}
	fresh, _ := startNode(t, b, keys, NewMemStore(), y)
	if err := fresh.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if hash(t, fresh.Runner, "tally") != hash(t, old.Runner, "tally") {
		t.Error("the node that starts from a Base has another state")
	}
	fresh.fill(t, tenant, "tally", 20)
	next, err := fresh.take(t.Context(), "tally")
	if err != nil {
		t.Fatal(err)
	}
	fresh.stop()

	// Only a Base of before the beginning is left.
	if err := b.Delete(t.Context(), "snap/"+last.Taken.Index.String()); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "snap/"+next.Taken.Index.String()); err != nil {
		t.Fatal(err)
	}
	late, _ := startNode(t, b, keys, NewMemStore(), y)
	defer late.stop()
	if err := late.CaughtUp(t.Context()); !errors.Is(err, ErrNoBase) {
		t.Errorf("without a Base and without the beginning: %v, want ErrNoBase", err)
	}
}

// TestTwoNodesTakeBases: nodes that take Bases at once, while mail comes in and
// old pieces are swept, leave two Bases that load.
func TestTwoNodesTakeBases(t *testing.T) {
	b, keys := mem.New(), crypto.MemoryRoot(event.DayOf(time.Now()))
	y := &sealing{tally{name: "tally", version: 1, keep: 5}, event.DayOf(time.Now()) + 30}
	one, tenant := startNode(t, b, keys, NewMemStore(), y)
	defer one.stop()
	two, _ := startNode(t, b, keys, NewMemStore(), y)
	defer two.stop()
	if err := errors.Join(one.CaughtUp(t.Context()), two.CaughtUp(t.Context())); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	for _, n := range []*archiveNode{one, two} {
		go func() {
			published := 0
			for try := 0; published < 10; try++ {
				_, err := n.take(t.Context(), "tally")
				if err == nil {
					published++
				} else if !errors.Is(err, eventlog.ErrBaseGone) || try > 1000 {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for left := 2; left > 0; {
		select {
		case err := <-done:
			left--
			if err != nil {
				t.Error(err)
			}
		default:
			if _, err := one.log.SweepSnaps(t.Context(), nil, true); err != nil {
				t.Error(err)
			}
			one.fill(t, tenant, "tally", 3)
		}
	}
	bases, err := one.log.Bases(t.Context(), "tally")
	if err != nil || len(bases) != 2 {
		t.Fatalf("%d Bases: %v", len(bases), err)
	}
	if _, err := one.log.SweepSnaps(t.Context(), bases, true); err != nil {
		t.Error(err)
	}
	for _, base := range bases {
		names, err := one.log.BaseChunks(t.Context(), base)
		if err != nil {
			t.Error(err)
		}
		for _, s := range names {
			if _, err := one.log.Snap(t.Context(), s); err != nil {
				t.Error(err)
			}
		}
	}
}
