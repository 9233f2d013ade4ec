package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/bench/loadgen"
	"holdfast/bench/peers"
	"holdfast/e2e/outside"
)

// acceptFS: messages accepted a second on the fs bucket, with nothing delivered.
func acceptFS(ctx context.Context, b *bench) (outcome, error) {
	return b.accept(ctx, siteOptions{}, 10)
}

// acceptS3: the same with a bucket on an S3 server that shares the processors.
func acceptS3(ctx context.Context, b *bench) (outcome, error) {
	return b.accept(ctx, siteOptions{s3: true}, 5)
}

func (b *bench) accept(ctx context.Context, o siteOptions, factor float64) (outcome, error) {
	sink, err := b.sinkAccepts(ctx)
	if err != nil {
		return outcome{}, err
	}
	postfix, err := b.postfixAccepts(ctx)
	if err != nil {
		return outcome{}, err
	}
	// The queue is held, as it is in the peer: this row is about accepting.
	s, err := b.newHeldSite(ctx, o)
	if err != nil {
		return outcome{}, err
	}
	r, _, err := b.sendMeasured(ctx, s, b.messages(), b.count)
	o2 := compare(r.Rate(), postfix, sink, factor)
	o2.holdfast += fmt.Sprintf(", %.0f MB/s, dot p99 %s", r.MBps(), r.Dot.P99.Round(100*time.Microsecond))
	return o2, errors.Join(err, s.stop())
}

// compare holds a rate to a multiple of Postfix's, or to three quarters of
// smtp-sink's where that is less.
func compare(ours, postfix, sink, factor float64) outcome {
	least, how := factor*postfix, fmt.Sprintf("%.0f × Postfix = %.0f/s", factor, factor*postfix)
	if most := 0.75 * sink; sink > 0 && most < least {
		least, how = most, fmt.Sprintf("3/4 smtp-sink (%.0f/s) = %.0f/s", sink, most)
	}
	if postfix == 0 && sink == 0 {
		return outcome{holdfast: fmt.Sprintf("%.0f/s", ours), target: "not measured"}
	}
	return outcome{
		holdfast: fmt.Sprintf("%.0f/s", ours),
		peer:     fmt.Sprintf("%.0f/s", postfix),
		ratio:    fmt.Sprintf("%.1f", ours/postfix),
		target:   how,
		met:      ours >= least,
	}
}

// sinkAccepts is what smtp-sink takes from the generator, measured once a run.
func (b *bench) sinkAccepts(ctx context.Context) (float64, error) {
	if b.sinkRate > 0 || b.alone {
		return b.sinkRate, nil
	}
	sink, err := peers.StartSink(ctx, "")
	if err != nil {
		return 0, err
	}
	defer sink.Stop()
	r, err := b.send(ctx, "smtp-sink", sink.Addr, b.messages(), b.count)
	b.sinkRate = r.Rate()
	return b.sinkRate, err
}

// postfixAccepts is what Postfix takes into its hold queue, measured once a run.
// A fifth of the messages is enough for a rate.
func (b *bench) postfixAccepts(ctx context.Context) (float64, error) {
	if b.postfix > 0 || b.alone {
		return b.postfix, nil
	}
	p, err := b.newPostfix(ctx, peers.Instance{Domain: domain, Hold: true})
	if err != nil {
		return 0, err
	}
	r, err := b.send(ctx, "postfix", p.Addr, b.messages(), max(1000, b.count/5))
	b.postfix = r.Rate()
	return b.postfix, errors.Join(err, p.Stop())
}

func (b *bench) newPostfix(ctx context.Context, in peers.Instance) (*peers.Postfix, error) {
	dir, err := b.subdir("postfix")
	if err != nil {
		return nil, err
	}
	return peers.StartPostfix(ctx, dir, in)
}

// deliverWithin bounds the wait for a queue to empty.
const deliverWithin = 30 * time.Minute

// forward: messages accepted and arrived at smtp-sink a second, from the first
// connection of the sender to the last arrival.
func forward(ctx context.Context, b *bench) (outcome, error) {
	sinkRate, err := b.sinkAccepts(ctx)
	if err != nil {
		return outcome{}, err
	}
	postfix, err := b.forwardPostfix(ctx, max(1000, b.count/5))
	if err != nil {
		return outcome{}, err
	}
	sink, err := peers.StartSink(ctx, "")
	if err != nil {
		return outcome{}, err
	}
	defer sink.Stop()
	s, err := b.newSite(ctx, siteOptions{primary: sink.Addr})
	if err != nil {
		return outcome{}, err
	}
	var ours float64
	err = b.measured(ctx, s, sink, b.count, func() (err error) {
		ours, err = b.through(ctx, "holdfast", s.SMTP, sink, b.count)
		return err
	})
	return compare(ours, postfix, sinkRate, 8), errors.Join(err, s.stop())
}

