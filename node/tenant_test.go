package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/projection"
	"holdfast/retention"
)

const bravoDomains = `
[[domain]]
name = "bravo.test"
tenant = "bravo"
primary = ["smtp://mx.bravo.test:25"]
[domain.health]
probe_every = "1h"

[[user]]
address = "dora@bravo.test"
`

// apply applies a file, and removes what it does not have.
func (w *dayWorld) apply(text string) error {
	w.t.Helper()
	f, err := parseDomains(text)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = w.n.apply(context.Background(), ApplyRequest{File: f, Prune: true})
	return err
}

func (w *dayWorld) end(req TenantEndRequest) (TenantEndAnswer, error) {
	w.t.Helper()
	req.Name, req.Reason = "acme", "left"
	return w.n.endTenant(context.Background(), req)
}

// without lets a node begin with nothing but the bucket, without what is under a
// prefix.
func (w *dayWorld) without(prefix string) {
	w.t.Helper()
	w.stop()
	ctx := context.Background()
	var keys []string
	for info, err := range w.bucket.List(ctx, prefix, "") {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	for _, key := range keys {
		if err := w.bucket.Delete(ctx, key); err != nil {
			w.t.Fatal(err)
		}
	}
	w.store = projection.NewMemStore()
	w.start()
}

// wantNoAcme checks that nothing of the tenant is left.
func (w *dayWorld) wantNoAcme(gone ...event.Ref) {
	w.t.Helper()
	ctx := context.Background()
	for _, st := range w.n.runner.Status() {
		if st.Stopped != nil || st.Disagreed > 0 {
			w.t.Errorf("%s: %+v", st.Name, st)
		}
	}
	if got := w.found(); len(got) != 0 {
		w.t.Errorf("in the index: %v", got)
	}
	for _, ref := range gone {
		if _, err := w.n.log.Event(ctx, ref); !errors.Is(err, eventlog.ErrEnded) && !errors.Is(err, eventlog.ErrBeforeStart) {
			w.t.Errorf("event: %v", err)
		}
		if err := opens(w.n.log, ref); err == nil {
			w.t.Error("mail of a tenant that has ended opens")
		}
	}
	st := w.n.Status(ctx)
	if len(st.Retention.Tenants) > 1 || len(st.Retention.Tenants) == 1 && st.Retention.Tenants[0].Tenant != "bravo" {
		w.t.Errorf("accounts: %+v", st.Retention.Tenants)
	}
	if b := st.Balance; b == nil || b.Total != (BalanceNumbers{}) || !b.Balanced {
		w.t.Errorf("balance: %+v", b)
	}
	for info, err := range w.bucket.List(ctx, "", "") {
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasPrefix(info.Key, "blob/") || strings.Contains(info.Key, "/"+w.tenant.String()+"/") {
			w.t.Errorf("left: %s", info.Key)
		}
	}
	if _, err := w.n.log.Verify(ctx, func(f eventlog.Finding) { w.t.Errorf("found: %v", f) }); err != nil {
		w.t.Error(err)
	}
}

// TestATenantEnds: nothing of it is left in index, mailboxes, queue and accounts;
// folds that have never seen it come to the same state; the name can be had again.
func TestATenantEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDayWorld(t)
		gone := []event.Ref{
			w.accept("acme.test", "plain", 100), w.accept("acme.test", "large", 400<<10), w.accept("down.test", "due", 100), w.accept("acme.test", "filed", 100),
		}
		w.file(gone[3].ID, "Keep")
		if would, err := w.end(TenantEndRequest{DryRun: true}); err != nil || would.Messages != 4 || would.Users != 1 || would.Due != 4 || len(would.Domains) != 2 {
			t.Errorf("%+v, %v", would, err)
		}
		if _, err := w.end(TenantEndRequest{}); !isWrong(err) || !strings.Contains(fmt.Sprint(err), "acme.test, down.test") {
			t.Errorf("with domains: %v", err)
		}
		if err := w.apply(bravoDomains); err != nil {
			t.Fatal(err)
		}
		if _, err := w.end(TenantEndRequest{KeysLost: true}); !isWrong(err) {
			t.Errorf("keys that are not lost: %v", err)
		}
		before := w.copied()
		end, err := w.end(TenantEndRequest{})
		if err != nil || end.Certificate == "" || end.Messages != 4 || end.Before {
			t.Fatalf("%+v, %v", end, err)
		}
		if again, err := w.end(TenantEndRequest{}); err != nil || again.Certificate != end.Certificate || !again.Before {
			t.Errorf("again: %+v, %v", again, err)
		}
		at, err := w.n.placed(t.Context(), end.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		w.wantNoAcme(gone...)
		// The worker takes Bases, for which all is folded a second time, from the
		// beginning, when the keys are gone.
		w.onlyNewBases(at)
		w.without("nothing") // from the Bases
		w.wantNoAcme(gone...)
		w.without("snap/") // from the beginning
		w.wantNoAcme(gone...)

		// A copy from before opens for as long as its day lasts.
		l, err := eventlog.Open(t.Context(), eventlog.Options{Bucket: before, URL: "mem:", Keys: w.root, Inspect: true})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(t.Context())
		if err := opens(l, gone[0]); err != nil {
			t.Errorf("a copy of before: %v", err)
		}
		time.Sleep(49 * time.Hour)
		l.Forget(w.root.Day())
		if err := opens(l, gone[0]); !errors.Is(err, crypto.ErrExpired) {
			t.Errorf("a copy of before, after its day: %v", err)
		}
		w.wantNoAcme(gone...)

		// The name is free for another tenant.
		if err := w.apply(dayDomains + bravoDomains); err != nil {
			t.Fatal(err)
		}
		u, ok := w.n.directory.User("alice@acme.test")
		if !ok || u.Tenant == w.tenant {
			t.Errorf("the namesake: %+v", u)
		}
	})
}

