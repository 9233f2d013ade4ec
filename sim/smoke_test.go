package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/directory"
	"holdfast/internal/turn"
	"holdfast/node"
	"holdfast/objstore/mem"
	"holdfast/sim/check"
)

func smoke(t *testing.T, seed uint64, faulty bool) (trace []string, steps int) {
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		w := New(seed, Plan{Nodes: 1, Partitions: 1}, mem.New(), new(check.Order))
		if os.Getenv("SIM_LOG") != "" {
			w.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		}
		defer func() { trace, steps = w.Trace, w.Steps }()
		defer func() {
			if err := w.end(); err != nil {
				t.Error(err)
			}
		}()
		if !w.drive(time.Minute, w.Ready) {
			t.Error("not ready")
			return
		}
		var failed error
		applied := false
		go func() {
			ctx := turn.With(context.Background(), w.bus.Order, "admin")
			failed = apply(ctx, w.machines[0].admin(), directory.File{
				Domains: []directory.FileDomain{{Name: "example.org", Tenant: "acme", Primary: []string{"smtp://mx.example.org:25?tls=none"}}},
				Users:   []directory.FileUser{{Address: "ann@example.org"}},
			})
			applied = true
		}()
		if !w.drive(time.Minute, func() bool { return applied }) || failed != nil {
			t.Error("apply: ", failed)
			return
		}
		if faulty {
			w.faults.cut, w.faults.before, w.faults.lost, w.faults.late, w.faults.hang = 0.01, 0.02, 0.02, 0.02, 0.005
			w.faults.on.Store(true)
		}
		mx := smtptest.New(smtptest.Options{Hostname: "mx.example.org"})
		w.Go("mx", func(ctx context.Context) {
			h := w.net.host("mx", "mx")
			l, _ := h.Listen(ctx, "tcp", "mx.example.org:25")
			defer mx.Stop()
			go func() { <-ctx.Done(); l.Close() }()
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go mx.Serve(c)
			}
		})
		sent := 0
		for i := range 5 {
			w.Go(fmt.Sprintf("s%d", i), func(ctx context.Context) {
				h := w.net.host(turn.Who(ctx), turn.Who(ctx))
				for n := 0; ; n++ {
					if code := deliver(ctx, h, n); code == 250 {
						break
					}
					time.Sleep(time.Second)
					turn.Take(ctx, "retry")
				}
				sent++
			})
		}
		if !w.drive(10*time.Minute, func() bool { return sent == 5 && len(mx.Transactions()) >= 5 }) {
			t.Error("not sent", sent, len(mx.Transactions()))
		}
	})
	return trace, steps
}

func apply(ctx context.Context, h http.Handler, f directory.File) error {
	body, err := json.Marshal(node.ApplyRequest{File: f})
	if err != nil {
		return err
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, "POST", "/apply", bytes.NewReader(body)))
	if rec.Code != 200 {
		return fmt.Errorf("%d: %s", rec.Code, rec.Body)
	}
	return nil
}

func deliver(ctx context.Context, h *host, n int) int {
	c, err := h.Dial(ctx, "tcp", "n1:25")
	if err != nil {
		return 0
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	br := bufio.NewReader(c)
	code := 0
	for _, cmd := range []string{"", "EHLO x", "MAIL FROM:<joe@example.com>", "RCPT TO:<ann@example.org>", "DATA", "Subject: hi\r\n\r\nhello\r\n."} {
		if cmd != "" {
			if _, err := c.Write([]byte(cmd + "\r\n")); err != nil {
				return 0
			}
		}
		if code = reply(br); code >= 400 || code == 0 {
			return code
		}
	}
	return code
}

func reply(br *bufio.Reader) (code int) {
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return 0
		}
		fmt.Sscanf(line, "%d", &code)
		if len(line) > 3 && line[3] != '-' {
			return code
		}
	}
}

var _ net.Conn = (*conn)(nil)

func compare(t *testing.T, a, b []string) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Errorf("traces differ at line %d of %d, %d:\n%s\n-----\n%s\n-----\n%s", i, len(a), len(b), strings.Join(a[max(0, i-12):i], "\n"), strings.Join(a[i:min(len(a), i+4)], "\n"), strings.Join(b[i:min(len(b), i+4)], "\n"))
			return
		}
	}
	if len(a) != len(b) {
		t.Errorf("traces have %d and %d lines", len(a), len(b))
	}
}

func TestSmoke(t *testing.T) {
	for seed := range uint64(10) {
		var a, b []string
		var n int
		start := time.Now()
		t.Run("a", func(t *testing.T) { a, n = smoke(t, seed, seed > 3) })
		d := time.Since(start)
		t.Run("b", func(t *testing.T) { b, _ = smoke(t, seed, seed > 3) })
		t.Logf("seed %d: %d steps, %v, %.0f/s", seed, n, d, float64(n)/d.Seconds())
		if os.Getenv("SIM_TRACE") != "" {
			os.WriteFile(os.Getenv("SIM_TRACE"), []byte(strings.Join(a, "\n")), 0o600)
		}
		compare(t, a, b)
	}
}
