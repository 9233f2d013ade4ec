package retention

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// TestEraseAfterItsPlaceIsGone: a message that is filed for long is copied again
// and again, and the places it was copied from leave the log.
func TestEraseAfterItsPlaceIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		n.run()
		filed := n.accept(1, func(l *letter) { l.filed = true })
		first := filed.place
		for range 6 {
			for range 150 {
				n.accept(1, nil)
				time.Sleep(time.Minute)
			}
			time.Sleep(oneDay)
		}
		n.close()
		n = n.start() // with nothing in its memory
		if _, err := n.log.Event(n.ctx, first); !errors.Is(err, eventlog.ErrBeforeStart) {
			t.Fatalf("the first place of the message: %v", err)
		}
		if _, err := n.svc.Erase(n.ctx, n.tenant, "root", "asked for", []event.Ref{filed.place}); err != nil {
			t.Fatal(err)
		}
		// An order that could not be carried out for so long that all it names has
		// left the log does not stand for ever.
		if refs, err := n.svc.inLog(n.ctx, []event.Ref{first, filed.place}); err != nil || len(refs) != 1 || refs[0] != filed.place {
			t.Errorf("%v, %v", refs, err)
		}
	})
}

// TestKeysOfATenantAreAway: no day ends without a tenant that there is, even when
// its keys are not found.
func TestKeysOfATenantAreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		n.accept(1, nil)
		eachDay(t, n, 1)
		filed := n.accept(1, func(l *letter) { l.filed = true })
		if err := n.bucket.Delete(t.Context(), "key/tenant/"+n.tenant.String()); err != nil {
			t.Fatal(err)
		}
		eachDay(t, n, 2)
		if !n.alive(filed) {
			t.Error("a filed message is gone with a day that ended without its tenant")
		}
	})
}

// TestTroubleIsOverAtOnce: when an administrator has mended what the work failed
// of and has it done, nobody is told of the trouble any more.
func TestTroubleIsOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		n.accept(1, func(l *letter) { l.filed = true })
		away := errors.New("the store is away")
		w.onKeep = func(context.Context, event.Ref) error { return away }
		n.run()
		time.Sleep(2*oneDay + 2*time.Minute)
		wantErr(t, "trouble", n.svc.Work().Trouble, away)
		wantErr(t, "the work, done by hand", n.svc.RunOnce(n.ctx), away)
		wantErr(t, "trouble", n.svc.Work().Trouble, away)
		w.mu.Lock()
		w.onKeep = nil
		w.mu.Unlock()
		if err := n.svc.RunOnce(n.ctx); err != nil {
			t.Fatal(err)
		}
		if err := n.svc.Work().Trouble; err != nil {
			t.Errorf("still said: %v", err)
		}
	})
}
