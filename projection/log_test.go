package projection

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

var _ Source = (*eventlog.Log)(nil)

// sealing is a tally that also seals a text under a day to come.
type sealing struct {
	tally
	day event.Day
}

func (s *sealing) Apply(t Txn, r eventlog.Recorded) error {
	if _, ok := r.Fact.(*event.Posted); !ok {
		return nil
	}
	if err := s.tally.Apply(t, r); err != nil {
		return err
	}
	return t.SetSealed(r.Tenant, s.day, append([]byte("text/"), r.Ref.ID[:]...), []byte("text"))
}

func openLog(t *testing.T, b objstore.Bucket, keys crypto.KeyService) (*eventlog.Log, event.Tenant) {
	t.Helper()
	l, err := eventlog.Open(t.Context(), eventlog.Options{Bucket: b, URL: "mem:", Keys: keys, MayCreate: true})
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := keys.TenantID(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.EnsureTenant(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	return l, tenant
}

// TestOnTheRealLog runs commands on a log in a bucket, restarts all but the
// bucket and the keys, and compares a rebuilt state with the live one.
func TestOnTheRealLog(t *testing.T) {
	b, keys := mem.New(), crypto.MemoryRoot(event.DayOf(time.Now()))
	y := &sealing{tally{name: "tally", version: 1, keep: 5}, event.DayOf(time.Now()) + 30}
	l, tenant := openLog(t, b, keys)
	st := openBadgerT(t, filepath.Join(t.TempDir(), "db"))
	r, stop := start(t, st, l, y, &counter{name: "other"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				e := note(fmt.Sprint("t", i, "."), j)
				e.Tenant, e.Expiry = tenant, 0
				got, err := r.Do(t.Context(), "tally", e.ID, func(ctx context.Context) (event.Position, error) { return l.Append(ctx, e) })
				if want := fmt.Sprint("t", i, ".", j+1); err != nil || len(got) != 1 || got[0] != want {
					t.Errorf("verdict %v %v, want %v", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
	want := hash(t, r, "tally")
	stop()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}

	l, _ = openLog(t, b, keys)
	for name, s := range map[string]Store{"kept": st, "rebuilt": NewMemStore()} {
		r, stop := start(t, s, l, y)
		if err := r.CaughtUp(t.Context(), "tally"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if hash(t, r, "tally") != want {
			t.Errorf("%s: other state", name)
		}
		stop()
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}

	other, _ := openLog(t, mem.New(), keys)
	defer other.Close(context.Background())
	r, stop = start(t, st, other, y)
	defer st.Close()
	defer stop()
	if err := r.CaughtUp(t.Context(), "tally"); !errors.Is(err, ErrStopped) || !errors.Is(err, eventlog.ErrRolledBack) {
		t.Errorf("with the bucket of another log: %v", err)
	}
}

// settingsOnly keeps the names of tenants, and counts what it is shown.
type settingsOnly struct{ shown int }

func (*settingsOnly) Name() string           { return "settings" }
func (*settingsOnly) Version() int           { return 1 }
func (*settingsOnly) Classes() event.Classes { return event.ClassesOf(event.ClassSettings) }

func (s *settingsOnly) Apply(t Txn, r eventlog.Recorded) error {
	s.shown++
	if f, ok := r.Fact.(*event.TenantCreated); ok {
		t.Set([]byte(f.Name), r.Ref.ID[:])
	}
	return nil
}

// TestFarBehindOnlyTheWantedClassesAreRead: a projection of settings that is
// rebuilt does not read the mail, and comes to the same state.
func TestFarBehindOnlyTheWantedClassesAreRead(t *testing.T) {
	b, keys := mem.New(), crypto.MemoryRoot(event.DayOf(time.Now()))
	l, tenant := openLog(t, b, keys)
	defer l.Close(context.Background())
	live := &settingsOnly{}
	r, stop := start(t, NewMemStore(), l, live)
	const n = 3 * farBehind
	for i := range n {
		var f event.Fact = &event.MailboxCreated{Name: "x"}
		if i%10 == 0 {
			f = &event.TenantCreated{Name: fmt.Sprint("tenant ", i)}
		}
		pos, err := l.Append(t.Context(), event.Event{ID: event.NewID(), Tenant: tenant, Fact: f})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.WaitFor(t.Context(), "settings", pos); err != nil {
			t.Fatal(err)
		}
	}
	want := hash(t, r, "settings")
	stop()
	again := &settingsOnly{}
	r, stop = start(t, NewMemStore(), l, again)
	defer stop()
	if err := r.CaughtUp(t.Context(), "settings"); err != nil {
		t.Fatal(err)
	}
	if got := hash(t, r, "settings"); got != want {
		t.Error("the rebuilt state is another one")
	}
	if live.shown < n || again.shown > n/10+farBehind+1 {
		t.Errorf("live it was shown %d of %d events, rebuilding %d", live.shown, n, again.shown)
	}
}
