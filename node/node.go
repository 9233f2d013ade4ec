package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/auth"
	"holdfast/continuity"
	"holdfast/crypto"
	"holdfast/delivery"
	"holdfast/delivery/smtpc"
	"holdfast/directory"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/imapgw"
	"holdfast/intake"
	"holdfast/internal/disk"
	"holdfast/internal/failpoint"
	"holdfast/internal/turn"
	"holdfast/objstore"
	"holdfast/projection"
	"holdfast/retention"
	"holdfast/shadow"
	"holdfast/smtpd"
)

// Seams are where the world can be replaced, by a simulation for instance. A
// nil field means the real thing, as the configuration says.
type Seams struct {
	Bucket objstore.Bucket
	Keys   crypto.KeyService
	Store  projection.Store
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
	Dial   smtpc.Dialer
	// Existing: neither a key nor a log is made where there is none.
	Existing bool
	// Poll is how often a node looks for segments of others; 0 for every second,
	// or never where one process has the bucket to itself.
	Poll time.Duration
}

// Node is one process. Make it with New, run it with Run.
type Node struct {
	cfg    Config
	seams  Seams
	logger *slog.Logger
	closer []io.Closer // in the order of opening

	bucket     objstore.Bucket
	keys       crypto.KeyService
	root       *crypto.Root // nil when a seam gave the key service
	newRoot    bool
	log        *eventlog.Log
	runner     *projection.Runner
	directory  *directory.Directory
	delivery   *delivery.Service
	continuity *continuity.Service
	shadow     *shadow.Service
	retention  *retention.Service
	intake     *intake.Service
	auth       *auth.Authenticator
	metrics    *metrics
	tls        *certificates
	evictor    *evictor
	sheets     recent[delivery.Sheet]
	kept       recent[Retention]
	objects    objectCount

	mx, submission *smtpd.Server
	imap           *imapgw.Server
	ready          atomic.Bool
	started        time.Time
}

// exclusive reports that one process has the bucket to itself.
func (n *Node) exclusive() bool {
	return n.seams.Bucket == nil && !strings.HasPrefix(n.cfg.Store.URL, "s3:")
}

// New opens the bucket, the keys, the log and the local database, and makes the
// services. Nothing is served yet. On an error everything is closed again.
func New(ctx context.Context, cfg Config, seams Seams, logger *slog.Logger) (*Node, error) {
	n := &Node{cfg: cfg, seams: seams, logger: logger, started: time.Now().UTC()}
	if warning := n.clockMoved(); warning != "" {
		logger.Warn(warning)
	}
	n.metrics = newMetrics(n)
	for _, step := range []func(context.Context) error{n.openKeys, n.openBucket, n.openLog, n.openServices, n.openServers} {
		if err := step(ctx); err != nil {
			n.close(ctx)
			return nil, err
		}
	}
	return n, nil
}

// StoreAway reports that New failed because the store did not answer, so that it
// may be called again. That a store was away changes nothing about what is
// refused: a key that has been used makes no new log.
func StoreAway(err error) bool {
	return errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, objstore.ErrAmbiguous)
}

func (n *Node) openKeys(ctx context.Context) error {
	if n.seams.Keys != nil {
		n.keys = n.seams.Keys
		return nil
	}
	path := n.cfg.RootKeyPath()
	root, err := crypto.LoadRoot(path)
	if errors.Is(err, crypto.ErrNoRoot) && !n.seams.Existing {
		// A missing key with a log in the bucket is a lost key, not a new start.
		if err := n.refuseLostKey(ctx); err != nil {
			return err
		}
		if err := disk.MakeDirs(filepath.Dir(path)); err != nil {
			return fmt.Errorf("make the directory of the root key: %w", err)
		}
		root, err = crypto.CreateRoot(path, event.DayOf(time.Now().Add(n.cfg.Shift)))
		if err == nil {
			n.newRoot = true
			n.logger.Warn("a new root key was made; without it all mail is lost; back it up now",
				"file", path, "command", "holdfast keys backup FILE")
		}
	}
	if err != nil {
		return fmt.Errorf("root key %s: %w", path, err)
	}
	n.root, n.keys = root, root
	failpoint.Hit(failpoint.NodeKeysOpen)
	return nil
}

func (n *Node) refuseLostKey(ctx context.Context) error {
	if err := n.openBucket(ctx); err != nil {
		return err
	}
	exists, err := eventlog.Exists(ctx, n.bucket)
	if err != nil {
		return fmt.Errorf("look into the bucket: %w", err)
	}
	if exists {
		return fmt.Errorf("there is a log in the bucket, but no root key at %s; restore it: holdfast keys restore FILE", n.cfg.RootKeyPath())
	}
	return nil
}

func (n *Node) openBucket(ctx context.Context) error {
	if n.bucket != nil {
		return nil
	}
	if n.bucket = n.seams.Bucket; n.bucket == nil {
		b, closers, err := openStores(ctx, n.cfg.Store, true)
		if err != nil {
			return err
		}
		n.bucket = b
		n.closer = append(n.closer, closers...)
	}
	if err := objstore.ProbeConditional(ctx, n.bucket); err != nil {
		return fmt.Errorf("check the store: %w", err)
	}
	n.warnOfHistory(ctx)
	failpoint.Hit(failpoint.NodeBucketOpen)
	return nil
}

