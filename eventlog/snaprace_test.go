package eventlog

import (
	"context"
	"errors"
	"io"
	"testing"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// hooked calls a function before one operation, once. The function is the fault:
// it does what another node could do at that moment.
type hooked struct {
	objstore.Bucket
	beforeListPut func()
	beforeDelete  func() error
}

func (h *hooked) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if do := h.beforeListPut; do != nil && key == baseListKey {
		h.beforeListPut = nil
		do()
	}
	return h.Bucket.Put(ctx, key, body, size, opt)
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	if do := h.beforeDelete; do != nil {
		h.beforeDelete = nil
		if err := do(); err != nil {
			return err
		}
	}
	return h.Bucket.Delete(ctx, key)
}

var errCrashed = errors.New("the process has died")

// TestPublishingMeetsRemoving: whenever a Base is published while its pieces are
// being removed as nobody's, either it is published and whole, or it is refused.
func TestPublishingMeetsRemoving(t *testing.T) {
	for name, at := range map[string]struct {
		hook func(h *hooked, publish func() error, t *testing.T)
		want error // of the last try to publish
	}{
		"before the removal is announced": {hook: func(h *hooked, publish func() error, t *testing.T) {
			h.beforeListPut = func() {
				if err := publish(); err != nil {
					t.Error(err)
				}
			}
		}},
		"after it is announced": {want: ErrBaseGone, hook: func(h *hooked, publish func() error, t *testing.T) {
			h.beforeDelete = func() error {
				if err := publish(); !errors.Is(err, ErrBaseGone) {
					t.Errorf("published while it is removed: %v", err)
				}
				return nil
			}
		}},
		"after a removal that broke off": {want: ErrBaseGone, hook: func(h *hooked, publish func() error, t *testing.T) {
			h.beforeDelete = func() error { return errCrashed }
		}},
		"after it is gone": {want: ErrBaseGone, hook: func(*hooked, func() error, *testing.T) {}},
	} {
		t.Run(name, func(t *testing.T) {
			bucket, h := mem.New(), &hooked{}
			h.Bucket = bucket
			opt := newOptions(t, h)
			sweeper := openFixture(t, opt)
			opt.Bucket = bucket
			taker := openFixture(t, opt)
			first := taker.take(t, "p", 1, nil, "1")
			if err := taker.PublishBases(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			shared, err := taker.BaseChunks(t.Context(), first)
			if err != nil {
				t.Fatal(err)
			}
			b := taker.take(t, "p", 1, shared, "2")
			publish := func() error { return taker.PublishBases(t.Context(), b) }
			at.hook(h, publish, t)
			if _, err := sweeper.SweepSnaps(t.Context(), nil, true); err != nil && !errors.Is(err, errCrashed) {
				t.Fatal(err)
			}
			if err := publish(); !errors.Is(err, at.want) {
				t.Errorf("in the end: %v, want %v", err, at.want)
			}
			want := []Base{b, first}
			if at.want != nil {
				want = want[1:]
			}
			taker.wantBases(t, "p", want...)
			// What broke off is finished, and the next Base is none the worse for it.
			if _, err := sweeper.SweepSnaps(t.Context(), nil, true); err != nil {
				t.Fatal(err)
			}
			list, _, err := taker.readBases(t.Context())
			if err != nil || len(list.Removing) != 0 {
				t.Errorf("still being removed: %v, %v", list, err)
			}
			taker.wantBases(t, "p", want...)
			next := taker.take(t, "p", 1, shared, "3")
			if err := taker.PublishBases(t.Context(), next); err != nil {
				t.Error(err)
			}
			taker.wantBases(t, "p", next, want[0])
		})
	}
}

// TestFaultsWhileABaseIsStored: a store that loses answers or fails neither loses
// a Base that was said to be published nor publishes one that is not whole.
func TestFaultsWhileABaseIsStored(t *testing.T) {
	for _, kind := range []fault.Kind{fault.FailBefore, fault.FailAfter, fault.LostAnswer} {
		for n := range 6 {
			f, bucket := faulty(t)
			first := f.take(t, "p", 1, nil, "1")
			if err := f.PublishBases(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			rule := bucket.Inject(fault.Rule{KeyPrefix: snapPrefix, Nth: 1 + n, Kind: kind})
			b, err := f.tryTake("p")
			if err == nil {
				err = f.PublishBases(t.Context(), b)
			}
			rule.Remove()
			want := []Base{b, first}
			if err != nil {
				got, lerr := f.Bases(t.Context(), "p")
				if lerr != nil {
					t.Fatal(lerr)
				}
				want = want[max(0, 2-len(got)):] // it may be, and need not
			}
			f.wantBases(t, "p", want...)
		}
	}
}

// tryTake stores a small Base, if the store lets it.
func (f *fixture) tryTake(projection string) (Base, error) {
	ctx := context.Background()
	s, err := f.PutSnap(ctx, []byte("a piece"))
	if err != nil {
		return Base{}, err
	}
	index, err := f.PutBaseIndex(ctx, []event.Snap{s})
	if err != nil {
		return Base{}, err
	}
	fact := &event.BaseTaken{Projection: projection, Version: 1, Index: index, Chunks: 1}
	ev := event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: fact}
	pos, err := f.Append(ctx, ev)
	return Base{Taken: fact, Ref: event.Ref{Position: pos, ID: ev.ID}}, err
}
