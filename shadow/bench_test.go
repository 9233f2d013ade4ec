package shadow

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
	"holdfast/projection"
)

// The claim is about 1,000,000 messages; a look at the trend does with fewer.
var benchMessages = flag.Int("messages", 100_000, "messages that BenchmarkSearch and BenchmarkAccounts have")

// benchDays is over how many days of reception the messages are spread.
const benchDays = 30

// generated is a log that is made as it is read: mail for 200 recipients of one
// domain, each message with its intent and its outcome, 50 messages a segment.
// Nothing is kept, so that it can be long.
type generated struct {
	*memLog
	messages int
	template message.Index
}

const (
	perSegment = 50
	benchUsers = 200
	benchWords = 20_000
	benchFroms = 50_000
)

func newGenerated(messages int) *generated {
	return &generated{memLog: newMemLog(1), messages: messages, template: *message.ReadIndex([]byte(benchMail))}
}

var benchMail = strings.ReplaceAll(`Received: from a.example by b.example; Sat, 21 Nov 2026 12:00:00 +0000
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.example; s=x
From: "Some Body" <somebody@a.example>
To: alice@acme.test
Subject: placeholder
Date: Sat, 21 Nov 2026 12:00:00 +0000
Message-ID: <placeholder@a.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=m

--m
Content-Type: multipart/alternative; boundary=a

--a
Content-Type: text/plain; charset=utf-8

text
--a
Content-Type: text/html; charset=utf-8

<p>text
--a--
--m
Content-Type: application/pdf; name="a.pdf"
Content-Disposition: attachment; filename="a.pdf"
Content-Transfer-Encoding: base64

AAAA
--m--
`, "\n", "\r\n")

func (g *generated) TailAtLeast(event.Partition) event.Seq {
	return event.Seq((g.messages + perSegment - 1) / perSegment)
}

func (g *generated) Wait(ctx context.Context, _ event.Partition, after event.Seq) error {
	if after < g.TailAtLeast(0) {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (g *generated) Segments(_ context.Context, _ event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for seq := after.Seq + 1; seq <= g.TailAtLeast(0); seq++ {
			if !yield(g.segment(seq), nil) {
				return
			}
		}
	}
}

func (g *generated) at(n int) event.Millis {
	return noon + event.Millis(int64(n)*benchDays*86_400_000/int64(g.messages))
}

func segmentHash(seq event.Seq) (h eventlog.Hash) {
	binary.BigEndian.PutUint64(h[:], uint64(seq))
	return h
}

func benchID(n int) (id event.ID) {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	binary.BigEndian.PutUint64(id[:], r.Uint64())
	binary.BigEndian.PutUint64(id[8:], r.Uint64())
	return id
}

// benchSubject has six words, some much more frequent than others, and the
// number of the message.
func benchSubject(n int) string {
	r := rand.New(rand.NewPCG(uint64(n), 8))
	var b strings.Builder
	for range 6 {
		f := r.Float64()
		fmt.Fprintf(&b, "word%d ", int(f*f*f*benchWords))
	}
	return fmt.Sprint(b.String(), n)
}

func benchFrom(n int) string { return fmt.Sprintf("sender%d@domain%d.example", n, n%5000) }

func (g *generated) segment(seq event.Seq) *eventlog.Segment {
	seg := &eventlog.Segment{Seq: seq, Prev: segmentHash(seq - 1), Hash: segmentHash(seq)}
	if seq == 1 {
		seg.Prev = eventlog.Hash{}
	}
	add := func(id event.ID, expiry event.Day, f event.Fact) {
		seg.Events = append(seg.Events, eventlog.Recorded{
			Ref:    event.Ref{Position: event.Position{Seq: seq, Index: uint32(len(seg.Events))}, ID: id},
			Tenant: acme, Class: f.Class(), Expiry: expiry, Fact: f, Time: timeOf(f),
		})
	}
	first := (int(seq) - 1) * perSegment
	for n := first; n < min(first+perSegment, g.messages); n++ {
		r := rand.New(rand.NewPCG(uint64(n), 9))
		id, from, to := benchID(n), benchFrom(r.IntN(benchFroms)), fmt.Sprintf("user%d@acme.test", r.IntN(benchUsers))
		ix := g.template
		ix.Envelope.From = []message.Address{{Mailbox: strings.Split(from, "@")[0], Host: strings.Split(from, "@")[1]}}
		ix.Envelope.Subject, ix.Envelope.MessageID = benchSubject(n), fmt.Sprintf("<%v@mail.example>", id)
		at := g.at(n)
		add(id, event.Day(at/86_400_000)+30, &event.MessageAccepted{Origin: event.OriginInbound, At: at, Size: 12345, Recipients: 1,
			Meta: &event.MessageMeta{From: from, Recipients: []event.Recipient{{Path: to, Domain: "acme.test"}}, Index: event.Marshal(&ix)}})
		u := event.Unit{Source: id}
		add(event.NewID(), 0, &event.DeliveryIntended{Units: []event.Unit{u}})
		o := event.Outcome{Unit: u, Result: event.ResultDelivered}
		if n%10_007 == 0 {
			o.Result = event.ResultHeld
		}
		add(event.NewID(), 0, &event.DeliverySettled{Outcomes: []event.Outcome{o}})
	}
	return seg
}

func benchStore(b *testing.B) projection.Store {
	st, err := projection.OpenBadger(projection.BadgerOptions{Dir: b.TempDir() + "/db", Key: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := st.Close(); err != nil {
			b.Error(err)
		}
	})
	return st
}

// remembered is a log whose segments were made before.
type remembered struct {
	*generated
	segments []*eventlog.Segment
}

func (r remembered) Segments(_ context.Context, _ event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for _, seg := range r.segments[after.Seq:] {
			if !yield(seg, nil) {
				return
			}
		}
	}
}

