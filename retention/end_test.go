package retention

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
)

// wantEnded checks that a tenant has ended on a node, and in the bucket.
func (n *node) wantEnded(t *testing.T) {
	t.Helper()
	if err := n.svc.refresh(n.ctx); err != nil {
		t.Fatal(err)
	}
	ends, err := n.svc.Ends(n.ctx)
	if err != nil || len(ends) != 1 || ends[0].Tenant != n.tenant || ends[0].Name != "acme" || ends[0].Ended.Reason != "left" || ends[0].Ended.Who != "root" {
		t.Fatalf("ends: %+v, %v", ends, err)
	}
	if open, err := n.svc.openEnds(n.ctx); len(open) > 0 || err != nil {
		t.Errorf("unfinished: %v, %v", open, err)
	}
	for info, err := range n.bucket.List(n.ctx, "key/", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(info.Key, n.tenant.String()) && info.Key != "key/tenant/"+n.tenant.String() {
			t.Errorf("left: %s", info.Key)
		}
	}
	if err := n.log.RequireTenant(n.ctx, n.tenant); !errors.Is(err, eventlog.ErrEnded) {
		t.Errorf("its keys: %v", err)
	}
	accounts, err := n.svc.Accounts(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range accounts {
		if a.Tenant == n.tenant && a.Condemned+a.Expired != 0 {
			t.Errorf("account: %+v", a)
		}
	}
}

// history gives a tenant something of each kind that the fold keeps.
func (n *node) history(t *testing.T) {
	t.Helper()
	n.accept(1, func(l *letter) { l.filed = true })
	n.accept(1, func(l *letter) { l.held = "case" })
	gone := n.accept(20, nil)
	place(t, n, "case")
	if err := n.svc.ReleaseHold(n.ctx, n.tenant, &event.HoldReleased{At: n.log.Millis(), Who: "root", Name: "case", Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.svc.Erase(n.ctx, n.tenant, "root", "asked", []event.Ref{gone.place}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Hour)
	if err := n.svc.RunOnce(n.ctx); err != nil {
		t.Fatal(err)
	}
	n.accept(20, nil)
}

func TestATenantEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		n.history(t)
		place(t, n, "audit")
		if _, err := n.svc.EndTenant(n.ctx, n.tenant, "root", "left", "acme"); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "audit") {
			t.Fatalf("under a hold: %v", err)
		}
		if err := n.svc.ReleaseHold(n.ctx, n.tenant, &event.HoldReleased{At: n.log.Millis(), Who: "root", Name: "audit", Reason: "r"}); err != nil {
			t.Fatal(err)
		}
		other := w.start()
		late := event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: &event.Audited{At: n.log.Millis(), Who: "root", Act: "late"}}
		end, err := n.svc.EndTenant(n.ctx, n.tenant, "root", "left", "acme")
		if err != nil || end.Ended.Objects == 0 {
			t.Fatalf("%+v, %v", end, err)
		}
		if again, err := n.svc.EndTenant(n.ctx, n.tenant, "root", "left", "acme"); err != nil || again.At != end.At {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err := other.log.Append(n.ctx, late); !errors.Is(err, eventlog.ErrEnded) {
			t.Errorf("a writer that was behind: %v", err)
		}
		if _, err := n.svc.PlaceHold(n.ctx, n.tenant, &event.HoldPlaced{Name: "late"}); !errors.Is(err, eventlog.ErrEnded) {
			t.Errorf("a hold behind the end: %v", err)
		}
		for _, n := range []*node{n, other, w.start()} { // the last is built anew
			n.wantEnded(t)
			same(t, n, other)
		}
		// Days go on to end, with Bases from which another node starts.
		for range 3 {
			time.Sleep(24 * time.Hour)
			if err := n.svc.RunOnce(n.ctx); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := n.log.Verify(n.ctx, func(x eventlog.Finding) { t.Errorf("found: %v", x) }); err != nil {
			t.Error(err)
		}
		based := w.start()
		based.wantEnded(t)
		same(t, n, based)
	})
}

// A hold that is placed while the end is being ordered is not passed over.
func TestAHoldBeforeTheEndWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		n.accept(3, func(l *letter) { l.held = "case" })
		_, ok, err := n.svc.do(n.ctx, n.tenant, &event.TenantEndOrdered{Holds: 1})
		if ok || err != nil {
			t.Errorf("an order that knows of other holds: %v, %v", ok, err)
		}
		place(t, n, "case")
		if _, ok, err = n.svc.do(n.ctx, n.tenant, &event.TenantEndOrdered{Holds: 1}); ok || err != nil {
			t.Errorf("an order under a hold: %v, %v", ok, err)
		}
		if err := n.svc.ReleaseHold(n.ctx, n.tenant, &event.HoldReleased{Name: "case"}); err != nil {
			t.Fatal(err)
		}
		if _, ok, err = n.svc.do(n.ctx, n.tenant, &event.TenantEndOrdered{Holds: 2}); !ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
		if _, err := n.svc.PlaceHold(n.ctx, n.tenant, &event.HoldPlaced{Name: "case"}); !errors.Is(err, ErrEnding) {
			t.Errorf("a hold behind the order: %v", err)
		}
	})
}

// mortal is a bucket that a process loses for good at its nth change.
type mortal struct {
	objstore.Bucket

	mu   sync.Mutex
	left int // until it dies; 0 for never
	dead bool
}

var errDead = errors.New("the process is dead")

func (m *mortal) die(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.dead = n, false
}

func (m *mortal) change() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left > 0 {
		m.left--
		m.dead = m.left == 0
	}
	if m.dead {
		return errDead
	}
	return nil
}

func (m *mortal) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if err := m.change(); err != nil {
		return objstore.Info{}, err
	}
	return m.Bucket.Put(ctx, key, body, size, opt)
}

func (m *mortal) Delete(ctx context.Context, key string) error {
	if err := m.change(); err != nil {
		return err
	}
	return m.Bucket.Delete(ctx, key)
}

// Now implements objstore.Clock.
func (m *mortal) Now(ctx context.Context) (time.Time, error) {
	return m.Bucket.(objstore.Clock).Now(ctx)
}

// The process dies before each change that the end of a tenant makes in the bucket;
// another node, which has lost its local database, finishes what was ordered.
func TestTheEndOfATenantIsTakenUp(t *testing.T) {
	done := false
	for at := 1; !done; at++ {
		t.Run(fmt.Sprintf("%d", at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				m := &mortal{Bucket: w.bucket}
				w.bucket = m
				first := w.start()
				first.accept(20, nil)
				first.accept(30, nil)
				standby := w.start()
				m.die(at)
				_, err := first.svc.EndTenant(first.ctx, first.tenant, "root", "left", "acme")
				if done = err == nil; !done && !errors.Is(err, errDead) {
					t.Fatal(err)
				}
				first.close()
				m.die(0)
				second := w.start() // with nothing but the bucket
				if at == 1 {
					if ends, err := second.svc.openEnds(second.ctx); err != nil || len(ends) > 0 {
						t.Errorf("begun without an order: %v, %v", ends, err)
					}
					return
				}
				if err := second.svc.RunOnce(second.ctx); err != nil {
					t.Fatal(err)
				}
				second.wantEnded(t)
				standby.wantEnded(t)
				same(t, second, standby)
				if got := facts[*event.TenantEnded](second); len(got) != 1 {
					t.Errorf("%d certificates", len(got))
				}
			})
		})
	}
}
