package crash

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/disk/journal"
	"holdfast/internal/failpoint"
)

// fate is what becomes of the local database.
type fate string

const (
	kept    fate = "kept"
	deleted fate = "deleted"
	older   fate = "older" // it is again what it was after an earlier death
	torn    fate = "torn"
)

// plan is how one run of the node ends, decided before it begins.
type plan struct {
	point       failpoint.Point // "" for a random moment
	hit         int
	stop        bool // SIGTERM first
	after       time.Duration
	storeAfter  time.Duration // when the S3 server dies; 0 for not at all
	storeEarly  bool          // it counts from the start, not from ready
	primaryDown bool
	quiet       bool // nobody sends, and the user only looks
	fromReady   bool // the time counts from when the node is ready
	power       bool // and so does the machine
	all         bool // nothing that is not durable is left
	local       fate
	judge       bool // the judge looks right after the death
	// In a world whose days pass:
	advance time.Duration // since the last death
	work    bool          // the work of the night is asked for
	erase   bool          // messages are erased
}

func (p plan) String() string {
	return fmt.Sprintf("%s:%d stop=%t after=%v store=%v down=%t power=%t all=%t local=%s advance=%v work=%t erase=%t",
		p.point, p.hit, p.stop, p.after, p.storeAfter, p.primaryDown, p.power, p.all, p.local, p.advance, p.work, p.erase)
}

func (p plan) env() []string {
	if p.point == "" {
		return nil
	}
	return []string{fmt.Sprintf("%s=%s:%d", failpoint.VarPoint, p.point, p.hit)}
}

// name says for the tally where the node died.
func (p plan) name(point string) string {
	if point == "" {
		return "at random"
	}
	return point
}

// first are the points that only a start from nothing reaches.
var first = []failpoint.Point{
	failpoint.RootWritten, failpoint.RootSynced, failpoint.RootNamed, failpoint.RootDurable,
	failpoint.FormatPut, failpoint.FormatDurable, failpoint.TenantPut, failpoint.TenantDurable, failpoint.FSDirMade,
	failpoint.NodeKeysOpen, failpoint.NodeBucketOpen, failpoint.NodeLogOpen, failpoint.NodeLogMarked,
}

// stopping are those of a node that is asked to leave.
var stopping = []failpoint.Point{failpoint.NodeStopping, failpoint.NodeServersDown}

// plan decides about the next run.
func (w *World) plan() plan {
	r := w.rng
	if w.opt.Days {
		return w.dayPlan()
	}
	if w.quiet {
		w.quiet = false
		return plan{
			quiet: true, primaryDown: true, local: kept, power: true, all: true, fromReady: true,
			after: time.Duration(100+r.IntN(400)) * time.Millisecond,
		}
	}
	p := plan{
		after:       time.Duration(500+r.IntN(1000)) * time.Millisecond,
		primaryDown: r.IntN(4) == 0, power: r.IntN(5) < 3, all: r.IntN(3) == 0,
		local: []fate{kept, kept, kept, kept, deleted, deleted, older, older, torn, torn}[r.IntN(10)],
		judge: r.IntN(12) == 0,
	}
	switch n := r.IntN(10); {
	case w.run == 1 || !w.applied && n < 4:
		p.point, p.hit = w.next(w.points(first)), 1
		p.after /= 4
	case n < 8:
		p.point = w.next(w.points(failpoint.Brief()))
		if len(w.opt.Points) > 0 {
			p.point = w.next(w.opt.Points)
		}
		p.hit = hitOf(r, p.point)
		if !w.opt.S3 && (p.point == failpoint.FSNamed || r.IntN(6) == 0) {
			// Where the order of fsyncs shows: a value that has its name, and a
			// power failure that takes some of what was not durable.
			p.point, p.hit, p.power, p.all = failpoint.FSNamed, 1+r.IntN(25), true, false
			if w.down || r.IntN(4) == 0 {
				// Or it takes nothing yet: the next node sees what is not durable, shows it
				// to the user, changes nothing, and then the power fails.
				p.power, p.primaryDown, w.quiet = false, true, true
			}
		}
		if delivers(p.point) {
			p.primaryDown, p.hit, p.after = false, 1+r.IntN(4), p.after+time.Second
		}
		if slices.Contains(stopping, p.point) {
			p.stop, p.hit = true, 1
		}
		if p.point == failpoint.HealthAppend || p.point == failpoint.HealthDurable {
			p.primaryDown, p.after = !w.down, 3*time.Second
			p.hit = 1
		}
	case n < 9 && r.IntN(2) == 0:
		p.stop = true
	default:
		p.after = time.Duration(r.IntN(700)) * time.Millisecond
	}
	if w.opt.S3 && r.IntN(4) > 0 {
		p.storeAfter, p.storeEarly = time.Duration(1+r.IntN(300))*time.Millisecond, r.IntN(4) == 0
		p.after += 500 * time.Millisecond
	}
	if w.opt.S3 && r.IntN(3) == 0 {
		p.after += 2 * time.Second // time enough to take over the dead node's lease
	}
	p.fromReady = p.point != "" || p.stop // which may be anywhere
	return p
}

