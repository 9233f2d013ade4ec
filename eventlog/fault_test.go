package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// faulty returns a log on a bucket that misbehaves on demand.
func faulty(t *testing.T) (*fixture, *fault.Bucket) {
	t.Helper()
	b := fault.Wrap(mem.New())
	f := openFixture(t, newOptions(t, b))
	t.Cleanup(func() { b.Close() })
	return f, b
}

// states returns how often an event is in the log, and how often repudiated.
func (f *fixture) states(t *testing.T, id event.ID) (in, repudiated int) {
	t.Helper()
	for _, r := range f.all(t) {
		if r.Ref.ID == id {
			in++
		}
		if rep, ok := r.Fact.(*event.Repudiated); ok && rep.Message == id {
			repudiated++
		}
	}
	return in, repudiated
}

// Every kind of fault at every step: what Append answers is true, and the log
// works as soon as the store does.
func TestEveryFaultAtEveryStep(t *testing.T) {
	steps := map[string]fault.Op{"log/": fault.Put, "key/2": fault.Put, "key/tenant/": fault.Put, "blob/": fault.Put, "key/t": fault.Get}
	kinds := map[fault.Kind]string{
		fault.FailBefore: "fail before", fault.FailAfter: "fail after", fault.LostAnswer: "lost answer", fault.LateLanding: "late landing",
		fault.Delay: "delay", fault.Hang: "hang", fault.Full: "full", fault.TornRead: "torn read",
	}
	for prefix, op := range steps {
		for kind, name := range kinds {
			for _, times := range []int{1, 2, 4, -1} {
				t.Run(fmt.Sprintf("%s %d times at %s", name, times, prefix), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						faultAtStep(t, fault.Rule{Op: op, KeyPrefix: prefix, Kind: kind, Times: times, Delay: 3 * time.Second})
					})
				})
			}
		}
	}
}

func faultAtStep(t *testing.T, r fault.Rule) {
	ctx := context.Background()
	f, b := faulty(t)
	f.tenant[0]++ // a tenant without keys
	f.PartitionOf(f.tenant)
	rule := b.Inject(r)
	began := time.Now()
	id, err := newTenantsMessage(ctx, f)
	if took := time.Since(began); took > 2*appendTimeout+3*putTimeout {
		t.Errorf("the answer came after %v", took)
	}
	if r.Kind == fault.Full && (time.Since(began) > 0 || rule.Struck() > 0 && err == nil) {
		t.Errorf("a full store answered after %v with %v", time.Since(began), err)
	}
	rule.Remove()
	time.Sleep(time.Minute)
	if err := f.EnsureTenant(ctx, f.tenant); err != nil {
		t.Fatalf("the tenant's keys, once the store works: %v", err)
	}
	in, repudiated := f.states(t, id)
	switch {
	case err == nil && (in != 1 || repudiated != 0):
		t.Errorf("durable, and %d times in the log, %d times repudiated", in, repudiated)
	case errors.Is(err, ErrTimeout) && in != repudiated:
		t.Errorf("timed out, %d times in the log, %d times repudiated", in, repudiated)
	case err != nil && !errors.Is(err, ErrTimeout) && in != 0:
		t.Errorf("failed with %v, and %d times in the log", err, in)
	}
	if again, err := newTenantsMessage(ctx, f); err != nil {
		t.Errorf("once the store works: %v", err)
	} else if in, _ := f.states(t, again); in != 1 {
		t.Errorf("once the store works: %d times in the log", in)
	}
}

// newTenantsMessage does all that a first message to a tenant needs.
func newTenantsMessage(ctx context.Context, f *fixture) (event.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*appendTimeout)
	defer cancel()
	if err := f.EnsureTenant(ctx, f.tenant); err != nil {
		return event.ID{}, err
	}
	ev, err := f.tryMessage(ctx, randomBytes(300<<10))
	if err == nil {
		_, err = f.Append(ctx, ev)
	}
	return ev.ID, err
}

