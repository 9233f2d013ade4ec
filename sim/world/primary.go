package world

import (
	"context"
	"net"
	"sync"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/internal/turn"
	"holdfast/sim/check"
)

// primary is a domain's own server, or the smart host.
type primary struct {
	inhabitant
	host   string
	server *smtptest.Server

	mu  sync.Mutex // never held over anything that waits
	got []check.Arrival
}

func newPrimary(w *World, host string) *primary {
	p := &primary{inhabitant: w.inhabitant(host), host: host}
	p.server = smtptest.New(smtptest.Options{Hostname: host, OnMessage: p.record})
	return p
}

// record notes a message before its answer leaves.
func (p *primary) record(t smtptest.Transaction) {
	a := check.Arrival{Primary: p.host, From: t.From, Body: t.Body, At: p.world.cfg.Order.Now(), Time: time.Now()}
	for _, r := range t.Recipients {
		a.To = append(a.To, r.To)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, a)
}

func (p *primary) arrivals() []check.Arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]check.Arrival(nil), p.got...)
}

// mood is how a primary behaves for a while.
type mood struct {
	down   bool
	script smtptest.Script
}

func at(phase smtptest.Phase, a smtptest.Action) mood {
	return mood{script: smtptest.Script{At: map[smtptest.Phase]smtptest.Action{phase: a}}}
}

// moods are all but the good one.
func (p *primary) moods() []mood {
	some := 1 + p.rng.IntN(3)
	return []mood{
		{down: true},
		{down: true},
		at(smtptest.Banner, smtptest.Action{Hang: true}),
		at(smtptest.Banner, smtptest.Action{Reply: "421 4.3.2 not now", Times: some}),
		at(smtptest.Dot, smtptest.Action{Hang: true, Times: some}),
		at(smtptest.Dot, smtptest.Action{Drop: true, Times: some}),             // has it, and does not say so
		at(smtptest.Dot, smtptest.Action{Drop: true, Lose: true, Times: some}), // has it not
		at(smtptest.Dot, smtptest.Action{Delay: p.between(0, 30*time.Second)}),
		at(smtptest.Dot, smtptest.Action{Reply: "451 4.3.0 later", Times: some}),
		at(smtptest.Rcpt, smtptest.Action{Reply: "450 4.2.1 later"}),
		at(smtptest.Rcpt, smtptest.Action{Reply: "550 5.1.1 no such user", Times: 1}),
		at(smtptest.Rcpt, smtptest.Action{Reply: "550 5.1.1 no such user", Times: some}),
		at(smtptest.Rcpt, smtptest.Action{Reply: "550 5.1.1 no such user"}), // an empty server: nobody is known
		at(smtptest.Mail, smtptest.Action{Reply: "421 4.7.0 enough", Times: some}),
		at(smtptest.Data, smtptest.Action{Drop: true, Times: some}),
		{script: smtptest.Script{MaxPerConn: 1}},
	}
}

// run serves until ctx ends, and changes its mood now and then.
func (p *primary) run(ctx context.Context) {
	defer p.server.Stop()
	var ear *ear
	up := func() {
		if ear == nil {
			ear = p.listen(ctx)
		}
	}
	down := func() {
		if ear != nil {
			ear.close()
			ear = nil
		}
	}
	defer down()
	up()
	for range p.world.cfg.Size.Moods {
		if !p.until(ctx, p.between(time.Second, 90*time.Second)) {
			break
		}
		m := mood{}
		if p.chance(60) {
			m = pick(&p.inhabitant, p.moods())
		}
		p.server.Script(m.script)
		if m.down {
			down()
		} else {
			up()
		}
	}
	p.server.Script(smtptest.Script{})
	up()
	<-ctx.Done()
}

// until sleeps for d, or until the world is calm or ctx ends; it then returns
// false.
func (p *primary) until(ctx context.Context, d time.Duration) bool {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if !p.pause(ctx, min(p.between(time.Second, 3*time.Second), time.Until(end)+1)) || !p.misbehaves() {
			return false
		}
	}
	return true
}

// ear is an open listener with the sessions that came in through it.
type ear struct {
	server *smtptest.Server
	l      net.Listener
	over   sync.WaitGroup
}

func (p *primary) listen(ctx context.Context) *ear {
	l, err := p.net.Listen(ctx, "tcp", p.host+":25")
	if err != nil {
		return nil
	}
	turn.Take(ctx, "listens")
	p.server.Resume()
	e := &ear{server: p.server, l: l}
	e.over.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.over.Go(func() { p.server.Serve(c) })
		}
	})
	return e
}

// close cuts all connections, as a crash does.
func (e *ear) close() {
	e.l.Close()
	e.server.Stop()
	e.over.Wait()
}
