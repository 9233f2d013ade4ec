package eventlog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/objstore/mem"
)

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		opt := newOptions(t, mem.New())
		a, b := openFixture(t, opt), openFixture(t, opt)
		la, err := a.Acquire(ctx, "deliver", time.Minute, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Acquire(ctx, "deliver", time.Minute, false); !errors.Is(err, ErrLeased) {
			t.Errorf("a second holder: %v, want ErrLeased", err)
		}
		time.Sleep(40 * time.Second)
		if err := la.Renew(ctx); err != nil || !la.Valid() {
			t.Errorf("renew: %v", err)
		}
		time.Sleep(61 * time.Second)
		if la.Valid() {
			t.Error("a lease outlives its term")
		}
		lb, err := b.Acquire(ctx, "deliver", time.Minute, false)
		if err != nil || lb.Epoch() <= la.Epoch() {
			t.Fatalf("taking over: %v, epoch %d after %d", err, lb.Epoch(), la.Epoch())
		}
		if err := la.Renew(ctx); !errors.Is(err, ErrLeased) {
			t.Errorf("renewing a lost lease: %v, want ErrLeased", err)
		}
		if err := lb.Release(ctx); err != nil {
			t.Fatal(err)
		}
		if again, err := a.Acquire(ctx, "deliver", time.Minute, false); err != nil || again.Epoch() <= lb.Epoch() {
			t.Errorf("after a release: %v", err)
		}
	})
}