// BenchmarkFold folds messages with their intents and outcomes into Badger. An
// operation is one message.
func BenchmarkFold(b *testing.B) {
	r := remembered{generated: newGenerated(b.N)}
	for seq := range r.TailAtLeast(0) {
		r.segments = append(r.segments, r.segment(seq+1))
	}
	st := benchStore(b)
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	n := startNode(b, st, r)
	if err := n.fresh(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	n.stop()
}

// oneDay is a log whose mail all expires on one day, which then may expire.
type oneDay struct {
	*generated
	over bool
}

func (o oneDay) TailAtLeast(p event.Partition) event.Seq {
	n := o.generated.TailAtLeast(p)
	if o.over {
		n++
	}
	return n
}

func (o oneDay) Wait(ctx context.Context, _ event.Partition, after event.Seq) error {
	if after < o.TailAtLeast(0) {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (o oneDay) Segments(_ context.Context, _ event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for seq := after.Seq + 1; seq <= o.TailAtLeast(0); seq++ {
			seg := o.segment(seq)
			for i := range seg.Events {
				seg.Events[i].Expiry = min(seg.Events[i].Expiry, testDay+30)
			}
			if seq > o.generated.TailAtLeast(0) {
				f := &event.DayExpired{Day: testDay + 30}
				seg.Events = []eventlog.Recorded{{
					Ref: event.Ref{Position: event.Position{Seq: seq}, ID: event.NewID()}, Tenant: acme, Class: f.Class(), Fact: f,
				}}
			}
			if !yield(seg, nil) {
				return
			}
		}
	}
}

// BenchmarkExpire drops a day with b.N messages. Run it with -benchtime 1000000x;
// what it holds then is in the profile of -memprofile.
func BenchmarkExpire(b *testing.B) {
	o := oneDay{generated: newGenerated(b.N)}
	n := startNode(b, benchStore(b), o)
	if err := n.fresh(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	n.stop()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	o.over = true
	b.ResetTimer()
	n = startNode(b, n.store, o)
	if err := n.fresh(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N), "alloc-B/op")
	b.ReportMetric(float64(after.Sys-before.Sys)/(1<<20), "more-MB")
	days, err := n.Days(b.Context())
	if err != nil || len(days) != 0 {
		b.Errorf("%v, %v are left", days, err)
	}
	n.stop()
}

// cpuTime is what the process has used so far, with what Badger does behind: a
// measure for machines that are busy with something else.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSearch builds an index and then measures searches of many kinds.
// Run it with -messages 1000000 -benchtime 1x.
func BenchmarkSearch(b *testing.B) {
	g := newGenerated(*benchMessages)
	n := startNode(b, benchStore(b), g)
	begin := time.Now()
	if err := n.fresh(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	b.Logf("built from %d messages in %v", g.messages, time.Since(begin).Round(time.Millisecond))
	r := rand.New(rand.NewPCG(1, 1))
	user := func() string { return fmt.Sprintf("user%d@acme.test", r.IntN(benchUsers)) }
	some := func() int { return r.IntN(g.messages) }
	word := func() string { return fmt.Sprintf("word%d", benchWords/2+r.IntN(benchWords/2)) }
	kinds := []struct {
		name string
		make func() Query
	}{
		{"message-id", func() Query { return Query{MessageID: benchID(some()).String() + "@mail.example"} }},
		{"from", func() Query { return Query{From: benchFrom(r.IntN(benchFroms))} }},
		{"from-domain", func() Query { return Query{From: fmt.Sprintf("@domain%d.example", r.IntN(5000))} }},
		{"rcpt", func() Query { return Query{Rcpt: user()} }},
		{"subject-number", func() Query { return Query{Subject: fmt.Sprint(some())} }},
		{"subject-word", func() Query { return Query{Subject: word()} }},
		{"subject-all", func() Query { return Query{Subject: benchSubject(some())} }},
		{"rcpt+word", func() Query { return Query{Rcpt: user(), Subject: word()} }},
		{"two-common-words", func() Query { return Query{Subject: "word3 word1"} }},
		{"rcpt+frequent-word", func() Query { return Query{Rcpt: user(), Subject: fmt.Sprintf("word%d", 5+r.IntN(20))} }},
		{"nothing", func() Query { return Query{From: "nobody@nowhere.example"} }},
		{"held", func() Query { return Query{State: "held"} }},
		{"held+rcpt", func() Query { return Query{State: "held", Rcpt: user()} }},
		{"hour+rcpt", func() Query {
			at := time.UnixMilli(int64(g.at(some())))
			return Query{Rcpt: user(), Since: at, Until: at.Add(time.Hour)}
		}},
		{"page-in-the-middle", func() Query { return Query{After: benchID(some())} }},
		{"no-selector-10000", func() Query { return Query{Limit: MaxLimit} }},
	}
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			var times []time.Duration
			rows := 0
			before := cpuTime(b)
			for range max(100, b.N) {
				q := k.make()
				begin := time.Now()
				rows += len(n.ids(b, q))
				times = append(times, time.Since(begin))
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(len(times)), "cpu-ms")
			slices.Sort(times)
			at := func(p float64) float64 { return float64(times[int(p*float64(len(times)-1))].Microseconds()) / 1000 }
			b.ReportMetric(at(.5), "p50-ms")
			b.ReportMetric(at(.95), "p95-ms")
			b.ReportMetric(float64(rows)/float64(len(times)), "rows")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkPurge erases three messages of -messages and purges the database, as a
// node does after an erasure, while others commit and read.
func BenchmarkPurge(b *testing.B) {
	g := newGenerated(*benchMessages)
	dir := b.TempDir() + "/db"
	st, err := projection.OpenBadger(projection.BadgerOptions{Dir: dir, Key: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	n := startNode(b, st, g)
	if err := n.fresh(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	n.stop()
	b.ReportMetric(float64(du(b, dir))/(1<<20), "MiB-before")
	for b.Loop() {
		b.StopTimer()
		ops := eraseIn(b, st, g)
		if err := st.Commit(ops); err != nil {
			b.Fatal(err)
		}
		stop, slowest := make(chan struct{}), make(chan [2]time.Duration)
		go func() { slowest <- workMeanwhile(b, st, stop) }()
		before := cpuTime(b)
		b.StartTimer()
		if err := st.(projection.Purger).Purge(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		close(stop)
		worst := <-slowest
		b.ReportMetric((cpuTime(b) - before).Seconds(), "cpu-s")
		b.ReportMetric(worst[0].Seconds()*1000, "ms-slowest-commit")
		b.ReportMetric(worst[1].Seconds()*1000, "ms-slowest-read")
		b.StartTimer()
	}
	b.ReportMetric(float64(du(b, dir))/(1<<20), "MiB-after")
}

// eraseIn overwrites a block at the beginning, in the middle and at the end.
func eraseIn(b *testing.B, st projection.Store, g *generated) (ops []projection.Op) {
	snap, err := st.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer snap.Close()
	keys, i := 0, 0
	for range snap.Scan([]byte{5}, nil, false) {
		keys++
	}
	for it, err := range snap.Scan([]byte{5}, nil, false) {
		if err != nil {
			b.Fatal(err)
		}
		if i++; i%(keys/3-1) == 0 {
			ops = append(ops, projection.Op{Key: slices.Clone(it.Key), Value: slices.Clone(it.Value)})
		}
	}
	return ops
}

// workMeanwhile commits and reads until it is stopped, and returns what took
// longest.
func workMeanwhile(b *testing.B, st projection.Store, stop <-chan struct{}) (worst [2]time.Duration) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return worst
		case <-time.After(time.Millisecond):
		}
		key := fmt.Appendf(nil, "\x7f%d", n%1000)
		begun := time.Now()
		if err := st.Commit([]projection.Op{{Key: key, Value: make([]byte, 1000)}}); err != nil {
			b.Error(err)
			return worst
		}
		worst[0] = max(worst[0], time.Since(begun))
		begun = time.Now()
		snap, err := st.Snapshot()
		if err == nil {
			_, err = snap.Get(key)
			snap.Close()
		}
		if err != nil {
			b.Error(err)
			return worst
		}
		worst[1] = max(worst[1], time.Since(begun))
	}
}

// du returns how many bytes are allocated to the files of a directory.
func du(b *testing.B, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		var s syscall.Stat_t
		if syscall.Stat(dir+"/"+e.Name(), &s) == nil {
			n += s.Blocks * 512
		}
	}
	return n
}

// BenchmarkAccounts asks for what status shows of a day on which mail comes in.
func BenchmarkAccounts(b *testing.B) {
	g := newGenerated(*benchMessages)
	n := startNode(b, benchStore(b), g)
	if err := n.fresh(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	b.Run("domains", func(b *testing.B) {
		for b.Loop() {
			if _, err := n.Domains(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, m := range map[string]event.HoldMatch{
		"all": {}, "domain": {Domain: "acme.test"}, "user": {Users: []string{"user7@acme.test"}},
	} {
		for _, first := range []bool{true, false} {
			b.Run(fmt.Sprintf("held-%s/first=%v", name, first), func(b *testing.B) {
				for b.Loop() {
					if first {
						n.held.set(acme, nil)
					}
					c, err := n.Held(b.Context(), acme, []Hold{{Match: m}})
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(c.Messages), "messages")
				}
			})
		}
	}
}
