package eventlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// FuzzSegment changes one segment of a log: cuts it, writes over it, puts
// something into it, or lets another segment of the log stand in its place.
// What is read is what was written, or a damage is reported; nothing is read
// from behind the damage, and memory stays in proportion.
func FuzzSegment(f *testing.F) {
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
	bodies := [][]byte{[]byte("Subject: a\r\n\r\nshort\r\n"), randomBytes(3000), {}, bytes.Repeat([]byte("text "), 2000)}
	for _, body := range bodies {
		ev, err := fx.tryMessage(ctx, body)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := l.Append(ctx, ev); err != nil {
			f.Fatal(err)
		}
	}
	tail := l.TailAtLeast(0)
	if err := l.Close(ctx); err != nil {
		f.Fatal(err)
	}
	good := map[event.Seq][]byte{}
	for seq := event.Seq(1); seq <= tail; seq++ {
		b, _, err := objstore.ReadAll(ctx, bucket, segmentKey(0, seq), maxSegmentObject)
		if err != nil {
			f.Fatal(err)
		}
		good[seq] = b
	}
	f.Add(uint8(2), uint8(0), uint32(10), []byte{1})
	f.Add(uint8(1), uint8(1), uint32(100), []byte{})
	f.Add(uint8(2), uint8(2), uint32(300), []byte{0xff, 0, 1})
	f.Add(uint8(2), uint8(3), uint32(1), []byte{})
	f.Fuzz(func(t *testing.T, which, how uint8, at uint32, change []byte) {
		seq := 1 + event.Seq(which)%tail
		was := good[seq]
		b, i := bytes.Clone(was), int(at)%(len(was)+1)
		switch how % 4 {
		case 0:
			copy(b[i:], change)
		case 1:
			b = b[:i]
		case 2:
			b = slices.Insert(b, i, change...)
		case 3:
			b = bytes.Clone(good[1+event.Seq(at)%tail])
		}
		put(t, bucket, segmentKey(0, seq), b)
		defer put(t, bucket, segmentKey(0, seq), was)
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
			t.Errorf("segment %d was changed: %v, and found damaged: %v", seq, !bytes.Equal(b, was), damaged)
		}
	})
}

// readBack opens a log as a stranger's and compares its messages. It returns how
// many were read before the first error.
func readBack(ctx context.Context, t *testing.T, opt Options, bodies [][]byte) (n int, err error) {
	opt.Inspect, opt.MayCreate = true, false
	l, err := Open(ctx, opt)
	if err != nil {
		return 0, err
	}
	defer l.Close(ctx)
	for r, err := range l.Read(ctx, 0, Cursor{}) {
		if err != nil {
			return n, err
		}
		if _, ok := r.Fact.(*event.MessageAccepted); !ok {
			continue
		}
		b, err := l.Body(ctx, r.Ref)
		if err != nil {
			return n, err
		}
		got, err := io.ReadAll(b)
		if err != nil {
			return n, err
		}
		if n >= len(bodies) || !bytes.Equal(got, bodies[n]) {
			t.Fatalf("message %d reads as something else", n)
		}
		n++
	}
	return n, nil
}

// findings counts what a verification of the log finds.
func findings(ctx context.Context, t *testing.T, opt Options) (n int) {
	opt.Inspect, opt.MayCreate = true, false
	l, err := Open(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(ctx)
	if _, err := l.Verify(ctx, func(Finding) { n++ }); err != nil {
		t.Fatal(err)
	}
	return n
}
