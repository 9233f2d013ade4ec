package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/event"
	"holdfast/internal/turn"
	"holdfast/objstore"
)

// When a checkpoint is written beside at start and at the end: docs/decisions
// has the cost. A busy partition gets one for every everySegments, so that its
// puts grow by a thousandth; a quiet one every everyTime, if there is anything
// new.
const (
	everySegments = 1024
	everyTime     = 15 * time.Minute
	checkpointing = time.Minute // how often that is looked at
	// remembering is how often what this node has seen is remembered outside of
	// the bucket, which costs no put.
	remembering = 10 * time.Second
)

const (
	// maxLooked is how many checkpoints are read in search of a good one.
	maxLooked = 16
	// nearTail is where the newest checkpoint is looked for first.
	nearTail = 2 * everySegments
)

// Memory remembers the newest checkpoint of each partition outside of the
// bucket, so that a bucket that was rolled back with its checkpoints shows. It
// may forget. Its methods are called by one goroutine for each partition at a
// time.
type Memory interface {
	// Recall returns the notes that are remembered.
	Recall() ([][]byte, error)
	// Remember keeps a note in the place of an earlier one of the partition.
	Remember(p event.Partition, note []byte) error
}

// keeper knows the checkpoints of one partition.
type keeper struct {
	turn chan struct{} // has a value in it while somebody looks or writes
	// Only who has the turn uses what follows.
	last       *Checkpoint // the newest in the bucket that was seen; nil for none
	looked     bool        // the bucket was asked for it
	remembered event.Seq
}

func newKeeper() *keeper { return &keeper{turn: make(chan struct{}, 1)} }

func (k *keeper) take(ctx context.Context) error {
	turn.Take(ctx, "keep")
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keeper) give() { <-k.turn }

// KeepCheckpoints writes checkpoints of all partitions as they are due, until
// ctx ends, and remembers what other nodes have written. What fails is logged
// and tried again later: accepting mail does not wait for it.
func (l *Log) KeepCheckpoints(ctx context.Context) {
	due, every := (*Log).uncovered, checkpointing // at start
	if l.opt.Memory != nil {
		every = remembering
	}
	again := make([]time.Time, len(l.partitions)) // what failed is not tried before
	for {
		for p := range l.partitions {
			if time.Now().Before(again[p]) {
				continue
			}
			if _, err := l.checkpoint(ctx, event.Partition(p), due); err != nil && ctx.Err() == nil {
				l.logger.Error("no checkpoint could be written", "partition", p, "error", err)
				again[p] = time.Now().Add(checkpointing)
			}
			l.rememberTail(ctx, event.Partition(p))
		}
		due = (*Log).due
		pause(ctx, every)
		if ctx.Err() != nil {
			return
		}
		turn.Take(ctx, "checkpoint")
	}
}

// uncovered reports whether there are segments behind the last checkpoint.
func (l *Log) uncovered(last *Checkpoint, tail event.Seq) bool {
	return tail > 0 && (last == nil || last.Seq < tail)
}

// due reports whether there are so many, or for so long, that they should get a
// checkpoint.
func (l *Log) due(last *Checkpoint, tail event.Seq) bool {
	return l.uncovered(last, tail) && (last == nil || tail >= last.Seq+everySegments || l.Now().Sub(last.At()) >= everyTime)
}

// CheckpointAll makes sure that all partitions have a checkpoint at their tail,
// and returns those there are: none of an empty partition.
func (l *Log) CheckpointAll(ctx context.Context) ([]*Checkpoint, error) {
	found, errs := make([]*Checkpoint, len(l.partitions)), make([]error, len(l.partitions))
	var wg sync.WaitGroup
	for p := range l.partitions {
		wg.Go(func() {
			found[p], errs[p] = l.Checkpoint(turn.Named(ctx, fmt.Sprintf("checkpoint %d", p)), event.Partition(p))
		})
	}
	wg.Wait()
	return slices.DeleteFunc(found, func(c *Checkpoint) bool { return c == nil }), errors.Join(errs...)
}

