// Package eventlog is the only truth: an append-only log of sealed events in
// object storage. Everything else that Holdfast knows is a fold over it.
//
// The log has a fixed number of partitions. A partition is one totally ordered
// sequence of segments, each put if absent under the next number, so that any
// number of nodes may append and exactly one wins each slot. [Log.Append]
// returns when its events are durable in object storage; [Log.Segments] reads
// them back, verified; [Log.Body] opens a message's bytes.
//
// What the package promises for ever: an event that Append reported durable is
// read by every later reader of the same bucket, in the same place, with the
// same bytes; and an event that Append reported failed is either not in the log
// or is followed by its repudiation.
package eventlog

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/turn"
	"holdfast/objstore"
)

// Errors of this package, beside [ErrDamaged].
var (
	// ErrUnguarded is returned for a bucket without the floors that say what was
	// removed from it; such a log is read-only, and this comes with [ErrReadOnly].
	ErrUnguarded = errors.New("a floor is missing, or older than the log: copy the objects under floor/ from where those under pack/ and log/ are from, and start again")
	// ErrTimeout says that the events were not durable by the deadline. They
	// may become so; acceptances among them are then repudiated.
	ErrTimeout = errors.New("storage did not confirm in time")
	// ErrReadOnly is returned by Append for a bucket found under another URL
	// than it is in service under.
	ErrReadOnly = errors.New("bucket is in service under another URL; if this copy is to take over, run: holdfast adopt")
	// ErrClosed is returned once the log is closed.
	ErrClosed = errors.New("log is closed")
	// ErrClock says that this node's clock is too far from the store's.
	ErrClock = errors.New("clock differs from the store's by more than five minutes")
	// ErrRolledBack says that the log no longer holds what was read from it
	// before.
	ErrRolledBack = errors.New("log rolled back")
	// ErrTail ends reading: there is no later segment yet.
	ErrTail = errors.New("end of the log")
)

// maxSkew is how far a node's clock may be from the store's.
const maxSkew = 5 * time.Minute

const (
	// clockAge is how long the store's time is believed without asking again.
	clockAge = time.Minute
	// clockTimeout ends a question for the store's time.
	clockTimeout = 5 * time.Second
)

// Options are what a Log is made of.
type Options struct {
	Bucket objstore.Bucket
	// URL is where the bucket was found; see [ErrReadOnly].
	URL  string
	Keys crypto.KeyService
	// MayCreate allows an empty bucket to become a new log. A node whose key
	// has been used does not allow it: a vanished mount is no fresh archive.
	MayCreate bool
	// Inspect opens whatever is there for [Log.Verify]: the log is read-only, and
	// a partition whose tail is damaged opens as far as it can be read.
	Inspect bool
	// Partitions of a new log, 1 to 64; 0 means the default of 4.
	Partitions int
	// Classes that this node may sign; 0 means all, and checkpoints.
	Classes event.Classes
	Logger  *slog.Logger
	// Poll is how often a waiting reader looks for segments of other nodes; 0
	// for never, where one process has the bucket to itself.
	Poll time.Duration
	// Observe, when set, is told of every segment that this node put: how long
	// it took and its size in bytes.
	Observe func(d time.Duration, events int, bytes int64)
	// Shift is added to every time by which days are told, for tests of what
	// happens later: the log's clock and the store's, as this node sees it, are
	// both that much ahead. Objects keep the store's real times.
	Shift time.Duration
	// Memory of checkpoints; nil for none.
	Memory Memory
}

// Log is an open log. All methods may be called by any goroutine.
type Log struct {
	opt          Options
	bucket       objstore.Bucket
	id           event.LogID
	url          string
	readOnly     atomic.Bool
	unguarded    error // constant once the log is open
	installation ed25519.PublicKey
	node         *crypto.NodeKey
	writer       event.Writer
	codec        *crypto.Codec
	logger       *slog.Logger

	partitions []*partition
	keys       *keyring
	cache      *cache
	fate       fate
	bodies     *bodyBudget
	pending    *semaphore.Weighted // bytes that wait for or are in a put
	skew       atomic.Int64        // store's clock minus ours, in nanoseconds
	skewAt     atomic.Pointer[time.Time]
	clocking   atomic.Bool  // somebody is asking the store for its time
	ratchet    atomic.Int64 // a day that it has passed, see behind

	ctx    context.Context // ends when the log is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Open opens the log in a bucket, or makes it when there is none and
// MayCreate allows. The caller closes it.
func Open(ctx context.Context, opt Options) (*Log, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Partitions == 0 {
		opt.Partitions = 4
	}
	if opt.Classes == 0 {
		opt.Classes = event.AllClasses | event.ClassesOf(event.ClassCheckpoint)
	}
	f, err := openFormat(ctx, opt)
	if err != nil {
		return nil, err
	}
	l := &Log{
		opt: opt, bucket: opt.Bucket, id: f.id, url: f.URL, logger: opt.Logger,
		writer: event.NewWriter(), codec: crypto.NewCodec(),
		cache: newCache(), bodies: newBodyBudget(), pending: semaphore.NewWeighted(maxPending),
	}
	l.readOnly.Store(f.URL != opt.URL || opt.Inspect)
	if l.installation, err = opt.Keys.InstallationKey(ctx); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if l.node, err = crypto.NewNodeKey(ctx, opt.Keys, opt.Classes); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l.keys = newKeyring(l)
	if err := l.checkClock(ctx); err != nil {
		return nil, err
	}
	if !opt.Inspect {
		if err := l.keysThere(ctx); err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		if err := l.EnsureTenant(ctx, event.SystemTenant); err != nil && !errors.Is(err, ErrReadOnly) {
			return nil, fmt.Errorf("open log: %w", err)
		}
	}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for i := range f.Partitions {
		p := newPartition(l, event.Partition(i))
		l.partitions = append(l.partitions, p)
		err := p.findTail(ctx)
		if p.broken = opt.Inspect && errors.Is(err, ErrDamaged); err != nil && !p.broken {
			l.cancel()
			return nil, fmt.Errorf("open log: %w", err)
		}
		if err := p.guarded(ctx); errors.Is(err, ErrUnguarded) {
			l.unguarded = err
			l.readOnly.Store(true)
		} else if err != nil {
			l.cancel()
			return nil, fmt.Errorf("open log: %w", err)
		}
	}
	for _, p := range l.partitions {
		l.wg.Go(func() { p.commitLoop(turn.Named(l.ctx, fmt.Sprintf("commit %d", p.number))) })
	}
	return l, nil
}

// Close waits for what is being put to be settled, or for ctx, and ends the
// log. Appends that have not joined a put fail with [ErrClosed].
func (l *Log) Close(ctx context.Context) error {
	for _, p := range l.partitions {
		p.close()
	}
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("close log: %w", ctx.Err())
	}
	l.cancel()
	<-done
	return err
}

