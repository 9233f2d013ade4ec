package year

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// orders is what the log says of the erasure of some messages.
type orders struct {
	standing  []event.ID          // of an ErasureOrdered
	certified map[event.ID]int    // by order
	of        map[string]event.ID // the order that ended a message, by the message's id
	proofs    []event.Ref
}

// inspect opens the log as a stranger does, beside the nodes.
func (w *World) inspect(fn func(ctx context.Context, log *eventlog.Log) error) error {
	ctx := context.Background()
	log, err := eventlog.Open(ctx, eventlog.Options{Bucket: w.bucket, URL: url, Keys: w.root, Inspect: true})
	if err != nil {
		return err
	}
	defer log.Close(ctx)
	return fn(ctx, log)
}

// readOrders reads all orders and certificates.
func readOrders(ctx context.Context, log *eventlog.Log) (o orders, err error) {
	o.certified, o.of = map[event.ID]int{}, map[string]event.ID{}
	for p := range log.Partitions() {
		for seg, err := range log.Segments(ctx, event.Partition(p), log.Start(event.Partition(p))) {
			if err != nil {
				return o, err
			}
			for _, r := range seg.Events {
				switch f := r.Fact.(type) {
				case *event.ErasureOrdered:
					o.standing = append(o.standing, r.Ref.ID)
				case *event.Erased:
					o.certified[f.Order]++
					o.proofs = append(o.proofs, r.Ref)
					for _, i := range f.Items {
						o.of[i.Message.String()] = f.Order
					}
				}
			}
		}
	}
	return o, nil
}

// doomed chooses some letters to be erased at once: a large one, one that was kept
// past its day, and another.
func (w *World) doomed() (out []*letter) {
	pick := func(is func(*letter) bool) {
		for _, l := range w.ledger.order {
			held := w.ledger.held(l)
			if w.ledger.readable(l) && !held && l.owner == "" && !slices.Contains(out, l) && (len(out) == 0 || l.tenant == out[0].tenant) && is(l) {
				out = append(out, l)
				return
			}
		}
	}
	pick(func(l *letter) bool { return l.last != 0 && l.sure })
	pick(func(l *letter) bool { return l.large })
	pick(func(l *letter) bool { return l.last == 0 })
	return out
}

// gone notes that a letter was erased.
func (w *World) gone(l *letter) {
	l.erased = w.today()
	for u := range l.due {
		l.due[u] = false
	}
	for _, boxes := range w.ledger.boxes {
		for _, b := range boxes {
			for uid, c := range b.messages {
				if c.l == l {
					delete(b.messages, uid)
				}
			}
		}
	}
}

// orderWrong lets an erasure go wrong at one step, and returns what the steps were.
// other says that the other node is asked for the same, at the same time.
func (w *World) orderWrong(what wrong, at int, other bool) (steps []string, key string, err error) {
	n1, n2 := w.keepers[0], w.keepers[1]
	if err := w.wake(); err != nil {
		return nil, "", err
	}
	time.Sleep(3 * pollEvery)
	w.collect()
	list := w.doomed()
	req := map[string]any{"tenant": list[0].tenant, "reason": "asked for", "ids": []string{}}
	for _, l := range list {
		req["ids"] = append(req["ids"].([]string), l.id)
	}
	m := newMishap(n1, what, at)
	answers := make(chan error, 2)
	asked := 1
	go func() { answers <- n1.ask("POST", "/erase", req, nil) }()
	if other {
		asked++
		go func() { answers <- n2.ask("POST", "/erase", req, nil) }()
	}
	if what == sleeps { // while it sleeps, the other one finishes what is open
		select {
		case <-m.struck:
		case <-time.After(20 * time.Minute):
		}
		time.Sleep(2 * time.Minute)
		if err := n2.ask("POST", "/retention/run", struct{}{}, nil); err != nil {
			w.finds("orders", "the other node's work: %v", err)
		}
	}
	confirmed := false
	for range asked {
		if err := <-answers; err == nil {
			confirmed = true
		}
	}
	if what == dies || what == loses {
		n1.kill()
		if what == loses {
			n1.wipe()
		}
	}
	steps, key = m.seen()
	n1.meter.Hook(nil, nil)
	if err := w.wake(); err != nil {
		return steps, key, err
	}
	for _, k := range w.keepers { // what was ordered is done once an hour, or now
		time.Sleep(2 * time.Minute)
		if err := k.ask("POST", "/retention/run", struct{}{}, nil); err != nil {
			w.tell("%s: %v", k.name, err) // the other one may be at it
		}
	}
	time.Sleep(2 * time.Minute)
	return steps, key, w.settleOrders(list, confirmed)
}

// settleOrders judges what became of an erasure, all of it, and tells the ledger.
func (w *World) settleOrders(list []*letter, confirmed bool) error {
	return w.inspect(func(ctx context.Context, log *eventlog.Log) error {
		o, err := readOrders(ctx, log)
		if err != nil {
			return err
		}
		for _, id := range o.standing {
			if n := o.certified[id]; n != 1 {
				w.finds("orders", "the order %v is certified %d times", id, n)
			}
		}
		ended := 0
		for _, l := range list {
			if _, ok := o.of[l.id]; ok {
				ended++
				w.gone(l)
			}
		}
		if ended != 0 && ended != len(list) || confirmed && ended == 0 {
			w.finds("orders", "%d of %d messages are certified to be erased; that it is done was said: %v", ended, len(list), confirmed)
		}
		key, err := w.root.InstallationKey(ctx)
		if err != nil {
			return err
		}
		for _, ref := range o.proofs {
			var b bytes.Buffer
			if _, err := log.Prove(ctx, ref, &b); err != nil {
				return fmt.Errorf("prove %v: %w", ref, err)
			}
			e, _, err := eventlog.CheckEvidence(bytes.NewReader(b.Bytes()), int64(b.Len()), key)
			if err != nil {
				w.finds("orders", "the certificate at %v: %v", ref, err)
			} else if f, ok := e.Fact.(*event.Erased); !ok || len(f.Items) == 0 {
				w.finds("orders", "the certificate at %v is of %T", ref, e.Fact)
			}
		}
		return nil
	})
}

// TestErasureSteps lets every step of an erasure go wrong, in every way, now and
// then while another node is asked for the same: it ends with a certificate that is
// valid, and nothing opens the messages any more, or was not ordered, and they are
// all there.
func TestErasureSteps(t *testing.T) {
	p := newPrologue(t, Plan{Seed: 11, Days: 4, Daily: 12, Awake: 100, Large: 20})
	if t.Failed() {
		return
	}
	var dirs []string
	p.from(t, func(w *World) {
		var err error
		if dirs, _, err = w.orderWrong(refused, 1<<30, false); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%d steps: %q", len(dirs), dirs)
	n := *steps / 2
	if n == 0 {
		n = len(dirs) * int(wrongs)
	}
	for i := range n {
		what, at, other := wrong(i%int(wrongs)), 1+i*len(dirs)/n, i%3 == 2
		t.Run(fmt.Sprintf("%v at %d, twice %v", what, at, other), func(t *testing.T) {
			p.from(t, func(w *World) {
				_, key, err := w.orderWrong(what, at, other)
				if err != nil {
					t.Error(err)
				}
				t.Logf("%v: %s", what, key)
				if err := w.over(p.day); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
