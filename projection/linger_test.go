package projection

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// easy is a tally whose readers wait for what they need.
type easy struct{ *tally }

func (easy) Unhurried() {}

// countingStore counts commits.
type countingStore struct {
	Store
	commits atomic.Int64
}

func (s *countingStore) Commit(ops []Op) error {
	s.commits.Add(1)
	return s.Store.Commit(ops)
}

// TestUnhurriedProjectionGathers: segments that come fast are folded several at a
// time; the first after a pause, and what somebody waits for, at once.
func TestUnhurriedProjectionGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemLog(1)
		store := &countingStore{Store: NewMemStore()}
		r, stop := start(t, store, l, easy{&tally{name: "easy", version: 1, keep: 3}})
		defer stop()
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		folded := func(want event.Seq, what string) {
			t.Helper()
			synctest.Wait()
			if at := r.Status()[0].Partitions[0].Cursor.Seq; at != want {
				t.Errorf("%s: folded to segment %d, want %d", what, at, want)
			}
		}
		time.Sleep(time.Second)
		fill(l, 1)
		folded(1, "the first after a pause")
		before := store.commits.Load()
		const segments = 200 // one in each millisecond
		for range segments {
			time.Sleep(time.Millisecond)
			fill(l, 1)
		}
		if n, most := store.commits.Load()-before, int64(segments*time.Millisecond/lingerFor)+1; n < 2 || n > most {
			t.Errorf("%d commits for %d segments, want at most %d", n, segments, most)
		}
		time.Sleep(lingerFor)
		folded(1+segments, "after a moment")

		fill(l, 1)
		time.Sleep(time.Millisecond)
		pos := l.append(0, note("topic1", 1))
		begin := time.Now()
		if err := r.WaitFor(t.Context(), "easy", pos); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("a reader waited %v", waited)
		}
		fill(l, 1)
		begin = time.Now()
		if err := r.WaitFor(t.Context(), "easy", event.Position{Seq: pos.Seq + 1}); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("a reader waited %v right after a commit", waited)
		}
	})
}
