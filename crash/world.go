package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/crash/judge"
	"holdfast/delivery/smtpc/smtptest"
	"holdfast/e2e/outside"
	"holdfast/internal/disk"
	"holdfast/internal/disk/journal"
	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/objstore/s3/versitygwtest"
)

// Options say what a world is like.
type Options struct {
	Seed   uint64
	Turn   int    // at which failpoint the world begins
	Binary string // of a holdfast built with the tag failpoint
	Dir    string // empty, on a file system with hard links; short, for a socket is in it
	Kills  int    // of the node, and of the S3 server
	S3     bool
	Days   bool // days pass, and mail is kept for one
	// Judge is the command of the judge, to which the name of the record is added.
	Judge []string
	// Sabotage is one of package disk's, to show that it is noticed.
	Sabotage string
	Act      sabotage.Act      // the same in a holdfast built with the tag sabotage
	Points   []failpoint.Point // to choose from; all that can be reached when empty
	Tally    *Tally
	Logf     func(format string, args ...any)
}

// World is one node with its bucket and everybody around it. Use Run.
type World struct {
	opt     Options
	rng     *rand.Rand
	node    *outside.Node
	primary *smtptest.Server
	gateway *versitygwtest.Server // nil on an fs bucket
	journal string

	run     int          // of the node, from 1
	turn    int          // which failpoint comes next
	count   atomic.Int64 // of what happened, for the order of answers and views
	applied bool         // the domain's settings were confirmed
	old     string       // an older state of the local database, or ""
	down    bool         // the primary is stopped
	quiet   bool         // the next run is
	lived   int          // lives of a world whose days pass

	mu       sync.Mutex
	number   int // of the next message
	rec      judge.Record
	decided  map[string]bool // messages to be held or erased
	arrivals []judge.Arrival
}

// A Broken error is a promise that was not kept, as opposed to a machine that
// could not run the test.
type Broken struct{ Complaints []string }

func (b *Broken) Error() string { return strings.Join(b.Complaints, "\n") }

// startWithin is how long a node may take to be ready on a busy machine.
const startWithin = time.Minute

// Run lets a world begin, be killed and end. The error is a Broken when a promise
// was.
func Run(ctx context.Context, opt Options) error {
	w := &World{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 1)), journal: filepath.Join(opt.Dir, "journal"), turn: opt.Turn, decided: map[string]bool{}}
	w.rec.Pardon, w.rec.Days = map[int]bool{}, opt.Days
	if err := w.build(ctx); err != nil {
		return err
	}
	defer w.close()
	for done := 0; done < opt.Kills; {
		n, err := w.life(ctx)
		if err != nil {
			return err
		}
		done += n
	}
	if err := w.ending(ctx); err != nil {
		return err
	}
	return w.judge(ctx)
}

func (w *World) build(ctx context.Context) (err error) {
	opt := outside.Options{Keys: "file:./keys/root.key", Roles: []string{"smtp", "deliver", "imap"}, TestClock: w.opt.Days}
	if opt.Addrs, err = addrs(4); err != nil {
		return err
	}
	w.rec.Config = judge.Config{URL: "file:" + filepath.Join(w.opt.Dir, "bucket"), RootKey: filepath.Join(w.opt.Dir, "keys", "root.key")}
	if w.opt.S3 {
		dir := filepath.Join(w.opt.Dir, "s3")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if w.gateway, err = versitygwtest.Launch(ctx, dir); err != nil {
			return err
		}
		opt.Store = w.gateway.URL("holdfast", "")
		w.rec.Config.URL, w.rec.Config.Env = opt.Store, w.gateway.Env()
		for key, value := range w.gateway.Env() {
			opt.Env = append(opt.Env, key+"="+value)
		}
	}
	if w.node, err = outside.NewNode(w.opt.Binary, w.opt.Dir, opt); err != nil {
		return err
	}
	if w.opt.Days {
		w.node.Clock = toMorning(time.Now())
	}
	w.primary = smtptest.New(smtptest.Options{OnMessage: w.arrived})
	port, err := addrs(1)
	if err != nil {
		return err
	}
	w.primary.Listen(port[0])
	return w.primary.Start()
}

