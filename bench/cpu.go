package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"holdfast/bench/loadgen"
	"holdfast/bench/peers"
	"holdfast/e2e/outside"
)

// sendMeasured is as send to a node of ours, and tells besides what processor
// time the node spent, until its folds have caught up.
func (b *bench) sendMeasured(ctx context.Context, s *site, messages []loadgen.Message, n int) (loadgen.Result, time.Duration, error) {
	before, err := s.CPU()
	if err != nil {
		return loadgen.Result{}, 0, err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- b.profile(ctx, s) }()
	r, err := b.send(ctx, "holdfast", s.SMTP, messages, n)
	if err != nil {
		return r, 0, errors.Join(err, <-profiled)
	}
	if _, err := s.Status(ctx); err != nil {
		return r, 0, errors.Join(err, <-profiled)
	}
	after, err := s.CPU()
	b.say("  holdfast: %.0f µs of processor time a message", float64((after-before).Microseconds())/float64(n))
	return r, after - before, errors.Join(err, <-profiled)
}

// measured runs do and tells what processor time the node and the sink spent on
// each of n messages.
func (b *bench) measured(ctx context.Context, s *site, sink *peers.Sink, n int, do func() error) error {
	pids := [2]int{s.PID(), sink.PID()}
	var spent [2]time.Duration
	note := func(sign time.Duration) error {
		for i, pid := range pids {
			t, err := outside.CPU(pid)
			if err != nil {
				return err
			}
			spent[i] += sign * t
		}
		return nil
	}
	if err := note(-1); err != nil {
		return err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- b.profile(ctx, s) }()
	if err := do(); err != nil {
		return errors.Join(err, <-profiled)
	}
	if err := note(1); err != nil {
		return errors.Join(err, <-profiled)
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	b.say("  processor time a message: %.0f µs of holdfast, %.0f µs of smtp-sink", each(spent[0]), each(spent[1]))
	return <-profiled
}

// profile writes a processor profile of the node's next seconds, if wanted.
func (b *bench) profile(ctx context.Context, s *site) error {
	if b.profiles == "" {
		return nil
	}
	const seconds = 4
	socket := filepath.Join(s.DataDir(), "admin.sock")
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://node/debug/pprof/profile?seconds=%d", seconds), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("profile the node: %w", err)
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(b.profiles, fmt.Sprintf("cpu-%s.pprof", time.Now().Format("150405"))))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