// delivers says whether a point is on the way of a message to the primary.
func delivers(p failpoint.Point) bool {
	part, _, _ := strings.Cut(string(p), ".")
	return part == "intent" || part == "dot" || part == "outcome"
}

// hitOf is how often a point is passed alive, and once. What a run passes once is
// not waited for twice.
func hitOf(r *rand.Rand, p failpoint.Point) int {
	for _, rare := range []string{"node.", "root.", "format.", "tenant.", "fold.complete", "fold.inservice", "health.", "page."} {
		if strings.HasPrefix(string(p), rare) {
			return 1
		}
	}
	return []int{1, 1, 1, 2, 2, 3, 4, 6, 10, 20}[r.IntN(10)]
}

// next returns one point after the other.
func (w *World) next(points []failpoint.Point) failpoint.Point {
	p := points[w.turn%len(points)]
	w.turn++
	return p
}

// points leaves out what this world cannot reach.
func (w *World) points(all []failpoint.Point) []failpoint.Point {
	return slices.DeleteFunc(slices.Clone(all), func(p failpoint.Point) bool {
		onDisk := len(p) > 3 && p[:3] == "fs."
		return w.opt.S3 == onDisk && (onDisk || p == failpoint.SegmentAgain) || !w.opt.S3 && p == failpoint.SegmentAgain
	})
}

// Tally counts over all worlds. Its methods may be called by any goroutine.
type Tally struct {
	mu      sync.Mutex
	Kills   map[string]int // by where the program died
	Seen    map[string]int // runs that reached a point
	Total   int
	Names   int // names that power failures took
	Files   int // files that they took bytes from
	Pending int // what they might have taken
}

// NewTally returns an empty tally.
func NewTally() *Tally {
	return &Tally{Kills: map[string]int{}, Seen: map[string]int{}}
}

func (t *Tally) killed(at string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Kills[at]++
	t.Total++
}

func (t *Tally) seen(points []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range points {
		t.Seen[p]++
	}
}

func (t *Tally) lost(r journal.Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Names, t.Files, t.Pending = t.Names+r.Names, t.Files+r.Files, t.Pending+r.Pending
}

// Survived returns those of some points at which no run has ended.
func (t *Tally) Survived(of []failpoint.Point) (list []failpoint.Point) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range of {
		if t.Kills[string(p)] == 0 {
			list = append(list, p)
		}
	}
	return list
}

// Unreached returns those of some points that no run has reached.
func (t *Tally) Unreached(of []failpoint.Point) (list []failpoint.Point) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range of {
		if t.Seen[string(p)] == 0 {
			list = append(list, p)
		}
	}
	return list
}

// tearDatabase takes pages of the database's write-ahead files, which are never
// synced: everything behind a random place, or every second page from there on.
func tearDatabase(r *rand.Rand, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	for _, name := range files {
		if r.IntN(4) == 0 {
			continue
		}
		if err := tearFile(r, name); err != nil {
			return err
		}
	}
	return nil
}

const page = 4096

func tearFile(r *rand.Rand, name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	used := len(data)
	for used > 0 && data[used-1] == 0 {
		used--
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	pages := (used + page - 1) / page
	if pages == 0 {
		return nil
	}
	from, holes := r.IntN(pages), r.IntN(2) == 0
	for i := from; i < pages; i++ {
		if holes && i > from && r.IntN(2) == 0 {
			continue
		}
		if _, err := f.WriteAt(make([]byte, min(page, len(data)-i*page)), int64(i)*page); err != nil {
			return err
		}
	}
	return nil
}

// regular is a file system without what is neither a file nor a directory, such as
// the admin socket.
type regular struct{ fs.FS }

// ReadDir implements fs.ReadDirFS.
func (f regular) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(all, func(e fs.DirEntry) bool { return !e.IsDir() && !e.Type().IsRegular() }), err
}
