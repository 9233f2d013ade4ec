package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Report is what a power failure took.
type Report struct {
	Names   int // names that are again what they were
	Files   int // files that lost bytes
	Pending int // things that were not durable, and might have been lost
}

// Lose does to the disk what a power failure may do after the given records, and
// removes the journal and its trash. With all, everything that is not durable is
// lost; otherwise some of it, as rng decides. No process may have the files open.
func Lose(name string, rng *rand.Rand, all bool) (Report, error) {
	records, err := Read(name)
	if err != nil {
		return Report{}, err
	}
	w := newWorld(name + ".trash")
	for i, r := range records {
		if err := w.play(i+1, r); err != nil {
			return Report{}, fmt.Errorf("journal %s line %d: %w", name, i+1, err)
		}
	}
	report, err := w.lose(rng, all)
	if err != nil {
		return report, fmt.Errorf("power failure: %w", err)
	}
	return report, errors.Join(os.RemoveAll(name), os.RemoveAll(name+".trash"))
}

// file is one inode. Its number may be used again by a later one.
type file struct {
	writes []extent // not durable, in order
	trash  []string // names that it has in the trash
}

// extent is some bytes that were written at a time.
type extent struct {
	at       int
	off, len int64
}

// version is what a name was after a step: a file, a directory, or nothing.
type version struct {
	at   int // 0: before everything
	file *file
	dir  bool
}

type world struct {
	trash  string
	inodes map[uint64]*file
	names  map[string][]version // the first one is durable, the last one is on the disk
	open   map[string][]string  // of each directory, names that may have more than one version
	syncs  map[string]pending   // that have begun
}

type pending struct {
	at int
	r  Record
}

func newWorld(trash string) *world {
	return &world{
		trash: trash, inodes: map[uint64]*file{}, names: map[string][]version{},
		open: map[string][]string{}, syncs: map[string]pending{},
	}
}

// inode returns the file that has the number now; one that the journal has not
// seen is durable.
func (w *world) inode(n uint64) *file {
	f := w.inodes[n]
	if f == nil {
		f = &file{}
		w.inodes[n] = f
	}
	return f
}

// set notes that a name has become v, after having been before if this is the
// first that is heard of it.
func (w *world) set(path string, before, v version) {
	if len(w.names[path]) == 0 {
		w.names[path] = []version{before}
	}
	if len(w.names[path]) == 1 {
		dir := filepath.Dir(path)
		w.open[dir] = append(w.open[dir], path)
	}
	w.names[path] = append(w.names[path], v)
}

func (w *world) play(at int, r Record) error {
	was := version{}
	if r.Was != 0 {
		was.file = w.inode(r.Was)
		if r.Trash != "" {
			was.file.trash = append(was.file.trash, r.Trash)
		}
	}
	switch r.Op {
	case Create:
		f := &file{}
		w.inodes[r.Ino] = f
		w.set(r.Path, was, version{at: at, file: f})
	case Write:
		f := w.inode(r.Ino)
		f.writes = append(f.writes, extent{at, r.Off, r.Len})
	case Name:
		w.set(r.To, was, version{at: at, file: w.inode(r.Ino)})
	case Rename:
		f := w.inode(r.Ino)
		w.set(r.To, was, version{at: at, file: f})
		w.set(r.Path, version{file: f}, version{at: at})
	case Remove:
		w.set(r.Path, was, version{at: at})
	case RemoveAll:
		for path := range w.names {
			if path == r.Path || strings.HasPrefix(path, r.Path+"/") {
				delete(w.names, path)
			}
		}
	case Mkdir:
		w.set(r.Path, was, version{at: at, dir: true})
	case Sync, FSSync:
		w.syncs[r.ID] = pending{at, r}
	case Synced:
		s, ok := w.syncs[r.ID]
		if !ok {
			return fmt.Errorf("fsync %s has an end and no beginning", r.ID)
		}
		delete(w.syncs, r.ID)
		w.durable(s)
	default:
		return fmt.Errorf("unknown operation %q: say here what a power failure does to it", r.Op)
	}
	return nil
}

// durable takes what was done before an fsync began out of what can be lost.
func (w *world) durable(s pending) {
	switch {
	case s.r.Op == FSSync:
		for dir := range w.open {
			w.durableNames(dir, s.at)
		}
		for _, f := range w.inodes {
			f.durable(s.at)
		}
	case s.r.Path != "":
		w.durableNames(s.r.Path, s.at)
	default:
		w.inode(s.r.Ino).durable(s.at)
	}
}