func (w *World) close() {
	w.node.Kill()
	if !w.down {
		w.primary.Stop()
	}
	if w.gateway != nil {
		w.gateway.Kill()
	}
}

// addrs returns free addresses on loopback, from below the ports that the kernel
// gives to outgoing connections: one of those could take ours while nobody listens.
// They are not the seed's choice, for two worlds may have the same one.
func addrs(n int) (list []string, err error) {
	for len(list) < n {
		var ln net.Listener
		for range 100 {
			if ln, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))); err == nil {
				break
			}
		}
		if err != nil {
			return nil, err
		}
		defer ln.Close() // when all are chosen, so that they differ
		list = append(list, ln.Addr().String())
	}
	return list, nil
}

// arrived notes what came to the primary.
func (w *World) arrived(tx smtptest.Transaction) {
	body, ok := outside.CutReceived(tx.Body)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range tx.Recipients {
		w.arrivals = append(w.arrivals, judge.Arrival{To: r.To, SHA256: sum(body), Trace: ok})
	}
}

// tick counts what happens.
func (w *World) tick() int64 { return w.count.Add(1) }

// life is one run of the node, from its start to its death, and what the death
// takes along. It returns how many kills there were.
func (w *World) life(ctx context.Context) (kills int, err error) {
	w.run++
	p := w.plan()
	if err := errors.Join(w.weather(p), w.pass(p.advance)); err != nil {
		return 0, err
	}
	if err := w.launch(p.env()); err != nil {
		return 0, err
	}
	stop := w.load(ctx, p)
	kills, err = w.die(ctx, p)
	stop()
	if err != nil {
		return kills, err
	}
	return kills, w.aftermath(ctx, p)
}

func (w *World) launch(extra []string) error {
	w.node.Extra = slices.Concat(extra, []string{
		failpoint.VarSeen + "=" + filepath.Join(w.opt.Dir, "seen"),
		disk.VarJournal + "=" + w.journal, disk.VarDelay + "=400", disk.VarSabotage + "=" + w.opt.Sabotage,
		sabotage.VarAct + "=" + string(w.opt.Act),
		"GOMAXPROCS=2",
	})
	return w.node.Launch()
}

// weather lets the primary go down or come back.
func (w *World) weather(p plan) error {
	switch {
	case w.down && !p.primaryDown:
		w.down = false
		return w.primary.Start()
	case !w.down && p.primaryDown:
		w.down = true
		w.primary.Stop()
	}
	return nil
}

// die waits for the death that is planned, and brings it about.
func (w *World) die(ctx context.Context, p plan) (kills int, err error) {
	limit := time.NewTimer(p.after)
	defer limit.Stop()
	if p.fromReady {
		limit.Stop()
	}
	ready, wait := w.ready(ctx)
	defer wait() // for it looks at this run's process
	var store <-chan time.Time
	if p.storeEarly {
		store = w.storeKill(p)
	}
	for {
		select {
		case <-w.node.Ended():
			if !w.node.Killed() {
				switch {
				case p.stop:
					return kills, nil // It has left in good order before it was hit.
				case strings.Contains(w.node.LastLog(), "address already in use"):
					return kills, nil // Another program on this machine, for the moment.
				case w.rec.Pardon[w.run]:
					return kills, nil // It does not start without its storage.
				}
				return kills, &Broken{[]string{fmt.Sprintf("run %d: the node ended by itself (plan %v):\n%s", w.run, p, tail(w.node.LastLog()))}}
			}
			w.opt.Tally.killed(p.name(w.seenKill()))
			return kills + 1, nil
		case err := <-ready:
			ready = nil
			if err != nil {
				return kills, err
			}
			if p.fromReady {
				limit.Reset(p.after)
			}
			if !p.storeEarly {
				store = w.storeKill(p)
			}
		case <-store:
			n, err := w.killStore(ctx)
			if kills += n; err != nil {
				return kills, err
			}
			store = nil
		case <-limit.C:
			if p.stop {
				if err := w.node.Signal(syscall.SIGTERM); err == nil {
					limit.Reset(startWithin)
					p.after = startWithin
					continue
				}
			}
			w.node.Kill()
			w.opt.Tally.killed("at random")
			return kills + 1, nil
		}
	}
}

