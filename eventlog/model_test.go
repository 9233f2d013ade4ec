package eventlog

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/fs"
	"holdfast/objstore/mem"
)

var (
	seeds    = flag.Int("seeds", 12, "how many random histories to check")
	onlySeed = flag.Uint64("seed", 0, "check this history only")
)

// keptSeeds are histories that once found a defect.
var keptSeeds = []uint64{}

// history is one random run of several nodes on one bucket, and what they were
// told.
type history struct {
	t      *testing.T
	seed   uint64
	bucket objstore.Bucket
	rates  fault.Rates
	delay  time.Duration
	nodes  int
	each   int // events of each writer
	settle time.Duration

	opt    Options
	tenant event.Tenant
	faults []*fault.Bucket

	mu    sync.Mutex
	told  map[event.ID]*told
	lives [][]event.Ref // what each node's reader saw, as it came
}

// told is what an Append of one event answered.
type told struct {
	mail    bool
	size    int
	pos     event.Position
	err     error
	crashed bool // its node was closed in haste, which may leave a late acceptance standing
}

func (h *history) run() {
	ctx := context.Background()
	h.told = map[event.ID]*told{}
	h.opt = newOptions(h.t, h.bucket)
	h.opt.Poll = time.Second
	h.tenant = openFixture(h.t, h.opt).tenant
	rng := rand.New(rand.NewPCG(h.seed, 1))
	h.lives = make([][]event.Ref, h.nodes)
	var writers, readers sync.WaitGroup
	read, stop := context.WithCancel(ctx)
	defer func() { stop(); readers.Wait() }()
	var logs []*fixture
	for n := range h.nodes {
		b := fault.Wrap(h.bucket)
		h.faults = append(h.faults, b)
		opt := h.opt
		opt.Bucket = b
		f := openFixture(h.t, opt)
		b.Chance(h.seed*16+uint64(n), h.rates, h.delay)
		logs = append(logs, f)
		readers.Go(func() { h.follow(read, n, f) })
		hasty := h.nodes > 1 && n == 0 && h.seed%3 == 0
		for w := range 3 {
			seed := rng.Uint64()
			writers.Go(func() { h.write(f, rand.New(rand.NewPCG(seed, uint64(w))), hasty) })
		}
		if hasty {
			writers.Go(func() {
				pause(ctx, h.delay)
				done, cancel := context.WithCancel(ctx)
				cancel()
				f.Close(done)
			})
		}
		h.t.Cleanup(func() { b.Close() })
	}
	writers.Wait()
	for _, b := range h.faults {
		b.Clear()
		b.Release()
	}
	pause(ctx, h.settle)
	for _, b := range h.faults {
		b.Release()
	}
	for _, f := range logs {
		// Behind what is still being put, and behind the repudiations of that.
		ev := event.Event{ID: event.NewID(), Tenant: h.tenant, Fact: &event.MailboxCreated{Name: "last"}}
		if _, err := f.Append(ctx, ev); err != nil && !errors.Is(err, ErrClosed) {
			h.t.Errorf("seed %d: append once the store works: %v", h.seed, err)
		}
	}
	h.check(logs)
}

// write appends events of both sorts and notes what it is told.
func (h *history) write(f *fixture, rng *rand.Rand, hasty bool) {
	for range h.each {
		pause(context.Background(), time.Duration(rng.Int64N(int64(h.delay)/4+1)))
		ctx, cancel := context.WithTimeout(context.Background(), h.delay+time.Duration(rng.Int64N(int64(2*h.delay)+1)))
		to := &told{mail: rng.IntN(4) > 0, size: rng.IntN(3000), crashed: hasty}
		if rng.IntN(10) == 0 {
			to.size = maxInline + rng.IntN(100_000)
		}
		ev := event.Event{ID: event.NewID(), Tenant: h.tenant, Fact: &event.MailboxCreated{Name: "x"}}
		if to.mail {
			ev, to.err = f.tryMessage(ctx, make([]byte, to.size))
		}
		if to.err == nil {
			to.pos, to.err = f.Append(ctx, ev)
		}
		cancel()
		h.mu.Lock()
		h.told[ev.ID] = to
		h.mu.Unlock()
	}
}

// follow reads the tenant's partition as it grows.
func (h *history) follow(ctx context.Context, n int, f *fixture) {
	p := f.PartitionOf(h.tenant)
	var at Cursor
	for ctx.Err() == nil {
		for seg, err := range f.Segments(ctx, p, at) {
			if errors.Is(err, ErrDamaged) || errors.Is(err, ErrRolledBack) {
				h.t.Errorf("seed %d: node %d reads: %v", h.seed, n, err)
				return
			}
			if err != nil { // the store, not the log
				break
			}
			h.mu.Lock()
			for _, r := range seg.Events {
				h.lives[n] = append(h.lives[n], r.Ref)
			}
			h.mu.Unlock()
			at = Cursor{seg.Seq, seg.Hash}
		}
		if f.Wait(ctx, p, at.Seq) != nil {
			return
		}
	}
}

