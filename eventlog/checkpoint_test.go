package eventlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// memory is a Memory that can be looked into.
type memory struct {
	mu    sync.Mutex
	notes map[event.Partition][]byte
	err   error
}

func (m *memory) Recall() (notes [][]byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.notes {
		notes = append(notes, n)
	}
	return notes, m.err
}

func (m *memory) Remember(p event.Partition, note []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.notes[p] = note
	}
	return m.err
}

func newMemory() *memory { return &memory{notes: map[event.Partition][]byte{}} }

// grow appends n segments of one small event each.
func (f *fixture) grow(t *testing.T, n int) {
	t.Helper()
	for range n {
		ev := event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: &event.MailboxCreated{Name: "x"}}
		if _, err := f.Append(context.Background(), ev); err != nil {
			t.Fatal(err)
		}
	}
}

func stored(t *testing.T, b objstore.Bucket, prefix string) (keys []string) {
	t.Helper()
	for info, err := range b.List(context.Background(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func TestCheckpointSaysWhatTheLogHolds(t *testing.T) {
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	opt.Partitions = 1
	f := openFixture(t, opt)
	if c, err := f.Checkpoint(ctx, 0); c != nil || err != nil {
		t.Fatalf("of an empty partition: %v, %v", c, err)
	}
	f.grow(t, 5)
	c, err := f.Checkpoint(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	tail, err := f.CursorAt(ctx, 0, 5)
	if err != nil {
		t.Fatal(err)
	}
	if c.Log != f.ID() || c.Seq != 5 || c.From != 0 || c.Hash != tail.Hash {
		t.Errorf("the checkpoint is %s", c.Note())
	}
	again, err := f.Checkpoint(ctx, 0)
	if err != nil || again != c || len(stored(t, opt.Bucket, "checkpoint/")) != 1 {
		t.Errorf("nothing new, and yet another one: %v, %v", again, err)
	}
	f.grow(t, 3)
	next, err := f.Checkpoint(ctx, 0)
	if err != nil || next.From != 5 || next.Seq != 8 {
		t.Fatalf("the next one is %v, %v", next, err)
	}
	hs, err := f.hashes(ctx, 0, 5, 8)
	if err != nil {
		t.Fatal(err)
	}
	tree := newHashTree(hs)
	for i, h := range hs {
		path := tree.path(int64(i))
		if !next.proves(event.Seq(6+i), h, path) {
			t.Errorf("segment %d is not proved", 6+i)
		}
		if next.proves(event.Seq(5+i), h, path) || next.proves(event.Seq(7+i), h, path) || next.proves(event.Seq(6+i), hs[(i+1)%3], path) {
			t.Errorf("segment %d is proved in another place", 6+i)
		}
	}
}

// Any change of a note is noticed, and so is any other signer.
func TestOnlyCertifiedNotesAreCheckpoints(t *testing.T) {
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	f := openFixture(t, opt)
	f.grow(t, 2)
	p := f.PartitionOf(f.tenant)
	c, err := f.Checkpoint(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	good := c.Note()
	for at := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << bit
			if _, err := f.ParseCheckpoint(bad); !errors.Is(err, ErrNoCheckpoint) {
				t.Errorf("bit %d of byte %d (%q): %v", bit, at, good[at], err)
			}
		}
		if _, err := f.ParseCheckpoint(good[:at]); !errors.Is(err, ErrNoCheckpoint) {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
	if _, err := f.ParseCheckpoint(append(bytes.Clone(good), '\n')); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("with a line more: %v", err)
	}

	other, err := crypto.NewNodeKey(ctx, crypto.MemoryRoot(1), event.ClassesOf(event.ClassCheckpoint))
	if err != nil {
		t.Fatal(err)
	}
	lesser, err := crypto.NewNodeKey(ctx, opt.Keys, event.AllClasses)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]*crypto.NodeKey{"of another installation": other, "that may not": lesser} {
		forged := *c
		if err := forged.sign(key); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ParseCheckpoint(forged.note); !errors.Is(err, ErrNoCheckpoint) {
			t.Errorf("signed by a node %s: %v", name, err)
		}
	}
	stolen := *c // the right certificate over another key's signature
	if err := stolen.sign(lesser); err != nil {
		t.Fatal(err)
	}
	b := strings.Replace(string(stolen.note), b64(stolen.Cert[:]), b64(c.Cert[:]), 1)
	if _, err := f.ParseCheckpoint([]byte(b)); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("under another node's certificate: %v", err)
	}
}

func TestNotesInOneFileAreTakenApart(t *testing.T) {
	ctx := context.Background()
	f := openFixture(t, newOptions(t, mem.New()))
	f.grow(t, 1)
	if _, err := f.Append(ctx, event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: &event.KeysBackedUp{At: 1}}); err != nil {
		t.Fatal(err)
	}
	cs, err := f.CheckpointAll(ctx)
	if err != nil || len(cs) == 0 {
		t.Fatalf("%v, %v", cs, err)
	}
	for _, between := range []string{"", "\n", "\n\n\n"} {
		file := []byte(between)
		for _, c := range cs {
			file = append(append(file, c.Note()...), between...)
		}
		notes := SplitNotes(file)
		if len(notes) != len(cs) {
			t.Fatalf("%d notes of %d", len(notes), len(cs))
		}
		for i, n := range notes {
			if _, err := f.ParseCheckpoint(n); err != nil || !bytes.Equal(n, cs[i].Note()) {
				t.Errorf("note %d: %v", i, err)
			}
		}
	}
	if n := SplitNotes([]byte("some text\n")); len(n) != 1 {
		t.Errorf("what is no note: %q", n)
	}
}

// A busy partition gets a checkpoint for every 1024 segments, a quiet one every
// quarter of an hour, and one without anything new gets none.
func TestWhenCheckpointsAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := newOptions(t, mem.New())
		opt.Partitions, opt.Memory = 1, newMemory()
		f := openFixture(t, opt)
		f.grow(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { f.KeepCheckpoints(ctx) })
		count := func(after time.Duration, want int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := stored(t, opt.Bucket, "checkpoint/"); len(got) != want {
				t.Fatalf("%d checkpoints, want %d: %v", len(got), want, got)
			}
		}
		count(time.Second, 1) // at start
		count(time.Hour, 1)   // nothing new
		f.grow(t, 1)
		count(time.Minute, 2) // the last is old enough
		f.grow(t, 1)
		count(remembering, 2)
		if got := opt.Memory.(*memory).notes[0]; !strings.Contains(string(got), "\n3\n") {
			t.Errorf("what is not under a checkpoint yet is not remembered: %s", got)
		}
		count(10*time.Minute, 2)
		count(6*time.Minute, 3)
		f.grow(t, everySegments)
		count(time.Minute, 4)
		cancel()
		wg.Wait()
		if got := opt.Memory.(*memory).notes[0]; !strings.Contains(string(got), fmt.Sprintf("\n%d\n", everySegments+3)) {
			t.Errorf("remembered is %s", got)
		}
	})
}

