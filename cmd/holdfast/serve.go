package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"holdfast/node"
)

func serveCommand() command {
	return command{
		name: "serve", args: "[-c FILE]", short: "Run a node in the foreground",
		long: `Says "holdfast: ready" on standard output when the node is ready. SIGTERM or
SIGINT finishes what is in hand and leaves within 15 s. Without a file the node
runs on the embedded default: everything in the working directory. A store that
does not answer is waited for.`,
		run: alone(serve),
	}
}

// memoryLimit lets the garbage collector work harder rather than let the
// process grow: bodies are streamed, so what is live is far less.
const memoryLimit = 220 << 20

// gcPercent lets garbage gather as long as the limit is far: what is live is
// small, and collecting it at each doubling would cost a tenth of the CPU.
const gcPercent = 400

// readyLine is what serve says when the node is ready.
const readyLine = "holdfast: ready"

func serve(ctx context.Context, e *env) error {
	cfg, err := loadConfig(e)
	if err != nil {
		return err
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	logger, flush := newLogger(cfg.Log, e.errOut)
	defer flush()
	slog.SetDefault(logger)
	n, err := open(ctx, cfg, logger)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // asked to leave before it had begun
	}
	if err != nil {
		return err
	}
	return n.Run(ctx, func() {
		flush() // where the node listens is known before it is ready
		fmt.Fprintln(e.out, readyLine)
	})
}

// maxAway is the longest pause between two looks for a store that is away.
const maxAway = 30 * time.Second

// open makes the node. While its store does not answer it tries again, and says
// so; what answers and is not as it should be ends it at once.
func open(ctx context.Context, cfg node.Config, logger *slog.Logger) (*node.Node, error) {
	for wait := time.Second; ; wait = min(2*wait, maxAway) {
		n, err := node.New(ctx, cfg, node.Seams{}, logger)
		if err == nil || ctx.Err() != nil || !node.StoreAway(err) {
			return n, err
		}
		logger.Error("the store does not answer: until it does, nothing is accepted and nobody is served",
			"store", cfg.Store.URL, "error", err, "again", wait.String())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func versionCommand() command {
	return command{name: "version", short: "Print the version", run: func(_ context.Context, e *env) error {
		fmt.Fprintln(e.out, "holdfast", node.Version)
		return nil
	}}
}
