package eventlog

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// rested is a depot with two packs, all keys of what is in them, which have rested
// for a day, and a beginning in the second pack.
func rested(t *testing.T) (d *depot, first string) {
	t.Helper()
	d = newDepot(t)
	for range 2 {
		d.send(t, 80, 60, time.Minute)
		time.Sleep(time.Hour)
		d.pack(t, 0)
	}
	time.Sleep(25 * time.Hour)
	at, err := d.CursorAt(t.Context(), 0, 85)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.RaiseStart(t.Context(), 0, at); err != nil {
		t.Fatal(err)
	}
	packs := d.keys(t, "pack/")
	if n := len(d.keys(t, "log/")); len(packs) != 2 || n != 160 {
		t.Fatalf("packs %v, %d keys", packs, n)
	}
	return d, packs[0]
}

// Before the beginning of the log, too, the key of a segment stays while no whole pack
// has it, until its day is over.
func TestKeysBeforeTheStart(t *testing.T) {
	for name, missing := range map[string]bool{"a pack is damaged": false, "a pack is missing": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, first := rested(t)
				if missing {
					if err := d.store.Delete(t.Context(), first); err != nil {
						t.Fatal(err)
					}
				} else {
					a := archive{bucket: d.store, opt: d.opt}
					bad := bytes.Clone(a.get(t, first))
					bad[len(bad)-1] ^= 1
					put(t, d.store, first, bad)
				}
				for range 2 {
					o := d.another(t)
					r, err := o.Pack(t.Context(), 0, PackOptions{Before: d.pass(t)})
					if !errors.Is(err, ErrDamaged) {
						t.Errorf("%+v, %v", r, err)
					}
					if n := len(d.keys(t, "log/")); n != 80 { // 1 to 79, and the last
						t.Errorf("%d keys: %+v", n, r)
					}
					for _, s := range d.sent {
						o.wantBody(t, s.ref, s.body)
					}
					o.Close(context.Background())
				}
				time.Sleep(62 * 24 * time.Hour)
				o := d.another(t)
				defer o.Close(context.Background())
				r, err := o.Pack(t.Context(), 0, PackOptions{Before: d.pass(t)})
				if err != nil || r.Keys != 79 {
					t.Errorf("its days are over: %+v, %v", r, err)
				}
			})
		})
	}
}

// What came late under the key of a segment that has expired with its pack goes with
// its own day.
func TestLateKeyBeforeTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := rested(t)
		d.pack(t, 0)
		d.day += 50
		late := (&forgery{depot: d}).late(t, 10)
		time.Sleep(62 * 24 * time.Hour)
		if r := d.pack(t, d.pass(t)); r.Dead != 1 {
			t.Fatalf("%+v", r)
		}
		put(t, d.store, segmentKey(0, 10), bytes.Join([][]byte{late.front, late.bodies}, nil))
		if r, err := d.Pack(t.Context(), 0, PackOptions{Before: d.pass(t)}); !errors.Is(err, ErrDamaged) || r.Keys > 0 {
			t.Errorf("its day is not over: %+v, %v", r, err)
		}
		time.Sleep(50 * 24 * time.Hour)
		if r := d.pack(t, d.pass(t)); r.Keys != 1 {
			t.Errorf("its day is over: %+v", r)
		}
	})
}