func (n *Node) openLog(ctx context.Context) error {
	opt := n.logOptions()
	if n.root != nil {
		_, used := n.root.Used()
		opt.MayCreate = !used
	}
	if n.seams.Existing {
		opt.MayCreate = false
	}
	l, err := eventlog.Open(ctx, opt)
	if err != nil {
		return err
	}
	n.log = l
	failpoint.Hit(failpoint.NodeLogOpen)
	if err := n.checkTail(ctx); err != nil {
		return err
	}
	if n.root != nil {
		if err := n.root.MarkUsed(l.ID()); err != nil {
			return err
		}
	}
	failpoint.Hit(failpoint.NodeLogMarked)
	if err := l.Unguarded(); err != nil {
		n.logger.Error("the log is opened read-only, nothing is accepted or delivered", "error", err)
	} else if l.ReadOnly() {
		n.logger.Warn("this bucket is in service under another URL: it is opened read-only, nothing is accepted or delivered",
			"command", "holdfast adopt")
	}
	return nil
}

func (n *Node) logOptions() eventlog.Options {
	opt := eventlog.Options{
		Bucket: n.bucket, URL: n.storeURL(), Keys: n.keys, MayCreate: true, Partitions: n.cfg.Store.Partitions,
		Logger: n.logger, Observe: n.metrics.segment,
		Memory: n.notebook(), Shift: n.cfg.Shift,
	}
	if !n.exclusive() {
		opt.Poll = cmp.Or(n.seams.Poll, time.Second)
	}
	return opt
}

// storeURL names the bucket for the check against copies: a file bucket by its
// absolute path.
func (n *Node) storeURL() string {
	path, ok := strings.CutPrefix(n.cfg.Store.URL, "file:")
	if !ok {
		return n.cfg.Store.URL
	}
	if abs, err := filepath.Abs(strings.TrimPrefix(path, "//")); err == nil {
		path = abs
	}
	return "file:" + path
}

func (n *Node) openServices(ctx context.Context) error {
	store, err := n.openStore(ctx)
	if err != nil {
		return err
	}
	n.closer = append(n.closer, store)
	failpoint.Hit(failpoint.NodeStoreOpen)
	if n.runner, err = projection.Open(projection.Options{
		Store: store, Source: n.log, Logger: n.logger, Snaps: n.log, Scratch: n.scratch(),
	}); err != nil {
		return err
	}
	n.directory = directory.New()
	if err := n.runner.Add(n.directory.Projection(), n.directory.Observe, n.directoryChanged); err != nil {
		return err
	}
	if n.shadow, err = shadow.New(n.log, n.runner, n.logger); err != nil {
		return err
	}
	if n.continuity, err = continuity.New(n.log, n.runner, n.logger); err != nil {
		return err
	}
	n.delivery, err = delivery.New(delivery.Config{
		Log: n.log, Runner: n.runner, Directory: sites{n}, Hostname: n.cfg.Hostname, Dial: n.seams.Dial,
		Logger: n.logger, Exclusive: n.exclusive(),
	})
	if err != nil {
		return err
	}
	if err := n.runner.Restore(ctx, directory.Name); err != nil {
		return err
	}
	if err := n.directory.Load(ctx, n.runner); err != nil {
		return fmt.Errorf("load the directory: %w", err)
	}
	if err := n.openRetention(ctx); err != nil {
		return err
	}
	n.auth = auth.New(n.lookupLogin)
	n.evictor = newEvictor()
	n.intake = intake.New(intake.Config{
		Log: n.log, Directory: targets{n.directory}, Hostname: n.cfg.Hostname, CopyMark: n.continuity.CopyMark,
	})
	n.tls, err = newCertificates(n.cfg.TLS, n.cfg.Hostname)
	return err
}

// directoryChanged is told after the directory has changed.
func (n *Node) directoryChanged([]projection.Emission) {
	if n.delivery != nil {
		n.delivery.Reload()
	}
}

func (n *Node) openServers(context.Context) (err error) {
	if n.mx, err = n.newSMTP(smtpd.MX); err != nil {
		return err
	}
	if n.submission, err = n.newSMTP(smtpd.Submission); err != nil {
		return err
	}
	n.imap = n.newIMAP()
	return nil
}

// Offline keeps a node from accepting, delivering and serving users: it only
// folds the log and answers commands.
func (n *Node) offline() bool { return len(n.cfg.Roles) == 0 }

// Run serves until ctx ends, then finishes what is in hand and closes
// everything, within 15 s. announce is called once when the node is ready.
func (n *Node) Run(ctx context.Context, announce func()) error {
	run := &run{node: n, failed: make(chan error, 8)}
	defer func() {
		closing, cancel := context.WithDeadline(context.WithoutCancel(ctx), run.mustClose())
		defer cancel()
		n.close(closing)
	}()
	folding, stopFolding := context.WithCancel(context.WithoutCancel(ctx))
	run.folds.Go(func() { run.fail(n.runner.Run(turn.Named(folding, "fold"))) })
	defer func() { stopFolding(); run.folds.Wait() }()

	err := run.start(ctx, announce)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-run.failed:
		}
	}
	n.ready.Store(false)
	err = errors.Join(err, run.stop())
	n.lastCheckpoints(turn.Named(context.WithoutCancel(ctx), "leave"), run.leave)
	return err
}

