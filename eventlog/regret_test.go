package eventlog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// What is taken back for one tenant does not hang on another, which has ended.
func TestRepudiationBesideAnEndedTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fault.Wrap(mem.New())
		t.Cleanup(func() { b.Close() })
		opt := newOptions(t, b)
		opt.Partitions = 1
		f := openFixture(t, opt)
		ended := f.tenant
		theirs := f.message(t, []byte("theirs"))
		f.tenant[0]++
		if err := f.EnsureTenant(t.Context(), f.tenant); err != nil {
			t.Fatal(err)
		}
		mine := f.message(t, []byte("mine"))
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LateLanding})
		refuse := b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Full, Times: -1})
		if _, err := f.Append(context.Background(), mine, theirs); !errors.Is(err, ErrTimeout) {
			t.Fatalf("append: %v", err)
		}
		f.fate.end(ended)
		b.Release()
		refuse.Remove()
		time.Sleep(time.Minute)
		for ev, want := range map[event.ID]int{mine.ID: 1, theirs.ID: 0} {
			if in, repudiated := f.states(t, ev); in != 1 || repudiated != want {
				t.Errorf("%d times in the log, %d times repudiated, want 1 and %d", in, repudiated, want)
			}
		}
	})
}
