package year

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

var steps = flag.Int("steps", 12, "how many of the steps of a night's work go wrong in turn; 0 for all, in every way")

// wrong is what goes wrong at one step of n1's work.
type wrong int

const (
	refused wrong = iota // the request fails and has no effect
	unheard              // it takes effect, and the answer is lost
	dies                 // the node dies before it, and starts again later
	loses                // the same, and its database is lost
	sleeps               // the node stands still for longer than any lease, while the other one works
	wrongs
)

func (g wrong) String() string {
	return [...]string{"refused", "unheard", "dies", "loses", "sleeps"}[g]
}

// mishap lets one step of a node's work go wrong. Steps are counted from when it
// is armed, as [counts] says.
type mishap struct {
	k    *keeper
	what wrong
	at   int // the step, from 1

	mu     sync.Mutex
	n      int
	dirs   []string // what each step was
	key    string
	until  time.Time     // the node stands still
	struck chan struct{} // closed when it has struck
}

func newMishap(k *keeper, what wrong, at int) *mishap {
	m := &mishap{k: k, what: what, at: at, struck: make(chan struct{})}
	k.meter.Hook(m.before, m.after)
	return m
}

var errMishap = fmt.Errorf("made to fail: %w", objstore.ErrUnavailable)

func (m *mishap) before(op, key string) error {
	m.mu.Lock()
	strikes := false
	if counts(op, key) {
		dir, _, _ := strings.Cut(key, "/")
		m.dirs = append(m.dirs, op+" "+dir)
		if m.n++; m.n == m.at {
			strikes, m.key = true, op+" "+key
			close(m.struck)
			if m.what == sleeps {
				m.until = time.Now().Add(10 * time.Minute)
			}
		}
	}
	dead := m.n >= m.at && (m.what == dies || m.what == loses)
	wait := time.Until(m.until)
	m.mu.Unlock()
	switch {
	case dead:
		return errDead
	case strikes && m.what == refused:
		return errMishap
	case wait > 0:
		time.Sleep(wait)
	}
	return nil
}

func (m *mishap) after(op, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.what == unheard && counts(op, key) && m.n >= m.at && m.key != "" {
		m.key += " (unheard)"
		m.what = wrongs
		return fmt.Errorf("%w: %w", objstore.ErrAmbiguous, errMishap)
	}
	return nil
}

// seen returns what the steps were, and at which one it struck.
func (m *mishap) seen() (dirs []string, key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dirs, m.key
}

// turns returns the steps, from 1, at which another kind of work begins or ends.
func turns(dirs []string) (at []int) {
	for i := range dirs {
		if i == 0 || i == len(dirs)-1 || dirs[i] != dirs[i-1] || dirs[i] != dirs[i+1] {
			at = append(at, i+1)
		}
	}
	return at
}

// prologue is a world shortly before the midnight of a day with everything: mail
// that expires, in segments and in blobs, some of it filed, some due, some under a
// hold.
type prologue struct {
	moment *Moment
	root   string // the root key's file
	day    int
}

