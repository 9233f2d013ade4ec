package projection

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// scanTxn returns a txn over a store with the given content.
func scanTxn(t *testing.T, base map[string]string) *txn {
	t.Helper()
	s := NewMemStore()
	prefix := statePrefix(1)
	ops := []Op{
		{Key: statePrefix(0), Value: []byte("of another slot")},
		{Key: statePrefix(2), Value: []byte("of another slot")},
	}
	for k, v := range base {
		ops = append(ops, Op{Key: append(slices.Clone(prefix), k...), Value: []byte(v)})
	}
	if err := s.Commit(ops); err != nil {
		t.Fatal(err)
	}
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return &txn{reader: reader{snap: snap, prefix: prefix}, over: newOverlay()}
}

func scanAll(t *testing.T, x *txn, prefix, from []byte, reverse bool) (out []string) {
	t.Helper()
	for it, err := range x.Scan(prefix, from, reverse) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%q=%q", it.Key, it.Value))
	}
	return out
}

func TestTxnAgreesWithAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		m := map[string]string{}
		for range r.IntN(12) {
			m[string(randomKey(r)[3:])] = "base"
		}
		x := scanTxn(t, m)
		for i := range r.IntN(12) {
			k := randomKey(r)[3:]
			if r.IntN(2) == 0 {
				x.Delete(k)
				delete(m, string(k))
			} else {
				x.Set(k, fmt.Append(nil, i))
				m[string(k)] = fmt.Sprint(i)
			}
		}
		for range 10 {
			prefix := randomKey(r)[3:]
			var from []byte
			if r.IntN(2) == 0 {
				from = append(slices.Clone(prefix), randomKey(r)[3:]...)
			}
			for _, reverse := range []bool{false, true} {
				got, want := scanAll(t, x, prefix, from, reverse), reference(m, prefix, from, reverse)
				if !slices.Equal(got, want) {
					t.Fatalf("scan %x from %x reverse %v: got %v, want %v", prefix, from, reverse, got, want)
				}
			}
			k := randomKey(r)[3:]
			v, err := x.Get(k)
			if w, ok := m[string(k)]; err != nil || ok != (v != nil) || w != string(v) {
				t.Fatalf("get %x: %q %v, want %q %v", k, v, err, w, ok)
			}
		}
	}
}

func TestScanSeesWritesMadeWhileItRuns(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		x := scanTxn(t, map[string]string{"b": "", "d": "", "f": ""})
		x.Set([]byte("c"), nil)
		ahead, gone, behind := "e", "d", "a"
		if reverse {
			ahead, gone, behind = "a", "b", "e"
		}
		var got []string
		for it, err := range x.Scan(nil, nil, reverse) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(it.Key))
			if string(it.Key) == "c" {
				x.Set([]byte(ahead), nil)
				x.Delete([]byte(gone))
				x.Set([]byte(behind), nil)
			}
		}
		want := []string{"b", "c", "e", "f"}
		if reverse {
			want = []string{"f", "d", "c", "a"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("reverse %v: got %v, want %v", reverse, got, want)
		}
	}
}

func TestTxnKeepsCopies(t *testing.T) {
	x := scanTxn(t, nil)
	k, v := []byte("key"), []byte("value")
	x.Set(k, v)
	k[0], v[0] = 'X', 'X'
	if got, err := x.Get([]byte("key")); string(got) != "value" || err != nil {
		t.Errorf("got %q %v", got, err)
	}
}
