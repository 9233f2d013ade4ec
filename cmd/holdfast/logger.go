package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"holdfast/node"
)

const (
	// logDelay is how late a line may be written that is no warning: a busy node
	// says one for every message, and writing each by itself was a third of all
	// writes that accepting a small message makes.
	logDelay = 50 * time.Millisecond
	// logBuffer is from how many bytes on it is not waited any longer.
	logBuffer = 16 << 10
)

// newLogger returns the logger that the configuration asks for, and what writes
// out the lines that are left.
func newLogger(c node.LogConfig, w io.Writer) (_ *slog.Logger, flush func()) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // checked with the configuration
	opt := &slog.HandlerOptions{Level: level}
	out := &lateWriter{w: w}
	var h slog.Handler = slog.NewTextHandler(out, opt)
	if c.Format == "json" {
		h = slog.NewJSONHandler(out, opt)
	}
	return slog.New(promptHandler{h, out}), out.flush
}

// promptHandler writes warnings and errors out at once.
type promptHandler struct {
	slog.Handler
	out *lateWriter
}

// Handle implements slog.Handler.
func (h promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		h.out.flush()
	}
	return err
}

// WithAttrs implements slog.Handler.
func (h promptHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return promptHandler{h.Handler.WithAttrs(attrs), h.out}
}

// WithGroup implements slog.Handler.
func (h promptHandler) WithGroup(name string) slog.Handler {
	return promptHandler{h.Handler.WithGroup(name), h.out}
}

// lateWriter gathers what is written to it for a moment. A write that fails is
// lost: there is nowhere to say so.
type lateWriter struct {
	mu    sync.Mutex
	w     io.Writer
	buf   []byte
	timed bool // a flush is due
}

// Write implements io.Writer.
func (l *lateWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	switch {
	case len(l.buf) >= logBuffer:
		l.flushLocked()
	case !l.timed:
		l.timed = true
		time.AfterFunc(logDelay, l.flush)
	}
	return len(p), nil
}

func (l *lateWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushLocked()
}

func (l *lateWriter) flushLocked() {
	if len(l.buf) > 0 {
		l.w.Write(l.buf)
	}
	l.buf, l.timed = l.buf[:0], false
}