// check compares what the nodes were told with what every node, and a fresh one,
// reads.
func (h *history) check(logs []*fixture) {
	t := h.t
	logs = append(logs, openFixture(t, h.opt))
	var want []Recorded
	for n, f := range logs {
		got := f.all(t)
		if n == 0 {
			want = got
		}
		if len(got) != len(want) {
			t.Fatalf("seed %d: node %d reads %d events, node 0 %d", h.seed, n, len(got), len(want))
		}
		for i := range got {
			if got[i].Ref != want[i].Ref {
				t.Fatalf("seed %d: nodes 0 and %d differ at event %d", h.seed, n, i)
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, live := range h.lives {
		for i := range live {
			if live[i] != want[i].Ref {
				t.Fatalf("seed %d: what node %d read as it came differs at event %d", h.seed, n, i)
			}
		}
	}
	at, taken := map[event.ID]Recorded{}, map[event.ID]int{}
	for _, r := range want {
		if _, twice := at[r.Ref.ID]; twice {
			t.Errorf("seed %d: event %v is in the log twice", h.seed, r.Ref.ID)
		}
		at[r.Ref.ID] = r
		if f, ok := r.Fact.(*event.Repudiated); ok {
			taken[f.Message]++
		}
	}
	for id, to := range h.told {
		h.checkOne(logs[len(logs)-1], id, to, at, taken[id])
	}
}

func (h *history) checkOne(f *fixture, id event.ID, to *told, at map[event.ID]Recorded, repudiated int) {
	t := h.t
	r, in := at[id]
	switch {
	case to.err == nil:
		if !in || r.Ref.Position != to.pos || repudiated != 0 {
			t.Errorf("seed %d: event %v was reported durable at %v; it is in the log: %t, at %v, repudiated %d times", h.seed, id, to.pos, in, r.Ref.Position, repudiated)
			return
		}
		if to.mail {
			h.checkBody(f, r, to)
		}
	case !errors.Is(to.err, ErrTimeout):
		if in {
			t.Errorf("seed %d: event %v was reported failed (%v) and is in the log", h.seed, id, to.err)
		}
	case to.mail && in && repudiated != 1 && !to.crashed:
		t.Errorf("seed %d: message %v timed out, landed, and was repudiated %d times", h.seed, id, repudiated)
	case !in && repudiated != 0:
		t.Errorf("seed %d: message %v was repudiated but never landed", h.seed, id)
	}
}

func (h *history) checkBody(f *fixture, r Recorded, to *told) {
	b, err := f.Body(context.Background(), r.Ref)
	if err != nil {
		h.t.Errorf("seed %d: body of %v: %v", h.seed, r.Ref.ID, err)
		return
	}
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, make([]byte, to.size)) {
		h.t.Errorf("seed %d: body of %v: %d bytes, want %d, error %v", h.seed, r.Ref.ID, len(got), to.size, err)
	}
}

// manyFaults make about one put in five go wrong.
var manyFaults = fault.Rates{
	fault.FailBefore: .03, fault.FailAfter: .03, fault.LostAnswer: .03, fault.LateLanding: .03, fault.Delay: .05,
	fault.Hang: .02, fault.TornRead: .03, fault.StaleList: .1, fault.Full: .01,
}

func scaled(rates fault.Rates, by float64) fault.Rates {
	more := fault.Rates{}
	for k, p := range rates {
		more[k] = p * by
	}
	return more
}

// Whatever goes wrong, several nodes agree on one log, in which is what they
// were told.
func TestHistories(t *testing.T) {
	all := append([]uint64{}, keptSeeds...)
	for s := range *seeds {
		all = append(all, uint64(s)+1)
	}
	if *onlySeed != 0 {
		all = []uint64{*onlySeed}
	}
	for _, seed := range all {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				(&history{
					t: t, seed: seed, bucket: mem.New(), rates: scaled(manyFaults, 1+float64(seed%4)), delay: 15 * time.Second,
					nodes: 1 + int(seed%3), each: 15, settle: 5 * time.Minute,
				}).run()
			})
		})
	}
}

// The same on a directory, with real time.
func TestHistoryOnFiles(t *testing.T) {
	b, err := fs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	rates := fault.Rates{}
	for k, p := range manyFaults {
		if k != fault.Hang {
			rates[k] = p
		}
	}
	(&history{
		t: t, seed: uint64(time.Now().UnixNano()), bucket: b, rates: rates, delay: 20 * time.Millisecond,
		nodes: 2, each: 40, settle: 50 * time.Millisecond,
	}).run()
}
