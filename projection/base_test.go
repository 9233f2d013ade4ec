package projection

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"holdfast/event"
	"holdfast/eventlog"
)

// counting counts how many events it is shown.
type counting struct {
	*tally
	shown int
}

func (c *counting) Apply(t Txn, r eventlog.Recorded) error {
	c.shown++
	return c.tally.Apply(t, r)
}

// world is a log with a live projection and two Bases of it: the first after a
// third of the log, the second after two.
type world struct {
	log   *memLog
	snaps *memSnaps
	want  [32]byte // the state at the end of the log
	bases [2]*event.BaseTaken
}

func newTally() *tally { return &tally{name: "tally", version: 1, keep: 20, sealed: true} }

func newWorld(t testing.TB) *world {
	w := &world{log: newMemLog(1), snaps: newMemSnaps()}
	w.log.sealer = newSealer(t)
	st := NewMemStore()
	r := open(t, st, w.log, w.snaps, newTally())
	stop := runs(t, r)
	defer stop()
	if err := r.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		fill(w.log, 100)
		waitAll(t, r, w.log, "tally")
		if i < 2 {
			w.bases[i] = takeBase(t, r, w.snaps, "tally")
		}
	}
	w.want = hash(t, r, "tally")
	return w
}

// TestStartFromTheNewestBase: a node without a local database reads the Base and
// what comes after it, and has the state of the one that folded all.
func TestStartFromTheNewestBase(t *testing.T) {
	w := newWorld(t)
	tail := 0
	for seg, err := range w.log.Segments(t.Context(), 0, eventlog.Cursor{Seq: w.bases[1].Cursors[0].Seq}) {
		if err != nil {
			t.Fatal(err)
		}
		tail += len(seg.Events)
	}
	for name, src := range map[string]Source{"whole": w.log, "cut": from(w.log, w.bases[1])} {
		for kind, st := range map[string]Store{"mem": NewMemStore(), "badger": openBadgerT(t, filepath.Join(t.TempDir(), "db"))} {
			c := &counting{tally: newTally()}
			if got := caughtUp(t, open(t, st, src, w.snaps, c), "tally"); got != w.want {
				t.Errorf("%s, %s: other state", name, kind)
			}
			if c.shown != tail {
				t.Errorf("%s, %s: %d events folded, behind the Base are %d", name, kind, c.shown, tail)
			}
			// The second start finds the state and needs no Base.
			if got := caughtUp(t, open(t, st, src, newMemSnaps(), c), "tally"); got != w.want || c.shown != tail {
				t.Errorf("%s, %s: after a restart: %d events folded", name, kind, c.shown)
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestBaseCanBeLookedAtBeforeRunning: what reads the state before the runner runs
// restores it first.
func TestBaseCanBeLookedAtBeforeRunning(t *testing.T) {
	w := newWorld(t)
	r := open(t, NewMemStore(), w.log, w.snaps, newTally())
	if n := len(counts(t, r, "tally")); n != 0 {
		t.Fatalf("%d topics before anything was loaded", n)
	}
	if err := r.Restore(t.Context(), "tally"); err != nil {
		t.Fatal(err)
	}
	if n := len(counts(t, r, "tally")); n != 5 {
		t.Errorf("%d topics after restoring, want 5", n)
	}
	if hash(t, r, "tally") != w.bases[1].Hash {
		t.Error("what was restored is not the newest Base")
	}
	if got := caughtUp(t, r, "tally"); got != w.want {
		t.Error("other state at the end")
	}
}

// TestBadBasesArePassedOver: what is missing, damaged or does not fit is never
// folded upon; the next older Base is, or the log from its beginning.
func TestBadBasesArePassedOver(t *testing.T) {
	whole := newWorld(t)
	index := func(m *memSnaps, i int) event.Snap { return m.bases[i].Taken.Index }
	first := func(m *memSnaps, i int) event.Snap { return m.names[index(m, i)][0] }
	harm := map[string]func(m *memSnaps, i int){
		"no index":   func(m *memSnaps, i int) { delete(m.names, index(m, i)) },
		"no piece":   func(m *memSnaps, i int) { delete(m.pieces, first(m, i)) },
		"cut piece":  func(m *memSnaps, i int) { m.pieces[first(m, i)] = m.pieces[first(m, i)][:100] },
		"long piece": func(m *memSnaps, i int) { m.pieces[first(m, i)] = append(bytes.Clone(m.pieces[first(m, i)]), 0) },
		"other value": func(m *memSnaps, i int) {
			b := bytes.Clone(m.pieces[first(m, i)])
			b[len(b)-1] ^= 1
			m.pieces[first(m, i)] = b
		},
		"huge length": func(m *memSnaps, i int) {
			b := bytes.Clone(m.pieces[first(m, i)])
			b[0] = 0xff
			m.pieces[first(m, i)] = b
		},
		"one piece more": func(m *memSnaps, i int) {
			m.names[index(m, i)] = append(bytes2(m.names[index(m, i)]), first(m, i))
		},
		"other version": func(m *memSnaps, i int) { c := *m.bases[i].Taken; c.Version++; m.bases[i].Taken = &c },
		"other hash":    func(m *memSnaps, i int) { c := *m.bases[i].Taken; c.Hash[0]++; m.bases[i].Taken = &c },
		"fewer cursors": func(m *memSnaps, i int) { c := *m.bases[i].Taken; c.Cursors = nil; m.bases[i].Taken = &c },
	}
	for name, do := range harm {
		for bad := 1; bad <= 2; bad++ {
			m := whole.snaps.clone()
			for i := range bad {
				do(m, i)
			}
			st := NewMemStore()
			if got := caughtUp(t, open(t, st, whole.log, m, newTally()), "tally"); got != whole.want {
				t.Errorf("%s, %d bad: other state", name, bad)
			}
			if bad == 1 && name != "no index" && name != "no piece" {
				continue
			}
			// Without its beginning the log is of use only with a Base.
			r := open(t, NewMemStore(), from(whole.log, whole.bases[0]), m, newTally())
			stop := runs(t, r)
			err := r.CaughtUp(t.Context())
			if bad == 1 && (err != nil || hash(t, r, "tally") != whole.want) {
				t.Errorf("%s, older Base and log from there: %v", name, err)
			}
			if bad == 2 && (!errors.Is(err, ErrNoBase) || !errors.Is(err, ErrStopped)) {
				t.Errorf("%s, no Base and no beginning: %v, want ErrNoBase", name, err)
			}
			stop()
		}
	}
}

func bytes2(s []event.Snap) []event.Snap { return append([]event.Snap(nil), s...) }

// TestStaleStateIsReplaced: a node that was away for so long that the log begins
// behind what it has starts from a Base.
func TestStaleStateIsReplaced(t *testing.T) {
	l, m := newMemLog(1), newMemSnaps()
	l.sealer = newSealer(t)
	fill(l, 50)
	away := NewMemStore()
	caughtUp(t, open(t, away, l, m, newTally()), "tally")
	fill(l, 50)
	r := open(t, NewMemStore(), l, m, newTally())
	caughtUp(t, r, "tally")
	b := takeBase(t, r, m, "tally")
	fill(l, 50)
	want := caughtUp(t, open(t, NewMemStore(), l, m, newTally()), "tally")
	if got := caughtUp(t, open(t, away, from(l, b), m, newTally()), "tally"); got != want {
		t.Error("other state")
	}
}

// TestBrokenFoldGetsNoBase: what does not come out the same again, or is not what
// is in the local database, is not made a Base of.
func TestBrokenFoldGetsNoBase(t *testing.T) {
	for name, c := range map[string]struct {
		p    Projection
		harm func(Store)
	}{
		"a fold that counts in itself": {p: &impure{}},
		"a lost write": {p: newTally(), harm: func(st Store) {
			st.Commit([]Op{{Key: append(statePrefix(1), "count/topic1"...), Delete: true}})
		}},
		"a changed value": {p: newTally(), harm: func(st Store) {
			st.Commit([]Op{{Key: append(statePrefix(1), "count/topic1"...), Value: []byte("12345678")}})
		}},
	} {
		l, m, st := newMemLog(1), newMemSnaps(), NewMemStore()
		l.sealer = newSealer(t)
		fill(l, 30)
		r := open(t, st, l, m, c.p)
		before := caughtUp(t, r, c.p.Name())
		if c.harm != nil {
			c.harm(st)
			if hash(t, r, c.p.Name()) == before {
				t.Fatalf("%s: nothing was harmed", name)
			}
		}
		if b, err := r.TakeBase(t.Context(), c.p.Name()); !errors.Is(err, ErrDisagree) {
			t.Errorf("%s: %v, %v, want ErrDisagree", name, b, err)
		}
		if len(m.pieces)+len(m.names) != 0 {
			t.Errorf("%s: something was stored", name)
		}
		if n := r.Status()[0].Disagreed; n != 1 {
			t.Errorf("%s: the status counts %d disagreements, want 1", name, n)
		}
	}
}

// impure writes a number that it keeps itself.
type impure struct{ n int }

func (*impure) Name() string { return "impure" }
func (*impure) Version() int { return 1 }
func (i *impure) Apply(t Txn, r eventlog.Recorded) error {
	i.n++
	t.Set(r.Ref.ID[:], fmt.Append(nil, i.n))
	return nil
}

// dying is a store of a process that dies at one of its commits: that one and all
// after it do not happen.
type dying struct {
	Store
	left int
}

var errDied = errors.New("the process has died")

func (d *dying) Commit(ops []Op) error {
	if d.left--; d.left < 0 {
		return errDied
	}
	return d.Store.Commit(ops)
}

// TestLoadingMayEndAnywhere: whatever commit of a load is the last one, the next
// start comes to the right state and leaves nothing behind.
func TestLoadingMayEndAnywhere(t *testing.T) {
	w := newWorld(t)
	for n := 0; ; n++ {
		st := NewMemStore()
		d := &dying{Store: st, left: n}
		died := true
		if r, err := Open(Options{Store: d, Source: from(w.log, w.bases[1]), Snaps: w.snaps}); err == nil {
			if err = r.Add(newTally()); err == nil {
				err = r.Restore(t.Context(), "tally")
			}
			died = err != nil
			if died && !errors.Is(err, errDied) {
				t.Fatal(err)
			}
		}
		r := open(t, st, from(w.log, w.bases[1]), w.snaps, newTally())
		if got := caughtUp(t, r, "tally"); got != w.want {
			t.Errorf("dead at commit %d: other state", n)
		}
		for more := true; more; {
			var err error
			if more, err = r.sweepSome(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wantOneSlot(t, st, r.folds[0].slot)
		if !died {
			if n < 3 {
				t.Errorf("a load took %d commits", n)
			}
			return
		}
	}
}

// wantOneSlot looks for what belongs to another slot.
func wantOneSlot(t *testing.T, st Store, s slot) {
	t.Helper()
	snap, err := st.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	for it := range snap.Scan(nil, nil, false) {
		if tag := it.Key[0]; (tag == tagState || tag == tagCursor) && !bytes.HasPrefix(it.Key, slotKey(tag, s)) {
			t.Errorf("key %x is not of slot %d", it.Key, s)
			return
		}
	}
}

// TestUnchangedRangesAreStoredOnce takes Bases of a large state of which little
// changes.
func TestUnchangedRangesAreStoredOnce(t *testing.T) {
	l, m := newMemLog(2), newMemSnaps()
	p := &archive{}
	for i := range 24 {
		l.append(event.Partition(i%2), note("fill", i))
	}
	r := open(t, NewMemStore(), l, m, p)
	stop := runs(t, r)
	defer stop()
	if err := r.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := takeBase(t, r, m, "archive")
	first := len(m.pieces)
	if b.Size < 24<<20 || first < 12 || first > 80 || int(b.Chunks) != first {
		t.Fatalf("%d bytes in %d pieces, the fact says %d", b.Size, first, b.Chunks)
	}
	again := takeBase(t, r, m, "archive")
	if len(m.pieces) != first || again.Index != b.Index {
		t.Errorf("a Base of the same state stored %d pieces", len(m.pieces)-first)
	}
	pos := l.append(0, note("touch", 5))
	if err := r.WaitFor(t.Context(), "archive", pos); err != nil {
		t.Fatal(err)
	}
	takeBase(t, r, m, "archive")
	if n := len(m.pieces) - first; n < 1 || n > 3 {
		t.Errorf("one item of %d bytes of state was changed, and %d pieces stored", b.Size, n)
	}
}

// archive stores 1 MiB for each event "fill", in values of all sizes, and changes
// one of them for an event "touch".
type archive struct{}

func (*archive) Name() string { return "archive" }
func (*archive) Version() int { return 1 }
func (*archive) Apply(t Txn, r eventlog.Recorded) error {
	f := r.Fact.(*event.Posted)
	random := rand.New(rand.NewPCG(uint64(f.Payload[3]), 7))
	for left, i := 1<<20, 0; left > 0; i++ {
		n := min(left, 1+random.IntN(4000))
		v := make([]byte, n)
		for j := range v {
			v[j] = byte(random.Uint32())
		}
		if f.Topic == "fill" {
			t.Set(fmt.Appendf(nil, "%d/%d", f.Payload[3], i), v)
		} else {
			t.Set(fmt.Appendf(nil, "%d/%d", f.Payload[3], i), []byte("touched"))
			return nil
		}
		left -= n
	}
	return nil
}

// newer is a tally of a later version, in which counts stand under other keys.
type newer struct{ *tally }

func (newer) Version() int { return 2 }
func (n newer) Apply(t Txn, r eventlog.Recorded) error {
	return n.tally.Apply(renamed{t}, r)
}
func (newer) UpgradesFrom(version int) bool { return version == 1 }
func (newer) Upgrade(t Txn, _ int, it Item) error {
	renamed{t}.Set(it.Key, it.Value)
	return nil
}

type renamed struct{ Txn }

func rename(key []byte) []byte {
	if rest, ok := bytes.CutPrefix(key, []byte("count/")); ok {
		return append([]byte("number/"), rest...)
	}
	return key
}

func (r renamed) Get(key []byte) ([]byte, error) { return r.Txn.Get(rename(key)) }
func (r renamed) Set(key, value []byte)          { r.Txn.Set(rename(key), value) }

// TestANewVersionWithoutTheBeginning: a new version starts from a Base of the old
// one if it knows how, and only where the log's beginning is gone.
func TestANewVersionWithoutTheBeginning(t *testing.T) {
	w := newWorld(t)
	want := caughtUp(t, open(t, NewMemStore(), w.log, newMemSnaps(), newer{newTally()}), "tally")
	cut := from(w.log, w.bases[1])
	r := open(t, NewMemStore(), cut, w.snaps, newer{newTally()})
	if got := caughtUp(t, r, "tally"); got != want {
		t.Error("upgraded it is another state than folded")
	}
	if b := takeBase(t, r, w.snaps.clone(), "tally"); b.Version != 2 || b.Hash != want {
		t.Errorf("a Base of version %d", b.Version)
	}
	c := &counting{tally: &tally{name: "tally", version: 2, keep: 20, sealed: true}}
	r = open(t, NewMemStore(), cut, w.snaps, c)
	stop := runs(t, r)
	if err := r.CaughtUp(t.Context()); !errors.Is(err, ErrNoBase) || c.shown != 0 {
		t.Errorf("a version that cannot be upgraded: %v, %d events folded", err, c.shown)
	}
	stop()
	if got := caughtUp(t, open(t, NewMemStore(), w.log, w.snaps, c), "tally"); got != w.want {
		t.Error("a new version on the whole log: other state")
	}
}

// oversleeping is a log whose beginning moves past all that was read of it.
type oversleeping struct {
	cutLog
	gone atomic.Bool
}

func (o *oversleeping) Segments(ctx context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	if !o.gone.Load() {
		return o.cutLog.Segments(ctx, p, after)
	}
	return func(yield func(*eventlog.Segment, error) bool) {
		yield(nil, fmt.Errorf("segment %d: %w", after.Seq+1, eventlog.ErrBeforeStart))
	}
}

// TestOverslept: a runner that finds the log's beginning ahead of it ends, so that
// its process is started anew and loads a Base.
func TestOverslept(t *testing.T) {
	w := newWorld(t)
	src := &oversleeping{cutLog: cutLog{memLog: w.log, start: make([]eventlog.Cursor, 1)}}
	r := open(t, NewMemStore(), src, nil, newTally())
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	if err := r.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	src.gone.Store(true)
	fill(w.log, 1)
	if err := <-done; !errors.Is(err, ErrOverslept) {
		t.Errorf("%v, want ErrOverslept", err)
	}
}
