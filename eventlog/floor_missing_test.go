package eventlog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// A bucket that was restored without its floor, or with an older one, is read and not
// written: a node that slept would put mail into a place that was removed.
func TestMissingFloor(t *testing.T) {
	for name, older := range map[string]bool{"missing": false, "of before": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := forgeable(t)
				a := archive{bucket: f.store, opt: f.opt}
				good := a.get(t, floorKey(0))
				if older {
					k := f.segments(t, 79, 79)[0]
					raw, err := f.encodeFloor(t.Context(), 0, &floor{packed: Cursor{79, k.h.hash}})
					if err != nil {
						t.Fatal(err)
					}
					put(t, f.store, floorKey(0), raw)
				} else if err := f.store.Delete(t.Context(), floorKey(0)); err != nil {
					t.Fatal(err)
				}
				f.wantAll(t)
				if fs := f.findings(t); !names(fs, floorKey(0)) {
					t.Errorf("findings: %v", fs)
				}
				o := f.another(t)
				defer o.Close(context.Background())
				if err := o.Unguarded(); !o.ReadOnly() || !errors.Is(err, ErrUnguarded) {
					t.Fatalf("it is not read-only: %v", err)
				}
				if _, err := o.Append(t.Context(), f.message(t, []byte("x"))); !errors.Is(err, ErrUnguarded) || !errors.Is(err, ErrReadOnly) {
					t.Errorf("append: %v", err)
				}
				if _, err := o.Pack(t.Context(), 0, PackOptions{}); !errors.Is(err, ErrUnguarded) {
					t.Errorf("pack: %v", err)
				}
				if err := o.RaiseStart(t.Context(), 0, Cursor{Seq: 100}); !errors.Is(err, ErrUnguarded) {
					t.Errorf("raise the start: %v", err)
				}
				put(t, f.store, floorKey(0), good)
				if o := f.another(t); o.ReadOnly() {
					t.Errorf("with its floor: %v", o.Unguarded())
				} else {
					o.send(t, 1, 60, time.Minute)
				}
			})
		})
	}
}

// Packs without a floor are what a packer leaves that dies early; all keys are there.
func TestPackBeforeTheFirstFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 80, 60, time.Minute)
		k := newPacker(d.Log, 0)
		for s := event.Seq(1); s <= 70; s++ {
			seg, err := d.loadSegment(t.Context(), 0, s)
			if err == nil {
				err = k.add(seg, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := k.write(t.Context(), d.Log); err != nil {
			t.Fatal(err)
		}
		o := d.another(t)
		defer o.Close(context.Background())
		if o.ReadOnly() {
			t.Fatal(o.Unguarded())
		}
		o.send(t, 1, 60, time.Hour)
		o.pack(t, 0)
		d.sent = o.sent
		d.wantAll(t)
	})
}

// A lost segment is damage, and no floor is missing where nothing was packed behind it.
func TestLostSegmentBehindTheFloor(t *testing.T) {
	for name, packed := range map[string]bool{"never packed": false, "packed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDepot(t)
				lost := event.Seq(1)
				if packed {
					d.send(t, 80, 60, time.Minute)
					time.Sleep(time.Hour)
					d.pack(t, 0)
					lost = 80
				}
				d.send(t, 5, 60, time.Minute)
				if err := d.store.Delete(t.Context(), segmentKey(0, lost)); err != nil {
					t.Fatal(err)
				}
				o := d.another(t)
				defer o.Close(context.Background())
				if o.ReadOnly() {
					t.Fatal(o.Unguarded())
				}
				at := len(o.sent)
				o.send(t, 1, 60, time.Minute)
				o.wantBody(t, o.sent[at].ref, o.sent[at].body)
				var err error
				for _, err = range o.Read(t.Context(), 0, Cursor{}) {
				}
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("read: %v", err)
				}
			})
		})
	}
}
