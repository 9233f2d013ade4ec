// Package delivery hands accepted mail to the domains' primary servers and
// smart hosts, and judges whether these are up.
//
// The queue is a fold over the log: a unit (one message for one recipient) is
// due from its acceptance until an outcome ends it. Replay after an outage is
// the same queue, run late; redelivery adds units to it. One node at a time
// delivers for a tenant, under a lease.
//
// The rule about the final dot: the intent to send it is in the log before it
// is sent, and the fold has agreed that nobody else is at it. What became of it
// is appended as soon as it is known. An intent without an outcome makes the
// next delivery uncertain; that, and nothing else, is when a recipient may get
// a message twice.
package delivery

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"holdfast/delivery/health"
	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// Site is what delivery needs to know of a domain.
type Site struct {
	Domain     string
	Tenant     event.Tenant
	Primary    []string // smtp:// URLs, tried in order; none: mail stays due
	Outbound   string   // smtp:// URL of the smart host, or empty
	ShadowDays uint32
	Policy     health.Policy
	DotTimeout time.Duration // 0: the default of package smtpc
	Failover   string        // on: the queue is held; off: delivered whatever the state; else auto
}

// Directory knows the domains and where a bounce goes.
type Directory interface {
	Sites() []Site
	// Home resolves a reverse-path for a bounce from a domain: a recipient, and
	// the mailbox of its own if it is a listed user of the same tenant.
	Home(path, domain string) (event.Recipient, []event.Allotment)
}

// Config is what a Service is made of.
type Config struct {
	Log       *eventlog.Log
	Runner    *projection.Runner
	Directory Directory
	Hostname  string       // in EHLO and in bounces
	Dial      smtpc.Dialer // nil: the network
	RootCAs   *x509.CertPool
	Logger    *slog.Logger
	// Exclusive: no other process has the bucket, so that leases need not be
	// waited for.
	Exclusive bool
}

// Service delivers. Its methods may be called by any goroutine.
type Service struct {
	cfg    Config
	log    *eventlog.Log
	logger *slog.Logger
	reload chan struct{}

	mu      sync.Mutex // never held across a call through a seam
	sites   map[string]*site
	routes  map[string]*route
	holders map[event.Tenant]*holder
	waiters map[event.Unit][]chan Settled
}

// New returns a Service that does nothing yet. Its projection is added to the
// runner at once.
func New(cfg Config) (*Service, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg: cfg, log: cfg.Log, logger: cfg.Logger, reload: make(chan struct{}, 1),
		sites: map[string]*site{}, routes: map[string]*route{}, holders: map[event.Tenant]*holder{},
		waiters: map[event.Unit][]chan Settled{},
	}
	if err := cfg.Runner.Add(fold{}, s.observe); err != nil {
		return nil, fmt.Errorf("delivery: %w", err)
	}
	return s, nil
}

// Reload makes Run look at the directory again. It does not block.
func (s *Service) Reload() { signal(s.reload) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// observe is told what the fold emitted.
func (s *Service) observe(es []projection.Emission) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		switch v := e.Value.(type) {
		case dueEmission:
			if rt := s.routes[v.Route]; rt != nil {
				signal(rt.wake)
			}
		case Settled:
			for _, c := range s.waiters[v.Unit] {
				select {
				case c <- v:
				default: // it has room for all it wants
				}
			}
		case healthEmission:
			if st := s.sites[v.Changed.Domain]; st != nil {
				st.learn(v.Changed)
			}
		}
	}
}

// Run delivers until ctx ends, and then waits for what is under way: a final
// dot that was sent gets its answer recorded.
func (s *Service) Run(ctx context.Context) error {
	if err := s.cfg.Runner.CaughtUp(ctx, foldName); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	// What is under way may finish after ctx ends; everything else stops.
	for {
		s.assemble(ctx, &wg)
		select {
		case <-s.reload:
		case <-ctx.Done():
			return nil
		}
	}
}

// assemble starts what the directory names and tells the rest of changes.
func (s *Service) assemble(ctx context.Context, wg *sync.WaitGroup) {
	for _, conf := range s.cfg.Directory.Sites() {
		h := s.holder(ctx, wg, conf.Tenant)
		s.mu.Lock()
		st, ok := s.sites[conf.Domain]
		s.mu.Unlock()
		if ok {
			st.configure(conf)
			continue
		}
		st = newSite(s, h, conf)
		primary := newRoute(s, h, st, primaryRoute(conf.Domain), false)
		outbound := newRoute(s, h, st, outboundRoute(conf.Domain), true)
		st.routes = []*route{primary, outbound}
		s.mu.Lock()
		s.sites[conf.Domain] = st
		s.routes[primary.name], s.routes[outbound.name] = primary, outbound
		s.mu.Unlock()
		st.restore(ctx)
		wg.Go(func() { st.run(ctx) })
		wg.Go(func() { primary.run(ctx) })
		wg.Go(func() { outbound.run(ctx) })
	}
}

// DomainStatus is what is known of a domain's primary.
type DomainStatus struct {
	State  event.Health
	Since  time.Time
	Queued int64 // units due to the primary
	Held   int64 // units that wait for an administrator
	Out    int64 // units due to the smart host
}

// Domain returns the status of a domain as the log tells it.
func (s *Service) Domain(ctx context.Context, domain string) (DomainStatus, error) {
	st := DomainStatus{State: event.HealthUp}
	err := s.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		raw, err := v.Get(healthKey(domain))
		if err != nil {
			return err
		}
		if raw != nil {
			var h event.HealthChanged
			if err := event.Unmarshal(raw, &h); err != nil {
				return err
			}
			st.State, st.Since = h.To, time.UnixMilli(int64(h.At)).UTC()
		}
		if st.Queued, err = getCount(v, keyDue, primaryRoute(domain)); err != nil {
			return err
		}
		if st.Held, err = getCount(v, keyHeld, primaryRoute(domain)); err != nil {
			return err
		}
		st.Out, err = getCount(v, keyDue, outboundRoute(domain))
		return err
	})
	return st, err
}

// holder keeps the lease under which a tenant's mail is delivered.
type holder struct {
	svc    *Service
	tenant event.Tenant

	mu    sync.Mutex
	lease *eventlog.Lease
	lost  bool
}

const (
	leaseTerm  = 15 * time.Second
	leaseRenew = leaseTerm / 3
)

func (s *Service) holder(ctx context.Context, wg *sync.WaitGroup, t event.Tenant) *holder {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.holders[t]
	if !ok {
		h = &holder{svc: s, tenant: t}
		s.holders[t] = h
		wg.Go(func() { h.run(ctx) })
	}
	return h
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
	for ctx.Err() == nil {
		if err := h.hold(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, eventlog.ErrLeased) {
			h.svc.logger.Warn("lease for delivering", "tenant", h.tenant, "error", err)
		}
		pause(ctx, leaseRenew)
	}
	h.mu.Lock()
	le := h.lease
	h.lease = nil
	h.mu.Unlock()
	if le != nil {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := le.Release(release); err != nil {
			h.svc.logger.Info("lease not released; it runs out by itself", "tenant", h.tenant, "error", err)
		}
	}
}

// hold takes the lease or renews it.
func (h *holder) hold(ctx context.Context) error {
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
	h.svc.kickTenant(h.tenant)
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

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
