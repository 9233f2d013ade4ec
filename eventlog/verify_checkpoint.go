package eventlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

// maxAhead is how many checkpoints beyond the tail of one partition are named.
const maxAhead = 3

// Claim is a checkpoint that the log is held against, and where it comes from.
type Claim struct {
	*Checkpoint
	Whence string // such as "given" or "remembered by this node"
}

// claims are what checkpoints say of one partition. They are held against the
// segments as these go by.
type claims struct {
	v      *verifier
	p      event.Partition
	stored []event.Seq // in the bucket, ascending
	kept   []Claim     // from elsewhere, ascending
	next   int         // of stored
	recent []Hash      // of the segments up to last, as far as they follow each other
	last   event.Seq
	start  event.Seq
	ahead  int // checkpoints beyond the tail that were named
}

// claims lists the checkpoints of a partition.
func (v *verifier) claims(ctx context.Context, p event.Partition) (*claims, error) {
	c := &claims{v: v, p: p}
	for _, k := range v.kept {
		if k.Partition == p {
			c.kept = append(c.kept, k)
		}
	}
	slices.SortFunc(c.kept, func(a, b Claim) int { return int(a.Seq) - int(b.Seq) })
	for info, err := range v.log.bucket.List(ctx, checkpointPrefix(p), "") {
		if err != nil {
			return nil, err
		}
		if s, ok := parseCheckpointKey(info.Key); ok {
			c.stored = append(c.stored, s)
		} else {
			v.report(Finding{Partition: p, Index: -1, Key: info.Key, What: UnknownObject})
		}
	}
	return c, nil
}

// begin takes the beginning of the log: what checkpoints say of segments before it
// can be compared with nothing.
func (c *claims) begin(ctx context.Context, start Cursor) error {
	if start.Seq == 0 {
		return nil
	}
	c.start = start.Seq
	for _, s := range c.stored {
		if s < start.Seq {
			c.v.sum.BeforeStart++
		}
	}
	for _, k := range c.kept {
		if k.Seq < start.Seq {
			c.v.sum.BeforeStart++
		}
	}
	return c.segment(ctx, start.Seq, &start.Hash)
}

// segment takes the hash of the next segment; nil when it cannot be believed.
func (c *claims) segment(ctx context.Context, s event.Seq, h *Hash) error {
	if s != c.last+1 || h == nil {
		c.recent = c.recent[:0]
	}
	if c.last = s; h != nil {
		if len(c.recent) == maxRecent {
			c.recent = append(c.recent[:0], c.recent[maxRecent/2:]...)
		}
		c.recent = append(c.recent, *h)
	}
	for ; c.next < len(c.stored) && c.stored[c.next] <= s; c.next++ {
		cp, err := c.read(ctx, c.stored[c.next])
		if err != nil {
			return err
		}
		if cp != nil && cp.Seq == s && h != nil {
			c.compare(Claim{cp, "in the bucket"}, *h)
		}
	}
	for len(c.kept) > 0 && c.kept[0].Seq <= s {
		if c.kept[0].Seq == s && h != nil {
			c.compare(c.kept[0], *h)
		}
		c.kept = c.kept[1:]
	}
	return nil
}

// read reads a checkpoint of the bucket and reports what is wrong with it.
func (c *claims) read(ctx context.Context, s event.Seq) (*Checkpoint, error) {
	key := checkpointKey(c.p, s)
	raw, err := c.v.read(ctx, key, maxCheckpoint)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, nil // gone since it was listed; the next one that names it tells
	}
	var cp *Checkpoint
	if err == nil {
		cp, err = c.v.log.parseCheckpoint(raw, key)
	}
	if errors.Is(err, ErrNoCheckpoint) || errors.Is(err, ErrDamaged) {
		c.v.report(Finding{Partition: c.p, Seq: s, Index: -1, Key: key, What: DamagedCheckpoint, Err: fmt.Errorf("%w: %w", err, ErrDamaged)})
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.v.sum.Checkpoints++
	if _, there := slices.BinarySearch(c.stored, cp.From); !there && cp.From > c.start {
		c.v.report(Finding{Partition: c.p, Seq: cp.From, Index: -1, Key: checkpointKey(c.p, cp.From), What: MissingCheckpoint,
			Err: fmt.Errorf("%s was made after it: %w", key, ErrDamaged)})
	}
	return cp, nil
}

