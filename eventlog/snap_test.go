package eventlog

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// take stores pieces as a Base of a projection, and appends the event of it.
func (f *fixture) take(t *testing.T, projection string, version uint32, shared []event.Snap, pieces ...string) Base {
	t.Helper()
	names := slices.Clone(shared)
	for _, p := range pieces {
		s, err := f.PutSnap(t.Context(), []byte(p))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, s)
	}
	index, err := f.PutBaseIndex(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	fact := &event.BaseTaken{At: f.Millis(), Projection: projection, Version: version, Index: index, Chunks: uint32(len(names)), Cursors: []event.BaseCursor{{Seq: 1}}}
	ev := event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: fact}
	pos, err := f.Append(t.Context(), ev)
	if err != nil {
		t.Fatal(err)
	}
	return Base{Taken: fact, Ref: event.Ref{Position: pos, ID: ev.ID}}
}

func (f *fixture) wantBases(t *testing.T, projection string, want ...Base) {
	t.Helper()
	got, err := f.Bases(t.Context(), projection)
	if err != nil || !slices.EqualFunc(got, want, Base.is) {
		t.Errorf("the Bases of %s are %v, %v, want %v", projection, got, err, want)
	}
	for _, b := range got {
		names, err := f.BaseChunks(t.Context(), b)
		if err != nil {
			t.Errorf("index of %v: %v", b.Ref, err)
		}
		for _, s := range names {
			if _, err := f.Snap(t.Context(), s); err != nil {
				t.Errorf("piece of %v: %v", b.Ref, err)
			}
		}
	}
}

// snaps counts the pieces in the bucket.
func snaps(t *testing.T, b objstore.Bucket) (n int) {
	t.Helper()
	for info, err := range b.List(t.Context(), snapPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Key != baseListKey {
			n++
		}
	}
	return n
}

func TestSnapReadsBackEqual(t *testing.T) {
	b := mem.New()
	f := openFixture(t, newOptions(t, b))
	var names []event.Snap
	for _, n := range []int{1, 1000, MaxSnap} {
		for _, plain := range [][]byte{randomBytes(n), bytes.Repeat([]byte("text "), n/5+1)[:n]} {
			name, err := f.PutSnap(t.Context(), plain)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Snap(t.Context(), name)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d bytes come back as %d: %v", n, len(got), err)
			}
			raw, _, err := objstore.ReadAll(t.Context(), b, snapKey(name), MaxSnap+100)
			if err != nil || n >= 1000 && bytes.Contains(raw, plain[:500]) {
				t.Errorf("%d bytes stand readable in the bucket (%v)", n, err)
			}
			names = append(names, name)
		}
	}
	first, _, err := objstore.ReadAll(t.Context(), b, snapKey(names[0]), MaxSnap)
	if err != nil {
		t.Fatal(err)
	}
	for i := range first {
		bad := bytes.Clone(first)
		bad[i] ^= 4
		overwrite(t, b, snapKey(names[0]), bad)
		if _, err := f.Snap(t.Context(), names[0]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("with byte %d changed: %v", i, err)
		}
	}
	overwrite(t, b, snapKey(names[1]), first)
	if _, err := f.Snap(t.Context(), names[1]); !errors.Is(err, ErrDamaged) {
		t.Errorf("a piece under another's name: %v", err)
	}
	if _, err := f.baseIndex(t.Context(), &event.BaseTaken{Index: names[2]}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a piece as an index: %v", err)
	}
}

