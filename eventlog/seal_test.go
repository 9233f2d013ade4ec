package eventlog

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
)

// A store that hangs in the middle of a large body is not waited for longer than
// at its end, however patient the caller is.
func TestHangingStoreInTheMiddleOfABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := faulty(t)
		w, err := f.NewBody(t.Context(), event.NewID(), f.tenant, f.day)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Discard()
		b.Inject(fault.Rule{Kind: fault.Hang, Times: -1})
		began := time.Now()
		if _, err := w.Write(randomBytes(2 * maxBlobBytes)); !errors.Is(err, ErrTimeout) {
			t.Errorf("write: %v, want ErrTimeout", err)
		}
		if took := time.Since(began); took > appendTimeout {
			t.Errorf("the answer came after %v, want %v", took, appendTimeout)
		}
	})
}