func (w *world) durableNames(dir string, at int) {
	w.open[dir] = slices.DeleteFunc(w.open[dir], func(path string) bool {
		vs := w.names[path]
		first := 0
		for i, v := range vs {
			if v.at <= at {
				first = i
			}
		}
		if len(vs) > 0 { // or it was removed with its directory
			w.names[path] = vs[first:]
		}
		return len(w.names[path]) < 2
	})
}

func (f *file) durable(at int) {
	f.writes = slices.DeleteFunc(f.writes, func(e extent) bool { return e.at <= at })
}

// change is a name that is to become something else than it is.
type change struct {
	path   string
	to     version
	staged string // a name of the file in the trash
}

func (w *world) lose(rng *rand.Rand, all bool) (Report, error) {
	var report Report
	var changes []change
	final := map[string]version{}
	// In a fixed order, so that the seed alone decides.
	paths := make([]string, 0, len(w.names))
	for path := range w.names {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		vs := w.names[path]
		report.Pending += len(vs) - 1
		pick := 0
		if !all {
			pick = rng.IntN(len(vs))
		}
		final[path] = vs[pick]
		if pick < len(vs)-1 {
			changes = append(changes, change{path: path, to: vs[pick]})
		}
	}
	for i := range changes {
		c := &changes[i]
		if c.to.file == nil {
			continue
		}
		c.staged = filepath.Join(w.trash, fmt.Sprintf("staged-%d", i))
		if err := w.stage(c.to.file, c.staged); err != nil {
			return report, fmt.Errorf("bring back %s: %w", c.path, err)
		}
	}
	// The outer directories first: with them goes what is below.
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(len(a.path), len(b.path)) })
	for _, c := range changes {
		if err := c.apply(); err != nil {
			return report, err
		}
		report.Names++
	}
	torn, err := w.tear(rng, all, paths, final)
	report.Files = torn
	for _, f := range w.inodes {
		report.Pending += len(f.writes)
	}
	return report, err
}

// stage gives a file a name in the trash, from any name that it has.
func (w *world) stage(f *file, staged string) error {
	for _, t := range f.trash {
		if err := os.Link(t, staged); err == nil {
			return nil
		}
	}
	for path, vs := range w.names {
		if vs[len(vs)-1].file == f {
			if err := os.Link(path, staged); err == nil {
				return nil
			}
		}
	}
	return errors.New("the file has no name left")
}

func (c change) apply() error {
	if _, err := os.Lstat(filepath.Dir(c.path)); errors.Is(err, fs.ErrNotExist) {
		return nil // Its directory was lost.
	}
	if err := os.RemoveAll(c.path); err != nil {
		return err
	}
	switch {
	case c.to.file != nil:
		return os.Rename(c.staged, c.path)
	case c.to.dir:
		return os.Mkdir(c.path, 0o700) // what was in it is not known any more
	}
	return nil
}

// tear takes bytes from files that have a name left.
func (w *world) tear(rng *rand.Rand, all bool, paths []string, final map[string]version) (torn int, err error) {
	done := map[*file]bool{}
	for _, path := range paths {
		f := final[path].file
		if f == nil || len(f.writes) == 0 || done[f] {
			continue
		}
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		done[f] = true
		if err := f.tear(path, rng, all); err != nil {
			return torn, err
		}
		torn++
	}
	return torn, nil
}

// pageSize is the unit in which the kernel writes back.
const pageSize = 4096

// tear takes unsynced bytes of one file: all behind the durable ones, or behind a
// random place, or random pages.
func (f *file) tear(path string, rng *rand.Rand, all bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	begin := f.writes[0].off
	for _, e := range f.writes {
		begin = min(begin, e.off)
	}
	lost := info.Size() - begin
	if lost <= 0 {
		return nil
	}
	how := 0
	if !all {
		how = rng.IntN(4)
	}
	switch how {
	case 0:
		return os.Truncate(path, begin)
	case 1:
		return os.Truncate(path, begin+rng.Int64N(lost))
	case 2:
		return zeroPages(path, begin, info.Size(), rng)
	}
	return nil // This one was lucky.
}

// zeroPages puts zeros in place of at least one page.
func zeroPages(path string, begin, end int64, rng *rand.Rand) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	first, last := begin/pageSize, (end-1)/pageSize
	sure := first + rng.Int64N(last-first+1)
	for page := first; page <= last; page++ {
		if page != sure && rng.IntN(2) == 0 {
			continue
		}
		from, to := max(begin, page*pageSize), min(end, (page+1)*pageSize)
		if _, err := f.WriteAt(make([]byte, to-from), from); err != nil {
			return err
		}
	}
	return nil
}
