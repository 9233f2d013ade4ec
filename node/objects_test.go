package node

import (
	"bytes"
	"fmt"
	"testing"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// TestWhatARebuildReads: the Bases, and each segment after them once, wherever it is.
func TestWhatARebuildReads(t *testing.T) {
	b := mem.New()
	put := func(size int, format string, args ...any) {
		t.Helper()
		if _, err := b.Put(t.Context(), fmt.Sprintf(format, args...), bytes.NewReader(make([]byte, size)), int64(size), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for seq := 1; seq <= 20; seq++ {
		put(10, "log/00/%020d", seq)
	}
	put(7, "log/01/%020d", 1)
	put(100, "pack/00/%020d-%020d-%032x", 8, 1, 1)
	put(1000, "pack/00/%020d-%020d-%032x", 14, 9, 2)
	put(3, "blob/2026-01-01/x/0")
	put(5, "format")
	r := &rebuild{from: map[event.Partition]event.Seq{0: 8, 1: 0}, bases: ObjectCount{Objects: 3, Bytes: 50_000}}
	c, err := countIn(t.Context(), b, r)
	if err != nil {
		t.Fatal(err)
	}
	// The second pack, segments 15 to 20, the one of the other partition, the Bases.
	if want := (ObjectCount{Objects: 1 + 6 + 1 + 3, Bytes: 1000 + 60 + 7 + 50_000}); c.Rebuild != want {
		t.Errorf("a rebuild reads %+v, want %+v", c.Rebuild, want)
	}
	if c.Objects != 25 || c.Bytes != 200+7+1100+3+5 || c.Kinds["log"] != (ObjectCount{21, 207}) || c.Kinds["pack"] != (ObjectCount{2, 1100}) || c.Kinds["format"] != (ObjectCount{1, 5}) {
		t.Errorf("counted %+v", c)
	}
}
