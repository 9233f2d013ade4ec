package eventlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// forgery is what somebody who may write to the bucket can make of the packs in it.
type forgery struct {
	*depot
	good []string // keys of the packs that nodes wrote
}

// forgeable is a depot with two packs, and without keys of what is in them.
func forgeable(t *testing.T) *forgery {
	t.Helper()
	d := newDepot(t)
	for range 2 {
		d.send(t, 80, 60, time.Minute)
		time.Sleep(time.Hour)
		d.pack(t, 0)
	}
	time.Sleep(25 * time.Hour)
	d.pack(t, 0)
	f := &forgery{d, d.keys(t, "pack/")}
	if n := len(d.keys(t, "log/")); len(f.good) != 2 || n != 1 {
		t.Fatalf("packs %v, %d keys", f.good, n)
	}
	return f
}

// segments returns segments as packs have them.
func (f *forgery) segments(t *testing.T, first, last event.Seq) (segs []*packedSegment) {
	t.Helper()
	for _, key := range f.good {
		n, _ := parsePackKey(key)
		_, size := f.count(t, key)
		k, err := f.openPack(t.Context(), 0, listedPack{n, size}, f.getRange)
		if err != nil {
			t.Fatal(err)
		}
		for seg, err := range f.scan(t.Context(), k, k.first, f.verify) {
			if err != nil {
				t.Fatal(err)
			}
			if first <= seg.h.Seq && seg.h.Seq <= last {
				segs = append(segs, &packedSegment{seg.h, seg.cut, bytes.Clone(seg.front), bytes.Clone(seg.bodies)})
			}
		}
	}
	return segs
}

// forge puts a pack of segments after it was spoiled.
func (f *forgery) forge(t *testing.T, segs []*packedSegment, before event.Day, spoil func(*packer), cut int) string {
	t.Helper()
	k := newPacker(f.Log, 0)
	for _, seg := range segs {
		if err := k.add(seg, before); err != nil {
			t.Fatal(err)
		}
	}
	if spoil != nil {
		spoil(k)
	}
	name, m := k.finish()
	raw, err := io.ReadAll(m.reader())
	if err != nil {
		t.Fatal(err)
	}
	put(t, f.store, name.key(0), raw[:len(raw)-cut])
	return name.key(0)
}

// A pack that is damaged, or was made up, hides none that is whole: what is in that
// is read, it is never removed nor merged with the other, and the other is named.
func TestForgedPacks(t *testing.T) {
	for name, forge := range map[string]func(t *testing.T, f *forgery) string{
		"no pack": func(t *testing.T, f *forgery) string {
			key := packName{1, 159, [16]byte{1}}.key(0)
			put(t, f.store, key, []byte("no pack"))
			return key
		},
		"cut short": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 1, 159), 0, nil, 5)
		},
		"a part": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 1, 159), 0, func(k *packer) { k.fronts[50][len(k.fronts[50])-1] ^= 1 }, 0)
		},
		"a body": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 1, 159), 0, func(k *packer) { k.bodies[50][3] ^= 1 }, 0)
		},
		"a signature": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 1, 159), 0, func(k *packer) { k.fronts[50][k.index.Segments[50].Header-1] ^= 1 }, 0)
		},
		"another segment": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 1, 159), 0, func(k *packer) {
				k.fronts[50], k.bodies[50], k.index.Segments[50] = k.fronts[51], k.bodies[51], k.index.Segments[51]
			}, 0)
		},
		"another log": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 1, 159), 0, func(k *packer) { k.index.Log[3] ^= 1 }, 0)
		},
		"mail left out": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 1, 159), f.day+1, nil, 0)
		},
		"mail left out, overlapping": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 70, 159), f.day+1, nil, 0)
		},
		"overlapping both": func(t *testing.T, f *forgery) string {
			return f.forge(t, f.segments(t, 30, 120), 0, func(k *packer) { k.fronts[20][100] ^= 1 }, 0)
		},
		"a put that came too late": func(t *testing.T, f *forgery) string {
			return f.forge(t, append(f.segments(t, 1, 99), f.late(t, 100)), 0, nil, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { forged(t, forgeable(t), forge) })
		})
	}
}

