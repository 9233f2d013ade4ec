package delivery

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/failpoint"
	"holdfast/internal/turn"
)

// holder keeps the lease under which a tenant's mail is delivered.
type holder struct {
	svc    *Service
	tenant event.Tenant
	users  int // sites; guarded by the service's mutex. Without any it stops for good.
	stop   context.CancelFunc
	done   chan struct{} // closed when it has given the lease up

	mu    sync.Mutex
	lease *eventlog.Lease
}

const (
	leaseTerm  = 15 * time.Second / failpoint.Hurry
	leaseRenew = leaseTerm / 3
	// leaseTry bounds one request for the lease, so that one which the store
	// never answers is made again while the lease still holds.
	leaseTry = leaseTerm / 3
	// leaseGoodbye bounds its release; it runs out by itself, too.
	leaseGoodbye = time.Second
)

// holder returns the one of a tenant, for one site more.
func (s *Service) holder(ctx context.Context, wg *sync.WaitGroup, t event.Tenant) *holder {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[t]
	if former := h; h == nil || h.users == 0 {
		h = &holder{svc: s, tenant: t, done: make(chan struct{})}
		s.holders[t] = h
		ctx, h.stop = context.WithCancel(turn.Named(ctx, "lease "+t.String()))
		wg.Go(func() {
			defer close(h.done)
			if former != nil {
				<-former.done
				turn.Take(ctx, "follow")
			}
			h.run(ctx)
		})
	}
	h.users++
	return h
}

// leave ends that a site has use for a holder. The last one lets the lease go.
func (s *Service) leave(h *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.users--; h.users == 0 {
		h.stop()
	}
}

// epoch returns under which epoch may be acted now; 0 for not at all.
func (h *holder) epoch() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lease == nil || !h.lease.Valid() {
		return 0
	}
	return h.lease.Epoch()
}

func (h *holder) run(ctx context.Context) {
	for ctx.Err() == nil && !h.svc.log.Ended(h.tenant) {
		if err := h.hold(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, eventlog.ErrLeased) {
			h.svc.logger.Warn("lease for delivering", "tenant", h.tenant, "error", err)
		}
		// The lease may have lapsed and come back unseen, so they look each time.
		h.svc.kickTenant(h.tenant)
		pause(ctx, leaseRenew)
		turn.Take(ctx, "renew")
	}
	h.mu.Lock()
	le := h.lease
	h.lease = nil
	h.mu.Unlock()
	if le != nil {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseGoodbye)
		defer cancel()
		if err := le.Release(release); err != nil {
			h.svc.logger.Info("lease not released; it runs out by itself", "tenant", h.tenant, "error", err)
		}
	}
}

// hold takes the lease or renews it.
func (h *holder) hold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTry)
	defer cancel()
	h.mu.Lock()
	le := h.lease
	h.mu.Unlock()
	if le != nil {
		err := le.Renew(ctx)
		if !errors.Is(err, eventlog.ErrLeased) {
			return err
		}
		h.mu.Lock()
		h.lease = nil
		h.mu.Unlock()
	}
	le, err := h.svc.log.Acquire(ctx, "deliver-"+h.tenant.String(), leaseTerm, h.svc.cfg.Exclusive)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.lease = le
	h.mu.Unlock()
	return nil
}

func (s *Service) kickTenant(t event.Tenant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rt := range s.routes {
		if rt.holder.tenant == t {
			signal(rt.wake)
		}
	}
}
