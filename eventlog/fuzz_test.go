package eventlog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// believe takes every signature for good, so that a fuzzer gets behind it.
func believe(_, _, _ []byte, _ event.Classes) error { return nil }

// allocates fails when f allocates more than a small multiple of n bytes.
func allocates(t *testing.T, n int, f func()) {
	t.Helper()
	const multiple, constant = 64, 256 << 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > uint64(multiple*n+constant) {
		t.Errorf("%d bytes made it allocate %d", n, used)
	}
}

func someHeader() *header {
	return &header{
		Log: event.LogID{1}, Partition: 2, Seq: 3, Prev: Hash{4}, Writer: event.Writer{5}, Nonce: [16]byte{6}, Time: 7, Cert: []byte{8},
		Pages: []pageEntry{{Page: event.Page{9}, Tenant: event.Tenant{10}, Day: 11, Digest: [32]byte{12}}},
		Events: []eventEntry{{ID: event.ID{13}, Tenant: event.Tenant{14}, Class: event.ClassAcceptance, Page: 1, Leaf: 15, Parts: []partEntry{
			{Role: event.RoleState, Length: 16, Digest: [32]byte{17}, Commit: crypto.Commitment{18}, Blobs: []blobEntry{}},
			{Role: event.RoleBody, Length: 19, Digest: [32]byte{20}, Blobs: []blobEntry{}},
		}}},
	}
}

func fakeSign([]byte) []byte { return make([]byte, signatureBytes) }

// FuzzHeader: whatever the bytes, parsing takes little memory; what parses
// encodes to what parses to the same.
func FuzzHeader(f *testing.F) {
	good := encodeHeader(someHeader(), fakeSign)
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte("HFSEG\x00\x00\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h *parsed
		var err error
		allocates(t, len(b), func() { h, err = parseHeader(b, believe) })
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("the error is %v, want ErrDamaged", err)
			}
			return
		}
		if h.front > int64(len(b)) || h.bodies < h.front || h.end < h.bodies || h.end > maxSegmentObject+maxHeaderBytes {
			t.Errorf("impossible places: %d, %d, %d of %d", h.front, h.bodies, h.end, len(b))
		}
		again := encodeHeader(&h.header, fakeSign)
		h2, err := parseHeader(again, believe)
		if err != nil || !bytes.Equal(encodeHeader(&h2.header, fakeSign), again) {
			t.Errorf("it does not encode to itself: %v", err)
		}
	})
}

// FuzzFormat: no bytes but those that were written with the key open a bucket.
func FuzzFormat(f *testing.F) {
	ctx := context.Background()
	bucket := mem.New()
	opt := Options{Bucket: bucket, URL: "u", Keys: crypto.MemoryRoot(20000), Partitions: 4}
	if err := createFormat(ctx, opt); err != nil {
		f.Fatal(err)
	}
	good, _, err := objstore.ReadAll(ctx, bucket, formatKey, maxFormat)
	if err != nil {
		f.Fatal(err)
	}
	want, err := readFormat(ctx, bucket, opt.Keys)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"partitions": 4`), []byte(`"partitions": 5`), 1))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		other := mem.New()
		put(t, other, formatKey, b)
		got, err := readFormat(ctx, other, opt.Keys)
		if err == nil && (got.id != want.id || got.Partitions != want.Partitions || got.URL != want.URL || got.Created != want.Created) {
			t.Errorf("opened as %+v", got)
		}
	})
}

// FuzzLease: nothing but what a node of this installation has written is a
// lease.
func FuzzLease(f *testing.F) {
	l := &Log{opt: Options{Keys: crypto.MemoryRoot(20000)}}
	good, err := l.encodeLease(context.Background(), "x", leaseObject{Epoch: 1, Holder: "00", Until: time.Unix(1e9, 0).UTC()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"epoch":1,"holder":"00","until":"2026-11-21T00:00:00Z"}`))
	f.Add([]byte(`{"epoch":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		allocates(t, len(b), func() {
			_, err := l.parseLease(context.Background(), "x", b)
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("the error is %v, want ErrDamaged", err)
			}
			if err == nil && !bytes.Equal(b, good) {
				t.Errorf("%q is taken for a lease", b)
			}
		})
	})
}

// FuzzBody: a large body of which parts were changed gives the bytes that were
// written, or an error.
func FuzzBody(f *testing.F) {
	ctx := context.Background()
	bucket := mem.New()
	l, err := Open(ctx, Options{Bucket: bucket, URL: "u", Keys: crypto.MemoryRoot(event.DayOf(time.Now())), MayCreate: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	defer l.Close(ctx)
	fx := &fixture{Log: l, tenant: event.SystemTenant, day: event.DayOf(l.Now()) + 30}
	body := randomBytes(300 << 10)
	ev, err := fx.tryMessage(ctx, body)
	if err != nil {
		f.Fatal(err)
	}
	pos, err := l.Append(ctx, ev)
	if err != nil {
		f.Fatal(err)
	}
	ref := event.Ref{Position: pos, ID: ev.ID}
	key := blobKey(fx.day, ev.ID, 0)
	good, _, err := objstore.ReadAll(ctx, bucket, key, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{0})
	f.Add(uint32(len(good)-4), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(uint32(len(good)-60), []byte{0, 0, 0, 1, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		bad := bytes.Clone(good)
		copy(bad[int(at)%len(bad):], change)
		put(t, bucket, key, bad)
		allocates(t, 2*len(bad), func() {
			r, err := l.Body(ctx, ref)
			if err == nil {
				got := make([]byte, len(body))
				n, rerr := r.ReadAt(got, 0)
				if err = rerr; err == nil && !bytes.Equal(got, body) || !bytes.Equal(got[:n], body[:n]) {
					t.Error("it reads as something else")
				}
			}
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("the error is %v, want ErrDamaged", err)
			}
		})
	})
}