func forged(t *testing.T, f *forgery, forge func(t *testing.T, f *forgery) string) {
	bad := forge(t, f)
	f.wantAll(t)
	f.wantBad(t, f.findings(t), bad)
	o := f.another(t)
	defer o.Close(context.Background())
	for range 2 {
		o.send(t, 80, 60, time.Minute)
		f.sent = o.sent
		time.Sleep(25 * time.Hour)
		if r := o.pack(t, 0); r.Replaced > 0 {
			t.Errorf("a pack was replaced: %+v", r)
		}
	}
	for _, key := range append(slices.Clone(f.good), bad) {
		if !slices.Contains(o.keys(t, key), key) {
			t.Errorf("%s was removed", key)
		}
	}
	if n := len(o.keys(t, "log/")); n > 90 {
		t.Errorf("packing does not go on: %d keys", n)
	}
	f.wantAll(t)
	f.wantBad(t, f.findings(t), bad)
	// Once it is removed nothing is wrong, nor said to be.
	for _, key := range f.keys(t, "pack/") {
		if key == bad {
			if err := f.store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.pack(t, 0)
	if fs := o.BadPacks(); len(fs) > 0 {
		t.Errorf("still bad: %v", fs)
	}
	if fs := f.findings(t); len(fs) > 0 {
		t.Errorf("findings: %v", fs)
	}
}

// wantBad checks that a verification names the pack, and no segment that cannot be
// read.
func (f *forgery) wantBad(t *testing.T, fs []Finding, bad string) {
	t.Helper()
	if !names(fs, bad) {
		t.Errorf("a verification does not name %s: %v", bad, fs)
	}
	for _, x := range fs {
		if x.What == MissingPack || x.What == MissingSegment || slices.Contains(f.good, x.Key) {
			t.Errorf("a verification finds %v", x)
		}
	}
}

// late is a segment that a node of this log made for a place that was taken.
func (f *forgery) late(t *testing.T, s event.Seq) *packedSegment {
	t.Helper()
	at, err := f.CursorAt(t.Context(), 0, s-1)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := f.seal(t.Context(), f.message(t, []byte("late")))
	if err != nil {
		t.Fatal(err)
	}
	b := f.partitions[0].build([]*item{{events: []sealedEvent{ev}}}, at.Seq, at.Hash)
	raw, err := io.ReadAll(b.image.reader())
	if err != nil {
		t.Fatal(err)
	}
	h, err := f.parse(raw, 0, s, f.verify)
	if err != nil {
		t.Fatal(err)
	}
	return &packedSegment{h: h, front: raw[:h.bodies], bodies: raw[h.bodies:]}
}

// A good pack is found behind more names that somebody made up than are listed at a
// time.
func TestManyForgedPacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := forgeable(t)
		const n = maxNamesAhead + 10
		for i := range n {
			put(t, f.store, packName{event.Seq(1 + i%30), 159, [16]byte{1, byte(i), byte(i >> 8)}}.key(0), []byte("no pack"))
		}
		o := f.another(t)
		defer o.Close(context.Background())
		for _, s := range f.sent[100:110] {
			if r, err := o.Event(t.Context(), s.ref); err != nil || r.Ref != s.ref {
				t.Fatal(err)
			}
		}
		if got := len(o.BadPacks()); got != n {
			t.Errorf("%d bad packs are remembered", got)
		}
	})
}

