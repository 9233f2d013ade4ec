package eventlog

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// findings verifies the log as it is in the bucket.
func (d *depot) findings(t *testing.T) []Finding {
	t.Helper()
	a := archive{opt: d.opt}
	return a.look(t)
}

// packedDepot is a log of which much is in packs, some of it twice, with parts left
// out of one; the keys of most are gone.
func packedDepot(t *testing.T) *depot {
	d := newDepot(t)
	for i := range 3 {
		for j := range 80 {
			d.send(t, 1, event.Day(2+j%2*40), time.Minute)
		}
		time.Sleep(time.Hour)
		d.pack(t, 0)
		_ = i
	}
	time.Sleep(4 * 24 * time.Hour)
	d.pack(t, d.pass(t))
	if err := d.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *depot) keys(t *testing.T, prefix string) (keys []string) {
	t.Helper()
	for info, err := range d.store.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// A flipped bit in a pack or in a floor is found, and the object is named.
func TestPackDamageAnyBit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := packedDepot(t)
		if fs := d.findings(t); len(fs) > 0 {
			t.Fatalf("findings without damage: %v", fs)
		}
		a := archive{bucket: d.store, opt: d.opt}
		rng := rand.New(rand.NewPCG(1, 2))
		keys := append(d.keys(t, "pack/"), d.keys(t, "floor/")...)
		if len(keys) != 4 {
			t.Fatalf("objects: %v", keys)
		}
		for _, key := range keys {
			good := a.get(t, key)
			step := len(good)/60 + 1
			if testing.Short() {
				step = len(good)/12 + 1
			}
			for at := 0; at < len(good); at += step {
				here := min(at+rng.IntN(step), len(good)-1)
				if at < 8*step {
					here = at / step * 3 // the magic, and the index
				}
				bad := bytes.Clone(good)
				bad[here] ^= 1 << rng.IntN(8)
				put(t, d.store, key, bad)
				if fs := d.findings(t); !names(fs, key) {
					t.Errorf("byte %d of %d of %s: %v", here, len(good), key, fs)
				}
			}
			put(t, d.store, key, good)
		}
		if fs := d.findings(t); len(fs) > 0 {
			t.Errorf("findings in the end: %v", fs)
		}
	})
}

// What is missing is named, and what does not belong there.
func TestPackMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := packedDepot(t)
		a := archive{bucket: d.store, opt: d.opt}
		packs := d.keys(t, "pack/")
		for _, key := range append(slices.Clone(packs), "floor/00") {
			good := a.get(t, key)
			if err := d.store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			want := MissingPack
			if key == "floor/00" {
				want = DamagedFloor
			}
			fs := d.findings(t)
			if !slices.ContainsFunc(fs, func(f Finding) bool { return f.What == want && errors.Is(f.Err, ErrDamaged) }) {
				t.Errorf("%s is missing: %v", key, fs)
			}
			put(t, d.store, key, good)
		}
		for _, key := range []string{"pack/00/x", "pack/77/" + strings.TrimPrefix(packs[0], "pack/00/"), "floor/07", "floor/x", packs[0] + "0"} {
			put(t, d.store, key, a.get(t, packs[0]))
			if fs := d.findings(t); !names(fs, key) {
				t.Errorf("%s is a stranger: %v", key, fs)
			}
			if err := d.store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		// A pack under the name of another.
		put(t, d.store, packs[1], a.get(t, packs[0]))
		if fs := d.findings(t); !names(fs, packs[1]) {
			t.Errorf("a pack in another's place: %v", fs)
		}
	})
}

// A part that is left out although its day is not over is damage, for who reads it
// and for who verifies.
func TestPackLeftOutTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 80, 30, time.Minute)
		k := newPacker(d.Log, 0)
		for s := event.Seq(1); s <= 70; s++ {
			seg, err := d.loadSegment(t.Context(), 0, s)
			if err == nil {
				err = k.add(seg, d.day+1)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := k.write(t.Context(), d.Log); !errors.Is(err, ErrDamaged) {
			t.Errorf("it is written: %v", err)
		}
		if _, err := d.changeFloor(t.Context(), 0, func(f *floor) bool { f.raise(k.last, d.Now()); return true }); err != nil {
			t.Fatal(err)
		}
		for _, key := range d.keys(t, "log/")[:70] {
			if err := d.store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		o := d.another(t)
		defer o.Close(context.Background())
		if _, err := o.Body(t.Context(), d.sent[3].ref); !errors.Is(err, ErrDamaged) {
			t.Errorf("its body: %v", err)
		}
		if _, err := o.Event(t.Context(), d.sent[3].ref); !errors.Is(err, ErrDamaged) {
			t.Errorf("its metadata: %v", err)
		}
		if fs := d.findings(t); len(fs) < 140 {
			t.Errorf("%d findings", len(fs))
		}
	})
}
