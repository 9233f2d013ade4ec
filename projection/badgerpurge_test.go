package projection

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bare is a database that is not encrypted, so that what is in its files can be
// looked for in them.
type bare struct {
	t *testing.T
	*badgerStore
	dir string
}

func openBare(t *testing.T) *bare {
	b := &bare{t: t, dir: filepath.Join(t.TempDir(), "db")}
	b.reopen()
	t.Cleanup(b.shut)
	return b
}

func (b *bare) reopen() {
	b.t.Helper()
	st, err := OpenBadger(BadgerOptions{Dir: b.dir})
	if err != nil {
		b.t.Fatal(err)
	}
	b.badgerStore = st.(*badgerStore)
}

func (b *bare) shut() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Error(err)
	}
}

func (b *bare) set(key, value string) { b.commit(Op{Key: []byte(key), Value: []byte(value)}) }

func (b *bare) del(key string) { b.commit(Op{Key: []byte(key), Delete: true}) }

func (b *bare) commit(ops ...Op) {
	b.t.Helper()
	if err := b.Commit(ops); err != nil {
		b.t.Fatal(err)
	}
}

// fill writes n times 200 KB around what the test looks for. With 60 of them the
// lowest level is so large that what comes then goes to one above it.
func (b *bare) fill(round byte, n uint32) {
	b.t.Helper()
	for i := range n {
		ops := make([]Op, 0, 64)
		for j := range uint32(64) {
			key := binary.BigEndian.AppendUint32([]byte("k"), i*64+j)
			ops = append(ops, Op{Key: key, Value: bytes.Repeat([]byte{round, byte(i), byte(j)}, 1<<10)})
		}
		b.commit(ops...)
	}
}

// in returns the files in which a text stands.
func (b *bare) in(text string) (files []string) {
	b.t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(b.dir, e.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			b.t.Fatal(err)
		}
		if bytes.Contains(data, []byte(text)) {
			files = append(files, e.Name())
		}
	}
	return files
}

func (b *bare) purge() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := b.Purge(ctx); err != nil {
		b.t.Fatal(err)
	}
}

// TestPurge: what was deleted or overwritten is in no file any more, wherever it
// stood, and all else is as it was.
func TestPurge(t *testing.T) {
	b := openBare(t)
	big := strings.Repeat("x", valueThreshold)
	b.fill(1, 60)
	b.set("k\x00\x00\x05\x00deleted below", "secret one")
	b.set("k\x00\x00\x05\x00overwritten below", "secret two")
	b.set("z big", "secret three"+big)
	b.set("z big, and stays", "stays one"+big)
	b.purge() // so that they are in the lowest level
	b.fill(2, 10)
	b.set("k\x00\x00\x09\x00deleted above", "secret four")
	b.set("k\x00\x00\x09\x00and stays", "stays two")
	for _, text := range []string{"secret one", "secret two", "secret three", "secret four", "stays one", "stays two"} {
		if len(b.in(text)) == 0 {
			t.Fatalf("%q is not in the files, and should be found here", text)
		}
	}
	b.del("k\x00\x00\x05\x00deleted below")
	b.set("k\x00\x00\x05\x00overwritten below", "stays three")
	b.del("z big")
	b.del("k\x00\x00\x09\x00deleted above")
	if len(b.in("secret one")) == 0 {
		t.Fatal("Badger has no need of a purge any more")
	}
	b.purge()
	check := func() {
		t.Helper()
		for _, text := range []string{"secret one", "secret two", "secret three", "secret four"} {
			if in := b.in(text); len(in) > 0 {
				t.Errorf("%q is still in %v", text, in)
			}
		}
		for key, want := range map[string]string{
			"k\x00\x00\x05\x00overwritten below": "stays three", "z big, and stays": "stays one" + big, "k\x00\x00\x09\x00and stays": "stays two",
			"k\x00\x00\x05\x00deleted below": "", "z big": "", "k\x00\x00\x09\x00deleted above": "",
			"k\x00\x00\x00\x3f": strings.Repeat("\x02\x00\x3f", 1<<10), "k\x00\x00\x0e\xff": strings.Repeat("\x01\x3b\x3f", 1<<10),
		} {
			if got, err := b.value([]byte(key)); string(got) != want || (err != nil) != (want == "") {
				t.Errorf("%q is %.40q, %v", key, got, err)
			}
		}
	}
	check()
	b.shut()
	b.reopen()
	check()
}

// TestPurgeLastLevel: two versions that came to the lowest level together, because
// somebody could still see the older one, are found there.
func TestPurgeLastLevel(t *testing.T) {
	b := openBare(t)
	b.set("k", "secret")
	b.fill(1, 5)
	old, err := b.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	b.del("k")
	if err := b.sink(); err != nil {
		t.Fatal(err)
	}
	if len(b.in("secret")) == 0 {
		t.Fatal("the old version is gone while a snapshot may see it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Purge(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a purge with an old snapshot: %v", err)
	}
	if v, err := old.Get([]byte("k")); string(v) != "secret" || err != nil {
		t.Errorf("the snapshot reads %q, %v", v, err)
	}
	old.Close()
	b.purge()
	if in := b.in("secret"); len(in) > 0 {
		t.Errorf("the old version is still in %v", in)
	}
}

// TestPurgeMeanwhile: commits and reads go on, and nothing of them is lost.
func TestPurgeMeanwhile(t *testing.T) {
	b := openBare(t)
	done := make(chan int)
	stop := make(chan struct{})
	go func() {
		n := 0
		defer func() { done <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			key := fmt.Appendf(nil, "n%d", n%7)
			if err := b.Commit([]Op{{Key: key, Value: fmt.Append(nil, n)}, {Key: []byte("last"), Value: fmt.Append(nil, n)}}); err != nil {
				t.Error(err)
				return
			}
			snap, err := b.Snapshot()
			if err != nil {
				t.Error(err)
				return
			}
			for _, k := range [][]byte{key, []byte("last")} {
				if v, err := snap.Get(k); string(v) != fmt.Sprint(n) || err != nil {
					t.Errorf("%s reads %q, %v; want %d", k, v, err, n)
				}
			}
			snap.Close()
		}
	}()
	for range 3 {
		b.set("k", "secret")
		b.del("k")
		b.purge()
		if in := b.in("secret"); len(in) > 0 {
			t.Errorf("still in %v", in)
		}
	}
	close(stop)
	if n := <-done; n < 3 {
		t.Errorf("%d commits", n)
	}
}

// A purge takes some space before it gives any back, and is not begun without.
func TestPurgeNoSpace(t *testing.T) {
	b := openBare(t)
	b.free = func(string) uint64 { return reserve + purgeSpace - 1 }
	if err := b.Purge(t.Context()); !errors.Is(err, ErrNoSpace) {
		t.Errorf("with too little space: %v", err)
	}
}
