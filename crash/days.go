package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/crash/judge"
	"holdfast/e2e/outside"
	"holdfast/internal/failpoint"
)

// A world with Options.Days keeps mail for a day, by the clock for tests, which
// goes on when the node starts again. Its lives are those of a week, in turn: mail;
// erasures; segments are packed; days end; what is over is removed.

// daysPerRun is how many messages are sent while a node lives.
const daysPerRun = 24

// stage is what a life of such a world is about.
type stage struct {
	points  []failpoint.Point
	advance time.Duration // how much later it begins than the one before
	run     bool          // the work of the night is asked for
	erase   bool
}

// stages are the lives of a week. What could not be removed at its end is removed
// at the end of the next one.
func stages() []stage {
	return []stage{
		{points: []failpoint.Point{failpoint.BlobDurable}, advance: 2 * time.Minute},
		{points: []failpoint.Point{
			failpoint.ErasureOrdered, failpoint.PageRewrite, failpoint.PageRewritten, failpoint.ErasedBlob, failpoint.ErasureDone, failpoint.ErasureCertified,
		}, advance: 2 * time.Minute, erase: true},
		{points: []failpoint.Point{failpoint.PackPut, failpoint.PackDurable, failpoint.FloorPut, failpoint.FloorDurable}, advance: time.Hour, run: true},
		{points: []failpoint.Point{
			failpoint.DayCondemned, failpoint.MailKept, failpoint.DayExpired, failpoint.RatchetMoved, failpoint.DayRemove, failpoint.DayRemoved, failpoint.DaysGone,
			failpoint.BaseStored, failpoint.BaseNamed, failpoint.BasePublished, failpoint.OrphansNamed,
		}, advance: 25 * time.Hour, run: true},
		{points: []failpoint.Point{failpoint.PackReplaced, failpoint.KeyRemove, failpoint.PackDead}, advance: 25 * time.Hour, run: true},
	}
}

// dayPlan decides about the next run of a world whose days pass.
func (w *World) dayPlan() plan {
	r := w.rng
	p := plan{
		after: 2500 * time.Millisecond, fromReady: true, primaryDown: r.IntN(5) == 0, power: r.IntN(5) < 3, all: r.IntN(3) == 0,
		local: []fate{kept, kept, kept, kept, kept, deleted, older, torn}[r.IntN(8)], judge: r.IntN(8) == 0,
	}
	if !w.applied {
		return p
	}
	list := stages()
	n := w.lived
	w.lived++
	st := list[n%len(list)]
	p.advance, p.work, p.erase = st.advance, st.run, st.erase
	if st.advance > 24*time.Hour && r.IntN(3) == 0 {
		p.advance += 24 * time.Hour
	}
	wanted := slices.DeleteFunc(slices.Clone(st.points), func(p failpoint.Point) bool {
		return len(w.opt.Points) > 0 && !slices.Contains(w.opt.Points, p)
	})
	if len(wanted) == 0 {
		wanted = st.points
	}
	p.point = wanted[(w.opt.Turn+n/len(list))%len(wanted)]
	p.hit = 1
	if slices.Contains([]failpoint.Point{failpoint.MailKept, failpoint.DayRemove, failpoint.DayRemoved, failpoint.KeyRemove, failpoint.BlobDurable}, p.point) {
		p.hit = 1 + r.IntN(5) // there are many
	}
	if n == 0 || r.IntN(10) == 0 {
		p.point, p.hit = "", 0 // somewhere
	}
	if p.work || p.erase {
		p.after += time.Second
	}
	return p
}

// pass lets time go by while no node runs: the node's clock is moved, and what is
// in the bucket is older by as much.
func (w *World) pass(by time.Duration) error {
	if by == 0 {
		return nil
	}
	w.node.Clock += by
	for _, dir := range []string{"bucket", "s3"} {
		err := filepath.WalkDir(filepath.Join(w.opt.Dir, dir), func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			then := fi.ModTime().Add(-by)
			return os.Chtimes(path, then, then)
		})
		if err != nil {
			return fmt.Errorf("make the bucket older: %w", err)
		}
	}
	return nil
}

