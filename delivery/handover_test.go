package delivery

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
)

// A node that takes the lease over before it has folded its predecessor's last
// word on a primary's state puts the log right: it does not say for ever that the
// primary is down.
func TestStateOutlivesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.poll = time.Second
		first := w.start()
		time.Sleep(time.Second)
		second := w.start()
		defer second.stop()
		time.Sleep(5 * time.Second)
		// The second sees no segment any more, but may still take the lease.
		blind := second.bucket.Inject(fault.Rule{Op: fault.Get, KeyPrefix: "log/", Kind: fault.FailBefore, Times: -1})
		w.mx().Stop()
		first.becomes(event.HealthDown, 10*time.Second)
		first.vanish()
		w.mx().Resume()
		w.await("the second holds the lease", time.Minute, func() bool { return second.svc.holders[w.tenant].epoch() != 0 })
		time.Sleep(10 * time.Second)
		blind.Remove()
		second.becomes(event.HealthUp, time.Minute)
	})
}