// Two nodes on one bucket do not write a checkpoint each.
func TestNodesShareCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := newOptions(t, mem.New())
		opt.Partitions, opt.Poll = 1, time.Second
		a, b := openFixture(t, opt), openFixture(t, opt)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { a.KeepCheckpoints(ctx) })
		time.Sleep(20 * time.Second)
		wg.Go(func() { b.KeepCheckpoints(ctx) })
		for range 60 {
			a.grow(t, 1)
			if err := b.Refresh(ctx, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		cancel()
		wg.Wait()
		// In an hour: one at once, and then one each quarter.
		if got := stored(t, opt.Bucket, "checkpoint/"); len(got) < 4 || len(got) > 6 {
			t.Errorf("%d checkpoints in an hour: %v", len(got), got)
		}
	})
}

// A store that does not take checkpoints takes mail, and gets them later.
func TestCheckpointsWaitForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := fault.Wrap(mem.New())
		defer bucket.Close()
		opt := newOptions(t, bucket)
		opt.Partitions = 1
		f := openFixture(t, opt)
		for _, kind := range []fault.Kind{fault.FailBefore, fault.FailAfter, fault.Hang} {
			bucket.Inject(fault.Rule{KeyPrefix: "checkpoint/", Kind: kind, Times: -1})
			f.grow(t, 1)
			if c, err := f.Checkpoint(t.Context(), 0); err == nil && kind != fault.FailAfter {
				t.Errorf("kind %v: %v", kind, c)
			}
			f.grow(t, 1)
			bucket.Clear()
			if c, err := f.Checkpoint(t.Context(), 0); err != nil || c.Seq != f.TailAtLeast(0) {
				t.Errorf("after kind %v: %v, %v", kind, c, err)
			}
		}
		if _, err := f.VerifyWith(t.Context(), VerifyOptions{Report: func(f Finding) { t.Errorf("found: %v", f) }}); err != nil {
			t.Error(err)
		}
	})
}

