package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/bench/loadgen"
	"holdfast/crypto"
	"holdfast/event"
)

// cpu10k: processor time of a node for each message of 10 KB that it accepts with
// twenty sessions, its folds included, beside the sum of the parts that cannot be
// left out, each measured alone: the message is read from a loopback socket, and
// answered once; hashed once; compressed and sealed; and its share of a segment
// is put, with as many messages to a segment as the node had.
func cpu10k(ctx context.Context, b *bench) (outcome, error) {
	const size, most = 10_000, 3.0
	s, err := b.newHeldSite(ctx, siteOptions{})
	if err != nil {
		return outcome{}, err
	}
	pool := b.small(size)
	_, err = b.send(ctx, "holdfast, to warm up", s.SMTP, pool, 500)
	var before, after written
	var spent time.Duration
	n := max(1000, b.count/2)
	if err == nil {
		before, err = s.segments()
	}
	if err == nil {
		_, spent, err = b.sendMeasured(ctx, s, pool, n)
	}
	if err == nil {
		after, err = s.segments()
	}
	if err = errors.Join(err, s.stop()); err != nil {
		return outcome{}, err
	}
	ours := spent / time.Duration(n)
	run := written{after.segments - before.segments, after.bytes - before.bytes}
	parts, err := b.unavoidable(ctx, pool, run, n)
	if err != nil {
		return outcome{}, err
	}
	sum := parts.read + parts.hash + parts.seal + parts.write
	b.say("  parts: read %v, hash %v, compress and seal %v, write %v; %.1f messages to a segment of %d bytes",
		parts.read, parts.hash, parts.seal, parts.write, float64(n)/float64(run.segments), run.mean())
	ratio := float64(ours) / float64(sum)
	return outcome{
		holdfast: fmt.Sprintf("%d µs", ours.Microseconds()),
		peer: fmt.Sprintf("parts %d µs (read %d, hash %d, seal %d, write %d)", sum.Microseconds(), parts.read.Microseconds(),
			parts.hash.Microseconds(), parts.seal.Microseconds(), parts.write.Microseconds()),
		ratio:  fmt.Sprintf("%.1f", ratio),
		target: fmt.Sprintf("at most %.0f ×", most),
		met:    ratio <= most,
	}, nil
}

// parts are the processor times of one message.
type parts struct{ read, hash, seal, write time.Duration }

func (b *bench) unavoidable(ctx context.Context, pool []loadgen.Message, run written, messages int) (p parts, err error) {
	const rounds = 4000
	if p.read, err = readAlone(pool, rounds); err != nil {
		return p, err
	}
	p.hash = onThread(func() {
		for i := range rounds {
			sha256.Sum256(pool[i%len(pool)].Wire)
		}
	}) / rounds
	if p.seal, err = sealAlone(ctx, pool, rounds); err != nil {
		return p, err
	}
	p.write, err = b.writeAlone(ctx, run, messages)
	return p, err
}

// onThread is the processor time that f takes on the thread that runs it.
func onThread(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := usage(unix.RUSAGE_THREAD)
	f()
	return usage(unix.RUSAGE_THREAD) - begin
}

func usage(who int) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(who, &ru); err != nil {
		panic("internal error: getrusage: " + err.Error())
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// readAlone reads messages from a loopback connection with blocking calls, and
// answers each with a line.
func readAlone(pool []loadgen.Message, rounds int) (time.Duration, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	sender, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return 0, err
	}
	defer sender.Close()
	conn, err := ln.Accept()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return 0, err
	}
	defer file.Close()
	fd := int(file.Fd())
	if err := unix.SetNonblock(fd, false); err != nil {
		return 0, err
	}
	sent := make(chan error, 1)
	answer := []byte("250 2.0.0 Kept as 0123456789abcdef0123456789abcdef\r\n")
	go func() { sent <- sendAlone(sender, pool, rounds, len(answer)) }()
	var failed error
	buf := make([]byte, 64<<10)
	spent := onThread(func() {
		for i := 0; i < rounds && failed == nil; i++ {
			for left := len(pool[i%len(pool)].Wire); left > 0 && failed == nil; {
				var n int
				n, failed = unix.Read(fd, buf[:min(left, len(buf))])
				if left -= n; n == 0 && failed == nil {
					failed = io.ErrUnexpectedEOF
				}
			}
			if failed == nil {
				_, failed = unix.Write(fd, answer)
			}
		}
	})
	if failed != nil {
		sender.Close()
	}
	return spent / time.Duration(rounds), errors.Join(failed, <-sent)
}

func sendAlone(conn net.Conn, pool []loadgen.Message, rounds, answer int) error {
	reply := make([]byte, answer)
	for i := range rounds {
		if _, err := conn.Write(pool[i%len(pool)].Wire); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, reply); err != nil {
			return err
		}
	}
	return nil
}

// sealAlone compresses and seals bodies, each under a leaf of its own.
func sealAlone(ctx context.Context, pool []loadgen.Message, rounds int) (time.Duration, error) {
	today := event.DayOf(time.Now())
	root, tenant, log := crypto.MemoryRoot(today), event.Tenant{1}, event.LogID{1}
	wrapped, err := root.NewTenant(ctx, tenant, log)
	if err != nil {
		return 0, err
	}
	keys, err := root.OpenTenant(ctx, tenant, log, wrapped)
	if err != nil {
		return 0, err
	}
	pair, err := root.DayPair(ctx, keys, today+30)
	if err != nil {
		return 0, err
	}
	page, _, err := crypto.NewPage(pair.Public(), crypto.PageBinding{Log: log, Tenant: tenant, Day: today + 30, Page: event.NewPage(), Writer: event.NewWriter()})
	if err != nil {
		return 0, err
	}
	codec := crypto.NewCodec()
	var out bytes.Buffer
	var failed error
	spent := onThread(func() {
		for i := 0; i < rounds && failed == nil; i++ {
			var leaf crypto.Leaf
			if leaf, failed = page.Next(); failed != nil {
				return
			}
			out.Reset()
			w := codec.NewStreamSealer(leaf, crypto.Binding{Log: log, Tenant: tenant, Event: event.NewID(), Role: event.RoleBody}, &out)
			if _, failed = w.Write(pool[i%len(pool)].Wire); failed == nil {
				failed = w.Close()
			}
		}
	})
	return spent / time.Duration(rounds), failed
}

// writeAlone puts segments of the mean size of a run into a bucket and returns
// one message's share.
func (b *bench) writeAlone(ctx context.Context, run written, messages int) (time.Duration, error) {
	const puts = 300
	bare, err := b.newBarePuts()
	if err != nil {
		return 0, err
	}
	if err := bare.put(ctx, 20, run.mean()); err != nil {
		return 0, errors.Join(err, bare.close())
	}
	begin := usage(unix.RUSAGE_SELF)
	err = bare.put(ctx, puts, run.mean())
	spent := usage(unix.RUSAGE_SELF) - begin
	share := float64(run.segments) / float64(messages)
	return time.Duration(float64(spent) / puts * share), errors.Join(err, bare.close())
}
