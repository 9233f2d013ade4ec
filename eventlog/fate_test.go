package eventlog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// says appends a fact of the tenant's.
func (f *fixture) says(t *testing.T, fact event.Fact) {
	t.Helper()
	if _, err := f.Append(context.Background(), event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: fact}); err != nil {
		t.Fatal(err)
	}
}

// What was sealed before its day, or the objects with its body, were condemned
// does not get into the log behind that, whoever condemned it; what has nothing to
// do with it does.
func TestNothingIsPutBehindItsCondemnation(t *testing.T) {
	for name, own := range map[string]bool{"by this process": true, "by another": false} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := openFixture(t, newOptions(t, mem.New()))
			judge := f
			if !own {
				judge = openFixture(t, f.opt)
			}
			small, named, orphan, later := f.message(t, randomBytes(10)), f.message(t, randomBytes(300<<10)), f.message(t, randomBytes(300<<10)), event.Event{}
			free := f.message(t, randomBytes(300<<10))
			f.day++
			later = f.message(t, randomBytes(20))
			f.day--
			judge.says(t, &event.ObjectsCondemned{Messages: []event.ID{{1}, named.ID, orphan.ID}})
			for _, ev := range []event.Event{named, orphan} {
				if _, err := f.Append(ctx, ev); !errors.Is(err, ErrCondemned) || errors.Is(err, crypto.ErrExpired) {
					t.Errorf("a body whose objects are condemned: %v", err)
				}
			}
			if _, err := f.Append(ctx, free); err != nil {
				t.Errorf("a body nobody has condemned: %v", err)
			}
			judge.says(t, &event.DayCondemned{Day: f.day})
			if _, err := f.Append(ctx, small); !errors.Is(err, ErrCondemned) || !errors.Is(err, crypto.ErrExpired) {
				t.Errorf("a message of a condemned day: %v", err)
			}
			if _, err := f.Append(ctx, later); err != nil {
				t.Errorf("a message of another day: %v", err)
			}
			if _, err := f.tryMessage(ctx, randomBytes(10)); !errors.Is(err, ErrCondemned) {
				t.Errorf("seal under a condemned day: %v", err)
			}
			if err := f.Prepare(ctx, f.tenant, f.day); !errors.Is(err, ErrCondemned) {
				t.Errorf("a page for a condemned day: %v", err)
			}
			for _, r := range judge.all(t) {
				if r.Ref.ID == small.ID || r.Ref.ID == named.ID || r.Ref.ID == orphan.ID {
					t.Errorf("%v is in the log", r.Ref)
				}
			}
		})
	}
}

// An appender stands still between its look at the tail and its put, as a process
// that was stopped does. Meanwhile another node condemns the objects of its
// message and removes them.
func TestPausedAppenderLosesItsRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		f, b := faulty(t)
		judge := openFixture(t, f.opt)
		ev := f.message(t, randomBytes(300<<10))
		mail := f.message(t, randomBytes(30)) // in the same batch, and not condemned
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Delay, Delay: 10 * time.Second})
		errs := make(chan error, 2)
		go func() { _, err := f.Append(ctx, ev); errs <- err }()
		go func() { _, err := f.Append(ctx, mail); errs <- err }()
		synctest.Wait() // the put is under way
		judge.says(t, &event.ObjectsCondemned{Messages: []event.ID{ev.ID}})
		for _, key := range stored(t, b, "blob/") {
			if err := b.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
		var refused, landed int
		for range 2 {
			switch err := <-errs; {
			case errors.Is(err, ErrCondemned):
				refused++
			case err == nil:
				landed++
			default:
				t.Error(err)
			}
		}
		if refused != 1 || landed != 1 {
			t.Errorf("%d refused, %d landed", refused, landed)
		}
		judge.wantNoFindings(t)
		for _, r := range judge.all(t) {
			if r.Ref.ID == ev.ID {
				t.Errorf("%v is in the log, without its body", r.Ref)
			}
		}
	})
}

// In one batch, what comes after a condemnation goes into a later segment or is
// refused.
func TestCondemnationInTheSameBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		f, b := faulty(t)
		ev := f.message(t, randomBytes(30))
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Delay, Delay: 10 * time.Second})
		for _, fact := range []event.Fact{&event.MailboxCreated{Name: "x"}, &event.DayCondemned{Day: f.day}} {
			go f.Append(ctx, event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: fact})
			synctest.Wait()
		}
		if _, err := f.Append(ctx, ev); !errors.Is(err, ErrCondemned) {
			t.Errorf("a message right behind its condemnation: %v", err)
		}
		if n := len(f.all(t)); n != 2 {
			t.Errorf("%d events in the log", n)
		}
	})
}

