package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// depot is a log of one partition that is packed, and what was put into it.
type depot struct {
	*fixture
	bucket *fault.Bucket
	store  *mem.Bucket
	root   *crypto.Root
	sent   []sent
}

// sent is a message and its text.
type sent struct {
	ref  event.Ref
	day  event.Day
	body []byte
}

func newDepot(t *testing.T) *depot {
	t.Helper()
	store := mem.New()
	d := &depot{bucket: fault.Wrap(store), store: store, root: crypto.MemoryRoot(event.DayOf(time.Now()))}
	opt := newOptions(t, d.bucket)
	opt.Keys, opt.Partitions = d.root, 1
	d.fixture = openFixture(t, opt)
	return d
}

// another opens the log as another node does.
func (d *depot) another(t *testing.T) *depot {
	t.Helper()
	c := *d
	c.fixture = openFixture(t, d.opt)
	return &c
}

// send appends messages that expire in some days, each in a segment of its own,
// with a pause before each.
func (d *depot) send(t *testing.T, n int, days event.Day, every time.Duration) {
	t.Helper()
	for range n {
		time.Sleep(every)
		body := fmt.Appendf(nil, "Subject: %d\r\n\r\n%s", len(d.sent), randomBytes(len(d.sent)%2000))
		d.day = event.DayOf(d.Now()) + days
		ev := d.message(t, body)
		pos, err := d.Append(t.Context(), ev)
		if err != nil {
			t.Fatal(err)
		}
		d.sent = append(d.sent, sent{event.Ref{Position: pos, ID: ev.ID}, d.day, body})
	}
}

func (d *depot) pack(t *testing.T, before event.Day) PackResult {
	t.Helper()
	r, err := d.Pack(t.Context(), 0, PackOptions{Before: before})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pass moves the ratchet to today, and a day later.
func (d *depot) pass(t *testing.T) event.Day {
	t.Helper()
	today := event.DayOf(d.Now())
	if err := d.root.AdvanceTo(today); err != nil {
		t.Fatal(err)
	}
	d.Forget(today)
	return today
}

// wantAll reads the whole log as a node that has just been started does, from
// where it begins, and every message of a day that is not over.
func (d *depot) wantAll(t *testing.T) {
	t.Helper()
	o := d.another(t)
	defer o.Close(context.Background())
	today := event.DayOf(o.Now())
	n := 0
	for r, err := range o.Read(t.Context(), 0, o.Start(0)) {
		if err != nil {
			t.Fatal(err)
		}
		for n < len(d.sent) && d.sent[n].ref.Position.Seq <= o.Start(0).Seq {
			n++
		}
		if n >= len(d.sent) || r.Ref != d.sent[n].ref || r.Expiry != d.sent[n].day {
			t.Fatalf("event %d is %v, want %v", n, r.Ref, d.sent[n].ref)
		}
		if m := r.Fact.(*event.MessageAccepted).Meta; (m == nil) != (r.Expiry < today) {
			t.Fatalf("event %d of day %v: metadata %v", n, r.Expiry, m)
		}
		n++
	}
	if n != len(d.sent) {
		t.Fatalf("%d of %d events", n, len(d.sent))
	}
	for i, s := range d.sent {
		if s.ref.Position.Seq <= o.Start(0).Seq {
			continue
		}
		b, err := o.Body(t.Context(), s.ref)
		if s.day < today {
			if !errors.Is(err, crypto.ErrExpired) {
				t.Fatalf("body %d of day %v: %v", i, s.day, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("body %d: %v", i, err)
		}
		if got, err := io.ReadAll(b); err != nil || string(got) != string(s.body) {
			t.Fatalf("body %d differs: %v", i, err)
		}
		if r, err := o.Event(t.Context(), s.ref); err != nil || r.Ref != s.ref {
			t.Fatalf("event %d: %v", i, err)
		}
	}
}

// count returns how many objects lie under a prefix, and their bytes.
func (d *depot) count(t *testing.T, prefix string) (n int, bytes int64) {
	t.Helper()
	for info, err := range d.store.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
		bytes += info.Size
	}
	return n, bytes
}

// Segments go into packs, their keys a day later; everything reads as before, by
// who wrote it and by who comes new.
func TestPack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		d.send(t, 50, 30, time.Minute)
		if r := d.pack(t, 0); r != (PackResult{}) {
			t.Errorf("%+v of a few segments", r)
		}
		d.send(t, 100, 30, time.Minute)
		if r := d.pack(t, 0); r.Packs != 1 || r.Segments < 130 || r.Segments > 140 || r.Keys != 0 {
			t.Errorf("%+v", r)
		}
		d.wantAll(t)
		time.Sleep(23 * time.Hour)
		if r := d.pack(t, 0); r.Keys != 0 {
			t.Errorf("%+v, and keys rest a day", r)
		}
		time.Sleep(2 * time.Hour)
		if r := d.pack(t, 0); r.Keys < 130 || r.Packs != 0 {
			t.Errorf("%+v, a day later", r)
		}
		d.wantAll(t)
		if n, _ := d.count(t, "log/"); n > 20 {
			t.Errorf("%d keys are left", n)
		}
		d.send(t, 100, 30, time.Minute)
		d.pack(t, 0)
		d.wantAll(t)
		for range d.all(t) { // by the one that has written it
		}
	})
}