func newPrologue(t *testing.T, plan Plan) *prologue {
	t.Helper()
	p := &prologue{root: filepath.Join(t.TempDir(), "root.key"), day: plan.Days}
	cryptotest.SetGlobalRandom(t, plan.Seed)
	synctest.Test(t, func(t *testing.T) {
		var err error
		if plan.Root, err = crypto.CreateRoot(p.root, event.DayOf(time.Now())); err != nil {
			t.Fatal(err)
		}
		w, err := New(plan)
		if err != nil {
			t.Fatal(err)
		}
		w.lines(t)
		if err := errors.Join(w.open(), w.until23(plan.Days)); err != nil {
			t.Error(err)
		}
		for _, f := range w.Found {
			t.Error(f)
		}
		if p.moment, err = w.Freeze(); err != nil {
			t.Error(err)
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// until23 lives through the days before a day, and through that one until the
// evening.
func (w *World) until23(day int) error {
	for d := range day {
		if err := w.day(d); err != nil {
			return err
		}
	}
	w.until(day, 9)

	if err := errors.Join(w.wake(), w.mail()); err != nil {
		return err
	}
	w.collect()
	if err := w.users(day); err != nil {
		return err
	}
	w.until(day, 23)
	w.collect()
	return nil
}

func (w *World) lines(t *testing.T) {
	if testing.Verbose() {
		w.plan.Tell = func(s string) { t.Log(s) }
	}
}

// from lets a world go on from the prologue, in a bubble of its own.
func (p *prologue) from(t *testing.T, fn func(w *World)) {
	t.Helper()
	data, err := os.ReadFile(p.root)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "root.key")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		root, err := crypto.LoadRoot(file)
		if err != nil {
			t.Fatal(err)
		}
		w, err := p.moment.Thaw(root)
		if err != nil {
			t.Fatal(err)
		}
		w.lines(t)
		fn(w)
		if err := w.end(); err != nil && !errors.Is(err, errDead) {
			t.Error(err)
		}
		for _, f := range w.Found {
			t.Error(f)
		}
	})
}

// over lets the night come to its end and asks all judges.
func (w *World) over(day int) error {
	w.collect()
	w.ledger.night(w.began + event.Day(day))
	if err := w.settled(w.began + event.Day(day)); err != nil {
		return err
	}
	time.Sleep(2 * pollEvery)
	if err := w.judge(day); err != nil {
		return err
	}
	w.until(day+1, 9)
	if err := w.users(day + 1); err != nil {
		return err
	}
	time.Sleep(2 * pollEvery)
	return w.rebuild()
}

// goWrong lets the work of the night go wrong at one step, and returns what the
// steps were.
func (w *World) goWrong(day int, what wrong, at int) (steps []string, key string, err error) {
	n1, n2 := w.keepers[0], w.keepers[1]
	if err := n1.start(); err != nil {
		return nil, "", err
	}
	w.until(day+1, 0)
	m := newMishap(n1, what, at)
	select {
	case <-m.struck:
	case <-time.After(30 * time.Minute):
	}
	if what == sleeps || at%2 == 1 { // another worker takes over, or joins in
		if err := n2.start(); err != nil {
			return nil, "", err
		}
	}
	switch what {
	case dies, loses:
		n1.kill()
		time.Sleep(20 * time.Minute)
		if what == loses {
			n1.wipe()
		}
	case sleeps:
		time.Sleep(15 * time.Minute)
	}
	steps, key = m.seen()
	n1.meter.Hook(nil, nil)
	if err := w.wake(); err != nil {
		return steps, key, err
	}
	return steps, key, w.over(day)
}

// TestSteps lets every step of a night's work go wrong, in several ways: whatever
// happens, the night comes to the same end.
func TestSteps(t *testing.T) {
	p := newPrologue(t, Plan{Seed: 3, Days: 6, Daily: 15, Awake: 100})
	if t.Failed() {
		return
	}
	var dirs []string
	p.from(t, func(w *World) { // what are they?
		var err error
		if dirs, _, err = w.goWrong(p.day, sleeps, 1<<30); err != nil {
			t.Error(err)
		}
	})
	at := turns(dirs)
	t.Logf("%d steps, %d turns", len(dirs), len(at))
	if len(at) < 10 {
		t.Fatalf("a night of too little work: %q", dirs)
	}
	n := *steps
	if n == 0 {
		n = len(at) * int(wrongs)
	}
	struck := 0
	for i := range n {
		what, at := wrong(i%int(wrongs)), at[i*len(at)/n]
		t.Run(fmt.Sprintf("%v at %d", what, at), func(t *testing.T) {
			p.from(t, func(w *World) {
				_, key, err := w.goWrong(p.day, what, at)
				if err != nil {
					t.Error(err)
				}
				if key != "" {
					struck++
				}
				t.Logf("%v: %s", what, key)
			})
		})
	}
	// Keys are random, so that two nights are not the same to the last step.
	if struck < n*3/4 {
		t.Errorf("only %d of %d mishaps came to pass", struck, n)
	}
}