// run is what goes on between start and stop.
type run struct {
	node      *Node
	folds     sync.WaitGroup
	work      sync.WaitGroup
	failed    chan error
	stopWork  context.CancelFunc
	listeners []net.Listener
	stops     []func(context.Context) error
	leave     time.Time // when stop must be over; zero before
}

func (r *run) fail(err error) {
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed) {
		select {
		case r.failed <- err:
		default: // one is enough to stop
		}
	}
}

// start brings the services up in the order in which they can be used:
// accepting mail needs the directory only, everything else what was in the log
// when the node started.
func (r *run) start(ctx context.Context, announce func()) error {
	n := r.node
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.stopWork = cancel
	failpoint.Hit(failpoint.NodeServices)
	if err := r.serveAdmin(ctx); err != nil {
		return err
	}
	failpoint.Hit(failpoint.NodeAdmin)
	if err := r.serveWeb(ctx); err != nil {
		return err
	}
	if err := n.runner.CaughtUp(ctx, directory.Name); err != nil {
		return stopped(ctx, err)
	}
	failpoint.Hit(failpoint.NodeDirectory)
	n.prepareKeys(ctx)
	failpoint.Hit(failpoint.NodeKeysReady)
	if n.cfg.Has(RoleSMTP) && !n.log.ReadOnly() {
		if err := r.serveMail(ctx); err != nil {
			return err
		}
	}
	failpoint.Hit(failpoint.NodeAccepts)
	r.work.Go(func() { n.keepCheckpoints(turn.Named(work, "checkpoints")) })
	if err := n.runner.CaughtUp(ctx); err != nil && !errors.Is(err, projection.ErrStopped) {
		return stopped(ctx, err)
	}
	failpoint.Hit(failpoint.NodeCaughtUp)
	if n.cfg.Has(RoleDeliver) && !n.log.ReadOnly() {
		r.work.Go(func() { r.fail(n.delivery.Run(turn.Named(work, "deliver"))) })
	}
	if n.cfg.Has(RoleSMTP) && !n.log.ReadOnly() {
		if err := r.serveSubmission(ctx); err != nil {
			return err
		}
	}
	if n.cfg.Has(RoleIMAP) {
		if err := r.serveMailboxes(ctx); err != nil {
			return err
		}
		r.work.Go(func() { n.evictor.run(turn.Named(work, "evictor"), n.admits, n.listed) })
	}
	r.work.Go(func() { n.watchKeys(turn.Named(work, "keys")) })
	r.keepDays(work)
	n.ready.Store(true)
	failpoint.Hit(failpoint.NodeReady)
	announce()
	return nil
}

// stopped turns an error into nil when it only says that ctx has ended.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

const (
	stopServers = 8 * time.Second
	stopAll     = 14 * time.Second
	// closeLog is what the log gets at most to settle what is out, closeLeast
	// what it gets in any case: when storage hangs, the deliveries have used up
	// the time already, and more of it would not help the log either.
	closeLog   = 3 * time.Second
	closeLeast = 200 * time.Millisecond
)

// mustClose returns until when the log may take to close.
func (r *run) mustClose() time.Time {
	now := time.Now()
	most, least := now.Add(closeLog), now.Add(closeLeast)
	switch {
	case r.leave.IsZero() || r.leave.After(most):
		return most
	case r.leave.Before(least):
		return least
	}
	return r.leave
}

// stop ends what start began: first no more work comes in, then what is in hand
// is finished.
func (r *run) stop() error {
	failpoint.Hit(failpoint.NodeStopping)
	r.leave = time.Now().Add(stopAll)
	servers, cancelServers := context.WithTimeout(context.Background(), stopServers)
	defer cancelServers()
	var wg sync.WaitGroup
	if r.stopWork != nil {
		r.stopWork() // deliveries finish while the servers do
	}
	for _, stop := range r.stops {
		wg.Go(func() {
			if err := stop(servers); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				r.node.logger.Warn("stop", "error", err)
			}
		})
	}
	wg.Wait()
	failpoint.Hit(failpoint.NodeServersDown)
	for _, l := range r.listeners {
		l.Close()
	}
	r.work.Wait()
	return nil
}

// close closes what New opened, the last first.
func (n *Node) close(ctx context.Context) {
	if n.log != nil {
		ctx, cancel := context.WithTimeout(ctx, closeLog)
		defer cancel()
		if err := n.log.Close(ctx); err != nil {
			n.logger.Warn("close the log", "error", err)
		}
	}
	for i := len(n.closer) - 1; i >= 0; i-- {
		if err := n.closer[i].Close(); err != nil {
			n.logger.Warn("close", "error", err)
		}
	}
	n.closer = nil
}
