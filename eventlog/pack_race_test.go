package eventlog

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
)

// A put that was given up lands days later, in a slot whose segment was packed and
// whose key was removed. Nobody reads it.
func TestLateLandingInRemovedSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		late := d.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Nth: 4, Kind: fault.LateLanding, Delay: 48 * time.Hour})
		d.send(t, 5, 30, time.Minute)
		d.sleepThrough(t)
		time.Sleep(23 * time.Hour)
		if keys := d.keys(t, segmentKey(0, 4)); len(keys) != 1 || late.Struck() != 1 {
			t.Fatalf("the late put did not land: %v", keys)
		}
		d.wantAll(t)
		if fs := d.findings(t); len(fs) > 0 {
			t.Errorf("findings: %v", fs)
		}
		d.pack(t, 0)
		if keys := d.keys(t, segmentKey(0, 4)); len(keys) != 0 {
			t.Errorf("it stays: %v", keys)
		}
	})
}

// sleepThrough lets others take and pack the slots behind the tail that a log
// knows, and removes their keys.
func (d *depot) sleepThrough(t *testing.T) {
	t.Helper()
	d.send(t, 100, 30, time.Minute)
	time.Sleep(time.Hour)
	d.pack(t, 0)
	time.Sleep(25 * time.Hour)
	if r := d.pack(t, 0); r.Keys < 90 {
		t.Fatalf("keys were not removed: %+v", r)
	}
}

// The put of a writer that has not looked for a day succeeds in a slot that was
// removed: it is void, the event goes to the end of the log, and whoever reads
// never sees the stray.
func TestVoidPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 5, 30, time.Minute)
		sleeper := d.another(t)
		old := sleeper.TailAtLeast(0)
		d.sleepThrough(t)
		body := []byte("late, and whole")
		ev := sleeper.message(t, body)
		pos, err := sleeper.Append(t.Context(), ev)
		if err != nil {
			t.Fatal(err)
		}
		if tail := d.TailAtLeast(0); pos.Seq != tail+1 {
			t.Errorf("appended at %d behind %d", pos.Seq, tail)
		}
		if keys := d.keys(t, segmentKey(0, old+1)); len(keys) != 1 {
			t.Errorf("the stray is not where the test wants it: %v", keys)
		}
		d.sent = append(d.sent, sent{event.Ref{Position: pos, ID: ev.ID}, sleeper.day, body})
		d.Refresh(t.Context(), 0)
		d.wantAll(t)
		if n := len(sleeper.all(t)); n != len(d.sent) {
			t.Errorf("the sleeper reads %d of %d events", n, len(d.sent))
		}
		if fs := d.findings(t); len(fs) > 0 {
			t.Errorf("findings: %v", fs)
		}
		time.Sleep(24 * time.Hour)
		d.pack(t, 0)
		if keys := d.keys(t, segmentKey(0, old+1)); len(keys) != 0 {
			t.Errorf("the stray stays: %v", keys)
		}
	})
}

// A segment that landed and was packed while its writer slept before it looked is
// the writer's own: it is not appended twice.
func TestPackedWhileItsWriterSlept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 5, 30, time.Minute)
		sleeper := d.another(t)
		// The answer takes a day, and comes.
		d.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LostAnswer})
		block := d.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Nth: 2, Kind: fault.Hang})
		ev := sleeper.message(t, []byte("once"))
		d.sent = append(d.sent, sent{event.Ref{Position: event.Position{Seq: sleeper.TailAtLeast(0) + 1}, ID: ev.ID}, sleeper.day, []byte("once")})
		type result struct {
			pos event.Position
			err error
		}
		done := make(chan result, 1)
		go func() {
			pos, err := sleeper.Append(t.Context(), ev)
			done <- result{pos, err}
		}()
		synctest.Wait()
		// While it waits for the second try, a floor rises past its segment.
		d.Refresh(t.Context(), 0)
		pk := newPacker(d.Log, 0)
		for s := event.Seq(1); s <= d.TailAtLeast(0); s++ {
			seg, err := d.loadSegment(t.Context(), 0, s)
			if err == nil {
				err = pk.add(seg, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pk.write(t.Context(), d.Log); err != nil {
			t.Fatal(err)
		}
		if _, err := d.changeFloor(t.Context(), 0, func(f *floor) bool { f.raise(pk.last, d.Now()); return true }); err != nil {
			t.Fatal(err)
		}
		r := <-done
		if r.err != nil || r.pos != d.sent[5].ref.Position || block.Struck() != 1 {
			t.Errorf("%v, %v, %d held up", r.pos, r.err, block.Struck())
		}
		d.send(t, 1, 30, time.Minute)
		d.wantAll(t)
	})
}

