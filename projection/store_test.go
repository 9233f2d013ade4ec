package projection

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var testKey = bytes.Repeat([]byte{7}, 32)

func openBadgerT(t testing.TB, dir string) Store {
	t.Helper()
	s, err := OpenBadger(BadgerOptions{Dir: dir, Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// eachStore runs a test on every implementation.
func eachStore(t *testing.T, f func(t *testing.T, s Store)) {
	t.Run("mem", func(t *testing.T) { f(t, NewMemStore()) })
	t.Run("badger", func(t *testing.T) {
		s := openBadgerT(t, filepath.Join(t.TempDir(), "db"))
		defer s.Close()
		f(t, s)
	})
}

func collect(t testing.TB, s Snapshot, prefix, from []byte, reverse bool) (out []string) {
	t.Helper()
	for it, err := range s.Scan(prefix, from, reverse) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%q=%q", it.Key, it.Value))
	}
	return out
}

// reference is the obvious implementation of Scan.
func reference(m map[string]string, prefix, from []byte, reverse bool) (out []string) {
	var keys []string
	for k := range m {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		if from != nil && (!reverse && k < string(from) || reverse && k > string(from)) {
			continue
		}
		out = append(out, fmt.Sprintf("%q=%q", k, m[k]))
	}
	return out
}

func randomKey(r *rand.Rand) []byte {
	b := []byte{5, 0, 0}
	for range r.IntN(4) {
		b = append(b, []byte{0, 1, 'a', 0xfe, 0xff}[r.IntN(5)])
	}
	return b
}

func TestStoreAgreesWithAMap(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store) {
		r := rand.New(rand.NewPCG(1, 2))
		m := map[string]string{}
		for round := range 60 {
			before, err := s.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			want := reference(m, nil, nil, false)
			ops := map[string]Op{}
			for range r.IntN(40) {
				k := randomKey(r)
				ops[string(k)] = Op{Key: k, Value: fmt.Append(nil, round), Delete: r.IntN(3) == 0}
			}
			var list []Op
			for k, op := range ops {
				list = append(list, op)
				if m[k] = string(op.Value); op.Delete {
					delete(m, k)
				}
			}
			if err := s.Commit(list); err != nil {
				t.Fatal(err)
			}
			if got := collect(t, before, []byte{5}, nil, false); !slices.Equal(got, want) {
				t.Fatalf("round %d: a snapshot changed: %v, want %v", round, got, want)
			}
			before.Close()
			compareScans(t, r, s, m)
		}
	})
}

func compareScans(t *testing.T, r *rand.Rand, s Store, m map[string]string) {
	t.Helper()
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	for range 20 {
		prefix := randomKey(r)
		var from []byte
		if r.IntN(2) == 0 {
			from = append(slices.Clone(prefix), randomKey(r)[3:]...)
		}
		for _, reverse := range []bool{false, true} {
			got, want := collect(t, snap, prefix, from, reverse), reference(m, prefix, from, reverse)
			if !slices.Equal(got, want) {
				t.Fatalf("scan %x from %x reverse %v: got %v, want %v", prefix, from, reverse, got, want)
			}
		}
		k := randomKey(r)
		v, err := snap.Get(k)
		if w, ok := m[string(k)]; err != nil || ok != (v != nil) || w != string(v) {
			t.Fatalf("get %x: %q %v, want %q %v", k, v, err, w, ok)
		}
	}
}

func TestStoreKeepsEmptyValues(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store) {
		if err := s.Commit([]Op{{Key: []byte{5, 1}}}); err != nil {
			t.Fatal(err)
		}
		snap, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer snap.Close()
		if v, err := snap.Get([]byte{5, 1}); err != nil || v == nil {
			t.Errorf("an empty value reads as absent: %v %v", v, err)
		}
	})
}

// bigOps are more than one transaction of Badger takes.
func bigOps() (ops []Op) {
	for i := range 20_000 {
		ops = append(ops, Op{Key: fmt.Appendf([]byte{5}, "%08d", i), Value: fmt.Append(nil, i)})
	}
	return append(ops, Op{Key: []byte{5, 'x'}, Value: make([]byte, 8<<20)})
}

func TestStoreCommitsWhatExceedsATransaction(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store) {
		ops := bigOps()
		if err := s.Commit(ops); err != nil {
			t.Fatal(err)
		}
		snap, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer snap.Close()
		if n := len(collect(t, snap, []byte{5}, nil, false)); n != len(ops) {
			t.Errorf("%d keys, want %d", n, len(ops))
		}
		if n := len(collect(t, snap, []byte{journalChunk}, nil, false)); n != 0 {
			t.Errorf("%d chunks of the journal are left", n)
		}
	})
}

