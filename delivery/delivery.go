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
// is appended as soon as it is known, and names the intent that it settles. An
// intent without an outcome makes the next delivery uncertain; that is when a
// recipient may get a message twice. When a former holder of the lease speaks
// after its successor's intent, that intent stays open: the unit ends for good
// only when its successor, or whoever comes after, has said what became of it.
package delivery

import (
	"context"
	"crypto/x509"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"holdfast/delivery/health"
	"holdfast/delivery/smtpc"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/turn"
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
	// Home resolves a reverse-path for a tenant's bounce, from a domain that is its
	// own or was: a recipient, and the mailbox of its own if it is a listed user of
	// the same tenant.
	Home(path string, t event.Tenant, domain string) (event.Recipient, []event.Allotment)
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
	routes  map[queue]*route
	holders map[event.Tenant]*holder
	watches map[event.Unit][]*watch
	pages   map[event.ID]*page // whose wishes wait for the fold, by the event

	// blind makes opaque ids of recipients, for this process only.
	blind maphash.Seed
}

// New returns a Service that does nothing yet. Its projection is added to the
// runner at once.
func New(cfg Config) (*Service, error) { return newService(cfg, newFold()) }

func newService(cfg Config, f fold) (*Service, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg: cfg, log: cfg.Log, logger: cfg.Logger, reload: make(chan struct{}, 1),
		sites: map[string]*site{}, routes: map[queue]*route{}, holders: map[event.Tenant]*holder{},
		watches: map[event.Unit][]*watch{}, pages: map[event.ID]*page{}, blind: maphash.MakeSeed(),
	}
	if err := cfg.Runner.Add(f, s.observe); err != nil {
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
			if rt := s.routes[v.Queue]; rt != nil {
				rt.hasDue(v.Retry)
			}
		case endedEmission:
			if rt := s.routes[v.Queue]; rt != nil {
				rt.hasEnded()
			}
		case verdict:
			if p := s.pages[e.Event.Ref.ID]; p != nil {
				p.said = v
			}
		case Settled:
			for _, w := range s.watches[v.Unit] {
				w.tell(v)
			}
		case alreadyDue:
			for _, w := range s.watches[v.Unit] {
				w.alias(v)
				s.watches[v.Original] = append(s.watches[v.Original], w)
			}
		case healthEmission:
			if st := s.sites[v.Changed.Domain]; st != nil && st.holder.tenant == v.Tenant {
				st.learn(v.Changed)
			}
		}
	}
}

// Run delivers until ctx ends, and then waits for what is under way: a final
// dot that was sent gets its answer recorded. It is called once.
func (s *Service) Run(ctx context.Context) error {
	if err := s.cfg.Runner.CaughtUp(ctx, foldName); err != nil {
		return err
	}
	// Leases are kept until nothing is under way any more: whoever takes one
	// over must find no open intent of ours.
	var work, leases sync.WaitGroup
	leaseCtx, release := context.WithCancel(context.WithoutCancel(ctx))
	defer leases.Wait()
	defer release()
	defer work.Wait()
	for {
		s.assemble(ctx, leaseCtx, &work, &leases)
		select {
		case <-s.reload:
			turn.Take(ctx, "reload")
			if ctx.Err() != nil {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// assemble starts what the directory names and tells the rest of changes.
func (s *Service) assemble(ctx, leaseCtx context.Context, work, leases *sync.WaitGroup) {
	named := map[string]bool{}
	for _, conf := range s.cfg.Directory.Sites() {
		named[conf.Domain] = true
		s.mu.Lock()
		st := s.sites[conf.Domain]
		s.mu.Unlock()
		if st != nil && st.holder.tenant == conf.Tenant {
			st.configure(conf)
			continue
		}
		s.open(ctx, work, s.holder(leaseCtx, leases, conf.Tenant), conf)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for domain, st := range s.sites {
		if !named[domain] {
			// The domain was removed: its mail is due until its day, and its
			// server is left alone.
			st.configure(Site{Domain: domain, Tenant: st.holder.tenant})
		}
	}
}

// open starts a site. One of the same domain that was another tenant's stops: it
// settles its own tenant's mail only, and what is left of that stays in its queue.
// The new one begins when nothing of the former runs any more, so that no unit is
// taken up twice when a domain comes back soon.
func (s *Service) open(ctx context.Context, work *sync.WaitGroup, h *holder, conf Site) {
	st := newSite(s, h, conf)
	ctx, st.stop = context.WithCancel(ctx)
	primary := newRoute(s, h, st, primaryRoute(conf.Domain), false)
	outbound := newRoute(s, h, st, outboundRoute(conf.Domain), true)
	st.routes = []*route{primary, outbound}
	s.mu.Lock()
	former := s.sites[conf.Domain]
	s.sites[conf.Domain] = st
	if former != nil {
		for _, rt := range former.routes {
			delete(s.routes, rt.queue())
		}
	}
	for _, rt := range st.routes {
		s.routes[rt.queue()] = rt
	}
	s.mu.Unlock()
	if former != nil {
		former.stop()
	}
	st.restore(ctx)
	work.Go(func() {
		defer close(st.done)
		defer s.leave(h)
		defer st.stop()
		siteCtx := turn.Named(ctx, "site "+conf.Domain)
		if former != nil {
			<-former.done
			turn.Take(siteCtx, "follow")
		}
		var wg sync.WaitGroup
		wg.Go(func() { primary.run(turn.Named(ctx, "route "+primary.name)) })
		wg.Go(func() { outbound.run(turn.Named(ctx, "route "+outbound.name)) })
		st.run(siteCtx)
		wg.Wait()
	})
}

// DomainStatus is what is known of a domain's primary.
type DomainStatus struct {
	State  event.Health
	Since  time.Time
	Queued int64 // units due to the primary
	Held   int64 // units that wait for an administrator
	Out    int64 // units due to the smart host
}

// Domain returns the status of a tenant's domain as the log tells it.
func (s *Service) Domain(ctx context.Context, t event.Tenant, domain string) (DomainStatus, error) {
	st := DomainStatus{State: event.HealthUp}
	primary, outbound := queue{t, primaryRoute(domain)}.key(), queue{t, outboundRoute(domain)}.key()
	err := s.cfg.Runner.View(ctx, foldName, func(v projection.View) error {
		raw, err := v.Get(healthKey(t, domain))
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
		if st.Queued, err = getCount(v, keyDue, primary); err != nil {
			return err
		}
		if st.Held, err = getCount(v, keyHeld, primary); err != nil {
			return err
		}
		st.Out, err = getCount(v, keyDue, outbound)
		return err
	})
	return st, err
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
