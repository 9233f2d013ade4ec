package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/bench/loadgen"
	"holdfast/e2e/outside"
)

// mailboxSize is how many messages the mailbox of the imap-flags row has.
const mailboxSize = 100_000

// archive is a node with many messages on it, which several rows look at. They
// are small: it is their number that matters to these rows, not their bodies.
type archive struct {
	node *site
	size int
	tag  string // of the messages in the pool order
	pool []loadgen.Message
}

// fixture fills an archive, once a run. The first mailboxSize messages go to the
// first user, the others to all the rest.
func (b *bench) fixture(ctx context.Context) (*archive, error) {
	if b.filled != nil {
		return b.filled, nil
	}
	node, err := b.newSite(ctx, siteOptions{continuity: "always"})
	if err != nil {
		return nil, err
	}
	a := &archive{node: node, size: mailboxSize}
	if b.wants("search") {
		a.size = max(mailboxSize, b.archive)
	}
	if _, err := node.Must(ctx, "failover", "on", domain); err != nil {
		return nil, errors.Join(err, node.stop())
	}
	a.pool = loadgen.Generate(loadgen.Spec{Seed: 3, Count: 5000, Domain: domain, Recipients: users, FixedSize: loadgen.MinSize})
	first := slices.Clone(a.pool)
	for i := range first {
		first[i].To = []string{loadgen.Recipient(0, domain)}
	}
	_, err = b.send(ctx, "holdfast, one mailbox", node.SMTP, first, mailboxSize)
	if err == nil && a.size > mailboxSize {
		_, err = b.send(ctx, "holdfast, the rest", node.SMTP, a.pool, a.size-mailboxSize)
		a.tag = fmt.Sprintf("run%d", b.runs)
	}
	if err != nil {
		return nil, errors.Join(err, node.stop())
	}
	b.filled = a
	return a, nil
}

// imapFlags: what a mail client asks when it opens a folder.
func imapFlags(ctx context.Context, b *bench) (outcome, error) {
	a, err := b.fixture(ctx)
	if err != nil {
		return outcome{}, err
	}
	m, err := outside.DialIMAP(ctx, a.node.IMAP, loadgen.Recipient(0, domain), password)
	if err != nil {
		return outcome{}, err
	}
	defer m.Close()
	if _, err := m.Do("SELECT INBOX"); err != nil {
		return outcome{}, err
	}
	var times []time.Duration
	for range 5 {
		start := time.Now()
		lines, err := m.Do("UID FETCH 1:* (FLAGS)")
		if err != nil {
			return outcome{}, err
		}
		times = append(times, time.Since(start))
		if len(lines)-1 < mailboxSize {
			return outcome{}, fmt.Errorf("%d messages listed, want %d", len(lines)-1, mailboxSize)
		}
	}
	slices.Sort(times)
	b.say("  %v", times)
	return outcome{holdfast: fmt.Sprintf("%d ms (median of 5)", times[2].Milliseconds()), target: "200 ms", met: times[2] <= 200*time.Millisecond}, nil
}

// rebuild: messages a second from starting the node without its data directory
// until it says that it is ready, which includes reading the whole log.
func rebuild(ctx context.Context, b *bench) (outcome, error) {
	a, err := b.fixture(ctx)
	if err != nil {
		return outcome{}, err
	}
	if err := a.node.Stop(); err != nil {
		return outcome{}, err
	}
	if err := os.RemoveAll(a.node.DataDir()); err != nil {
		return outcome{}, err
	}
	start := time.Now()
	if err := a.node.Start(ctx); err != nil {
		return outcome{}, err
	}
	took := time.Since(start)
	rate := float64(a.size) / took.Seconds()
	return outcome{
		holdfast: fmt.Sprintf("%.0f messages/s (%d in %.1fs)", rate, a.size, took.Seconds()),
		target:   "10000/s", met: rate >= 10_000,
	}, nil
}

// searches is how many searches make the percentile.
const searches = 100

// search: the 95th percentile of selective searches by the command line, less
// what starting a program costs, which is measured by asking for help.
func search(ctx context.Context, b *bench) (outcome, error) {
	a, err := b.fixture(ctx)
	if err != nil {
		return outcome{}, err
	}
	rng := rand.New(rand.NewPCG(4, 4))
	var took, idle []time.Duration
	for i := range searches {
		n := rng.IntN(max(1, a.size-mailboxSize))
		m := a.pool[n%len(a.pool)]
		args := [][]string{
			{"--rcpt", m.To[0], "--subject", m.Subject},
			{"--from", m.From, "--rcpt", m.To[0]},
			{"--message-id", loadgen.MessageID(a.tag, n)},
		}[i%3]
		start := time.Now()
		out, err := a.node.Must(ctx, append([]string{"shadow", "search", "--json", "--limit", "20"}, args...)...)
		if err != nil {
			return outcome{}, err
		}
		took = append(took, time.Since(start))
		if err := checkRows(out); err != nil && a.tag != "" {
			return outcome{}, fmt.Errorf("search by %s: %w", args[0], err)
		}
		start = time.Now()
		if _, err := a.node.Must(ctx, "--help"); err != nil {
			return outcome{}, err
		}
		idle = append(idle, time.Since(start))
	}
	slices.Sort(took)
	slices.Sort(idle)
	p95 := took[searches*95/100] - idle[searches/2]
	return outcome{
		holdfast: fmt.Sprintf("%d ms in %d messages (program start %d ms taken off)", p95.Milliseconds(), a.size, idle[searches/2].Milliseconds()),
		target:   "100 ms", met: p95 <= 100*time.Millisecond && a.size >= 1_000_000,
	}, nil
}

// checkRows makes sure that a search found something: one that finds nothing is
// fast.
func checkRows(out string) error {
	line, _, _ := strings.Cut(out, "\n")
	var row struct{ ID string }
	if err := json.Unmarshal([]byte(line), &row); err != nil || row.ID == "" {
		return fmt.Errorf("no row found (%v): %q", err, line)
	}
	return nil
}
