package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// stage is a directory, and a journal that is written by hand.
type stage struct {
	t    *testing.T
	dir  string
	name string
	file *os.File
	next int
}

func open(t *testing.T) *stage {
	t.Helper()
	base := t.TempDir()
	s := &stage{t: t, dir: filepath.Join(base, "d"), name: filepath.Join(base, "journal")}
	s.must(os.Mkdir(s.dir, 0o700))
	s.must(os.Mkdir(s.name+".trash", 0o700))
	f, err := os.OpenFile(s.name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	s.must(err)
	s.file = f
	t.Cleanup(func() { f.Close() })
	return s
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) note(r Record) { s.t.Helper(); s.must(Append(s.file, r)) }

func (s *stage) ino(name string) uint64 {
	s.t.Helper()
	fi, err := os.Stat(s.path(name))
	s.must(err)
	return fi.Sys().(*syscall.Stat_t).Ino
}

// create makes a file with bytes that are not durable.
func (s *stage) create(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(s.path(name), []byte(text), 0o600))
	s.note(Record{Op: Create, Path: s.path(name), Ino: s.ino(name)})
	s.note(Record{Op: Write, Ino: s.ino(name), Len: int64(len(text))})
}

// durable makes a file of which the journal knows nothing.
func (s *stage) durable(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(s.path(name), []byte(text), 0o600))
}

// sync is an fsync of a file, or of the directory, with something in between its
// beginning and its end.
func (s *stage) sync(r Record, meanwhile func()) {
	s.next++
	r.Op, r.ID = Sync, fmt.Sprint(s.next)
	s.note(r)
	if meanwhile != nil {
		meanwhile()
	}
	s.note(Record{Op: Synced, ID: r.ID})
}

func (s *stage) syncFile(name string) { s.sync(Record{Ino: s.ino(name)}, nil) }
func (s *stage) syncDir(name string)  { s.sync(Record{Path: s.path(name)}, nil) }

func (s *stage) keep(name string) (ino uint64, trash string) {
	s.next++
	trash = filepath.Join(s.name+".trash", fmt.Sprint(s.next))
	s.must(os.Link(s.path(name), trash))
	return s.ino(name), trash
}

func (s *stage) remove(name string) {
	ino, trash := s.keep(name)
	s.must(os.Remove(s.path(name)))
	s.note(Record{Op: Remove, Path: s.path(name), Was: ino, Trash: trash})
}

func (s *stage) rename(from, to string) {
	r := Record{Op: Rename, Path: s.path(from), To: s.path(to), Ino: s.ino(from)}
	if _, err := os.Stat(s.path(to)); err == nil {
		r.Was, r.Trash = s.keep(to)
	}
	s.must(os.Rename(s.path(from), s.path(to)))
	s.note(r)
}

func (s *stage) link(from, to string) {
	s.must(os.Link(s.path(from), s.path(to)))
	s.note(Record{Op: Name, Path: s.path(from), To: s.path(to), Ino: s.ino(to)})
}

func (s *stage) mkdir(name string) {
	s.must(os.Mkdir(s.path(name), 0o700))
	s.note(Record{Op: Mkdir, Path: s.path(name)})
}

// want is what a name must hold; "-" for nothing.
func (s *stage) want(name, text string) {
	s.t.Helper()
	got, err := os.ReadFile(s.path(name))
	switch {
	case text == "-" && errors.Is(err, fs.ErrNotExist):
	case err != nil || string(got) != text:
		s.t.Errorf("%s holds %q, %v; want %q", name, got, err, text)
	}
}

// TestLosesAll: with everything lost that may be, exactly what is durable is left.
func TestLosesAll(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(s *stage)
		want map[string]string
	}{
		"nothing synced":            {func(s *stage) { s.create("a", "text") }, map[string]string{"a": "-"}},
		"the file alone":            {func(s *stage) { s.create("a", "text"); s.syncFile("a") }, map[string]string{"a": "-"}},
		"the directory alone":       {func(s *stage) { s.create("a", "text"); s.syncDir("") }, map[string]string{"a": ""}},
		"both":                      {func(s *stage) { s.create("a", "text"); s.syncFile("a"); s.syncDir("") }, map[string]string{"a": "text"}},
		"everything":                {func(s *stage) { s.create("a", "text"); s.flush() }, map[string]string{"a": "text"}},
		"another file":              {func(s *stage) { s.create("a", "text"); s.create("b", "x"); s.syncFile("b"); s.syncDir("") }, map[string]string{"a": "", "b": "x"}},
		"a link":                    {func(s *stage) { s.create("a", "t"); s.syncFile("a"); s.syncDir(""); s.link("a", "b") }, map[string]string{"a": "t", "b": "-"}},
		"a removal":                 {func(s *stage) { s.durable("a", "old"); s.remove("a") }, map[string]string{"a": "old"}},
		"a durable removal":         {func(s *stage) { s.durable("a", "old"); s.remove("a"); s.syncDir("") }, map[string]string{"a": "-"}},
		"a rename":                  {func(s *stage) { s.durable("a", "old"); s.rename("a", "b") }, map[string]string{"a": "old", "b": "-"}},
		"a rename over":             {overwrite, map[string]string{"a": "old"}},
		"a durable rename over":     {func(s *stage) { overwrite(s); s.syncDir("") }, map[string]string{"a": "new"}},
		"twice renamed over":        {func(s *stage) { overwrite(s); overwrite2(s) }, map[string]string{"a": "old"}},
		"twice, the first durable":  {func(s *stage) { overwrite(s); s.syncDir(""); overwrite2(s) }, map[string]string{"a": "new"}},
		"a directory":               {func(s *stage) { s.mkdir("d"); s.create("d/a", "x"); s.syncFile("d/a"); s.syncDir("d") }, map[string]string{"d/a": "-", "d": "-"}},
		"a durable directory":       {func(s *stage) { s.mkdir("d"); s.syncDir(""); s.create("d/a", "x"); s.syncFile("d/a") }, map[string]string{"d/a": "-"}},
		"made while it was synced":  {func(s *stage) { s.sync(Record{Path: s.dir}, func() { s.create("a", "x") }) }, map[string]string{"a": "-"}},
		"written while synced":      {writtenMeanwhile, map[string]string{"a": "begin"}},
		"an fsync without an end":   {func(s *stage) { s.create("a", "x"); s.note(Record{Op: Sync, Path: s.dir, ID: "9"}) }, map[string]string{"a": "-"}},
		"a number used again":       {usedAgain, map[string]string{"b": "-"}},
		"a recursive removal stays": {func(s *stage) { s.mkdir("d"); s.removeAll("d") }, map[string]string{"d": "-"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			c.do(s)
			if _, err := Lose(s.name, nil, true); err != nil {
				t.Fatal(err)
			}
			for name, text := range c.want {
				s.want(name, text)
			}
			if _, err := os.Stat(s.name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the journal is left: %v", err)
			}
		})
	}
}

