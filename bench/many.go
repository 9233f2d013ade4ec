package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/bench/loadgen"
)

// dialers is how many connections are opened at a time.
const dialers = 50

// dialMany opens n connections that have been greeted.
func dialMany(ctx context.Context, addr string, n int) ([]*loadgen.Conn, error) {
	conns, errs := make([]*loadgen.Conn, n), make([]error, dialers)
	var wg sync.WaitGroup
	for d := range dialers {
		wg.Go(func() {
			for i := d; i < n && errs[d] == nil; i += dialers {
				conns[i], errs[d] = loadgen.Dial(ctx, addr, 5*time.Minute)
			}
		})
	}
	wg.Wait()
	return conns, errors.Join(errs...)
}

// quitAll ends the conversations that began.
func quitAll(conns []*loadgen.Conn) error {
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for d := range dialers {
		wg.Go(func() {
			for i := d; i < len(conns); i += dialers {
				if conns[i] != nil {
					errs[i] = conns[i].Quit()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// idle10k: the most memory a node ever held while ten thousand connections have
// said EHLO and nothing more. Each of them still answers afterwards.
func idle10k(ctx context.Context, b *bench) (outcome, error) {
	const connections, most = 10_000, 300_000_000
	s, err := b.newHeldSite(ctx, siteOptions{connections: connections + 100})
	if err != nil {
		return outcome{}, err
	}
	before, _, err := s.Resident()
	var conns []*loadgen.Conn
	if err == nil {
		conns, err = dialMany(ctx, s.SMTP, connections)
	}
	now, _, rerr := s.Resident()
	err = errors.Join(err, rerr, quitAll(conns))
	_, peak, rerr := s.Resident()
	if err = errors.Join(err, rerr, s.stop()); err != nil {
		return outcome{}, err
	}
	return outcome{
		holdfast: fmt.Sprintf("%.0f MB resident at most (%.0f idle, %.1f KB a connection)", float64(peak)/1e6, float64(now)/1e6, float64(now-before)/1e3/connections),
		target:   "below 300 MB",
		met:      peak > 0 && peak < most,
	}, nil
}

// fair1000: a thousand connections begin at once and send ten messages of 10 KB
// each, one after the other. None is refused, and the slowest is done within five
// times the median.
func fair1000(ctx context.Context, b *bench) (outcome, error) {
	const connections, each, size, most = 1000, 10, 10_000, 5.0
	s, err := b.newHeldSite(ctx, siteOptions{connections: connections + 100})
	if err != nil {
		return outcome{}, err
	}
	pool := b.small(size)
	conns, err := dialMany(ctx, s.SMTP, connections)
	if err != nil {
		return outcome{}, errors.Join(err, s.stop())
	}
	took, errs := make([]time.Duration, connections), make([]error, connections)
	begin := time.Now()
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			for j := range each {
				n := i*each + j
				if _, errs[i] = c.Send(&pool[n%len(pool)], loadgen.MessageID("fair", n)); errs[i] != nil {
					return
				}
			}
			took[i] = time.Since(begin)
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	if err = errors.Join(errors.Join(errs...), quitAll(conns), s.stop()); err != nil {
		return outcome{}, err
	}
	slices.Sort(took)
	median, slowest := took[connections/2], took[connections-1]
	ratio := float64(slowest) / float64(median)
	return outcome{
		holdfast: fmt.Sprintf("no error, slowest session %v, %.0f/s", slowest.Round(time.Millisecond), connections*each/elapsed.Seconds()),
		peer:     fmt.Sprintf("median %v", median.Round(time.Millisecond)),
		ratio:    fmt.Sprintf("%.2f", ratio),
		target:   fmt.Sprintf("at most %.0f ×", most),
		met:      ratio <= most,
	}, nil
}
