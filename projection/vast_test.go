package projection

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"testing"

	"holdfast/event"
	"holdfast/eventlog"
)

// vast is a store whose projection seems to have a state of many items that nobody
// keeps; what is written of a state is forgotten. Everything else is kept.
type vast struct {
	Store
	items   int
	written int64
	heap    *heap
}

const vastValue = 8 << 10

func (v *vast) Snapshot() (Snapshot, error) {
	s, err := v.Store.Snapshot()
	return vastSnapshot{s, v.items}, err
}

func (v *vast) Commit(ops []Op) error {
	v.heap.look()
	size := 0
	ops = slices.DeleteFunc(ops, func(o Op) bool {
		size += len(o.Key) + len(o.Value)
		return o.Key[0] == tagState
	})
	if size > 2*batchBytes {
		return errors.New("a transaction is too large")
	}
	v.written += int64(size)
	return v.Store.Commit(ops)
}

type vastSnapshot struct {
	Snapshot
	items int
}

func (s vastSnapshot) Scan(prefix, from []byte, reverse bool) iter.Seq2[Item, error] {
	if !bytes.Equal(prefix, statePrefix(1)) {
		return s.Snapshot.Scan(prefix, from, reverse)
	}
	return func(yield func(Item, error) bool) {
		for i := range s.items {
			it := Item{Key: binary.BigEndian.AppendUint32(slices.Clone(prefix), uint32(i)), Value: make([]byte, vastValue)}
			binary.BigEndian.PutUint32(it.Value, uint32(i))
			if !yield(it, nil) {
				return
			}
		}
	}
}

// fileSnaps keeps pieces in files.
type fileSnaps struct {
	*memSnaps
	dir  string
	heap *heap
}

func (f *fileSnaps) PutSnap(_ context.Context, piece []byte) (event.Snap, error) {
	f.heap.look()
	f.mu.Lock()
	name := f.name()
	f.mu.Unlock()
	return name, os.WriteFile(filepath.Join(f.dir, name.String()), piece, 0o600)
}

func (f *fileSnaps) Snap(_ context.Context, name event.Snap) ([]byte, error) {
	return fs.ReadFile(os.DirFS(f.dir), name.String())
}

// heap notes the most that was in use.
type heap struct{ most uint64 }

func (h *heap) look() {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	h.most = max(h.most, s[0].Value.Uint64())
}

// TestALargeStatePassesThroughLittleMemory stores and loads a state that is many
// times as large as what may be in memory for it.
func TestALargeStatePassesThroughLittleMemory(t *testing.T) {
	const size = 96 << 20
	h := &heap{}
	h.look()
	before := h.most
	snaps := &fileSnaps{memSnaps: newMemSnaps(), dir: t.TempDir(), heap: h}
	st := &vast{Store: NewMemStore(), items: size / vastValue, heap: h}
	f := open(t, st, newMemLog(1), snaps, newTally()).folds[0]
	snap, err := st.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	b := &event.BaseTaken{Projection: "tally", Version: 1, Cursors: make([]event.BaseCursor, 1)}
	if b.Hash, b.Size, err = hashState(t.Context(), snap, f.slot); err != nil {
		t.Fatal(err)
	}
	if err := f.store(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if b.Size < size || b.Chunks < size/maxPiece {
		t.Fatalf("%d bytes in %d pieces", b.Size, b.Chunks)
	}
	st.written = 0
	if err := f.load(t.Context(), eventlog.Base{Taken: b}); err != nil {
		t.Fatal(err)
	}
	if st.written < size {
		t.Errorf("%d of %d bytes were written", st.written, size)
	}
	if most := h.most - before; most > 64<<20 {
		t.Errorf("%d MiB were in memory for a state of %d MiB", most>>20, size>>20)
	} else {
		t.Logf("%d MiB were in memory for a state of %d MiB", most>>20, size>>20)
	}
}

// TestSecondFoldOnDisk: the second fold of a large state is made in a store of its
// own on the disk, of which nothing stays.
func TestSecondFoldOnDisk(t *testing.T) {
	dir := t.TempDir()
	opened := 0
	r, err := Open(Options{Store: NewMemStore(), Source: newMemLog(1), Scratch: func() (Store, error) {
		opened++
		return OpenScratch(filepath.Join(dir, "second"))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "second", "left by a process that died"), 0o700); err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int64]int{memScratch: 0, memScratch + 1: 1} {
		opened = 0
		st, err := r.scratchStore(size)
		if err != nil {
			t.Fatal(err)
		}
		if opened != want {
			t.Errorf("for %d bytes %d stores were opened on the disk, want %d", size, opened, want)
		}
		if err := st.Commit([]Op{{Key: []byte("k"), Value: []byte("v")}}); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left on the disk: %v, %v", left, err)
	}
}