// ID returns the log's id.
func (l *Log) ID() event.LogID { return l.id }

// Writer returns the id of this start of this process.
func (l *Log) Writer() event.Writer { return l.writer }

// Codec returns the codec with which this log seals and opens.
func (l *Log) Codec() *crypto.Codec { return l.codec }

// Partitions returns their number.
func (l *Log) Partitions() int { return len(l.partitions) }

// PartitionOf returns the partition that holds a tenant's events.
func (l *Log) PartitionOf(t event.Tenant) event.Partition {
	return PartitionOf(t, len(l.partitions))
}

// Unguarded returns why the log is read-only, if it is so because a floor is missing;
// it wraps [ErrUnguarded].
func (l *Log) Unguarded() error { return l.unguarded }

// refusal is the error of what a read-only log does not do.
func (l *Log) refusal() error {
	if l.unguarded != nil {
		return unguarded{l.unguarded}
	}
	return ErrReadOnly
}

// ReadOnly reports whether the bucket waits for adoption, or for its floors.
func (l *Log) ReadOnly() bool { return l.readOnly.Load() }

// Now returns the time by the store's clock as far as it is known, and what
// [Options.Shift] adds to it.
func (l *Log) Now() time.Time { return time.Now().Add(time.Duration(l.skew.Load()) + l.opt.Shift) }

// Shift returns how far a test has moved the clock; 0 but for tests.
func (l *Log) Shift() time.Duration { return l.opt.Shift }

// Millis returns Now as the log writes it.
func (l *Log) Millis() event.Millis { return event.Millis(l.Now().UnixMilli()) }

func (l *Log) checkClock(ctx context.Context) error {
	c, ok := l.bucket.(objstore.Clock)
	if !ok {
		return nil
	}
	before := time.Now()
	t, err := c.Now(ctx)
	if err != nil {
		return fmt.Errorf("ask the store for its time: %w", err)
	}
	l.noteStoreTime(before, t)
	return nil
}

// noteStoreTime takes the store's time as of a request that began at before.
// Stores tell whole seconds, so that a difference of up to two is none.
func (l *Log) noteStoreTime(before, store time.Time) {
	if store.IsZero() {
		return
	}
	d := store.Sub(before)
	if d > -2*time.Second && d < time.Since(before)+2*time.Second {
		d = 0
	}
	l.skew.Store(int64(d))
	now := time.Now()
	l.skewAt.Store(&now)
}

// clockOK returns ErrClock when the clocks are too far apart. It asks the store
// when the last answer is old, or was bad: the clock may be right again.
func (l *Log) clockOK(ctx context.Context) error {
	at := l.skewAt.Load()
	if (l.skewed() || at == nil || time.Since(*at) > clockAge) && l.clocking.CompareAndSwap(false, true) {
		ctx, cancel := context.WithTimeout(ctx, clockTimeout)
		err := l.checkClock(ctx)
		cancel()
		l.clocking.Store(false)
		if err != nil { // The put will tell, if the store has a problem.
			l.logger.Warn("compare clocks", "error", err)
		}
	}
	if l.skewed() {
		return ErrClock
	}
	return nil
}

// AskTime asks the store for its time, where it has a clock, and returns [ErrClock]
// when this node's is too far from it. It is for what no wrong clock may decide:
// an append does not ask each time, and goes on when there is no answer.
func (l *Log) AskTime(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	if err := l.checkClock(ctx); err != nil {
		return err
	}
	if l.skewed() {
		return ErrClock
	}
	return nil
}

func (l *Log) skewed() bool {
	d := time.Duration(l.skew.Load())
	return d > maxSkew || d < -maxSkew
}
