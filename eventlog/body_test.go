package eventlog

import (
	"context"
	"io"
	"sync/atomic"
	"testing"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// gets counts reads of segments.
type gets struct {
	objstore.Bucket
	n atomic.Int64
}

func (g *gets) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	if _, ok := parseSegmentKey(key); ok {
		g.n.Add(1)
	}
	return g.Bucket.Get(ctx, key, off, n)
}

// TestBodiesOfASegmentAreReadTogether: a queue that drains takes one body of a
// segment after another, and each read of a store costs a round trip.
func TestBodiesOfASegmentAreReadTogether(t *testing.T) {
	b := &gets{Bucket: mem.New()}
	f := openFixture(t, newOptions(t, b))
	bodies := make([][]byte, 30)
	var evs []event.Event
	for i := range bodies {
		bodies[i] = randomBytes(5000 + i)
		evs = append(evs, f.message(t, bodies[i]))
	}
	pos, err := f.Append(t.Context(), evs...)
	if err != nil {
		t.Fatal(err)
	}
	opt := f.opt
	opt.MayCreate = false
	other := openFixture(t, opt) // it has nothing in memory
	ref := func(i int) event.Ref {
		return event.Ref{Position: event.Position{Partition: pos.Partition, Seq: pos.Seq, Index: pos.Index + uint32(i)}, ID: evs[i].ID}
	}
	before := b.n.Load()
	other.wantBody(t, ref(3), bodies[3])
	if n := b.n.Load() - before; n != 1 {
		t.Errorf("%d reads for one body, want 1", n) // the header is known from opening
	}
	for i, body := range bodies {
		other.wantBody(t, ref(i), body)
	}
	if n := b.n.Load() - before; n != 2 {
		t.Errorf("%d reads for %d bodies, want 2", n, len(bodies))
	}

	// Of an object that was cut short, the bodies before the cut can be read.
	key := segmentKey(pos.Partition, pos.Seq)
	raw, _, err := objstore.ReadAll(t.Context(), b, key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, key, raw[:len(raw)-6000])
	third := openFixture(t, opt)
	for i := range 20 {
		third.wantBody(t, ref(i), bodies[i])
	}
	if _, err := third.Body(t.Context(), ref(29)); err == nil {
		t.Error("a body that is not there can be read")
	}
}

// TestSegmentsOfOthersAreReadOnce: whoever finds a segment of another node reads
// its header, and the folds read the rest a moment later; that is one request.
func TestSegmentsOfOthersAreReadOnce(t *testing.T) {
	b := &gets{Bucket: mem.New()}
	f := openFixture(t, newOptions(t, b))
	opt := f.opt
	opt.MayCreate = false
	other := openFixture(t, opt)
	first, err := f.Append(t.Context(), f.message(t, randomBytes(1000)))
	if err != nil {
		t.Fatal(err)
	}
	const n = 10
	for range n - 1 {
		if _, err := f.Append(t.Context(), f.message(t, randomBytes(1000))); err != nil {
			t.Fatal(err)
		}
	}
	before := b.n.Load()
	if err := other.Refresh(t.Context(), first.Partition); err != nil {
		t.Fatal(err)
	}
	events := 0
	for seg, err := range other.Segments(t.Context(), first.Partition, Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if seg.Seq >= first.Seq {
			events += len(seg.Events)
		}
	}
	earlier := int64(first.Seq - 1) // their headers are known from opening
	if got, want := b.n.Load()-before, n+1+earlier; events < n || got != want {
		t.Errorf("%d reads for %d new segments with %d events and %d older ones, want %d: one each, and one behind the last", got, n, events, earlier, want)
	}
}
