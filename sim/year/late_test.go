package year

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/e2e/outside"
	"holdfast/event"
	"holdfast/projection"
)

// TestLateCommit lets a node stand still between the body of a large message and
// its event, for longer than a body may wait. Meanwhile the other node finds the
// body without an event, condemns it and removes it. The first one wakes with its
// request for a segment under way: the message must not be in the log without its
// body, and the sender must not have been told that it is kept.
func TestLateCommit(t *testing.T) {
	p := newPrologue(t, Plan{Seed: 13, Days: 2, Daily: 6, Awake: 100})
	if t.Failed() {
		return
	}
	p.from(t, func(w *World) {
		if err := w.wake(); err != nil {
			t.Fatal(err)
		}
		const still = 50 * time.Hour
		var mu sync.Mutex
		var blob, log string
		var until time.Time
		w.keepers[0].meter.Hook(func(op, key string) error {
			mu.Lock()
			switch {
			case op == "put" && strings.HasPrefix(key, "blob/"):
				blob = key
			case op == "put" && strings.HasPrefix(key, "log/") && blob != "" && log == "":
				log, until = key, time.Now().Add(still)
			}
			wait := time.Until(until)
			mu.Unlock()
			if wait > 0 {
				time.Sleep(wait)
			}
			return nil
		}, nil)
		l, answer := w.sendLarge(t, w.keepers[0])
		if answer == nil {
			t.Errorf("the sender was told that the message is kept, while the store was silent")
		}
		if log == "" {
			t.Fatal("the node did not stand still")
		}
		delete(w.ledger.letters, l.mark) // nobody has taken it
		w.ledger.order = w.ledger.order[:len(w.ledger.order)-1]
		for time.Now().Before(until.Add(-time.Hour)) {
			time.Sleep(time.Hour)
		}
		for info, err := range w.bucket.List(context.Background(), blob, "") {
			t.Errorf("the body is still there: %s, %v", info.Key, err)
		}
		time.Sleep(2 * time.Hour) // the node wakes
		// The log begins behind what it has folded by now: it ends, and is started again.
		if err := w.keepers[0].stop(); !errors.Is(err, projection.ErrOverslept) {
			t.Errorf("the node that stood still ended with %v, want %v", err, projection.ErrOverslept)
		}
		if err := w.keepers[0].start(); err != nil {
			t.Error(err)
			return
		}
		for w.ledger.done < w.today()-1 {
			w.ledger.night(max(w.ledger.done+1, w.today()-4))
		}
		w.collect()
		day := int(w.today() - w.began)
		w.until(day, 23)
		w.collect()
		w.until(day+1, 0)
		if err := w.over(day); err != nil {
			t.Error(err)
		}
		for info, err := range w.bucket.List(context.Background(), blob, "") {
			t.Errorf("the body is back: %s, %v", info.Key, err)
		}
	})
}

// sendLarge sends a letter whose body goes in parts, and returns what the sender
// hears: nil when it is kept.
func (w *World) sendLarge(t *testing.T, k *keeper) (*letter, error) {
	t.Helper()
	conn, err := w.net.Dialer(nil)(context.Background(), "tcp", k.name+":25")
	if err != nil {
		t.Fatal(err)
	}
	s, err := outside.OpenSMTP(conn)
	if err != nil {
		t.Fatal(err)
	}
	l := w.write("", []string{"alice@pelican.test"}, 600<<10)
	l.tenant, l.expiry = "acme", l.day+event.Day(w.days["pelican.test"])
	_, err = s.Send(l.mark+"@far.test", []string{"alice@pelican.test"}, l.body)
	return l, err
}
