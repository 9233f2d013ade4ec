package eventlog

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// A pack that leaves out mail whose day is not over, which whoever may write to the
// bucket can make of another one, lets no packer remove that.
func TestForgedPackReplacesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 150, 30, time.Minute)
		time.Sleep(time.Hour)
		d.pack(t, 0)
		w := &packing{log: d.Log, p: 0}
		list, err := w.list(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		object, err := d.openPack(t.Context(), 0, list[0], d.getRange)
		if err != nil {
			t.Fatal(err)
		}
		k := newPacker(d.Log, 0)
		for seg, err := range d.scan(t.Context(), object, object.first, d.verify) {
			if err == nil {
				err = k.add(seg, event.DayOf(d.Now())+100)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		// It is stored, and then read back.
		if _, err := k.write(t.Context(), d.Log); !errors.Is(err, ErrDamaged) {
			t.Fatalf("write the forged pack: %v", err)
		}
		if n, _ := d.count(t, "pack/"); n != 2 {
			t.Fatalf("%d packs", n)
		}
		time.Sleep(2 * 24 * time.Hour)
		if r, err := d.Pack(t.Context(), 0, PackOptions{}); !errors.Is(err, ErrDamaged) || r.Replaced > 0 || r.Keys > 0 {
			t.Errorf("%+v, %v", r, err)
		}
		if raw, _ := d.count(t, list[0].key(0)); raw != 1 {
			t.Error("the pack with the mail was removed")
		}
		found := 0
		if _, err := d.another(t).Verify(t.Context(), func(Finding) { found++ }); err != nil || found == 0 {
			t.Errorf("a verification finds nothing: %v", err)
		}
	})
}
