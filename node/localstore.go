package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/projection"
)

// openStore opens the local database.
func (n *Node) openStore(ctx context.Context) (projection.Store, error) {
	if n.seams.Store != nil {
		return n.seams.Store, nil
	}
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data_dir: %w", err)
	}
	key, err := n.keys.LocalKey(ctx, "local database")
	if err != nil {
		return nil, err
	}
	store, err := projection.OpenBadger(projection.BadgerOptions{Dir: filepath.Join(n.cfg.DataDir, "db"), Key: key, Logger: n.logger})
	if errors.Is(err, projection.ErrNoSpace) {
		// A full data_dir must not stop accepting: what is in the database is
		// derived from the log, and fits into memory for a while.
		n.logger.Error("no space for the local database; it is kept in memory until the next start", "error", err)
		return projection.NewMemStore(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the local database: %w", err)
	}
	if err := projection.DeleteScratch(n.secondDir()); err != nil {
		n.logger.Warn("an earlier second fold takes space", "error", err)
	}
	return store, nil
}

// scratch is where a large state is folded a second time: beside the local
// database, or in memory where a test has that in memory.
func (n *Node) scratch() func() (projection.Store, error) {
	if n.seams.Store != nil {
		return nil
	}
	return func() (projection.Store, error) {
		return projection.OpenScratch(n.secondDir())
	}
}

func (n *Node) secondDir() string { return filepath.Join(n.cfg.DataDir, "second") }