// Checkpoint makes sure that a checkpoint in the bucket covers the last segment
// of a partition that is known, and returns it; nil when there is no segment.
// [ErrRolledBack] when a checkpoint says that the log was longer, or another one.
func (l *Log) Checkpoint(ctx context.Context, p event.Partition) (*Checkpoint, error) {
	return l.checkpoint(ctx, p, (*Log).uncovered)
}

// checkpoint writes checkpoints up to the tail if they are due, after a look at
// what other nodes have written.
func (l *Log) checkpoint(ctx context.Context, p event.Partition, due func(*Log, *Checkpoint, event.Seq) bool) (*Checkpoint, error) {
	k := l.partitions[p].keeper
	if err := k.take(ctx); err != nil {
		return nil, fmt.Errorf("checkpoint of partition %d: %w", p, err)
	}
	defer k.give()
	tail := l.TailAtLeast(p)
	if k.looked && !due(l, k.last, tail) {
		l.remember(p, k)
		return k.last, nil
	}
	if err := l.learnCheckpoints(ctx, p); err != nil {
		return nil, fmt.Errorf("checkpoint of partition %d: %w", p, err)
	}
	for write := due(l, k.last, tail); write; write = k.last.Seq < tail {
		if l.readOnly.Load() {
			return nil, l.refusal()
		}
		from := l.Start(p).Seq
		if k.last != nil {
			from = k.last.Seq
		}
		c, err := l.newCheckpoint(ctx, p, from, min(tail, from+maxSpan))
		if err == nil {
			c, err = l.putCheckpoint(ctx, c)
		}
		if err != nil {
			return nil, fmt.Errorf("checkpoint of partition %d: %w", p, err)
		}
		k.last = c
	}
	l.remember(p, k)
	return k.last, nil
}

// newCheckpoint makes and signs the checkpoint of the segments after from up to
// to.
func (l *Log) newCheckpoint(ctx context.Context, p event.Partition, from, to event.Seq) (*Checkpoint, error) {
	hashes, err := l.hashes(ctx, p, from, to)
	if err != nil {
		return nil, err
	}
	if !l.node.Certificate().May().Has(event.ClassCheckpoint) {
		return nil, errors.New("this node may not sign checkpoints")
	}
	c := &Checkpoint{
		Log: l.id, Partition: p, Seq: to, Hash: hashes[len(hashes)-1], Time: l.Millis(),
		From: from, Tree: newHashTree(hashes).root(),
	}
	return c, c.sign(l.node)
}

// putCheckpoint stores a checkpoint, unless another node has stored one of the
// same segment: then it returns that one.
func (l *Log) putCheckpoint(ctx context.Context, c *Checkpoint) (*Checkpoint, error) {
	err := l.putSame(ctx, c.String(), c.note, objstore.PutOptions{IfAbsent: true})
	if !errors.Is(err, objstore.ErrExists) {
		return c, err
	}
	got, err := l.readCheckpoint(ctx, c.Partition, c.Seq)
	if err == nil && got.Hash != c.Hash {
		err = fmt.Errorf("%s says otherwise: %w", c, ErrRolledBack)
	}
	return got, err
}

