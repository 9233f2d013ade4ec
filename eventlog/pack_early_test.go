package eventlog

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/objstore/fault"
)

// lists counts the lists while something is done.
func (d *depot) lists(do func()) int {
	before := d.bucket.Calls(fault.List)
	do()
	return d.bucket.Calls(fault.List) - before
}

// Who believes that it is yesterday does not say of packs that they are bad.
func TestReadersClockIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 80, 2, time.Minute)
		time.Sleep(4 * 24 * time.Hour)
		d.pack(t, d.pass(t))
		time.Sleep(25 * time.Hour)
		d.pack(t, d.pass(t))
		o := d.another(t)
		defer o.Close(context.Background())
		right := o.skew.Load()
		o.skew.Store(right - int64(5*24*time.Hour))
		h, err := o.readHeader(t.Context(), 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		read := func() {
			if _, err := o.packedBody(t.Context(), h, 0, 2); !errors.Is(err, ErrDamaged) {
				t.Errorf("by a clock that is behind: %v", err)
			}
		}
		read()
		if bad := o.BadPacks(); len(bad) > 0 {
			t.Errorf("bad packs: %v", bad)
		}
		if n := o.lists(func() { read(); read() }); n > 0 {
			t.Errorf("%d lists for what was listed a moment ago", n)
		}
		o.skew.Store(right)
		if _, err := o.packedBody(t.Context(), h, 0, 2); !errors.Is(err, errLeftOut) {
			t.Errorf("by the right clock: %v", err)
		}
	})
}

// A pack that was put right is good again to who reads from it, and what was listed is
// not listed for each read meanwhile.
func TestMendedPack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := forgeable(t)
		a := archive{bucket: f.store, opt: f.opt}
		good := a.get(t, f.good[0])
		for name, at := range map[string]int{"the index": 30, "a body": len(good) - 1} {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			put(t, f.store, f.good[0], bad)
			o := f.another(t)
			s := f.sent[78]
			read := func() {
				if _, err := o.Body(t.Context(), s.ref); !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: %v", name, err)
				}
			}
			read()
			if bad := o.BadPacks(); len(bad) != 1 {
				t.Errorf("%s: bad packs %v", name, bad)
			}
			if n := o.lists(func() { read(); read() }); n > 0 {
				t.Errorf("%s: %d lists", name, n)
			}
			put(t, f.store, f.good[0], good)
			o.wantBody(t, s.ref, s.body)
			if bad := o.BadPacks(); len(bad) > 0 {
				t.Errorf("%s was mended: %v", name, bad)
			}
			o.Close(context.Background())
		}
	})
}