func (b *bench) forwardPostfix(ctx context.Context, n int) (float64, error) {
	if b.alone {
		return 0, nil
	}
	sink, err := peers.StartSink(ctx, "")
	if err != nil {
		return 0, err
	}
	defer sink.Stop()
	p, err := b.newPostfix(ctx, peers.Instance{Domain: domain, RelayTo: sink.Addr})
	if err != nil {
		return 0, err
	}
	rate, err := b.through(ctx, "postfix", p.Addr, sink, n)
	return rate, errors.Join(err, p.Stop())
}

// through sends n messages to addr and waits until the sink has them all.
func (b *bench) through(ctx context.Context, what, addr string, sink *peers.Sink, n int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
	start := time.Now()
	if _, err := b.send(ctx, what, addr, b.messages(), n); err != nil {
		return 0, err
	}
	end, err := sink.WaitFor(ctx, n)
	if err != nil {
		return 0, err
	}
	rate := float64(n) / end.Sub(start).Seconds()
	b.say("  %s: all at the sink after %.1fs: %.0f/s", what, end.Sub(start).Seconds(), rate)
	return rate, nil
}

// drain: messages a second from the first arrival at smtp-sink to the last, when
// a queue that gathered while the primary was down is delivered after its return.
// How long a site takes to notice the return is not part of it, on either side.
func drain(ctx context.Context, b *bench) (outcome, error) {
	sinkRate, err := b.sinkAccepts(ctx)
	if err != nil {
		return outcome{}, err
	}
	postfix, err := b.drainPostfix(ctx)
	if err != nil {
		return outcome{}, err
	}
	addrs, err := outside.FreeAddrs(1)
	if err != nil {
		return outcome{}, err
	}
	s, err := b.newSite(ctx, siteOptions{primary: addrs[0]})
	if err != nil {
		return outcome{}, err
	}
	ours, err := b.drainSite(ctx, s, addrs[0])
	return compare(ours, postfix, sinkRate, 8), errors.Join(err, s.stop())
}

func (b *bench) drainSite(ctx context.Context, s *site, primary string) (float64, error) {
	if _, err := b.send(ctx, "holdfast, primary down", s.SMTP, b.messages(), b.queue); err != nil {
		return 0, err
	}
	sink, err := peers.StartSink(ctx, primary)
	if err != nil {
		return 0, err
	}
	defer sink.Stop()
	var rate float64
	err = b.measured(ctx, s, sink, b.queue, func() (err error) {
		rate, err = b.emptied(ctx, "holdfast", sink)
		return err
	})
	return rate, err
}

func (b *bench) drainPostfix(ctx context.Context) (float64, error) {
	if b.alone {
		return 0, nil
	}
	sink, err := peers.StartSink(ctx, "")
	if err != nil {
		return 0, err
	}
	defer sink.Stop()
	p, err := b.newPostfix(ctx, peers.Instance{Domain: domain, RelayTo: sink.Addr, Hold: true})
	if err != nil {
		return 0, err
	}
	_, err = b.send(ctx, "postfix, holding", p.Addr, b.messages(), b.queue)
	var rate float64
	if err == nil {
		if err = p.Release(ctx); err == nil {
			rate, err = b.emptied(ctx, "postfix", sink)
		}
	}
	return rate, errors.Join(err, p.Stop())
}

// emptied waits until the sink has the whole queue and returns the rate.
func (b *bench) emptied(ctx context.Context, what string, sink *peers.Sink) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
	first, err := sink.WaitFor(ctx, 1)
	if err != nil {
		return 0, err
	}
	early := sink.Messages()
	last, err := sink.WaitFor(ctx, b.queue)
	if err != nil {
		return 0, err
	}
	rate := float64(b.queue-early) / last.Sub(first).Seconds()
	b.say("  %s: queue empty after %.1fs: %.0f/s", what, last.Sub(first).Seconds(), rate)
	return rate, nil
}

// large: the most memory a node ever held while twenty sessions each send it
// 50 MB.
func large(ctx context.Context, b *bench) (outcome, error) {
	const size, sessions, most = 50_000_000, 20, 300_000_000
	s, err := b.newSite(ctx, siteOptions{})
	if err != nil {
		return outcome{}, err
	}
	pool := loadgen.Generate(loadgen.Spec{Seed: 2, Count: 1, Domain: domain, Recipients: users, FixedSize: size})
	r, err := loadgen.Run(ctx, loadgen.Load{Addr: s.SMTP, Messages: pool, Count: sessions, Sessions: sessions, Tag: "large", Timeout: 10 * time.Minute})
	b.say("  holdfast: %v", r)
	if err == nil && r.Accepted != sessions {
		err = fmt.Errorf("%d of %d messages accepted", r.Accepted, sessions)
	}
	_, peak, memErr := s.Resident()
	return outcome{
		holdfast: fmt.Sprintf("%.0f MB resident at most, %.0f MB/s", float64(peak)/1e6, r.MBps()),
		target:   "below 300 MB",
		met:      peak > 0 && peak < most,
	}, errors.Join(err, memErr, s.stop())
}