// What is wrong with a pack is known to who has met it, until it is mended.
func TestBadPackIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := forgeable(t)
		key := f.forge(t, f.segments(t, 1, 159), 0, nil, 5)
		o := f.another(t)
		defer o.Close(context.Background())
		for range 2 {
			if _, err := o.Event(t.Context(), f.sent[40].ref); err != nil {
				t.Fatal(err)
			}
			if bad := o.BadPacks(); len(bad) != 1 || bad[0].Key != key || !errors.Is(bad[0].Err, ErrDamaged) {
				t.Fatalf("bad packs: %v", bad)
			}
		}
		// The only pack with some segments is damaged: packing says so, and keeps all.
		if err := f.store.Delete(t.Context(), f.good[0]); err != nil {
			t.Fatal(err)
		}
		if r, err := o.Pack(t.Context(), 0, PackOptions{}); !errors.Is(err, ErrDamaged) || r.Replaced+r.Keys+r.Dead > 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// Before its day has ended for the root key, mail that somebody left out of a pack is
// read from where it is, and no packer believes that it may go.
func TestForgedPackLeavesOutTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := forgeable(t)
		time.Sleep(61 * 24 * time.Hour) // over by the clock; what is wanted of it was not kept yet
		bad := f.forge(t, f.segments(t, 1, 159), f.day+1, nil, 0)
		o := f.another(t)
		defer o.Close(context.Background())
		for _, s := range f.sent[:158] {
			b, err := o.Body(t.Context(), s.ref)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, s.body) {
				t.Fatalf("%v: %v", s.ref, err)
			}
			if r, err := o.Event(t.Context(), s.ref); err != nil || r.Fact.(*event.MessageAccepted).Meta == nil {
				t.Fatalf("%v: %v", s.ref, err)
			}
		}
		if r, err := o.Pack(t.Context(), 0, PackOptions{}); !errors.Is(err, ErrNotOver) || r.Replaced > 0 {
			t.Errorf("%+v, %v", r, err)
		}
		for _, key := range append(slices.Clone(f.good), bad) {
			if !slices.Contains(o.keys(t, key), key) {
				t.Errorf("%s was removed", key)
			}
		}
	})
}

// Whatever lies under the key of a segment that is packed hides nothing, with the
// floor and without.
func TestForgedSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := forgeable(t)
		for i, seg := range f.segments(t, 20, 90) {
			raw := slices.Concat(seg.front, seg.bodies)
			switch i % 5 {
			case 0:
				raw[20] ^= 1
			case 1:
				raw[len(seg.front)-1] ^= 1
			case 2:
				raw[len(raw)-1] ^= 1
			case 3:
				raw = raw[:len(raw)-1]
			case 4:
				raw = []byte("no segment")
			}
			put(t, f.store, segmentKey(0, seg.h.Seq), raw)
		}
		f.wantAll(t)
		if fs := f.findings(t); len(fs) > 0 {
			t.Errorf("findings: %v", fs)
		}
		if err := f.store.Delete(t.Context(), floorKey(0)); err != nil {
			t.Fatal(err)
		}
		f.wantAll(t)
	})
}

// What is damaged in the only pack of a segment is read from under its key while
// that is there; then the key is not removed.
func TestDamagedPackKeepsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 80, 60, time.Minute)
		time.Sleep(time.Hour)
		d.pack(t, 0)
		key := d.keys(t, "pack/")[0]
		a := archive{bucket: d.store, opt: d.opt}
		good := a.get(t, key)
		for _, at := range []int{3, len(good) / 8, len(good) / 2, len(good) - 1} {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			put(t, d.store, key, bad)
			d.wantAll(t)
			if fs := d.findings(t); !names(fs, key) {
				t.Errorf("byte %d: %v", at, fs)
			}
			time.Sleep(25 * time.Hour)
			o := d.another(t)
			if r, err := o.Pack(t.Context(), 0, PackOptions{}); !errors.Is(err, ErrDamaged) || r.Keys > 0 {
				t.Errorf("byte %d: %+v, %v", at, r, err)
			}
			o.Close(context.Background())
		}
		put(t, d.store, key, good)
		if r := d.pack(t, 0); r.Keys != 79 {
			t.Errorf("%+v", r)
		}
		d.wantAll(t)
	})
}
