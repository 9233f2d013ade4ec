package bus

import (
	"context"
	"testing"
	"testing/synctest"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore/mem"
)

// A bus that is first used when the log begins later than it once did.
func TestLogThatBeginsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		opt := options(mem.New())
		l := openLog(t, opt)
		early := openBus(t, l)
		if _, err := early.cursor(ctx, place{"g", "topic"}); err != nil {
			t.Fatal(err)
		}
		part := l.PartitionOf(event.SystemTenant)
		var start eventlog.Cursor
		for range 3 {
			pos, err := l.Append(ctx, event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: &event.Audited{Who: "a", Act: "b"}})
			if err != nil {
				t.Fatal(err)
			}
			if start, err = l.CursorAt(ctx, part, pos.Seq); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.RaiseStart(ctx, part, start); err != nil {
			t.Fatal(err)
		}
		if early.part != part {
			t.Fatal("the bus lies in another partition")
		}
		post(t, early, "topic", "1", "2")
		for name, b := range map[string]*Bus{"opened before": early, "opened after": openBus(t, openLog(t, opt))} {
			for _, group := range []string{"", "g " + name} {
				if got := take(t, subscribe(t, b.Subscriber(group), "topic"), 2); got[0] != "1" || got[1] != "2" {
					t.Errorf("%s, group %q: %v", name, group, got)
				}
			}
		}
	})
}
