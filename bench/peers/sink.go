package peers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Sink is a running smtp-sink, which answers 250 and forgets. It is started with
// -c, so that it says how many messages it took.
type Sink struct {
	Addr     string // host:port
	messages atomic.Int64
	cmd      *exec.Cmd
	reader   sync.WaitGroup
}

// SinkFlags are the flags smtp-sink runs with, for a table to name.
const SinkFlags = "smtp-sink -c -m 512"

// StartSink starts an smtp-sink on a port of its own; an address that is not
// empty is used instead. It returns when the sink answers.
func StartSink(ctx context.Context, addr string) (*Sink, error) {
	if addr == "" {
		var err error
		if addr, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	args := []string{"-c", "-m", "512"}
	if os.Geteuid() == 0 {
		args = append(args, "-u", "nobody") // It refuses to serve as root.
	}
	s := &Sink{Addr: addr, cmd: exec.Command("/usr/sbin/smtp-sink", append(args, addr, "512")...)}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start smtp-sink: %w", err)
	}
	s.reader.Go(func() { s.count(out) })
	if err := waitForBanner(ctx, addr); err != nil {
		s.Stop()
		return nil, fmt.Errorf("wait for smtp-sink: %w", err)
	}
	return s, nil
}

// Messages is how many messages the sink has taken so far.
func (s *Sink) Messages() int { return int(s.messages.Load()) }

// PID is the number of the process.
func (s *Sink) PID() int { return s.cmd.Process.Pid }

// WaitFor returns when the sink has taken n messages since it was started, with
// the time at which that was seen, or an error when ctx ends before.
func (s *Sink) WaitFor(ctx context.Context, n int) (time.Time, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.Messages() < n {
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("smtp-sink took %d of %d messages: %w", s.Messages(), n, ctx.Err())
		case <-tick.C:
		}
	}
	return time.Now(), nil
}

// Stop ends the sink and waits until it is gone. It may be called once.
func (s *Sink) Stop() {
	s.cmd.Process.Kill()
	s.reader.Wait()
	s.cmd.Wait()
}

// count reads the running counter, which smtp-sink writes over itself.
func (s *Sink) count(out io.Reader) {
	counter := regexp.MustCompile(`mesg=(\d+)`)
	lines := bufio.NewScanner(out)
	lines.Split(splitCR)
	for lines.Scan() {
		if m := counter.FindSubmatch(lines.Bytes()); m != nil {
			if n, err := strconv.ParseInt(string(m[1]), 10, 64); err == nil {
				s.messages.Store(n)
			}
		}
	}
}

// splitCR splits at carriage returns.
func splitCR(data []byte, atEOF bool) (advance int, token []byte, err error) {
	for i, b := range data {
		if b == '\r' || b == '\n' {
			return i + 1, data[:i], nil
		}
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
