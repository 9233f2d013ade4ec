package eventlog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/mem"
)

// TestShiftedClock: a test that moves the clock moves the times in the log with
// it, and does not make a wrong clock right.
func TestShiftedClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const shift = 49 * time.Hour
		s := &skewed{Bucket: mem.New()}
		opt := newOptions(t, s)
		opt.Shift = shift
		f := openFixture(t, opt)
		if f.Shift() != shift || event.DayOf(f.Now()) != event.DayOf(time.Now().Add(shift)) {
			t.Errorf("shifted by %v to %v", f.Shift(), f.Now())
		}
		if _, err := f.Append(context.Background(), f.message(t, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		for _, r := range f.all(t) {
			if d := f.Now().Sub(time.UnixMilli(int64(r.Time))); d < 0 || d > time.Minute {
				t.Errorf("an event just written is of %v ago by the log's clock", d)
			}
		}
		for by, want := range map[time.Duration]error{4 * time.Minute: nil, shift: ErrClock, -shift: ErrClock} {
			s.set(by)
			time.Sleep(clockAge + time.Second)
			if _, err := f.Append(context.Background(), f.message(t, []byte("x"))); !errors.Is(err, want) {
				t.Errorf("with %v between the clocks: %v, want %v", by, err, want)
			}
		}
	})
}