// A put that is on its way when the store begins to refuse is not forgotten.
func TestRefusalAfterAmbiguity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := faulty(t)
		ev := f.message(t, []byte("x"))
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LateLanding})
		refuse := b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Full, Times: -1})
		began := time.Now()
		if _, err := f.Append(context.Background(), ev); !errors.Is(err, ErrTimeout) || time.Since(began) != appendTimeout {
			t.Fatalf("append: %v after %v, want ErrTimeout after %v", err, time.Since(began), appendTimeout)
		}
		b.Release()
		refuse.Remove()
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Full, Nth: 2, Times: -1})
		time.Sleep(time.Minute) // It is found to have landed, and the store refuses its repudiation.
		if in, repudiated := f.states(t, ev.ID); in != 1 || repudiated != 0 {
			t.Errorf("while the store is full: %d times in the log, %d times repudiated", in, repudiated)
		}
		b.Clear()
		time.Sleep(time.Minute)
		if in, repudiated := f.states(t, ev.ID); in != 1 || repudiated != 1 {
			t.Errorf("in the end: %d times in the log, %d times repudiated, want 1 and 1", in, repudiated)
		}
	})
}

// Closing does not forget what has to be taken back.
func TestCloseWithARepudiationLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := faulty(t)
		ev := f.message(t, []byte("x"))
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LateLanding})
		refuse := b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Full, Times: -1})
		if _, err := f.Append(context.Background(), ev); !errors.Is(err, ErrTimeout) {
			t.Fatalf("append: %v", err)
		}
		b.Release()
		refuse.Remove()
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Full, Nth: 2, Times: -1})
		time.Sleep(10*time.Second + regretPause/2) // The repudiation is refused, and waits in the queue.
		if in, repudiated := f.states(t, ev.ID); in != 1 || repudiated != 0 {
			t.Errorf("before: %d times in the log, %d times repudiated", in, repudiated)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := f.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(10 * time.Second)
		b.Clear()
		wg.Wait()
		if in, repudiated := openFixture(t, f.opt).states(t, ev.ID); in != 1 || repudiated != 1 {
			t.Errorf("%d times in the log, %d times repudiated, want 1 and 1", in, repudiated)
		}
	})
}

func TestLateLandingThatLoses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fault.Wrap(mem.New())
		t.Cleanup(func() { b.Close() })
		opt := newOptions(t, b)
		f, other := openFixture(t, opt), openFixture(t, opt)
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LateLanding})
		mine, theirs := f.message(t, []byte("x")), other.message(t, []byte("y"))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := f.Append(context.Background(), mine); err != nil {
				t.Errorf("the loser: %v", err)
			}
		})
		synctest.Wait() // its first put is under way
		if pos, err := other.Append(context.Background(), theirs); err != nil || pos.Seq != 1 {
			t.Errorf("the winner: %v at %v", err, pos)
		}
		b.Release()
		wg.Wait()
		for _, ev := range []event.Event{mine, theirs} {
			if in, repudiated := f.states(t, ev.ID); in != 1 || repudiated != 0 {
				t.Errorf("%d times in the log, %d times repudiated, want once and not", in, repudiated)
			}
		}
	})
}

