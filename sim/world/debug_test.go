package world

import (
	"context"
	"fmt"
	"os"
	"testing"
	"testing/synctest"

	"holdfast/event"
	"holdfast/sim/check"
)

func TestDebug(t *testing.T) {
	var seed int
	fmt.Sscan(os.Getenv("WORLD_SEED"), &seed)
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 2)
		found, h := s.play(uint64(seed), Small(), weather{rates: storm(), kills: seed % 3})
		t.Log(check.Report(found, &h))
		if len(found) == 0 {
			return
		}
		l, err := check.ReadLog(context.Background(), s.bucket, s.keys, s.url, s.bucket)
		if err != nil {
			t.Fatal(err)
		}
		l.All(func(e *check.Entry) {
			switch f := e.Fact.(type) {
			case *event.HealthChanged:
				t.Logf("%v %x at %v %s: %v -> %v needs %v, written %v since %d", e.Ref.Position, e.Writer[:3], f.At, f.Domain, f.From, f.To, f.NeedsDelivery, e.Time, e.Since)
			case *event.DeliveryIntended:
				t.Logf("%v %x intends epoch %d %v %v", e.Ref.Position, e.Writer[:3], f.Epoch, f.At, f.Units)
			case *event.DeliverySettled:
				for _, o := range f.Outcomes {
					t.Logf("%v %x settles %v: %v code %d uncertain %v epoch %d, at %v", e.Ref.Position, e.Writer[:3], o.Unit, o.Result, o.Code, o.Uncertain, o.Epoch, f.At)
				}
			}
		})
	})
}
