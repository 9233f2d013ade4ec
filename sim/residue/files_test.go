package residue

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/event"
	"holdfast/projection"
)

// filed is a desk with a node's database on a disk.
type filed struct {
	*desk
	dir string
	st  projection.Store
}

func newFiled(t *testing.T) *filed {
	f := &filed{desk: newDesk(t), dir: filepath.Join(t.TempDir(), "db")}
	f.open()
	f.commit(projection.Op{Key: []byte("\x01rows"), Value: event.Marshal(struct {
		Live uint32 `cbor:"1,keyasint"`
	}{1})})
	return f
}

func (f *filed) open() {
	f.t.Helper()
	key, err := f.root.LocalKey(f.t.Context(), "local database")
	if err != nil {
		f.t.Fatal(err)
	}
	if f.st, err = projection.OpenBadger(projection.BadgerOptions{Dir: f.dir, Key: key}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *filed) commit(ops ...projection.Op) {
	f.t.Helper()
	if err := f.st.Commit(ops); err != nil {
		f.t.Fatal(err)
	}
}

// row is a sealed row of a day, n of them.
func (f *filed) row(n byte, days event.Day, text string) projection.Op {
	f.t.Helper()
	key := slices.Concat([]byte{'r'}, f.tenant[:], []byte{0, 0, 0, n})
	s, err := f.log.LocalSealer(f.t.Context(), f.tenant, f.today+days)
	if err != nil {
		f.t.Fatal(err)
	}
	return projection.Op{Key: slices.Concat([]byte{tagState, 0, 0, 0, 1}, key), Value: s.Seal(slices.Concat([]byte("rows\x00"), key), []byte(text))}
}

// digs searches a directory, or a copy of it.
func (f *filed) digs(dir string) *Result {
	f.t.Helper()
	r, err := f.thief.Search(f.t.Context(), Question{
		Over: f.today, Fate: func(m string) Fate { return f.fate[m] }, Dirs: map[string]string{"n1": dir}, Deep: true,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// copied is a copy of the directory as it is now.
func (f *filed) copied() string {
	f.t.Helper()
	to := f.t.TempDir()
	if err := os.CopyFS(to, os.DirFS(f.dir)); err != nil {
		f.t.Fatal(err)
	}
	return to
}

// TestFiles: what a database has deleted or overwritten is found in its files: in
// the log of what is in memory, in tables, in the journal of large commits, in
// values that have a file of their own, and in files that nothing refers to.
func TestFiles(t *testing.T) {
	f := newFiled(t)
	var marks []string
	for n := range uint64(4) {
		_, mark := f.mail(n, 3, 100)
		marks = append(marks, mark)
	}
	f.commit(f.row(1, 3, marks[0]), f.row(2, 3, marks[1]))
	noise := make([]byte, 3<<19)
	rand.NewChaCha8([32]byte{}).Read(noise)
	f.commit(f.row(3, 3, marks[2]+string(noise)))
	large := []projection.Op{f.row(4, 3, marks[3])}
	for i := range 1500 {
		large = append(large, projection.Op{Key: []byte{tagState, 0, 0, 0, 1, 'x', byte(i >> 8), byte(i)}, Value: make([]byte, 1000)})
	}
	f.commit(large...)
	r := f.digs(f.dir)
	f.quiet(r, marks...)
	if r.Values < len(marks) || r.Dug < 2 {
		t.Errorf("%d values open, of %d files", r.Values, r.Dug)
	}
	f.remove("key/20")
	deleted := func(n byte) projection.Op { return projection.Op{Key: f.row(n, 3, "").Key, Delete: true} }
	f.commit(deleted(1), f.row(2, 3, "nothing"), deleted(3), deleted(4))
	for _, m := range marks {
		f.fate[m] = Erased
	}
	all := func(dir string) {
		t.Helper()
		r := f.digs(dir)
		for _, m := range marks {
			f.wants(r, m, "opens in the files of n1")
		}
	}
	all(f.dir)
	all(f.copied())
	if err := f.st.Close(); err != nil {
		t.Fatal(err)
	}
	old := f.copied()
	all(old)
	f.open()
	if err := f.st.(projection.Purger).Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = f.digs(f.dir)
	f.quiet(r, marks...) // with the copies of the page
	if r.Values != 0 {
		t.Errorf("%d values still open in the files", r.Values)
	}
	// A table that nothing refers to.
	if err := fs.WalkDir(os.DirFS(old), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".sst" {
			return err
		}
		b, err := os.ReadFile(filepath.Join(old, path))
		if err == nil {
			err = os.WriteFile(filepath.Join(f.dir, "9"+path), b, 0o600)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	f.wants(f.digs(f.dir), marks[0], "opens in the files of n1")
	if err := f.st.Close(); err != nil {
		t.Fatal(err)
	}
}