// TestKeysOfATenantAreMissing: no new ones are made in their place, and no node
// starts. They can be brought back, or the tenant ended.
func TestKeysOfATenantAreMissing(t *testing.T) {
	ways := []bool{true, false}
	if testing.Short() {
		ways = ways[:1]
	}
	for _, folded := range ways {
		t.Run(fmt.Sprintf("folded %v", folded), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newDayWorld(t)
				gone := w.accept("acme.test", "plain", 100)
				key := "key/tenant/" + w.tenant.String()
				secrets, _, err := objstore.ReadAll(t.Context(), w.bucket, key, 1000)
				if err != nil {
					t.Fatal(err)
				}
				w.missing(key, folded)
				if err := w.apply(dayDomains + "aliases = [\"post@acme.test\"]\n"); !errors.Is(err, eventlog.ErrTenantKeys) {
					t.Errorf("applied without keys: %v", err)
				}
				if _, err := w.end(TenantEndRequest{}); err == nil {
					t.Error("a tenant without keys ended as any other")
				}
				if err := w.n.log.RequireTenant(t.Context(), w.tenant); !errors.Is(err, eventlog.ErrTenantKeys) {
					t.Errorf("other keys were made: %v", err)
				}
				// Brought back, all is as before.
				if _, err := w.bucket.Put(t.Context(), key, bytes.NewReader(secrets), int64(len(secrets)), objstore.PutOptions{IfAbsent: true}); err != nil {
					t.Fatal(err)
				}
				w.stop()
				w.start()
				if err := opens(w.n.log, gone); err != nil {
					t.Error(err)
				}
				// Or ended.
				w.missing(key, folded)
				w.stop()
				if _, err := w.lost("nobody"); !isWrong(err) {
					t.Errorf("the end of nobody: %v", err)
				}
				if end, err := w.lost("acme"); err != nil || end.ID != w.tenant.String() {
					t.Fatalf("%+v, %v", end, err)
				}
				w.start()
				if err := w.n.retention.RunOnce(t.Context()); err != nil {
					t.Fatal(err)
				}
				if again, err := w.end(TenantEndRequest{}); err != nil || again.Certificate == "" {
					t.Errorf("%+v, %v", again, err)
				}
				time.Sleep(49 * time.Hour) // its bodies go with their day
				w.wantNoAcme(gone)
			})
		})
	}
}

