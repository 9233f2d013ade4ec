package delivery

import (
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
		{"many recipients", 2000, 200, 700 * time.Millisecond},
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
				n.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Delay, Delay: put, Times: -1})
				w.mx().Script(at(smtptest.Dot, smtptest.Action{Delay: dot}))
				began := time.Now()
				puts := n.log.TailAtLeast(0)
				n.deliver()
				for n.status().Queued > 0 {
					time.Sleep(time.Millisecond)
				}
				took := time.Since(began)
				puts = n.log.TailAtLeast(0) - puts
				t.Logf("%d messages in %v: %.0f/s, %d puts", tt.messages, took, float64(tt.messages)/took.Seconds(), puts)
				if took > tt.most {
					t.Errorf("took %v, want at most %v", took, tt.most)
				}
			})
		})
	}
}
