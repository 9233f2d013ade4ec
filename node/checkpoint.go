package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/internal/disk"
)

const (
	// lastCheckpoint is what the last checkpoints may take when the node leaves.
	lastCheckpoint = 2 * time.Second
	// maxNote bounds a remembered note.
	maxNote = 64 << 10
)

// notebook keeps the newest checkpoint of each partition in a directory, as
// files that can be given to log verify --since. It implements eventlog.Memory.
type notebook struct{ dir string }

func (n *Node) notebook() eventlog.Memory {
	if n.seams.Store != nil { // a simulation has no data_dir
		return nil
	}
	return notebook{filepath.Join(n.cfg.DataDir, "checkpoint")}
}

func (b notebook) path(p event.Partition) string {
	return filepath.Join(b.dir, fmt.Sprintf("%02x.note", uint8(p)))
}

// Recall implements eventlog.Memory.
func (b notebook) Recall() (notes [][]byte, err error) {
	names, err := filepath.Glob(filepath.Join(b.dir, "*.note"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return notes, err
		}
		if info.Size() > maxNote {
			return notes, fmt.Errorf("%s has %d bytes: %w", name, info.Size(), eventlog.ErrNoCheckpoint)
		}
		note, err := os.ReadFile(name)
		if err != nil {
			return notes, err
		}
		notes = append(notes, note)
	}
	return notes, nil
}

// Remember implements eventlog.Memory. What is remembered is replaced in one
// step, and survives a crash of the machine.
func (b notebook) Remember(p event.Partition, note []byte) error {
	if err := disk.MakeDirs(b.dir); err != nil {
		return err
	}
	path := b.path(p)
	f, err := disk.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(note)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := disk.Rename(path+".new", path); err != nil {
		return err
	}
	return disk.SyncDir(b.dir)
}

// checkTail refuses a log that is shorter than it was, or another one: nothing
// is appended to what somebody has taken back. A copy that is only read is
// opened all the same, as is one for a single command.
func (n *Node) checkTail(ctx context.Context) error {
	err := n.log.CheckTail(ctx)
	switch {
	case errors.Is(err, eventlog.ErrRolledBack) && (n.log.ReadOnly() || n.offline()):
		n.logger.Error("the log was rolled back", "error", err)
		return nil
	case errors.Is(err, eventlog.ErrRolledBack):
		return fmt.Errorf("%w; nothing was changed; restore the newest copy of the bucket, or, if you mean to go on from an older one, remove %s and %s",
			err, filepath.Join(n.cfg.DataDir, "checkpoint"), "the checkpoints in the bucket that speak of later segments")
	}
	if errors.Is(err, eventlog.ErrDamaged) {
		// Folds stop where they meet it; mail is accepted behind it.
		n.logger.Error("the log is damaged; run holdfast log verify", "error", err)
		return nil
	}
	return err
}

// keepCheckpoints writes checkpoints while the node runs.
func (n *Node) keepCheckpoints(ctx context.Context) {
	if !n.offline() && !n.log.ReadOnly() {
		n.log.KeepCheckpoints(ctx)
	}
}

// lastCheckpoints writes checkpoints of what is in the log when the node leaves,
// if the store answers soon.
func (n *Node) lastCheckpoints(ctx context.Context, leave time.Time) {
	if n.offline() || n.log.ReadOnly() {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, earlier(leave, time.Now().Add(lastCheckpoint)))
	defer cancel()
	if _, err := n.log.CheckpointAll(ctx); err != nil {
		n.logger.Warn("no last checkpoint; the next start writes it", "error", err)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// checkpoint makes sure that all that is in the log is under checkpoints, and
// returns the newest of each partition.
func (n *Node) checkpoint(ctx context.Context, _ struct{}) (CheckpointAnswer, error) {
	var out CheckpointAnswer
	for p := range n.log.Partitions() {
		if err := n.log.Refresh(ctx, event.Partition(p)); err != nil {
			return out, err
		}
	}
	cs, err := n.log.CheckpointAll(ctx)
	for _, c := range cs {
		out.Notes = append(out.Notes, string(c.Note()))
	}
	return out, err
}