// What expires is left out, and only once the ratchet has passed it.
func TestPackLeavesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		for i := range 200 {
			d.send(t, 1, event.Day(2+i%3*30), time.Minute)
		}
		d.pack(t, 0)
		if _, err := d.Pack(t.Context(), 0, PackOptions{Before: event.DayOf(d.Now()) + 1}); !errors.Is(err, ErrNotOver) {
			t.Errorf("before the day is over: %v", err)
		}
		_, before := d.count(t, "pack/")
		time.Sleep(4 * 24 * time.Hour)
		if _, err := d.Pack(t.Context(), 0, PackOptions{Before: event.DayOf(d.Now())}); !errors.Is(err, ErrNotOver) {
			t.Errorf("before the ratchet has passed: %v", err)
		}
		r := d.pack(t, d.pass(t))
		if r.LeftOut < 10_000 || r.Replaced != 1 || r.Packs != 1 {
			t.Errorf("%+v", r)
		}
		n, after := d.count(t, "pack/")
		if n != 1 || after > before-r.LeftOut+2000 {
			t.Errorf("%d packs of %d bytes, %d before", n, after, before)
		}
		d.wantAll(t)
		if r := d.pack(t, d.pass(t)); r != (PackResult{}) {
			t.Errorf("again: %+v", r)
		}
	})
}

// A log that begins later keeps what is alive before it, and nothing else.
func TestRaiseStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		for i := range 6 {
			days := event.Day(2)
			if i == 2 {
				days = 365
			}
			d.send(t, 100, days, time.Minute)
		}
		if _, err := d.checkpointAt(t, 400); err != nil {
			t.Fatal(err)
		}
		cursor, err := d.CursorAt(t.Context(), 0, 500)
		if err != nil {
			t.Fatal(err)
		}
		d.pack(t, 0)
		if err := d.RaiseStart(t.Context(), 0, Cursor{Seq: 500}); !errors.Is(err, ErrRolledBack) {
			t.Errorf("a cursor of another log: %v", err)
		}
		if err := d.RaiseStart(t.Context(), 0, cursor); err != nil || d.Start(0) != cursor {
			t.Fatal(err)
		}
		if err := d.RaiseStart(t.Context(), 0, Cursor{Seq: 3}); err != nil || d.Start(0) != cursor {
			t.Errorf("back: %v", err)
		}
		time.Sleep(4 * 24 * time.Hour)
		d.send(t, 100, 30, time.Minute)
		d.pack(t, d.pass(t))
		d.wantAll(t)
		for _, s := range []event.Seq{0, 499} {
			for _, err := range d.Read(t.Context(), 0, Cursor{Seq: s}) {
				if !errors.Is(err, ErrBeforeStart) {
					t.Errorf("read from %d: %v", s, err)
				}
			}
		}
		alive := d.sent[250]
		o := d.another(t)
		o.wantBody(t, alive.ref, alive.body)
		var bundle bytes.Buffer
		if _, err := o.Prove(t.Context(), alive.ref, &bundle); err != nil {
			t.Errorf("evidence of what outlives its log: %v", err)
		} else if _, _, err := CheckEvidence(bytes.NewReader(bundle.Bytes()), int64(bundle.Len()), o.installation); err != nil {
			t.Errorf("the evidence: %v", err)
		}
		if _, err := d.Checkpoint(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if r := d.pack(t, 0); r.Notes != 1 {
			t.Errorf("%+v: a checkpoint is of no use", r)
		}
		if fs := d.findings(t); len(fs) > 0 {
			t.Errorf("findings: %v", fs)
		}
		first, err := o.Checkpoint(t.Context(), 0)
		if err != nil || o.Holds(t.Context(), first) != nil {
			t.Errorf("the checkpoint of now: %v", err)
		}
	})
}

// checkpointAt stores a checkpoint of all segments up to one.
func (d *depot) checkpointAt(t *testing.T, s event.Seq) (*Checkpoint, error) {
	t.Helper()
	c, err := d.newCheckpoint(t.Context(), 0, 0, s)
	if err != nil {
		return nil, err
	}
	return d.putCheckpoint(t.Context(), c)
}

// A packer that dies at any call to the store leaves a log that reads as before and
// verifies, and the next one does the rest.
func TestPackerDiesAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := packedDepot(t)
		again := openFixture(t, d.opt)
		d.fixture = again
		d.send(t, 80, 1, time.Minute)
		time.Sleep(3 * 24 * time.Hour)
		before := d.pass(t)
		good := map[string][]byte{}
		a := archive{bucket: d.store, opt: d.opt}
		for _, key := range d.keys(t, "") {
			good[key] = a.get(t, key)
		}
		for _, kind := range []fault.Kind{fault.FailBefore, fault.LostAnswer} {
			for n, died := 1, true; died; n++ {
				// One read after another, and one removal, differ in nothing.
				if testing.Short() {
					n += 30
				} else if n > 20 && n < 70 {
					n += 19
				} else if n > 120 {
					n += 24
				}
				store := mem.New()
				for key, b := range good {
					put(t, store, key, b)
				}
				time.Sleep(2 * packAge)
				c := *d
				c.store, c.bucket = store, fault.Wrap(store)
				c.opt.Bucket = c.bucket
				packer := c.another(t)
				times := 1
				if kind == fault.FailBefore {
					times = -1
				}
				rule := c.bucket.Inject(fault.Rule{Nth: n, Times: times, Kind: kind})
				_, err := packer.Pack(t.Context(), 0, PackOptions{Before: before})
				died = rule.Struck() > 0
				c.bucket.Clear()
				packer.Close(context.Background())
				if err == nil && died && kind == fault.FailBefore {
					t.Errorf("call %d failed, and nobody knows", n)
				}
				c.wantAll(t)
				if fs := c.findings(t); len(fs) > 0 {
					t.Fatalf("call %d: %v", n, fs)
				}
				next := c.another(t)
				if r := next.pack(t, before); n > 1 && died && kind == fault.FailBefore && r == (PackResult{}) && n < 70 {
					t.Errorf("call %d: nothing was left to do", n)
				}
				c.wantAll(t)
				next.Close(context.Background())
			}
		}
	})
}