// While the store hangs every sender hears so after 30 s, nothing piles up, and
// all goes on by itself.
func TestHangingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := faulty(t)
		ctx := context.Background()
		var evs []event.Event
		for range 300 {
			evs = append(evs, f.message(t, randomBytes(200<<10)))
		}
		b.Inject(fault.Rule{Kind: fault.Hang, Times: -1})
		began := time.Now()
		var wg sync.WaitGroup
		for _, ev := range evs {
			wg.Go(func() {
				if _, err := f.Append(ctx, ev); !errors.Is(err, ErrTimeout) {
					t.Errorf("append: %v, want ErrTimeout", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != appendTimeout {
			t.Errorf("the answers came after %v, want %v", took, appendTimeout)
		}
		if n := f.partitions[f.PartitionOf(f.tenant)].queue.Len(); n != 0 {
			t.Errorf("%d refused messages are still in memory", n)
		}
		if !f.pending.TryAcquire(maxPending - maxSegmentBytes) {
			t.Error("refused messages still take room")
		} else {
			f.pending.Release(maxPending - maxSegmentBytes)
		}
		b.Clear()
		began = time.Now()
		if _, err := f.Append(ctx, f.message(t, []byte("x"))); err != nil || time.Since(began) > putTimeout+maxPause {
			t.Errorf("once the store works: %v after %v", err, time.Since(began))
		}
		time.Sleep(time.Minute)
		for _, ev := range evs[:20] {
			if in, repudiated := f.states(t, ev.ID); in != repudiated {
				t.Errorf("%d times in the log, %d times repudiated", in, repudiated)
			}
		}
	})
}

// A reader that meets a store that hangs comes back when the store does, also
// in the middle of a race that has to be read up.
func TestHangingReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fault.Wrap(mem.New())
		t.Cleanup(func() { b.Close() })
		opt := newOptions(t, b)
		opt.Poll = time.Second
		f, other := openFixture(t, opt), openFixture(t, opt)
		if _, err := other.Append(context.Background(), other.message(t, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		ev := f.message(t, []byte("y"))
		b.Inject(fault.Rule{Op: fault.Get, KeyPrefix: "log/", Kind: fault.Hang})
		began := time.Now()
		if _, err := f.Append(context.Background(), ev); err != nil {
			t.Errorf("append after a lost race and a read that hung: %v after %v", err, time.Since(began))
		}
		b.Inject(fault.Rule{Op: fault.Get, KeyPrefix: "log/", Kind: fault.Hang})
		p := f.PartitionOf(f.tenant)
		if _, err := other.Append(context.Background(), other.message(t, []byte("z"))); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := f.Wait(ctx, p, 2); err != nil {
			t.Errorf("wait: %v", err)
		}
	})
}

// Exists, says the store, and then cannot show what.
func TestExistsButCannotBeRead(t *testing.T) {
	for _, kind := range []fault.Kind{fault.FailBefore, fault.TornRead, fault.Hang} {
		synctest.Test(t, func(t *testing.T) {
			f, b := faulty(t)
			ev := f.message(t, []byte("x"))
			b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LostAnswer})
			b.Inject(fault.Rule{Op: fault.Get, KeyPrefix: "log/", Kind: kind, Times: 3})
			_, err := f.Append(context.Background(), ev)
			if (kind == fault.Hang) != errors.Is(err, ErrTimeout) {
				t.Errorf("append: %v", err)
			}
			time.Sleep(2 * time.Minute)
			in, repudiated := f.states(t, ev.ID)
			if in != 1 || (repudiated == 0) != (err == nil) {
				t.Errorf("%d times in the log, %d times repudiated, after %v", in, repudiated, err)
			}
		})
	}
}

func TestStrangersInTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := faulty(t)
		put(t, b, segmentKey(f.PartitionOf(f.tenant), 1), []byte("not a segment"))
		began := time.Now()
		if _, err := f.Append(context.Background(), f.message(t, []byte("x"))); !errors.Is(err, ErrDamaged) || time.Since(began) > 0 {
			t.Errorf("append: %v after %v, want ErrDamaged at once", err, time.Since(began))
		}
	})
}

// Names that are no segments', and lists that are behind, do not mislead the
// search for the tail.
func TestFindingTheTail(t *testing.T) {
	f, b := faulty(t)
	p := f.PartitionOf(f.tenant)
	for n := range 20 {
		if _, err := f.Append(context.Background(), f.message(t, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		h := b.Inject(fault.Rule{Op: fault.List, Kind: fault.StaleList, Keys: n % 5, Times: -1})
		g := openFixture(t, f.opt)
		if got := g.TailAtLeast(p); got != event.Seq(n+1) {
			t.Errorf("the tail is %d, want %d", got, n+1)
		}
		h.Remove()
	}
	put(t, b, segmentPrefix(p)+"readme", []byte("hello"))
	if got := openFixture(t, f.opt).TailAtLeast(p); got != 20 {
		t.Errorf("with a stranger in the folder the tail is %d, want 20", got)
	}
	put(t, b, segmentPrefix(p)+"99999999999999999999", []byte("hello"))
	if got := openFixture(t, f.opt).TailAtLeast(p); got != 20 {
		t.Errorf("with an impossible number in the folder the tail is %d, want 20", got)
	}
}

// Close ends within its context, whatever the store does, and everybody who
// waits hears something.
func TestCloseWhileThePutHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := faulty(t)
		first, second := f.message(t, []byte("x")), f.message(t, []byte("y"))
		b.Inject(fault.Rule{Kind: fault.Hang, Times: -1})
		errs := make([]error, 2)
		var wg sync.WaitGroup
		wg.Go(func() { _, errs[0] = f.Append(context.Background(), first) })
		synctest.Wait()
		wg.Go(func() { _, errs[1] = f.Append(context.Background(), second) })
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := f.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("close: %v after %v", err, time.Since(began))
		}
		wg.Wait()
		if !errors.Is(errs[0], ErrTimeout) || !errors.Is(errs[1], ErrClosed) {
			t.Errorf("the appends: %v", errs)
		}
		if _, err := f.Append(context.Background(), second); !errors.Is(err, ErrClosed) {
			t.Errorf("append to a closed log: %v", err)
		}
	})
}