// A log that reads again after a day finds its way through packs, from a cursor
// whose successor has no key any more.
func TestReadOnAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 5, 30, time.Minute)
		idle := d.another(t)
		at, err := idle.CursorAt(t.Context(), 0, 5)
		if err != nil {
			t.Fatal(err)
		}
		d.sleepThrough(t)
		if err := idle.Refresh(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range idle.Read(t.Context(), 0, at) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 100 {
			t.Errorf("%d events of 100", n)
		}
	})
}

// Packers at work at once, each stopped by a failing store wherever it may be,
// lose nothing.
func TestPackersAtOnce(t *testing.T) {
	var did PackResult
	seeds := uint64(8)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			d := newDepot(t)
			rng := rand.New(rand.NewPCG(seed, 1))
			others := []*depot{d.another(t), d.another(t), d}
			for range 12 {
				d.send(t, 30+rng.IntN(100), event.Day(1+rng.IntN(5)), time.Minute)
				time.Sleep(time.Duration(rng.IntN(15)) * time.Hour)
				if rng.IntN(4) == 0 {
					to, err := d.CursorAt(t.Context(), 0, d.Start(0).Seq+event.Seq(rng.IntN(int(d.TailAtLeast(0)-d.Start(0).Seq))))
					if err == nil {
						err = d.RaiseStart(t.Context(), 0, to)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				before := d.pass(t)
				d.bucket.Chance(seed, fault.Rates{fault.FailBefore: .002, fault.FailAfter: .01, fault.LostAnswer: .01, fault.TornRead: .002}, 0)
				var wg sync.WaitGroup
				var mu sync.Mutex
				for _, o := range others {
					wg.Go(func() {
						r, err := o.Pack(t.Context(), 0, PackOptions{Before: before})
						mu.Lock()
						defer mu.Unlock()
						did.Packs, did.Replaced, did.Dead, did.Keys = did.Packs+r.Packs, did.Replaced+r.Replaced, did.Dead+r.Dead, did.Keys+r.Keys
						if errors.Is(err, ErrDamaged) {
							t.Errorf("seed %d: %v", seed, err)
						}
					})
				}
				wg.Wait()
				d.bucket.Clear()
				d.wantAll(t)
			}
			d.pack(t, d.pass(t))
			if fs := d.findings(t); len(fs) > 0 {
				t.Errorf("seed %d: %v", seed, fs)
			}
		})
	}
	if t.Logf("%+v", did); !testing.Short() && (did.Packs < 50 || did.Replaced < 20 || did.Dead < 5 || did.Keys < 1000) {
		t.Errorf("little was tried: %+v", did)
	}
}

// Of packs that have a segment there is always one that no other makes needless,
// whatever there is; and who reads through a cover misses nothing that is there.
func TestSupersedes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var list []listedPack
		for range 1 + rng.IntN(12) {
			first := event.Seq(1 + rng.IntN(20))
			k := listedPack{packName{first, first + event.Seq(rng.IntN(12)), [16]byte{byte(rng.IntN(3))}}, int64(rng.IntN(3))}
			if !slices.Contains(list, k) {
				list = append(list, k)
			}
		}
		slices.SortFunc(list, func(a, b listedPack) int { return int(a.first) - int(b.first) })
		left := slices.DeleteFunc(slices.Clone(list), func(k listedPack) bool {
			return slices.ContainsFunc(list, func(o listedPack) bool { return o.supersedes(k) })
		})
		chosen := cover(list, 0)
		for s := event.Seq(1); s <= 40; s++ {
			has := func(k listedPack) bool { return k.holds(s) }
			there := slices.ContainsFunc(list, has)
			if slices.ContainsFunc(left, has) != there || slices.ContainsFunc(chosen, has) != there {
				t.Fatalf("segment %d of %v: left %v, chosen %v", s, list, left, chosen)
			}
			if k, ok := best(list, s, func(packName) bool { return true }); ok != there || ok && !k.holds(s) {
				t.Fatalf("segment %d of %v: best %v", s, list, k)
			}
		}
	}
}
