package node

import (
	"context"
	"errors"

	"log/slog"
	"net/http"

	"holdfast/eventlog"
)

// handleVerify reads the whole log and tells what is damaged.
func (n *Node) handleVerify(w http.ResponseWriter, r *http.Request) {
	out := newLines(w)
	var req VerifyRequest
	err := decode(w, r, &req)
	if err == nil {
		err = verify(r.Context(), n.log, req, func(l VerifyLine) error {
			defer out.flush()
			return out.write(l)
		})
	}
	out.end(err)
}

// verify reads a whole log, and holds it against the checkpoints of the request.
func verify(ctx context.Context, l *eventlog.Log, req VerifyRequest, tell func(VerifyLine) error) error {
	since, err := claimsOf(l, req.Since)
	if err != nil {
		return err
	}
	sum, err := l.VerifyWith(ctx, eventlog.VerifyOptions{Since: since, Report: func(f eventlog.Finding) {
		// What cannot be written is counted all the same, in the last line.
		_ = tell(VerifyLine{Damage: f.String()})
	}})
	if err != nil {
		return err
	}
	return tell(VerifyLine{
		Done: true, Segments: sum.Segments, Events: sum.Events, Bodies: sum.Bodies, Bytes: sum.Bytes, Expired: sum.Expired, Ended: sum.Ended,
		Orphans: sum.OrphanBlobs + sum.OrphanPages, Checkpoints: sum.Checkpoints, Damaged: sum.Findings,
	})
}

// claimsOf reads the checkpoints that the log is to be held against.
func claimsOf(l *eventlog.Log, notes []string) (since []*eventlog.Checkpoint, err error) {
	for i, note := range notes {
		c, err := l.ParseCheckpoint([]byte(note))
		if err != nil {
			return nil, wrong("note %d of --since: %v", i+1, err)
		}
		if start := l.Start(c.Partition); c.Seq < start.Seq {
			return nil, wrong("note %d of --since is about segment %d of partition %d, whose log begins after %d: what was before has expired; use a later note",
				i+1, c.Seq, c.Partition, start.Seq)
		}
		since = append(since, c)
	}
	return since, nil
}

// VerifyBucket verifies the log of a configuration while no node runs. Nothing is
// written, and nothing has to be in order: what can be opened is looked at.
func VerifyBucket(ctx context.Context, cfg Config, req VerifyRequest, tell func(VerifyLine) error) error {
	n := &Node{cfg: cfg, seams: Seams{Existing: true}, logger: slog.New(slog.DiscardHandler)}
	n.metrics = newMetrics(n)
	if err := n.openKeys(ctx); err != nil {
		return err
	}
	b, closers, err := openStores(ctx, cfg.Store, false)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	n.bucket = b
	opt := n.logOptions()
	opt.Inspect, opt.MayCreate = true, false
	l, err := eventlog.Open(ctx, opt)
	if err != nil {
		return err
	}
	defer l.Close(ctx)
	return verify(ctx, l, req, tell)
}

// WrongRequest tells whether an error is about a request that was wrong in itself,
// and what it says.
func WrongRequest(err error) (string, bool) {
	if w, ok := errors.AsType[*wrongError](err); ok {
		return w.text, true
	}
	return "", false
}