func overwrite(t *testing.T, b objstore.Bucket, key string, v []byte) {
	t.Helper()
	if _, err := b.Put(t.Context(), key, bytes.NewReader(v), int64(len(v)), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyNamesDamagedBases: what verify finds in Bases is what is wrong there.
func TestVerifyNamesDamagedBases(t *testing.T) {
	b := mem.New()
	f := openFixture(t, newOptions(t, b))
	one := f.take(t, "p", 1, nil, "1", "2")
	if err := f.PublishBases(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	names, err := f.BaseChunks(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	found := func() (keys []string) {
		sum, err := f.Verify(t.Context(), func(g Finding) {
			if g.What != DamagedBase {
				t.Errorf("found %v", g)
			}
			keys = append(keys, g.Key)
		})
		if err != nil {
			t.Fatal(err, sum)
		}
		return keys
	}
	if got := found(); len(got) != 0 {
		t.Errorf("found in whole Bases: %v", got)
	}
	overwrite(t, b, snapKey(names[0]), []byte("no piece"))
	if err := b.Delete(t.Context(), snapKey(names[1])); err != nil {
		t.Fatal(err)
	}
	if got, want := found(), []string{snapKey(names[0]), snapKey(names[1])}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	overwrite(t, b, snapKey(one.Taken.Index), []byte("no index"))
	if got, want := found(), []string{snapKey(one.Taken.Index)}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	overwrite(t, b, baseListKey, []byte("no list"))
	if got, want := found(), []string{baseListKey}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

// TestTheNewestBasesStay: two Bases of each version are published, whoever
// publishes, in whatever order and however often.
func TestTheNewestBasesStay(t *testing.T) {
	b := mem.New()
	f, g := openFixture(t, newOptions(t, b)), (*fixture)(nil)
	opt := f.opt
	g = openFixture(t, opt)
	one, two, three := f.take(t, "p", 1, nil, "1"), g.take(t, "p", 1, nil, "2"), f.take(t, "p", 1, nil, "3")
	other := g.take(t, "q", 1, nil, "other")
	for range 2 {
		for _, err := range []error{f.PublishBases(t.Context(), three), g.PublishBases(t.Context(), one, two, other)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		f.wantBases(t, "p", three, two)
		f.wantBases(t, "q", other)
	}
	v2, v3 := f.take(t, "p", 2, nil, "v2"), f.take(t, "p", 3, nil)
	if err := f.PublishBases(t.Context(), v2); err != nil {
		t.Fatal(err)
	}
	g.wantBases(t, "p", v2, three, two)
	if err := f.PublishBases(t.Context(), v3); err != nil {
		t.Fatal(err)
	}
	g.wantBases(t, "p", v3, v2)
}

// TestAForgedListIsNotBelieved: neither a changed list nor a listed Base that is
// not the one of its event is used.
func TestAForgedListIsNotBelieved(t *testing.T) {
	b := mem.New()
	f := openFixture(t, newOptions(t, b))
	one := f.take(t, "p", 1, nil, "1")
	lie := *one.Taken
	lie.Hash[0]++
	if _, err := f.BaseChunks(t.Context(), Base{Taken: &lie, Ref: one.Ref}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a Base that is not that of its event: %v", err)
	}
	late := one
	late.Ref.Position.Seq += 100
	if _, err := f.BaseChunks(t.Context(), late); !errors.Is(err, ErrDamaged) {
		t.Errorf("a Base whose event is not there yet: %v", err)
	}
	if err := f.PublishBases(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	list, _, err := objstore.ReadAll(t.Context(), b, baseListKey, maxBaseList)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		bad := bytes.Clone(list)
		bad[i] ^= 1
		overwrite(t, b, baseListKey, bad)
		if got, err := f.Bases(t.Context(), "p"); !errors.Is(err, ErrDamaged) {
			t.Fatalf("with byte %d changed: %v, %v", i, got, err)
		}
	}
	if _, err := f.SweepSnaps(t.Context(), nil, true); !errors.Is(err, ErrDamaged) || snaps(t, b) != 2 {
		t.Errorf("removing with a damaged list: %v, %d pieces left of 2", err, snaps(t, b))
	}
	if err := f.PublishBases(t.Context(), one); err != nil {
		t.Error(err)
	}
	f.wantBases(t, "p", one)
}

// TestSweepLeavesWhatIsNamed: what two Bases share stays with the newer; what
// nobody names goes after a day; what was dropped goes at once where that is
// asked for.
func TestSweepLeavesWhatIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.New()
		f := openFixture(t, newOptions(t, b))
		one := f.take(t, "p", 1, nil, "a", "b")
		shared, err := f.BaseChunks(t.Context(), one)
		if err != nil {
			t.Fatal(err)
		}
		two := f.take(t, "p", 1, shared[1:], "c")
		three := f.take(t, "p", 1, shared[1:], "d")
		other := f.take(t, "q", 1, nil, "e")
		if err := f.PublishBases(t.Context(), one, two, three, other); err != nil {
			t.Fatal(err)
		}
		lost, err := f.PutSnap(t.Context(), []byte("of a Base that was never published"))
		if err != nil {
			t.Fatal(err)
		}
		sweep := func(want int, atOnce bool, keep ...Base) {
			t.Helper()
			before := snaps(t, b)
			got, err := f.SweepSnaps(t.Context(), keep, atOnce)
			if err != nil || int(got.Objects) != want || before-snaps(t, b) != want || want > 0 && got.Bytes == 0 {
				t.Errorf("swept %+v of %d, %d are left: %v, want %d", got, before, snaps(t, b), err, want)
			}
		}
		sweep(0, false)
		time.Sleep(snapAge)
		sweep(3, false) // a, the index of one, and lost
		if _, err := f.Snap(t.Context(), lost); !errors.Is(err, ErrDamaged) {
			t.Errorf("a piece that nobody names: %v", err)
		}
		f.wantBases(t, "p", three, two)
		f.wantBases(t, "q", other)
		four := f.take(t, "p", 1, shared[1:], "f")
		if err := f.PublishBases(t.Context(), four); err != nil {
			t.Fatal(err)
		}
		sweep(4, true, four) // c and d, with the indexes of two, which fell out, and of three
		f.wantBases(t, "p", four)
		f.wantBases(t, "q", other)
	})
}