func (s *stage) flush() {
	s.note(Record{Op: FSSync, ID: "fs"})
	s.note(Record{Op: Synced, ID: "fs"})
}

func (s *stage) removeAll(name string) {
	s.must(os.RemoveAll(s.path(name)))
	s.note(Record{Op: RemoveAll, Path: s.path(name)})
}

func overwrite(s *stage) {
	s.durable("a", "old")
	s.create("tmp", "new")
	s.syncFile("tmp")
	s.rename("tmp", "a")
}

func overwrite2(s *stage) {
	s.create("tmp2", "newer")
	s.syncFile("tmp2")
	s.rename("tmp2", "a")
}

func writtenMeanwhile(s *stage) {
	s.create("a", "begin")
	s.syncDir("")
	s.sync(Record{Ino: s.ino("a")}, func() {
		f, err := os.OpenFile(s.path("a"), os.O_WRONLY|os.O_APPEND, 0)
		s.must(err)
		f.WriteString(" end")
		f.Close()
		s.note(Record{Op: Write, Ino: s.ino("a"), Off: 5, Len: 4})
	})
}

// usedAgain: what was fsynced under a number says nothing about the next file that
// has it.
func usedAgain(s *stage) {
	s.create("a", "x")
	s.syncFile("a")
	n := s.ino("a")
	s.must(os.WriteFile(s.path("b"), []byte("y"), 0o600))
	s.note(Record{Op: Create, Path: s.path("b"), Ino: n})
	s.note(Record{Op: Write, Ino: n, Len: 1})
}

// TestLosesSome: over many seeds each thing that can be lost is lost and kept, a
// torn file is cut or has zeros, and what is durable is never touched.
func TestLosesSome(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 1024)
	seen := map[string]int{}
	for seed := range uint64(200) {
		s := open(t)
		s.create("safe", text)
		s.syncFile("safe")
		s.syncDir("")
		s.create("half", text)
		s.syncDir("")
		s.link("safe", "name")
		if _, err := Lose(s.name, rand.New(rand.NewPCG(seed, 0)), false); err != nil {
			t.Fatal(err)
		}
		s.want("safe", text)
		if _, err := os.Stat(s.path("name")); err == nil {
			seen["name kept"]++
		} else {
			seen["name lost"]++
		}
		half, err := os.ReadFile(s.path("half"))
		s.must(err)
		switch {
		case string(half) == text:
			seen["bytes kept"]++
		case len(half) == 0:
			seen["all bytes lost"]++
		case len(half) < len(text) && strings.HasPrefix(text, string(half)):
			seen["cut"]++
		case len(half) == len(text) && bytes.Contains(half, make([]byte, pageSize)):
			seen["zeros"]++
		default:
			t.Fatalf("seed %d: %d bytes of another kind", seed, len(half))
		}
	}
	for _, what := range []string{"name kept", "name lost", "bytes kept", "all bytes lost", "cut", "zeros"} {
		if seen[what] < 10 {
			t.Errorf("%s: %d times of 200", what, seen[what])
		}
	}
}

// TestSameLuck: one seed, one outcome.
func TestSameLuck(t *testing.T) {
	outcome := func() string {
		s := open(t)
		for i := range 20 {
			s.create(fmt.Sprint("f", i), "x")
		}
		_, err := Lose(s.name, rand.New(rand.NewPCG(7, 0)), false)
		s.must(err)
		entries, err := os.ReadDir(s.dir)
		s.must(err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	if a, b := outcome(), outcome(); a != b || a == "" {
		t.Errorf("%q and %q", a, b)
	}
}

// TestCutShort: a last line that a kill interrupted is dropped, a broken one in the
// middle and an operation that nobody knows are errors.
func TestCutShort(t *testing.T) {
	s := open(t)
	s.create("a", "x")
	s.file.WriteString(`{"op":"create","pa`)
	if records, err := Read(s.name); err != nil || len(records) != 2 {
		t.Errorf("%d records, %v", len(records), err)
	}
	s.create("b", "x")
	if records, err := Read(s.name); err != nil || len(records) != 4 {
		t.Errorf("after the next process: %d records, %v", len(records), err)
	}
	s.file.WriteString("nonsense\n")
	if _, err := Read(s.name); err == nil {
		t.Error("a broken line is read")
	}
	s = open(t)
	s.note(Record{Op: "fallocate"})
	if _, err := Lose(s.name, nil, true); err == nil {
		t.Error("an operation that nobody knows is taken")
	}
}