// readCheckpoint reads and verifies one checkpoint of the bucket.
func (l *Log) readCheckpoint(ctx context.Context, p event.Partition, s event.Seq) (*Checkpoint, error) {
	key := checkpointKey(p, s)
	raw, _, err := l.readAll(ctx, key, maxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return l.parseCheckpoint(raw, key)
}

// parseCheckpoint reads the checkpoint that should be under a key.
func (l *Log) parseCheckpoint(raw []byte, key string) (*Checkpoint, error) {
	c, err := ParseCheckpoint(raw, l.installation)
	if err == nil && (c.Log != l.id || c.String() != key) {
		err = fmt.Errorf("of another place: %w", ErrNoCheckpoint)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return c, nil
}

// learnCheckpoints looks for checkpoints that are newer than what is known, and
// holds the newest against the log.
func (l *Log) learnCheckpoints(ctx context.Context, p event.Partition) error {
	k := l.partitions[p].keeper
	if k.last != nil {
		c, err := l.newestCheckpoint(ctx, p, k.last.Seq)
		if c != nil && err == nil {
			k.last = c
		}
		return err
	}
	for window, tail := event.Seq(nearTail), l.TailAtLeast(p); ; window *= 64 {
		after := tail - min(tail, window)
		c, err := l.newestCheckpoint(ctx, p, after)
		if err != nil {
			return err
		}
		if k.last = c; c != nil || after == 0 {
			k.looked = true
			return nil
		}
	}
}

// newestCheckpoint returns the newest checkpoint after a number that is one;
// nil when there is none. Those that are damaged are passed over: Verify names
// them.
func (l *Log) newestCheckpoint(ctx context.Context, p event.Partition, after event.Seq) (*Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	var seqs []event.Seq
	for info, err := range l.bucket.List(ctx, checkpointPrefix(p), checkpointKey(p, after)) {
		if err != nil {
			return nil, fmt.Errorf("look for checkpoints: %w", err)
		}
		if s, ok := parseCheckpointKey(info.Key); ok {
			if len(seqs) == maxLooked {
				seqs = seqs[1:]
			}
			seqs = append(seqs, s)
		}
	}
	for _, s := range slices.Backward(seqs) {
		c, err := l.readCheckpoint(ctx, p, s)
		if errors.Is(err, ErrNoCheckpoint) || errors.Is(err, objstore.ErrTooLarge) || errors.Is(err, objstore.ErrNotExist) {
			l.logger.Error("a checkpoint is damaged; run holdfast log verify", "key", checkpointKey(p, s), "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := l.Holds(ctx, c); !errors.Is(err, ErrBeforeStart) {
			return c, err
		}
		break // it is too old, and so are those before it
	}
	return nil, nil
}

// Holds returns nil when the log continues a checkpoint of it, and
// [ErrRolledBack] when it is shorter, or another one from there on.
// [ErrBeforeStart] when the checkpoint is older than the beginning of the log.
func (l *Log) Holds(ctx context.Context, c *Checkpoint) error {
	if c.Log != l.id || int(c.Partition) >= len(l.partitions) {
		return fmt.Errorf("checkpoint of another log: %w", ErrNoCheckpoint)
	}
	if l.TailAtLeast(c.Partition) < c.Seq {
		if err := l.Refresh(ctx, c.Partition); err != nil {
			return err
		}
	}
	if start := l.Start(c.Partition); c.Seq < start.Seq {
		return fmt.Errorf("a checkpoint of %s: %w", c.At().Format(time.RFC3339), l.beforeStart(c.Partition, c.Seq))
	}
	if tail := l.TailAtLeast(c.Partition); tail < c.Seq {
		return fmt.Errorf("partition %d ends at segment %d, but a checkpoint of %s says that segment %d was there: %w",
			c.Partition, tail, c.At().Format(time.RFC3339), c.Seq, ErrRolledBack)
	}
	hs, err := l.hashes(ctx, c.Partition, c.Seq-1, c.Seq)
	if err == nil && hs[0] != c.Hash {
		err = fmt.Errorf("segment %s is not the one of which a checkpoint of %s speaks: %w",
			segmentKey(c.Partition, c.Seq), c.At().Format(time.RFC3339), ErrRolledBack)
	}
	return err
}

// hashes returns the hashes of the segments after from up to to, which are
// chained to each other and to from.
func (l *Log) hashes(ctx context.Context, p event.Partition, from, to event.Seq) ([]Hash, error) {
	if hs := l.partitions[p].recentHashes(from, to); hs != nil {
		return hs, nil
	}
	hs := make([]Hash, 0, to-from+1)
	first := max(from, 1)
	if start := l.Start(p); from > 0 && from == start.Seq {
		hs, first = append(hs, start.Hash), from+1
	}
	for s := first; s <= to; s++ {
		h, err := l.readHeader(ctx, p, s)
		if err = l.missing(p, s, err); s == from && errors.Is(err, ErrBeforeStart) {
			continue // what is asked for may be there all the same
		}
		if err != nil {
			return nil, err
		}
		if len(hs) > 0 && h.Prev != hs[len(hs)-1] {
			return nil, fmt.Errorf("segment %s does not follow its predecessor: %w", segmentKey(p, s), ErrDamaged)
		}
		hs = append(hs, h.hash)
	}
	return hs[len(hs)-int(to-from):], nil
}

// remember tells the memory of the newest checkpoint that is known. It is a help,
// not a promise: a full disk does not stop the log.
func (l *Log) remember(p event.Partition, k *keeper) {
	if l.opt.Memory == nil || k.last == nil || k.last.Seq <= k.remembered {
		return
	}
	if err := l.opt.Memory.Remember(p, k.last.note); err != nil {
		l.logger.Warn("the newest checkpoint is not remembered", "partition", p, "error", err)
		return
	}
	k.remembered = k.last.Seq
}

// rememberTail remembers the last segment that is known, under a checkpoint that
// is not kept in the bucket: a rollback shows from one that is a few seconds old.
func (l *Log) rememberTail(ctx context.Context, p event.Partition) {
	k := l.partitions[p].keeper
	if l.opt.Memory == nil || k.take(ctx) != nil {
		return
	}
	defer k.give()
	tail := l.TailAtLeast(p)
	if k.last == nil || tail <= max(k.last.Seq, k.remembered) || tail > k.last.Seq+maxSpan {
		return // nothing new, or the store takes no checkpoints
	}
	c, err := l.newCheckpoint(ctx, p, k.last.Seq, tail)
	if err == nil {
		err = l.opt.Memory.Remember(p, c.note)
	}
	if err != nil {
		l.logger.Warn("the end of the log is not remembered", "partition", p, "error", err)
		return
	}
	k.remembered = tail
}

// Remembered returns the checkpoints of this log that are remembered outside of
// the bucket. The error wraps [ErrNoCheckpoint] where one is damaged; the others
// are returned all the same.
func (l *Log) Remembered() ([]*Checkpoint, error) {
	if l.opt.Memory == nil {
		return nil, nil
	}
	notes, err := l.opt.Memory.Recall()
	if err != nil {
		return nil, fmt.Errorf("recall the newest checkpoints: %w", err)
	}
	var found []*Checkpoint
	for _, n := range notes {
		c, bad := ParseCheckpoint(n, l.installation)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("a remembered checkpoint: %w", bad))
		} else if c.Log == l.id { // else it is about a log that was here before
			found = append(found, c)
		}
	}
	return found, err
}

// CheckTail compares the log with the checkpoints that are remembered and with
// those in the bucket itself. [ErrRolledBack] when it is shorter than one of
// them says, or another.
func (l *Log) CheckTail(ctx context.Context) error {
	known, err := l.Remembered()
	if errors.Is(err, ErrNoCheckpoint) {
		// Whoever can change it can remove it as well; it is written anew.
		l.logger.Error("what is remembered of the log is damaged and is not used", "error", err)
	} else if err != nil {
		l.logger.Warn("the log is not compared with what is remembered of it", "error", err)
	}
	// Damage of one partition does not hide that another one was rolled back.
	var damage error
	for _, c := range known {
		if err := l.keepInMind(ctx, c); err != nil {
			return err
		}
		if err := l.Holds(ctx, c); errors.Is(err, ErrBeforeStart) {
			continue // too old to say anything
		} else if errors.Is(err, ErrDamaged) && !errors.Is(err, ErrRolledBack) {
			damage = cmp.Or(damage, err)
		} else if err != nil {
			return err
		}
	}
	for p := range l.partitions {
		k := l.partitions[p].keeper
		if err := k.take(ctx); err != nil {
			return err
		}
		err := l.learnCheckpoints(ctx, event.Partition(p))
		k.give()
		if errors.Is(err, ErrDamaged) && !errors.Is(err, ErrRolledBack) {
			damage = cmp.Or(damage, err)
		} else if err != nil {
			return err
		}
	}
	return damage
}

// keepInMind notes that a checkpoint is remembered, so that no older one takes its
// place: what was seen of a log that was rolled back is not forgotten for it.
func (l *Log) keepInMind(ctx context.Context, c *Checkpoint) error {
	if int(c.Partition) >= len(l.partitions) {
		return nil // Holds says so
	}
	k := l.partitions[c.Partition].keeper
	if err := k.take(ctx); err != nil {
		return err
	}
	defer k.give()
	k.remembered = max(k.remembered, c.Seq)
	return nil
}