// A body does not wait longer for its event than what is condemned is remembered.
func TestOldBodiesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		f := openFixture(t, newOptions(t, mem.New()))
		old, small := f.message(t, randomBytes(300<<10)), f.message(t, randomBytes(30))
		f.says(t, &event.ObjectsCondemned{Messages: []event.ID{{1}}})
		time.Sleep(maxBodyAge + time.Second)
		if _, err := f.Append(ctx, old); !errors.Is(err, ErrCondemned) {
			t.Errorf("an old body: %v", err)
		}
		if _, err := f.Append(ctx, small); err != nil {
			t.Errorf("an old body inside its event: %v", err)
		}
		time.Sleep(2 * time.Hour)
		f.says(t, &event.ObjectsCondemned{Messages: []event.ID{{2}, {3}}})
		if n := len(f.fate.objects); n != 2 {
			t.Errorf("%d are remembered", n)
		}
	})
}

// A fact of retention that cannot be read might have condemned anything that was
// begun before it; mail that comes after is taken.
func TestUnreadableCondemnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		bucket := mem.New()
		f := openFixture(t, newOptions(t, bucket))
		judge := openFixture(t, f.opt)
		f.accept(t, randomBytes(10))
		f.day = event.DayOf(time.Now()) + 1
		before, small := f.message(t, randomBytes(300<<10)), f.message(t, randomBytes(30))
		judge.says(t, &event.ObjectsCondemned{Messages: []event.ID{{1}}})
		judge.says(t, &event.MailboxCreated{Name: "x"})
		at := &archive{bucket: bucket}
		key := segmentKey(f.PartitionOf(f.tenant), 2)
		b := at.get(t, key)
		b[len(b)-1] ^= 1
		put(t, bucket, key, b)
		time.Sleep(time.Second)
		f.Append(ctx, event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: &event.MailboxCreated{Name: "y"}})
		if _, err := f.Append(ctx, before); !errors.Is(err, ErrCondemned) {
			t.Errorf("a body from before: %v", err)
		}
		if _, err := f.Append(ctx, small); err != nil {
			t.Errorf("without objects: %v", err)
		}
		if _, err := f.Append(ctx, f.message(t, randomBytes(300<<10))); err != nil {
			t.Errorf("a body from after: %v", err)
		}
		late := f.message(t, randomBytes(30))
		time.Sleep(48 * time.Hour)
		if _, err := f.Append(ctx, late); !errors.Is(err, ErrCondemned) {
			t.Errorf("a message whose day is over: %v", err)
		}
	})
}

// An order is certified once, whoever is at it; what another certificate adds to it
// gets into the log.
func TestAnOrderIsCertifiedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		f, b := faulty(t)
		other := openFixture(t, f.opt)
		certify := func(order byte, places ...byte) event.Event {
			e := event.Erased{Order: event.ID{order}}
			for _, p := range places {
				e.Items = append(e.Items, event.ErasedItem{Message: event.ID{p}, Place: event.Ref{ID: event.ID{p}}})
			}
			return event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: &e}
		}
		// Two in one batch, and one by another node whose put is faster.
		b.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Delay, Delay: 10 * time.Second})
		errs := make(chan error, 3)
		for _, ev := range []event.Event{certify(9, 1), certify(1, 1, 2), certify(1, 1, 2)} {
			go func() { _, err := f.Append(ctx, ev); errs <- err }()
			synctest.Wait()
		}
		if _, err := other.Append(ctx, certify(1, 1, 2)); err != nil {
			t.Fatal(err)
		}
		var once, landed int
		for range 3 {
			switch err := <-errs; {
			case errors.Is(err, ErrCertified):
				once++
			case err == nil:
				landed++
			default:
				t.Error(err)
			}
		}
		if once != 2 || landed != 1 {
			t.Errorf("%d were refused, %d landed", once, landed)
		}
		if _, err := f.Append(ctx, certify(1, 3)); err != nil {
			t.Errorf("another place of the same order: %v", err)
		}
		if _, err := f.Append(ctx, certify(2, 1)); err != nil {
			t.Errorf("another order: %v", err)
		}
	})
}
