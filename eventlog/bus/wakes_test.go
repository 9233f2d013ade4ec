package bus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

func post(t *testing.T, b *Bus, topic string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := b.Publisher().Publish(topic, message.NewMessage("id of "+p, []byte(p))); err != nil {
			t.Fatal(err)
		}
	}
}

// take receives and acknowledges n messages.
func take(t *testing.T, in <-chan *message.Message, n int) (got []string) {
	t.Helper()
	for range n {
		select {
		case m, ok := <-in:
			if !ok {
				t.Fatalf("the channel was closed after %d messages", len(got))
			}
			got = append(got, string(m.Payload))
			m.Ack()
		case <-time.After(5 * time.Minute):
			t.Fatalf("no message for minutes after %d", len(got))
		}
	}
	return got
}

func subscribe(t *testing.T, s *Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	in, err := s.Subscribe(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, options(mem.New()))
		b := openBus(t, l)
		post(t, b, "x", "before")
		w := NewWakes(l, nil)
		in, err := w.Subscribe(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, want := range []event.Seq{2, 3} {
			post(t, b, "x", "y")
			m := <-in
			m.Ack()
			if p, seq, err := ParseWake(m); err != nil || p != 0 || seq != want {
				t.Errorf("woken for %d/%d, %v; want 0/%d", p, seq, err, want)
			}
			synctest.Wait()
		}
		post(t, b, "x", "1", "2", "3", "4", "5")
		m := <-in
		for last := false; !last; {
			_, seq, err := ParseWake(m)
			if err != nil {
				t.Fatal(err)
			}
			m.Ack()
			if last = seq == 8; !last {
				m = <-in
			}
		}
		post(t, b, "x", "z") // and nobody acknowledges it
		synctest.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What a group has acknowledged is not delivered again after a stop; after a
// crash, only what its cursor did not record.
func TestCursorSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := options(mem.New())
		faulty := fault.Wrap(opt.Bucket)
		opt.Bucket = faulty
		l := openLog(t, opt)
		b := openBus(t, l)
		post(t, b, "topic", "1", "2", "3", "4")
		take(t, subscribe(t, b.Subscriber("g"), "topic"), 2)
		synctest.Wait()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		again := openBus(t, openLog(t, opt))
		in := subscribe(t, again.Subscriber("g"), "topic")
		if got := take(t, in, 1); got[0] != "3" {
			t.Errorf("after a stop the group goes on with %s, want 3", got)
		}
		time.Sleep(2 * cursorAfter) // "3" is recorded
		rule := faulty.Inject(fault.Rule{Op: fault.Put, Kind: fault.Full, Times: -1})
		take(t, in, 1)
		synctest.Wait()
		crashed := openBus(t, openLog(t, withoutFaults(opt, faulty, rule)))
		if got := take(t, subscribe(t, crashed.Subscriber("g"), "topic"), 1); got[0] != "4" {
			t.Errorf("after a crash the group goes on with %s, want 4", got)
		}
	})
}

func withoutFaults(opt eventlog.Options, b *fault.Bucket, rule *fault.Handle) eventlog.Options {
	rule.Remove()
	opt.Bucket = b
	return opt
}

// A refused message comes again after pauses that grow, and nothing overtakes it.
func TestNackComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Log: openLog(t, options(mem.New()))})
		defer b.Close()
		post(t, b, "topic", "1", "2")
		in := subscribe(t, b.Subscriber("g"), "topic")
		var gaps []time.Duration
		last := time.Now()
		for range 12 {
			m := <-in
			gaps = append(gaps, time.Since(last))
			last = time.Now()
			if string(m.Payload) != "1" {
				t.Fatalf("%s overtook a refused message", m.Payload)
			}
			m.Nack()
		}
		if gaps[1] != 100*time.Millisecond || gaps[2] != 200*time.Millisecond || gaps[11] != time.Minute {
			t.Errorf("the pauses were %v", gaps)
		}
		if got := take(t, in, 2); got[0] != "1" || got[1] != "2" {
			t.Errorf("then came %v", got)
		}
	})
}