// A log that was not under checkpoints for long gets as many as it takes.
func TestCheckpointsCatchUp(t *testing.T) {
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	opt.Partitions = 1
	f := openFixture(t, opt)
	spans := 2
	if testing.Short() {
		spans = 1
	}
	behind := event.Seq(spans * maxSpan)
	f.grow(t, spans*maxSpan+10)
	g := openFixture(t, opt) // which has not seen them go by
	c, err := g.Checkpoint(ctx, 0)
	if err != nil || c.From != behind || c.Seq != behind+10 {
		t.Fatalf("%v, %v", c, err)
	}
	if got := stored(t, opt.Bucket, "checkpoint/"); len(got) != spans+1 {
		t.Errorf("checkpoints %v", got)
	}
	h := openFixture(t, opt) // finds the newest
	if d, err := h.Checkpoint(ctx, 0); err != nil || d.Seq != c.Seq {
		t.Errorf("found %v, %v", d, err)
	}
	if sum, err := h.Verify(ctx, func(f Finding) { t.Errorf("found: %v", f) }); err != nil || sum.Checkpoints != uint64(spans)+1 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// rollBack removes what is behind a number, segments and checkpoints.
func rollBack(t *testing.T, b objstore.Bucket, to event.Seq) {
	t.Helper()
	for _, key := range slices.Concat(stored(t, b, "log/"), stored(t, b, "checkpoint/")) {
		s, ok := parseSegmentKey(key)
		if c, is := parseCheckpointKey(key); is {
			s, ok = c, true
		}
		if ok && s > to {
			if err := b.Delete(context.Background(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What a node remembers shows that a log was rolled back, or rewritten from
// some point on, though the bucket itself looks whole.
func TestRollbackShows(t *testing.T) {
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	opt.Partitions, opt.Memory = 1, newMemory()
	f := openFixture(t, opt)
	f.grow(t, 4)
	early, err := f.Checkpoint(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.grow(t, 4)
	late, err := f.Checkpoint(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	without := opt
	without.Memory = nil
	check := func(name string, opt Options, want error, since []*Checkpoint, kinds ...string) {
		t.Helper()
		l, err := Open(ctx, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(ctx)
		if err := l.CheckTail(ctx); !errors.Is(err, want) {
			t.Errorf("%s: at start: %v, want %v", name, err, want)
		}
		var got []string
		_, err = l.VerifyWith(ctx, VerifyOptions{Since: since, Report: func(f Finding) { got = append(got, f.What) }})
		if err != nil || !slices.Equal(got, kinds) {
			t.Errorf("%s: found %v, %v, want %v", name, got, err, kinds)
		}
	}
	check("as it is", opt, nil, []*Checkpoint{early, late})
	segment8 := segmentKey(0, 8)
	raw, _, err := objstore.ReadAll(ctx, opt.Bucket, segment8, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := opt.Bucket.Delete(ctx, segment8); err != nil {
		t.Fatal(err)
	}
	check("the last segment alone removed", without, ErrRolledBack, nil, RolledBack)
	put(t, opt.Bucket, segment8, raw)

	rollBack(t, opt.Bucket, 6)
	check("rolled back, nothing remembered", without, nil, []*Checkpoint{early})
	check("rolled back, remembered", opt, ErrRolledBack, nil, RolledBack)
	check("rolled back, given", without, nil, []*Checkpoint{early, late}, RolledBack)
	g := openFixture(t, without) // goes on from there, as if nothing had been
	g.grow(t, 4)
	if _, err := g.Checkpoint(ctx, 0); err != nil {
		t.Fatal(err)
	}
	check("another future, nothing remembered", without, nil, []*Checkpoint{early})
	check("another future, remembered", opt, ErrRolledBack, nil, Forked)
	check("another future, given", without, nil, []*Checkpoint{late}, Forked)
	rollBack(t, opt.Bucket, 0)
	check("empty, remembered", opt, ErrRolledBack, nil, RolledBack)
}

// A log that was rolled back and is opened for something else does not take the
// place of what is remembered, and damage elsewhere does not hide it.
func TestRollbackIsNotForgotten(t *testing.T) {
	ctx := context.Background()
	m := newMemory()
	opt := newOptions(t, mem.New())
	opt.Partitions, opt.Memory = 2, m
	f := openFixture(t, opt)
	other := 1 - f.PartitionOf(f.tenant)
	f.grow(t, 4)
	if _, err := f.CheckpointAll(ctx); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(m.notes[f.PartitionOf(f.tenant)])
	if len(want) == 0 {
		t.Fatal("nothing is remembered")
	}
	if err := opt.Bucket.Delete(ctx, segmentKey(f.PartitionOf(f.tenant), f.TailAtLeast(f.PartitionOf(f.tenant)))); err != nil {
		t.Fatal(err)
	}
	for info, err := range opt.Bucket.List(ctx, checkpointPrefix(f.PartitionOf(f.tenant)), "") {
		if err != nil {
			t.Fatal(err)
		}
		if err := opt.Bucket.Delete(ctx, info.Key); err != nil {
			t.Fatal(err)
		}
	}
	m.notes[other] = []byte("damaged")
	g, err := Open(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close(ctx)
	if err := g.CheckTail(ctx); !errors.Is(err, ErrRolledBack) {
		t.Errorf("at start: %v", err)
	}
	if _, err := g.CheckpointAll(ctx); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.notes[f.PartitionOf(f.tenant)], want) {
		t.Error("an older checkpoint took the place of the newest")
	}
}

// What is remembered and cannot be used stops nobody, and is named.
func TestDamagedMemory(t *testing.T) {
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	m := newMemory()
	opt.Partitions, opt.Memory = 1, m
	f := openFixture(t, opt)
	f.grow(t, 1)
	m.notes[0] = []byte("nonsense")
	if err := f.CheckTail(ctx); err != nil {
		t.Errorf("at start: %v", err)
	}
	var got []string
	if _, err := f.Verify(ctx, func(f Finding) { got = append(got, f.What) }); err != nil || !slices.Equal(got, []string{DamagedCheckpoint}) {
		t.Errorf("found %v, %v", got, err)
	}
	if _, err := f.Checkpoint(ctx, 0); err != nil {
		t.Error(err)
	}
	if _, err := f.Remembered(); err != nil {
		t.Errorf("it was not written anew: %v", err)
	}
	m.err = errors.New("no space left")
	f.grow(t, 1)
	if _, err := f.Checkpoint(ctx, 0); err != nil {
		t.Errorf("a memory that fails: %v", err)
	}
}

func TestPublicKeyIsReadAsItIsWritten(t *testing.T) {
	key, err := crypto.MemoryRoot(1).InstallationKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	text, err := FormatKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseKey(" " + text + "\n"); err != nil || !got.Equal(key) {
		t.Errorf("%v, %v", got, err)
	}
	for at := range text {
		for _, bad := range []string{text[:at], text[:at] + "x" + text[at+1:], text[:at] + "x" + text[at:]} {
			if got, err := ParseKey(bad); bad != text && !errors.Is(err, ErrNoKey) {
				t.Errorf("%q is read as %v, %v", bad, got, err)
			}
		}
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