func TestAppendRacesWithClose(t *testing.T) {
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	var mu sync.Mutex
	durable := map[event.ID]bool{}
	enough := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				ev := event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: &event.MailboxCreated{Name: "x"}}
				_, err := f.Append(context.Background(), ev)
				mu.Lock()
				durable[ev.ID] = err == nil
				if len(durable) == 200 {
					close(enough)
				}
				mu.Unlock()
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("append: %v", err)
					}
					return
				}
			}
		})
	}
	<-enough
	if err := f.Close(context.Background()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	seen := map[event.ID]bool{}
	for _, r := range openFixture(t, f.opt).all(t) {
		seen[r.Ref.ID] = true
	}
	for id, ok := range durable {
		if ok != seen[id] {
			t.Errorf("an event was reported durable: %t, and is in the log: %t", ok, seen[id])
		}
	}
}

// skewed is a store whose clock is off.
type skewed struct {
	objstore.Bucket
	mu sync.Mutex
	by time.Duration
}

func (s *skewed) set(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by = by
}

func (s *skewed) Now(ctx context.Context) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.by), ctx.Err()
}

func (s *skewed) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	info, err := s.Bucket.Put(ctx, key, body, size, opt)
	info.Modified, _ = s.Now(ctx)
	return info, err
}

func TestClockSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &skewed{Bucket: mem.New()}
		f := openFixture(t, newOptions(t, s))
		try := func(by time.Duration, want error) {
			t.Helper()
			s.set(by)
			time.Sleep(clockAge + time.Second)
			if _, err := f.Append(context.Background(), f.message(t, []byte("x"))); !errors.Is(err, want) {
				t.Errorf("with %v between the clocks: %v, want %v", by, err, want)
			}
			if d := f.Now().Sub(time.Now().Add(by)); d < -2*time.Second || d > 2*time.Second {
				t.Errorf("with %v between the clocks the log's time is %v from the store's", by, d)
			}
		}
		for _, by := range []time.Duration{0, 4 * time.Minute, 6 * time.Minute, time.Hour, 0, -6 * time.Minute, time.Second, -4 * time.Minute} {
			var want error
			if by.Abs() > maxSkew {
				want = ErrClock
			}
			try(by, want)
			if want != nil { // As soon as the clock is right again, mail is accepted again.
				s.set(0)
				if _, err := f.Append(context.Background(), f.message(t, []byte("x"))); err != nil {
					t.Errorf("once the clock is right: %v", err)
				}
			}
		}
	})
}

func TestBodiesWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := faulty(t)
		var held []*BodyWriter
		open := func(ctx context.Context, n int) error {
			w, err := f.NewBody(ctx, event.NewID(), f.tenant, f.day)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, w)
			_, err = w.Write(randomBytes(n))
			return err
		}
		for range bigBuffers {
			if err := open(context.Background(), 500<<10); err != nil {
				t.Fatal(err)
			}
		}
		for range smallBodies {
			if err := open(context.Background(), 200<<10); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range []int{500 << 10, 100 << 10} {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if err := open(ctx, n); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a body of %d bytes without room: %v", n, err)
			}
			cancel()
		}
		for _, w := range held {
			w.Discard()
			w.Discard()
		}
		if err := open(context.Background(), 500<<10); err != nil {
			t.Error(err)
		}
		held[len(held)-1].Discard()
		if len(f.bodies.free) != bigBuffers || len(f.bodies.small) != 0 {
			t.Errorf("%d buffers are free and %d places taken, want %d and 0", len(f.bodies.free), len(f.bodies.small), bigBuffers)
		}
	})
}
