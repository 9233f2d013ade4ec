package eventlog

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// TestTroubleIsTold while the store hangs, while it refuses, and not a moment
// longer than that.
func TestTroubleIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fault.Wrap(mem.New())
		f := openFixture(t, newOptions(t, b))
		append := func(text string) {
			t.Helper()
			if _, err := f.Append(context.Background(), f.message(t, []byte(text))); err != nil {
				t.Fatal(err)
			}
		}
		append("x")
		if tr := f.Trouble(); tr != nil {
			t.Fatalf("trouble %+v with a store that works", tr)
		}
		for name, kind := range map[string]fault.Kind{"hangs": fault.Hang, "refuses": fault.FailBefore} {
			m := f.message(t, []byte("y"))
			h := b.Inject(fault.Rule{KeyPrefix: "log/", Kind: kind, Times: -1})
			began := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = f.Append(context.Background(), m) })
			time.Sleep(slowPut + 10*time.Second)
			tr := f.Trouble()
			if tr == nil || tr.Since.Before(began) || tr.Since.After(began.Add(time.Second)) || (tr.Err == nil) != (kind == fault.Hang) {
				t.Errorf("a store that %s: %+v", name, tr)
			}
			h.Remove()
			wg.Wait()
			time.Sleep(2 * putTimeout)
			append("z")
			if tr := f.Trouble(); tr != nil {
				t.Errorf("a store that %s and works again: %+v", name, tr)
			}
		}
		// What nobody has tried again is not spoken of for ever.
		m := f.message(t, []byte("y"))
		b.Inject(fault.Rule{KeyPrefix: "log/", Kind: fault.FailBefore})
		if _, err := f.Append(context.Background(), m); err == nil || f.Trouble() == nil {
			t.Errorf("append: %v, trouble %+v", err, f.Trouble())
		}
		time.Sleep(troubleAge)
		if tr := f.Trouble(); tr != nil {
			t.Errorf("a minute later: %+v", tr)
		}
	})
}