func (c *claims) finding(k Claim, what, why string) {
	key := segmentKey(c.p, k.Seq)
	c.v.report(Finding{Partition: c.p, Seq: k.Seq, Index: -1, Key: key, What: what,
		Err: fmt.Errorf("%s the checkpoint %s, of %s: %w", why, k.Whence, k.At().Format(time.RFC3339), ErrDamaged)})
}

// compare holds a checkpoint against the segment it is about, which is the last
// one that went by.
func (c *claims) compare(k Claim, h Hash) {
	if h != k.Hash {
		c.finding(k, Forked, "it is not the segment of")
		return
	}
	if n := int(k.Seq - k.From); n <= len(c.recent) && newHashTree(c.recent[len(c.recent)-n:]).root() != k.Tree {
		c.finding(k, DamagedCheckpoint, "the segments up to it are not those of")
	}
}

// end is called when all segments have gone by: what checkpoints still speak of
// has been appended meanwhile, or was there once.
func (c *claims) end(ctx context.Context) error {
	for ; c.next < len(c.stored); c.next++ {
		cp, err := c.read(ctx, c.stored[c.next])
		if err != nil {
			return err
		}
		if cp != nil {
			c.kept = append(c.kept, Claim{cp, "in the bucket"})
		}
	}
	for _, k := range c.kept {
		h, err := c.v.header(ctx, c.p, k.Seq)
		if errors.Is(err, objstore.ErrNotExist) {
			if c.ahead++; c.ahead <= maxAhead || k.Whence != "in the bucket" {
				c.finding(k, RolledBack, fmt.Sprintf("the log ends at %d, but it was there at the time of", c.last))
			}
			continue
		}
		if err == nil && h.hash != k.Hash {
			c.finding(k, Forked, "it is not the segment of")
		}
		if err != nil && !damaging(err) { // damage is reported where segments are
			return err
		}
	}
	return nil
}

// recall adds what is remembered outside of the bucket to what the log is held
// against.
func (v *verifier) recall() {
	for _, c := range v.opt.Since {
		v.kept = append(v.kept, Claim{c, "that was given"})
	}
	known, err := v.log.Remembered()
	if err != nil {
		v.report(Finding{Index: -1, Key: "checkpoint", What: DamagedCheckpoint, Err: fmt.Errorf("%w: %w", err, ErrDamaged)})
	}
	for _, c := range known {
		v.kept = append(v.kept, Claim{c, "that this node remembers"})
	}
}

// small verifies the objects that are neither segment nor payload: what the
// bucket is, and the leases. Every byte of them counts.
func (v *verifier) small(ctx context.Context) error {
	err := v.format(ctx)
	if err != nil && !damaging(err) {
		return err
	}
	if err != nil {
		v.report(Finding{Index: -1, Key: formatKey, What: DamagedFormat, Err: fmt.Errorf("%w: %w", err, ErrDamaged)})
	}
	for info, err := range v.log.bucket.List(ctx, leasePrefix, "") {
		if err != nil {
			return err
		}
		raw, err := v.read(ctx, info.Key, maxLease)
		if errors.Is(err, objstore.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = v.log.parseLease(ctx, strings.TrimPrefix(info.Key, leasePrefix), raw)
		}
		if err != nil && !damaging(err) {
			return err
		}
		if err != nil {
			v.report(Finding{Index: -1, Key: info.Key, What: DamagedLease, Err: err})
		}
	}
	return nil
}

func (v *verifier) format(ctx context.Context) error {
	f, err := readFormat(ctx, v.log.bucket, v.log.opt.Keys)
	if err != nil {
		return err
	}
	raw, err := v.read(ctx, formatKey, maxFormat)
	if err != nil {
		return err
	}
	// JSON says the same in many ways; it is written in one.
	if want, err := json.MarshalIndent(f, "", "  "); err != nil || !bytes.Equal(raw, want) {
		return fmt.Errorf("it is not spelt as it was written: %w", ErrDamaged)
	}
	return nil
}