// Nodes that share a bucket take turns for a group, by lease.
func TestGroupsAcrossNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := options(mem.New())
		opt.Poll = time.Second
		node := func() *Bus {
			b := New(Options{Log: openLog(t, opt), Shared: true})
			t.Cleanup(func() { b.Close() })
			return b
		}
		first, second := node(), node()
		a := subscribe(t, first.Subscriber("g"), "topic")
		synctest.Wait()
		c := subscribe(t, second.Subscriber("g"), "topic")
		post(t, second, "topic", "1", "2", "3")
		if got := take(t, a, 2); got[1] != "2" {
			t.Errorf("the first node gets %v", got)
		}
		time.Sleep(5 * leaseTerm)
		select {
		case m := <-c:
			t.Errorf("the second node gets %s while the first holds the group", m.Payload)
		default:
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		if got := take(t, c, 1); got[0] != "3" {
			t.Errorf("the second node goes on with %v, want 3", got)
		}
	})
}

// A reactor as a handler of a Router: what fails is tried again, and what cannot
// be handled stops the handler visibly and is the first thing that it gets when it
// is started again.
func TestReactor(t *testing.T) {
	b := openBus(t, openLog(t, options(mem.New())))
	post(t, b, "mail", "good", "flaky", "bad", "after")
	run := func(handle func(payload string, try int) error) (handled []string, stopped error) {
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		tries := map[string]int{}
		sub := b.Subscriber("reactor")
		defer sub.Close()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		h := router.AddConsumerHandler("notify", "mail", sub, func(m *message.Message) error {
			mu.Lock()
			defer mu.Unlock()
			p := string(m.Payload)
			tries[p]++
			if err := handle(p, tries[p]); err != nil {
				return err
			}
			if handled = append(handled, p); p == "after" {
				cancel()
			}
			return nil
		})
		var problem atomic.Pointer[error]
		h.AddMiddleware(
			Halt(h.Stop, func(id string, err error) { problem.Store(&err) }),
			Retry(4, time.Millisecond),
		)
		if err := router.Run(ctx); err != nil {
			t.Error(err)
		}
		if p := problem.Load(); p != nil {
			stopped = *p
		}
		return handled, stopped
	}
	errBad := errors.New("cannot be handled")
	handled, stopped := run(func(p string, try int) error {
		if p == "bad" || p == "flaky" && try < 3 {
			return errBad
		}
		return nil
	})
	if !errors.Is(stopped, errBad) || len(handled) != 2 || handled[1] != "flaky" {
		t.Errorf("handled %v, stopped with %v", handled, stopped)
	}
	handled, stopped = run(func(string, int) error { return nil })
	if stopped != nil || len(handled) != 2 || handled[0] != "bad" || handled[1] != "after" {
		t.Errorf("started again: handled %v, stopped with %v", handled, stopped)
	}
}

func TestPublishSaysWhenItFails(t *testing.T) {
	faulty := fault.Wrap(mem.New())
	b := openBus(t, openLog(t, options(faulty)))
	faulty.Inject(fault.Rule{Op: fault.Put, Kind: fault.Full})
	m := message.NewMessage("1", nil)
	if err := b.Publisher().Publish("topic", m); !errors.Is(err, fault.ErrFull) {
		t.Errorf("publish to a full store: %v", err)
	}
	if err := b.Publisher().Publish("topic", m); err != nil {
		t.Error(err)
	}
	p := b.Publisher()
	p.Close()
	if err := p.Publish("topic", m); !errors.Is(err, ErrClosed) {
		t.Errorf("publish after Close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Subscriber("g").Subscribe(context.Background(), "topic"); !errors.Is(err, ErrClosed) {
		t.Errorf("subscribe to a closed bus: %v", err)
	}
}
