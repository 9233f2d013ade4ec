package eventlog

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
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
		if _, err := w.Write(randomBytes(3 * maxBlobBytes)); !errors.Is(err, ErrTimeout) {
			t.Errorf("write: %v, want ErrTimeout", err)
		}
		if took := time.Since(began); took > appendTimeout {
			t.Errorf("the answer came after %v, want %v", took, appendTimeout)
		}
	})
}

// slowParts is a bucket in which every part of a body takes a second, and which
// counts how many are under way.
type slowParts struct {
	objstore.Bucket
	now, most, ended atomic.Int64
}

func (s *slowParts) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if strings.HasPrefix(key, "blob/") {
		s.most.Store(max(s.most.Load(), s.now.Add(1)))
		defer s.now.Add(-1)
		pause(ctx, time.Second)
		s.ended.Add(1)
		if err := ctx.Err(); err != nil {
			return objstore.Info{}, err
		}
	}
	return s.Bucket.Put(ctx, key, body, size, opt)
}

// TestOnePartIsPutWhileTheNextGathers: a sender that is as slow as the store
// costs no more time than either, and what is written reads back in order.
func TestOnePartIsPutWhileTheNextGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowParts{Bucket: mem.New()}
		f := openFixture(t, newOptions(t, s))
		body := randomBytes(4*maxBlobBytes + 1000)
		began := time.Now()
		id := event.NewID()
		w, err := f.NewBody(t.Context(), id, f.tenant, f.day)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(body); at += maxBlobBytes {
			time.Sleep(time.Second) // the sender
			if _, err := w.Write(body[at:min(at+maxBlobBytes, len(body))]); err != nil {
				t.Fatal(err)
			}
		}
		b, err := w.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 7*time.Second {
			t.Errorf("five parts took %v: they were not put meanwhile", took)
		}
		if most := s.most.Load(); most != 2 {
			t.Errorf("%d parts were under way at once, want 2 at the end", most)
		}
		at, err := f.Append(t.Context(), event.Event{ID: id, Tenant: f.tenant, Expiry: f.day, Body: b, Fact: &event.MessageAccepted{Origin: event.OriginInbound}})
		if err != nil {
			t.Fatal(err)
		}
		f.wantBody(t, event.Ref{Position: at, ID: id}, body)

		// Who gives up in between leaves nothing running, and no buffer behind.
		for range 2 * bigBuffers {
			w, err := f.NewBody(t.Context(), event.NewID(), f.tenant, f.day)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(body[:maxBlobBytes+100_000]); err != nil {
				t.Fatal(err)
			}
			w.Discard()
			if s.now.Load() != 0 {
				t.Fatal("a part is under way after Discard")
			}
		}
	})
}
