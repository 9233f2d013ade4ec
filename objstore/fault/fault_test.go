package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/objstore/objstoretest"
)

func TestConformanceWithoutFaults(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket { return wrap(t, mem.New()) })
}

// TestConformanceDelayed runs the suite against a bucket that holds up every
// call by chance, which must not show.
func TestConformanceDelayed(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
		b := wrap(t, mem.New())
		b.Chance(1, Rates{Delay: 0.2}, 100*time.Microsecond)
		return b
	})
}

func wrap(t *testing.T, next objstore.Bucket) *Bucket {
	b := Wrap(next)
	t.Cleanup(func() { b.Close() })
	return b
}

func put(b objstore.Bucket, key, value string, opt objstore.PutOptions) error {
	_, err := b.Put(context.Background(), key, strings.NewReader(value), int64(len(value)), opt)
	return err
}

func read(b objstore.Bucket, key string) (string, error) {
	data, _, err := objstore.ReadAll(context.Background(), b, key, 1<<20)
	return string(data), err
}

func wantValue(t *testing.T, b objstore.Bucket, key, want string) {
	t.Helper()
	got, err := read(b, key)
	if err != nil || got != want {
		t.Errorf("value of %s: %q, %v; want %q", key, got, err, want)
	}
}

func wantMissing(t *testing.T, b objstore.Bucket, key string) {
	t.Helper()
	if _, err := read(b, key); !errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("%s: %v, want that it does not exist", key, err)
	}
}

func TestPutFaults(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		kind      Kind
		ambiguous bool
		landed    bool
	}{
		{FailBefore, false, false},
		{Full, false, false},
		{FailAfter, true, true},
		{LostAnswer, true, true},
		{LateLanding, true, false},
	} {
		t.Run(fmt.Sprint("kind ", c.kind), func(t *testing.T) {
			store := mem.New()
			b := wrap(t, store)
			h := b.Inject(Rule{Op: Put, KeyPrefix: "log/", Kind: c.kind, Err: cause})
			err := put(b, "log/1", "x", objstore.PutOptions{IfAbsent: true})
			if !errors.Is(err, ErrInjected) || errors.Is(err, objstore.ErrAmbiguous) != c.ambiguous {
				t.Fatalf("error %v, want ambiguous: %t", err, c.ambiguous)
			}
			if c.kind != Full && !errors.Is(err, cause) {
				t.Errorf("error %v does not wrap the rule's", err)
			}
			if c.landed {
				wantValue(t, store, "log/1", "x")
			} else {
				wantMissing(t, store, "log/1")
			}
			if h.Struck() != 1 {
				t.Errorf("struck %d calls, want 1", h.Struck())
			}
			if err := put(b, "log/2", "y", objstore.PutOptions{}); err != nil {
				t.Errorf("the next call: %v", err)
			}
			if b.Calls(Put) != 2 || b.Calls(Any) != 2 {
				t.Errorf("counted %d puts, %d calls", b.Calls(Put), b.Calls(Any))
			}
		})
	}
}

func TestRuleSelects(t *testing.T) {
	b := wrap(t, mem.New())
	second := b.Inject(Rule{Op: Put, KeyPrefix: "log/", Nth: 2, Times: 2, Kind: FailBefore})
	var failed []int
	for i := range 6 {
		if err := put(b, "blob/x", "x", objstore.PutOptions{}); err != nil {
			t.Fatalf("other prefix: %v", err)
		}
		if err := put(b, fmt.Sprint("log/", i), "x", objstore.PutOptions{}); err != nil {
			failed = append(failed, i)
		}
	}
	if !slices.Equal(failed, []int{1, 2}) || second.Struck() != 2 {
		t.Errorf("calls %v failed (%d counted), want the second and third", failed, second.Struck())
	}
	always := b.Inject(Rule{Kind: FailBefore, Times: -1})
	for range 3 {
		if _, err := read(b, "log/0"); !errors.Is(err, ErrInjected) {
			t.Errorf("rule for all calls: %v", err)
		}
	}
	always.Remove()
	wantValue(t, b, "log/0", "x")
	b.Inject(Rule{Kind: FailBefore, Times: -1})
	b.Clear()
	wantValue(t, b, "log/0", "x")
}

func TestReleaseLandsInOrderUnderConditions(t *testing.T) {
	store := mem.New()
	b := wrap(t, store)
	b.Inject(Rule{Kind: LateLanding, Times: 3})
	body := []byte("first")
	create := objstore.PutOptions{IfAbsent: true}
	for _, value := range []string{string(body), "second"} {
		if err := put(b, "k", value, create); !errors.Is(err, objstore.ErrAmbiguous) {
			t.Fatal(err)
		}
	}
	if err := b.Delete(t.Context(), "old"); !errors.Is(err, ErrInjected) {
		t.Fatal(err)
	}
	if err := put(store, "old", "x", objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "k")
	if b.Pending() != 3 || b.Release() != 3 || b.Pending() != 0 {
		t.Error("pending landings are miscounted")
	}
	wantValue(t, b, "k", "first")
	wantMissing(t, b, "old")
}

func TestLateLandingAfterDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Wrap(mem.New())
		defer b.Close()
		b.Inject(Rule{Op: Put, Kind: LateLanding, Delay: time.Minute})
		if err := put(b, "k", "late", objstore.PutOptions{IfAbsent: true}); !errors.Is(err, objstore.ErrAmbiguous) {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		wantMissing(t, b, "k")
		time.Sleep(2 * time.Second)
		wantValue(t, b, "k", "late")
	})
}

func TestCloseDropsLateLandings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := mem.New()
		b := Wrap(store)
		b.Inject(Rule{Kind: LateLanding, Delay: time.Hour})
		if err := put(b, "k", "late", objstore.PutOptions{}); !errors.Is(err, objstore.ErrAmbiguous) {
			t.Fatal(err)
		}
		start := time.Now()
		b.Close()
		if time.Since(start) != 0 {
			t.Error("Close waited for a landing that had not begun")
		}
		wantMissing(t, store, "k")
	})
}

func TestDelayAndHangEndWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := mem.New()
		b := Wrap(store)
		defer b.Close()
		for _, kind := range []Kind{Delay, Hang} {
			b.Inject(Rule{Kind: kind, Delay: time.Hour})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start := time.Now()
			_, err := b.Put(ctx, "k", strings.NewReader("x"), 1, objstore.PutOptions{})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, objstore.ErrAmbiguous) != (kind == Hang) {
				t.Errorf("kind %d: %v", kind, err)
			}
			if d := time.Since(start); d != time.Second {
				t.Errorf("kind %d ended after %v", kind, d)
			}
			wantMissing(t, store, "k")
		}
		b.Inject(Rule{Kind: Delay, Delay: time.Hour})
		start := time.Now()
		if err := put(b, "k", "x", objstore.PutOptions{}); err != nil || time.Since(start) != time.Hour {
			t.Errorf("delayed put: %v after %v", err, time.Since(start))
		}
	})
}

func TestReadFaults(t *testing.T) {
	b := wrap(t, mem.New())
	for _, key := range []string{"a", "b", "c"} {
		if err := put(b, key, "0123456789", objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int64{0, 4} {
		b.Inject(Rule{Op: Get, Kind: TornRead, Bytes: n})
		r, _, err := b.Get(t.Context(), "a", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if string(got) != "0123456789"[:n] || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("torn read gave %q, %v", got, err)
		}
	}
	for _, c := range []struct {
		hide int
		want string
	}{{1, "a b"}, {2, "a"}, {5, ""}} {
		b.Inject(Rule{Op: List, Kind: StaleList, Keys: c.hide})
		if got := list(t, b); got != c.want {
			t.Errorf("listing without the last %d: %q, want %q", c.hide, got, c.want)
		}
	}
	if got := list(t, b); got != "a b c" {
		t.Errorf("listing: %q", got)
	}
}

func list(t *testing.T, b objstore.Bucket) string {
	t.Helper()
	var keys []string
	for info, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return strings.Join(keys, " ")
}

func TestProbeNoticesAStoreThatIgnoresConditions(t *testing.T) {
	for nth := 2; nth <= 4; nth += 2 { // The second create, and the second swap.
		b := wrap(t, mem.New())
		b.Inject(Rule{Op: Put, Nth: nth, Kind: Unconditional})
		if err := objstore.ProbeConditional(t.Context(), b); !errors.Is(err, objstore.ErrUnconditional) {
			t.Errorf("put %d without its condition: %v", nth, err)
		}
		if got := list(t, b); got != "" {
			t.Errorf("probe left %q", got)
		}
	}
	b := wrap(t, mem.New())
	b.Inject(Rule{Op: Put, Nth: 2, Kind: LostAnswer})
	if err := objstore.ProbeConditional(t.Context(), b); err == nil || errors.Is(err, objstore.ErrUnconditional) {
		t.Errorf("probe on a broken line must not blame the store: %v", err)
	}
}

// TestChanceRepeats checks that one seed gives one sequence of faults, and that
// another gives another.
func TestChanceRepeats(t *testing.T) {
	rates := Rates{FailBefore: 0.2, LostAnswer: 0.2, LateLanding: 0.1, TornRead: 0.2, StaleList: 0.3}
	trace := func(seed uint64) string {
		b := wrap(t, mem.New())
		b.Chance(seed, rates, 0)
		var out strings.Builder
		for i := range 200 {
			key := fmt.Sprint("k", i%7)
			err := put(b, key, "value", objstore.PutOptions{})
			_, rerr := read(b, key)
			fmt.Fprintln(&out, err, rerr)
		}
		return out.String()
	}
	one := trace(1)
	if one != trace(1) {
		t.Error("the same seed gave different faults")
	}
	if one == trace(2) {
		t.Error("different seeds gave the same faults")
	}
	for _, want := range []string{"failed before", "answer lost", "landed", "unexpected EOF", "<nil> <nil>"} {
		if !strings.Contains(one, want) {
			t.Errorf("200 calls never came to %q", want)
		}
	}
}
