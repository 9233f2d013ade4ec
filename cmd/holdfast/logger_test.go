package main

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/node"
)

// lines is where log lines go that several goroutines write.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestLogLinesComeSoon: lines are gathered for a moment, warnings are not, and
// the order is that in which they were said.
func TestLogLinesComeSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		logger, flush := newLogger(node.LogConfig{Level: "info"}, &out)
		logger = logger.With("a", 1)
		want := func(n int, when string) {
			t.Helper()
			synctest.Wait()
			if got := strings.Count(out.String(), "\n"); got != n {
				t.Errorf("%s: %d lines, want %d", when, got, n)
			}
		}
		logger.Debug("nothing")
		logger.Info("one")
		logger.Info("two")
		want(0, "at once")
		time.Sleep(logDelay)
		want(2, "after a moment")
		logger.Info("three")
		logger.WithGroup("g").Warn("four")
		want(4, "a warning")
		time.Sleep(2 * logDelay)
		logger.Info("five")
		flush()
		want(5, "at the end")
		logger.Info(strings.Repeat("x", logBuffer))
		want(6, "much at once")
		at := -1
		for _, word := range []string{"one", "two", "three", "four", "five"} {
			i := strings.Index(out.String(), "msg="+word)
			if i <= at {
				t.Errorf("%s is out of order", word)
			}
			at = i
		}
		time.Sleep(time.Second) // no timer is left behind
	})
}
