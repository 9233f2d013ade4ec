package delivery

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/objstore/fault"
)

// TestChain measures how long a queue takes when nothing but latency costs time:
// what a message waits for, and how much of that is shared. Everything that is
// computed takes no time here.
func TestChain(t *testing.T) {
	const put, dot = 4 * time.Millisecond, time.Millisecond
	for _, tt := range []struct {
		name             string
		messages, people int
		most             time.Duration
	}{
		{"many recipients", 2000, 200, 600 * time.Millisecond},
		{"one recipient", 50, 1, 50 * 12 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				n := w.open()
				defer n.stop()
				for i := range tt.messages {
					n.accept("s@far.test", text(fmt.Sprint(i)), fmt.Sprintf("u%d@%s", i%tt.people, domain))
				}
				synctest.Wait() // all is folded
				n.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Delay, Delay: put, Times: -1})
				w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: dot}))
				began := time.Now()
				puts, size := w.logSize()
				n.deliver()
				for n.status().Queued > 0 {
					time.Sleep(time.Millisecond)
					synctest.Wait()
				}
				if got := len(w.mx().Transactions()); got != tt.messages {
					t.Errorf("%d messages arrived, want %d", got, tt.messages)
				}
				took := time.Since(began)
				putsThen, sizeThen := w.logSize()
				t.Logf("%d messages in %v: %.0f/s, %d puts, %d bytes of log a message", tt.messages, took,
					float64(tt.messages)/took.Seconds(), putsThen-puts, (sizeThen-size)/int64(tt.messages))
				if took > tt.most {
					t.Errorf("took %v, want at most %v", took, tt.most)
				}
			})
		})
	}
}

// logSize returns how many segments the log has, and their bytes.
func (w *world) logSize() (segments int, size int64) {
	for info, err := range w.bucket.List(context.Background(), "log/", "") {
		w.check(err)
		segments++
		size += info.Size
	}
	return segments, size
}