// missing takes an object away while the node is down, and lets it begin again, if
// so with an empty local database.
func (w *dayWorld) missing(key string, folded bool) {
	w.t.Helper()
	w.stop()
	if err := w.bucket.Delete(context.Background(), key); err != nil {
		w.t.Fatal(err)
	}
	if !folded {
		w.store = projection.NewMemStore()
	}
	w.begin()
	// The directory is as new as the local database; a moment later the node has
	// left, since it cannot read on.
}

// lost ends a tenant without keys while no node runs.
func (w *dayWorld) lost(name string) (TenantEndAnswer, error) {
	return EndLost(context.Background(), w.cfg, w.seams, slog.New(slog.DiscardHandler), "root", TenantEndRequest{Name: name, Reason: "left"})
}

// TestMailOfAMovedDomain: what a tenant still has to say of a domain that is another's
// now goes neither into that one's mailboxes nor through its smart host.
func TestMailOfAMovedDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDayWorld(t)
		if err := w.apply(strings.Replace(dayDomains, "continuity", "outbound = \"smtp://out.acme.test:25\"\ncontinuity", 1)); err != nil {
			t.Fatal(err)
		}
		former := event.Tenant{1}
		for _, of := range []event.Tenant{w.tenant, former} {
			own := of == w.tenant
			rcpt, allot := sites{w.n}.Home("alice@acme.test", of, "acme.test")
			if rcpt.Outside == own || (len(allot) > 0) != own {
				t.Errorf("own %v: a bounce goes to %+v, with %d mailboxes", own, rcpt, len(allot))
			}
			items := []item{{tenant: of, redelivery: event.Redelivery{Domain: "acme.test"}}}
			if err := w.n.route(items, "x@far.test"); (err == nil) != own {
				t.Errorf("own %v: redelivery to another address: %v", own, err)
			}
		}
	})
}

// TestAnEndingTenantIsNotApplied: an end is ordered, and waits for its worker. What
// would be added to the tenant is refused; what is taken away is not.
func TestAnEndingTenantIsNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDayWorld(t)
		ctx := context.Background()
		order := &event.TenantEndOrdered{At: w.n.log.Millis(), Who: "root", Reason: "left", Name: "acme"}
		if _, err := w.n.log.Append(ctx, event.Event{ID: event.NewID(), Tenant: w.tenant, Fact: order}); err != nil {
			t.Fatal(err)
		}
		ref := w.accept("acme.test", "acked", 100)
		if err := w.n.retention.RunOnce(ctx); !errors.Is(err, retention.ErrDomains) {
			t.Errorf("an order for a tenant that has domains: %v", err)
		}
		if err := opens(w.n.log, ref); err != nil {
			t.Errorf("mail that was confirmed: %v", err)
		}
		if err := w.apply(strings.Replace(dayDomains, "mx.acme.test", "mx2.acme.test", 1)); !isWrong(err) {
			t.Errorf("a change: %v", err)
		}
		if err := w.apply(bravoDomains); err != nil {
			t.Fatalf("its domains are taken away: %v", err)
		}
		if err := w.apply(dayDomains + bravoDomains); !isWrong(err) || !strings.Contains(err.Error(), "being ended") {
			t.Errorf("they come back: %v", err)
		}
		if _, err := w.end(TenantEndRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := w.apply(dayDomains + bravoDomains); err != nil {
			t.Fatal(err)
		}
		if u, ok := w.n.directory.User("alice@acme.test"); !ok || u.Tenant == w.tenant {
			t.Errorf("alice: %+v, %v", u, ok)
		}
	})
}