// clock is what the node takes for the present.
func (w *World) clock() time.Time { return time.Now().Add(w.node.Clock) }

// office is the administrator, who places holds, erases, and has the work of the
// night done, one thing after the other. What was asked for and not answered may
// have happened.
func (w *World) office(ctx context.Context, p plan, r *rand.Rand) {
	if err := w.node.WaitReady(ctx); err != nil {
		return
	}
	if p.work {
		w.command(ctx, "retention", "run")
	}
	for n := 0; w.alive(ctx) && (p.erase && n < 6 || n < 1); n++ {
		if o, ok := w.choose(r, 0); ok && r.IntN(3) == 0 {
			w.hold(ctx, o)
		}
		if o, ok := w.choose(r, int64(n%2)*inObjects); ok {
			w.erase(ctx, o)
		}
	}
}

// command runs a command and reports whether it says that it is done.
func (w *World) command(ctx context.Context, args ...string) bool {
	out, err := w.node.Run(ctx, nil, args...)
	return err == nil && out.Code == 0
}

// inObjects is the size from which bodies lie in objects of their own.
const inObjects = 256 << 10

// choose picks a message of a size or more that is there and that nothing was
// decided about.
func (w *World) choose(r *rand.Rand, size int64) (judge.Order, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []judge.Order
	today := w.clock().UTC().Truncate(24 * time.Hour)
	for i := range w.rec.Sent {
		s := &w.rec.Sent[i]
		if s.Answer == judge.Kept && s.Size >= size && !w.decided[s.ID] && !s.Began.UTC().Truncate(24*time.Hour).Add(24*time.Hour).Before(today) {
			list = append(list, judge.Order{Message: s.ID})
		}
	}
	if len(list) == 0 {
		return judge.Order{}, false
	}
	o := list[r.IntN(len(list))]
	w.decided[o.Message] = true
	return o, true
}

func (w *World) hold(ctx context.Context, o judge.Order) bool {
	o.Began = w.tick()
	o.OK = w.command(ctx, "hold", "add", "case-"+o.Message, "--reason", "a trial", o.Message)
	o.At, o.Ended = w.clock(), w.tick()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rec.Holds = append(w.rec.Holds, o)
	return o.OK
}

