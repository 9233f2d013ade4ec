package eventlog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore/mem"
)

// FuzzPack changes the one pack of a log whose keys are gone: cuts it, writes over
// it, puts something into it, with a name that fits what the index has become. What
// is read is what was written, or a damage is reported; memory stays in proportion.
func FuzzPack(f *testing.F) {
	ctx := context.Background()
	bucket := mem.New()
	opt := Options{
		Bucket: bucket, URL: "u", Keys: crypto.MemoryRoot(event.DayOf(time.Now())), MayCreate: true, Partitions: 1,
		Logger: slog.New(slog.DiscardHandler),
	}
	l, err := Open(ctx, opt)
	if err != nil {
		f.Fatal(err)
	}
	fx := &fixture{Log: l, tenant: event.SystemTenant, day: event.DayOf(l.Now()) + 30}
	bodies := [][]byte{[]byte("Subject: a\r\n\r\nshort\r\n"), randomBytes(3000), {}, bytes.Repeat([]byte("text "), 2000), []byte("last")}
	for _, body := range bodies {
		ev, err := fx.tryMessage(ctx, body)
		if err == nil {
			_, err = l.Append(ctx, ev)
		}
		if err != nil {
			f.Fatal(err)
		}
	}
	k := newPacker(l, 0)
	for s := event.Seq(1); s < l.TailAtLeast(0); s++ {
		seg, err := l.loadSegment(ctx, 0, s)
		if err == nil {
			err = k.add(seg, 0)
		}
		if err == nil {
			err = bucket.Delete(ctx, segmentKey(0, s))
		}
		if err != nil {
			f.Fatal(err)
		}
	}
	name, m := k.finish()
	if _, err := l.changeFloor(ctx, 0, func(f *floor) bool { f.raise(k.last, l.Now()); return true }); err != nil {
		f.Fatal(err)
	}
	if err := l.Close(ctx); err != nil {
		f.Fatal(err)
	}
	was := make([]byte, m.size)
	if _, err := m.reader().Read(was); err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), uint32(20), []byte{1})
	f.Add(uint8(1), uint32(100), []byte{})
	f.Add(uint8(2), uint32(300), []byte{0xff, 0, 1})
	f.Add(uint8(0), uint32(0), []byte("HFPAK"))
	f.Fuzz(func(t *testing.T, how uint8, at uint32, change []byte) {
		b, i := bytes.Clone(was), int(at)%(len(was)+1)
		switch how % 3 {
		case 0:
			copy(b[i:], change)
		case 1:
			b = b[:i]
		case 2:
			b = slices.Insert(b, i, change...)
		}
		// An index that can be decoded is under a name that says the same.
		key := name.key(0)
		var x packIndex
		if n, err := packIndexLength(b); err == nil && n <= int64(len(b)) && event.Unmarshal(b[prefixBytes:n], &x) == nil &&
			x.First > 0 && len(x.Segments) > 0 {
			_, is := encodePackIndex(&x)
			key = is.key(0)
		}
		put(t, bucket, key, b)
		defer bucket.Delete(ctx, key)
		allocates(t, 64<<10, func() {
			n, err := readBack(ctx, t, opt, bodies)
			if bytes.Equal(b, was) && (err != nil || n != len(bodies)) {
				t.Errorf("%d messages of an undamaged log: %v", n, err)
			}
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("the error is %v, want ErrDamaged", err)
			}
		})
		if damaged := findings(ctx, t, opt) > 0; damaged == bytes.Equal(b, was) {
			t.Errorf("the pack was changed: %v, and found damaged: %v", !bytes.Equal(b, was), damaged)
		}
	})
}
