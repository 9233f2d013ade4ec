package retention

import (
	"crypto/rand"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// upload puts a large body into the bucket and returns its event, which is not
// appended.
func (n *node) upload(days int) event.Event { return n.uploadOf(days, 1<<20) }

func (n *node) uploadOf(days, size int) event.Event {
	n.t.Helper()
	ev := event.Event{ID: event.NewID(), Tenant: n.tenant, Expiry: event.DayOf(n.log.Now()) + event.Day(days)}
	w, err := n.log.NewBody(n.ctx, ev.ID, n.tenant, ev.Expiry)
	if err != nil {
		n.t.Fatal(err)
	}
	noise := make([]byte, size)
	rand.Read(noise)
	if _, err := w.Write(noise); err != nil {
		n.t.Fatal(err)
	}
	if ev.Body, err = w.Finish(); err != nil {
		n.t.Fatal(err)
	}
	ev.Fact = &event.MessageAccepted{Origin: event.OriginInbound, At: n.log.Millis(), Size: int64(size), Recipients: 1, Meta: &event.MessageMeta{Trace: []byte("x")}}
	return ev
}

func (n *node) objects(ev event.Event) (count int) {
	n.t.Helper()
	for b, err := range n.log.Blobs(n.ctx, ev.Expiry) {
		if err != nil {
			n.t.Fatal(err)
		}
		if b.ID == ev.ID && b.Day == ev.Expiry {
			count += b.Parts
		}
	}
	return count
}

// TestOrphans: a body without an event is removed when it is a day old, and its
// event is refused from then on. Bodies of events, and young ones, stay.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newWorld(t).start()
		time.Sleep(time.Hour)
		orphan, good := n.upload(20), n.upload(20)
		if _, err := n.log.Append(n.ctx, good); err != nil {
			t.Fatal(err)
		}
		eachDay(t, n, 1) // it is 23 hours old
		if n.objects(orphan) == 0 || len(facts[*event.ObjectsCondemned](n)) > 0 {
			t.Fatal("a body of the same day was removed")
		}
		late := n.upload(20)
		eachDay(t, n, 1)
		if got := n.objects(orphan); got != 0 {
			t.Errorf("%d parts of a body without an event are still there", got)
		}
		if n.objects(good) == 0 {
			t.Error("parts of a message are gone")
		}
		if n.objects(late) == 0 {
			t.Error("a young body is gone")
		}
		if got := facts[*event.ObjectsCondemned](n); len(got) == 0 || len(got[0].Messages) != 1 || got[0].Messages[0] != orphan.ID {
			t.Errorf("condemned: %+v", got)
		}
		_, err := n.log.Append(n.ctx, orphan)
		wantErr(t, "the event of a condemned body", err, eventlog.ErrCondemned)
		// What is written under the tenant on another day is not concerned.
		if _, err := n.log.Append(n.ctx, n.upload(20)); err != nil {
			t.Error(err)
		}
	})
}

// TestOrphanLands: a message whose body looked like an orphan lands before that is
// condemned: it stays.
func TestOrphanLands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start(), w.start()
		time.Sleep(time.Hour)
		ev := a.upload(20)
		time.Sleep(11 * time.Hour)
		if _, err := a.log.Append(a.ctx, ev); err != nil {
			t.Fatal(err)
		}
		// b has not read that segment yet, and takes the body for an orphan.
		blobs := []eventlog.Blob{}
		for blob, err := range b.log.Blobs(b.ctx, ev.Expiry) {
			if err != nil {
				t.Fatal(err)
			}
			blobs = append(blobs, blob)
		}
		if got, err := b.svc.unknown(b.ctx, blobs); err != nil || len(got) != 1 {
			t.Fatalf("%d orphans, %v", len(got), err)
		}
		if err := b.svc.removeOrphans(b.ctx, blobs); err != nil {
			t.Fatal(err)
		}
		if a.objects(ev) == 0 {
			t.Error("parts of a message are gone")
		}
	})
}
