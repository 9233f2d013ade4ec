package eventlog

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// A kept message is erased also when what it was copied from has left the log.
func TestEraseOfWhatOutlivedItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 300, 2, time.Minute)
		time.Sleep(time.Hour)
		d.pack(t, 0)
		kept, err := d.Keep(t.Context(), d.sent[50].ref, event.DayOf(d.Now())+30, event.KeptFiled)
		if err != nil {
			t.Fatal(err)
		}
		cursor, err := d.CursorAt(t.Context(), 0, 300)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.RaiseStart(t.Context(), 0, cursor); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(2 * 24 * time.Hour)
			d.send(t, 100, 30, time.Minute)
			d.pack(t, d.pass(t))
		}
		o := d.another(t)
		if _, err := o.Event(t.Context(), d.sent[50].ref); !errors.Is(err, ErrBeforeStart) {
			t.Fatalf("what it was copied from: %v", err)
		}
		done, err := o.Erase(t.Context(), []event.Ref{kept})
		if err != nil || len(done) != 1 || done[0].Message != d.sent[50].ref.ID {
			t.Fatalf("%+v, %v", done, err)
		}
		o.wantGone(t, kept)
		items := []event.ErasedItem{{Message: done[0].Message, Place: kept}, {Message: d.sent[51].ref.ID, Place: d.sent[51].ref}}
		if _, err := o.Append(t.Context(), event.Event{ID: event.NewID(), Tenant: o.tenant, Fact: &event.Erased{Who: "root", Items: items}}); err != nil {
			t.Fatal(err)
		}
		o.wantNoFindings(t)
	})
}