func TestBadgerFinishesALargeCommitAtTheNextStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	s := openBadgerT(t, dir).(*badgerStore)
	ops := bigOps()
	var n uint32
	for chunk := range chunks(ops) {
		if err := s.commitOne([]Op{{Key: chunkKey(n), Value: encodeOps(chunk)}}); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n < 2 {
		t.Fatalf("only %d chunks", n)
	}
	// First a journal without its marker, which means nothing.
	check := func(want int) {
		t.Helper()
		snap, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer snap.Close()
		if got := len(collect(t, snap, []byte{5}, nil, false)); got != want {
			t.Fatalf("%d keys, want %d", got, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openBadgerT(t, dir).(*badgerStore)
	check(0)
	if err := s.commitOne([]Op{{Key: []byte{journalMarker}, Value: []byte{0, 0, 0, byte(n)}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openBadgerT(t, dir).(*badgerStore)
	defer s.Close()
	check(len(ops))
}

func TestBadgerRebuildsWhatItCannotRead(t *testing.T) {
	damage := map[string]func(t *testing.T, dir string) []byte{
		"another key": func(*testing.T, string) []byte { return bytes.Repeat([]byte{8}, 32) },
		"manifest": func(t *testing.T, dir string) []byte {
			if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("not a manifest at all"), 0o600); err != nil {
				t.Fatal(err)
			}
			return testKey
		},
		"key registry": func(t *testing.T, dir string) []byte {
			if err := os.WriteFile(filepath.Join(dir, "KEYREGISTRY"), []byte("zz"), 0o600); err != nil {
				t.Fatal(err)
			}
			return testKey
		},
		"the machine went down": func(t *testing.T, dir string) []byte {
			if _, err := os.Stat(dir + ".boot"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a closed database counts as in use: %v", err)
			}
			if err := os.WriteFile(dir+".boot", []byte("an earlier one\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return testKey
		},
		"earlier starts died": func(t *testing.T, dir string) []byte {
			if err := os.WriteFile(dir+".opening", []byte("2"), 0o600); err != nil {
				t.Fatal(err)
			}
			return testKey
		},
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "db")
			s := openBadgerT(t, dir)
			if err := s.Commit([]Op{{Key: []byte{5, 1}, Value: []byte("v")}}); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			key := f(t, dir)
			var log bytes.Buffer
			s, err := OpenBadger(BadgerOptions{Dir: dir, Key: key, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			snap, err := s.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			defer snap.Close()
			if v, err := snap.Get([]byte{5, 1}); v != nil || err != nil {
				t.Errorf("not rebuilt: %q %v", v, err)
			}
			if !strings.Contains(log.String(), "building it anew") {
				t.Errorf("the log does not say so: %s", log.String())
			}
			if _, err := os.Stat(dir + ".opening"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the marker is left: %v", err)
			}
		})
	}
}

func TestBadgerKeepsAHealthyDatabase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	s := openBadgerT(t, dir)
	if _, err := OpenBadger(BadgerOptions{Dir: dir, Key: testKey}); !errors.Is(err, ErrInUse) {
		t.Errorf("second opener: %v, want ErrInUse", err)
	}
	if err := s.Commit([]Op{{Key: []byte{5, 1}, Value: []byte("kept")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBadger(BadgerOptions{Dir: dir, Key: []byte("short")}); err == nil {
		t.Error("a key of 5 bytes was accepted")
	}
	// As if only the process had died.
	if err := bootMark(dir + ".boot").set(); err != nil {
		t.Fatal(err)
	}
	s = openBadgerT(t, dir)
	defer s.Close()
	if b, err := os.ReadFile(dir + ".boot"); err != nil || strings.TrimSpace(string(b)) != bootID() || bootID() == "" {
		t.Errorf("in use since %q, %v", b, err)
	}
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	if v, err := snap.Get([]byte{5, 1}); string(v) != "kept" || err != nil {
		t.Errorf("got %q %v", v, err)
	}
}

func TestBadgerRefusesToFillTheDisk(t *testing.T) {
	s := openBadgerT(t, filepath.Join(t.TempDir(), "db")).(*badgerStore)
	defer s.Close()
	real := s.free
	s.free = func(string) uint64 { return reserve - 1 }
	if err := s.Commit([]Op{{Key: []byte{5, 1}}}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	s.free = real
	if err := s.Commit([]Op{{Key: []byte{5, 1}}}); err != nil {
		t.Errorf("with space again: %v", err)
	}
}