// ready tells when the node has said that it is ready, and nothing if it dies
// before. wait returns when nothing looks at the process any more, which is soon
// after its end.
func (w *World) ready(ctx context.Context) (told <-chan error, wait func()) {
	c := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, startWithin)
		defer cancel()
		err := w.node.WaitReady(ctx)
		switch {
		case err == nil:
			c <- nil
		case w.node.Running():
			c <- &Broken{[]string{fmt.Sprintf("run %d: %v", w.run, err)}}
		}
	})
	return c, wg.Wait
}

func (w *World) storeKill(p plan) <-chan time.Time {
	if w.gateway == nil || p.storeAfter == 0 {
		return nil
	}
	return time.After(p.storeAfter)
}

// killStore kills the S3 server and starts it again.
func (w *World) killStore(ctx context.Context) (int, error) {
	w.gateway.Kill()
	w.rec.Pardon[w.run] = true
	w.opt.Tally.killed("S3 server")
	select {
	case <-time.After(time.Duration(w.rng.IntN(300)) * time.Millisecond):
	case <-ctx.Done():
	}
	return 1, w.gateway.Restart(ctx)
}

// seenKill is the point at which the node says that it died, or "".
func (w *World) seenKill() string {
	data, err := os.ReadFile(filepath.Join(w.opt.Dir, "seen"))
	if err != nil {
		return ""
	}
	w.opt.Tally.seen(strings.Fields(string(data)))
	os.Remove(filepath.Join(w.opt.Dir, "seen"))
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	point, _ := strings.CutPrefix(lines[len(lines)-1], "KILL ")
	if point == lines[len(lines)-1] {
		return ""
	}
	return point
}

// aftermath is what a death takes along.
func (w *World) aftermath(ctx context.Context, p plan) error {
	if p.power && w.gateway == nil {
		report, err := journal.Lose(w.journal, w.rng, p.all)
		if err != nil {
			return err
		}
		w.opt.Tally.lost(report)
	}
	if err := w.localDatabase(p.local); err != nil {
		return fmt.Errorf("the local database: %w", err)
	}
	if p.judge {
		return w.judge(ctx)
	}
	return nil
}

// localDatabase lets the data directory be what the plan says.
func (w *World) localDatabase(fate fate) error {
	data := w.node.DataDir()
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if fate == deleted || fate == older && w.old != "" {
		if err := w.forget(data); err != nil {
			return err
		}
	}
	switch fate {
	case deleted:
		return os.RemoveAll(data)
	case torn:
		return tearDatabase(w.rng, filepath.Join(data, "db"))
	case older:
		if w.old == "" {
			w.old = filepath.Join(w.opt.Dir, "older")
			return os.CopyFS(w.old, regular{os.DirFS(data)})
		}
		if err := os.RemoveAll(data); err != nil {
			return err
		}
		err := os.Rename(w.old, data)
		w.old = ""
		return err
	}
	return nil
}

// forget tells the journal that a directory is removed for good.
func (w *World) forget(dir string) error {
	f, err := os.OpenFile(w.journal, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return journal.Append(f, journal.Record{Op: journal.RemoveAll, Path: dir})
}

// judge asks the judge, while no node runs.
func (w *World) judge(ctx context.Context) error {
	w.mu.Lock()
	w.rec.Arrivals, w.rec.Config.Shift = slices.Clone(w.arrivals), w.node.Clock
	raw, err := json.Marshal(&w.rec)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	name := filepath.Join(w.opt.Dir, "record.json")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, w.opt.Judge[0], append(slices.Clone(w.opt.Judge[1:]), name)...)
	cmd.Env = append(os.Environ(), JudgeVar+"="+name)
	out, err := cmd.Output()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case exited && exit.ExitCode() == guilty:
		return &Broken{strings.Split(strings.TrimSpace(string(out)), "\n")}
	case exited:
		return fmt.Errorf("judge: %w: %s%s", err, out, exit.Stderr)
	}
	return fmt.Errorf("judge: %w", err)
}

func tail(s string) string {
	if len(s) > 3000 {
		return "…" + s[len(s)-3000:]
	}
	return s
}