func (w *World) erase(ctx context.Context, o judge.Order) bool {
	o.Began = w.tick()
	file := filepath.Join(w.opt.Dir, "certificate-"+o.Message)
	o.OK = w.command(ctx, "erase", o.Message, "--reason", "by order", "-o", file)
	o.At, o.Ended = w.clock(), w.tick()
	if o.OK {
		o.Certificate = file
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rec.Erasures = append(w.rec.Erasures, o)
	return o.OK
}

// dayLoad lets everybody loose on a node whose days pass.
func (w *World) dayLoad(ctx context.Context, wg *sync.WaitGroup, p plan) {
	left := make(chan struct{}, daysPerRun)
	for range daysPerRun {
		left <- struct{}{}
	}
	run := w.run
	for range senders {
		wg.Go(func() { w.sender(ctx, run, left) })
	}
	one, two := w.rng.Uint64(), w.rng.Uint64()
	wg.Go(func() { w.user(ctx, rand.New(rand.NewPCG(one, 2))) })
	wg.Go(func() { w.office(ctx, p, rand.New(rand.NewPCG(two, 3))) })
}

// Times of the end: what is due is delivered first, and then everything is over
// that was kept for that alone.
const (
	drainAfter  = 25 * time.Hour
	finishAfter = 5 * 24 * time.Hour
	nightWithin = 60 * time.Second
)

// decide places a hold and erases a message, which without faults has to be done.
func (w *World) decide(ctx context.Context) error {
	for _, do := range []func(context.Context, judge.Order) bool{w.hold, w.erase} {
		o, ok := w.choose(w.rng, 0)
		if !ok {
			// All that is there was decided about; this one is new.
			if err := w.sendOne(ctx); err != nil {
				return err
			}
			o, _ = w.choose(w.rng, 0)
		}
		if !do(ctx, o) {
			return &Broken{[]string{fmt.Sprintf("without faults message %s can be neither held nor erased; the node says:\n%s", o.Message, tail(w.node.LastLog()))}}
		}
	}
	return nil
}

// finish lets so many days pass that nothing is left but what is filed or under a
// hold, has the work done, and looks for the last time.
func (w *World) finish(ctx context.Context) error {
	if err := w.node.Stop(); err != nil {
		return &Broken{[]string{err.Error()}}
	}
	w.run++
	if err := w.begin(ctx, finishAfter); err != nil {
		return err
	}
	if err := w.night(ctx); err != nil {
		return err
	}
	if err := w.drain(ctx); err != nil {
		return err
	}
	key, err := w.node.Must(ctx, "keys", "public")
	if err != nil {
		return err
	}
	for _, o := range w.rec.Erasures {
		if o.Certificate == "" {
			continue
		}
		out, err := w.node.Run(ctx, nil, "log", "check", o.Certificate, "--key", strings.TrimSpace(key))
		if err != nil {
			return err
		}
		if out.Code != 0 || !strings.Contains(out.Stdout, o.Message) {
			return &Broken{[]string{fmt.Sprintf("the certificate of %s: exit %d: %s%s", o.Message, out.Code, out.Stdout, out.Stderr)}}
		}
	}
	w.rec.Over = w.clock()
	return nil
}

// night waits until the work of the days that have passed is done.
func (w *World) night(ctx context.Context) error {
	end := time.Now().Add(nightWithin)
	for {
		out, err := w.node.Run(ctx, nil, "retention", "run")
		if err != nil {
			return err
		}
		var s struct {
			Retention struct {
				ReadableFrom string `json:"readable_from"`
				Trouble      string
			}
		}
		text, err := w.node.Must(ctx, "status", "--json")
		if err == nil {
			err = json.Unmarshal([]byte(text), &s)
		}
		if err != nil {
			return err
		}
		today := w.clock().UTC().Add(-2 * time.Minute).Format(time.DateOnly)
		if out.Code == 0 && s.Retention.ReadableFrom >= today && s.Retention.Trouble == "" {
			return nil
		}
		if time.Now().After(end) {
			return &Broken{[]string{fmt.Sprintf("without faults the night does not end: exit %d: %s%s, readable from %s, trouble %q; the node says:\n%s",
				out.Code, out.Stdout, out.Stderr, s.Retention.ReadableFrom, s.Retention.Trouble, tail(w.node.LastLog()))}}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// export lets the program find all mail, without a node and with nothing but the
// bucket and the root key.
func (w *World) export(ctx context.Context) error {
	if err := w.forget(w.node.DataDir()); err != nil {
		return err
	}
	if err := os.RemoveAll(w.node.DataDir()); err != nil {
		return err
	}
	dir := filepath.Join(w.opt.Dir, "exported")
	if _, err := w.node.Must(ctx, "export", "--from", "@remote.example", "-o", dir); err != nil {
		return &Broken{[]string{err.Error()}}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		return err
	}
	w.rec.Exported = map[string]string{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if body, ok := outside.CutReceived(data); ok {
			data = body
		}
		w.rec.Exported[strings.TrimSuffix(filepath.Base(name), ".eml")] = sum(data)
	}
	return nil
}

// toMorning is how far a clock is moved for the time to be ten in the morning, UTC,
// so that no midnight comes while a world lives but those that the plan has.
func toMorning(now time.Time) time.Duration {
	return now.UTC().Truncate(24 * time.Hour).Add(34 * time.Hour).Sub(now)
}
