package eventlog

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Packs behind which the log cannot be read hold up none of the others.
func TestPackBesideDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := forgeable(t)
		// A packer died before it removed what its pack replaces, and the first header
		// of the next pack is damaged.
		for range 2 {
			f.send(t, 80, 60, time.Minute)
			time.Sleep(time.Hour)
			f.pack(t, 0)
		}
		f.good = f.keys(t, "pack/")
		if len(f.good) != 4 {
			t.Fatalf("packs %v", f.good)
		}
		a := archive{bucket: f.store, opt: f.opt}
		bad := bytes.Clone(a.get(t, f.good[1]))
		n, err := packIndexLength(bad)
		if err != nil {
			t.Fatal(err)
		}
		bad[n+prefixBytes+5] ^= 1
		segs := f.segments(t, 1, 79)
		half := f.forge(t, segs[:40], 0, nil, 0)
		ends := f.segments(t, 160, 200)
		short := f.forge(t, ends, 0, nil, 0)
		put(t, f.store, f.good[1], bad)

		time.Sleep(25 * time.Hour)
		o := f.another(t)
		defer o.Close(context.Background())
		r, err := o.Pack(t.Context(), 0, PackOptions{})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%+v, %v", r, err)
		}
		left := o.keys(t, "pack/")
		if !slices.Contains(left, half) || slices.Contains(left, short) || r.Replaced != 1 {
			t.Errorf("%+v: %v", r, left)
		}
		for _, key := range f.good {
			if !slices.Contains(left, key) {
				t.Errorf("%s was removed", key)
			}
		}
		if r.Keys == 0 {
			t.Errorf("no key was removed: %+v", r)
		}
	})
}
