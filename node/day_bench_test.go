package node

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"runtime"
	runmetrics "runtime/metrics"
	"sync"
	"testing"
	"time"

	"holdfast/continuity"
	"holdfast/crypto"
	"holdfast/delivery"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
	"holdfast/objstore/mem"
	"holdfast/projection"
	"holdfast/retention"
	"holdfast/shadow"
)

// The claim is about 1,000,000 messages; a look at the trend does with fewer.
var dayMessages = flag.Int("day", 20_000, "messages of the day that BenchmarkEndOfDay ends")

const (
	dayExpiry  = event.Day(20_830)
	dayPerSeg  = 50
	dayUsers   = 1000
	dayDue     = 100 // every so manieth message is due
	dayFiled   = 10  // every so manieth is filed
	dayBegin   = event.Millis(20_800) * 86_400_000
	dayMailbox = event.MailboxID(6) // Archive
)

var (
	dayTenant   = event.Tenant{0: 1}
	otherTenant = event.Tenant{0: 2}
)

// dayLog is a log of one partition: a day of a tenant's mail, made as it is read,
// half of it for one account; then what is appended.
type dayLog struct {
	messages int
	template message.Index
	sealer   *crypto.LocalSealer

	mu      sync.Mutex
	later   []*eventlog.Segment
	changed chan struct{}
}

func newDayLog(b *testing.B, messages int) *dayLog {
	b.Helper()
	root, id := crypto.MemoryRoot(dayExpiry-40), event.LogID{1}
	wrapped, err := root.NewTenant(b.Context(), dayTenant, id)
	if err != nil {
		b.Fatal(err)
	}
	keys, err := root.OpenTenant(b.Context(), dayTenant, id, wrapped)
	if err != nil {
		b.Fatal(err)
	}
	pair, err := root.DayPair(b.Context(), keys, dayExpiry)
	if err != nil {
		b.Fatal(err)
	}
	text := "From: a <a@far.test>\r\nTo: b@acme.test\r\nSubject: nothing new\r\nMessage-ID: <x@far.test>\r\n\r\nx\r\n"
	return &dayLog{messages: messages, template: *message.ReadIndex([]byte(text)), sealer: pair.LocalSealer(crypto.NewCodec()), changed: make(chan struct{})}
}

func (l *dayLog) Partitions() int                          { return 1 }
func (l *dayLog) PartitionOf(event.Tenant) event.Partition { return 0 }
func (l *dayLog) first() int                               { return (l.messages + dayPerSeg - 1) / dayPerSeg }

func (l *dayLog) TailAtLeast(event.Partition) event.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return event.Seq(l.first() + len(l.later))
}

func (l *dayLog) LocalSealer(context.Context, event.Tenant, event.Day) (*crypto.LocalSealer, error) {
	return l.sealer, nil
}

func (l *dayLog) Wait(ctx context.Context, _ event.Partition, after event.Seq) error {
	for {
		l.mu.Lock()
		more, changed := int(after) < l.first()+len(l.later), l.changed
		l.mu.Unlock()
		if more {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *dayLog) Segments(_ context.Context, _ event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for seq := after.Seq + 1; seq <= l.TailAtLeast(0); seq++ {
			if !yield(l.segment(seq), nil) {
				return
			}
		}
	}
}

func dayID(n int) (id event.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	return id
}

// account says for whom a message is, and under which UID.
func (l *dayLog) account(n int) (event.Account, event.UID) {
	if n%2 == 0 {
		return event.Account{1}, event.UID(n/2 + 1)
	}
	a := event.Account{2}
	binary.BigEndian.PutUint32(a[1:], uint32(n/2%dayUsers))
	return a, event.UID(n/2/dayUsers + 1)
}

func (l *dayLog) accepted(n int) *event.MessageAccepted {
	a, _ := l.account(n)
	ix := l.template
	ix.Envelope.Subject = fmt.Sprint("number ", n)
	return &event.MessageAccepted{
		Origin: event.OriginInbound, At: dayBegin, Size: 40_000, Shown: 40_000, Recipients: 1,
		Allotments: []event.Allotment{{Account: a, Place: event.PlaceInbox}},
		Meta: &event.MessageMeta{From: fmt.Sprintf("sender%d@far.test", n%5000), Index: event.Marshal(&ix),
			Recipients: []event.Recipient{{Path: fmt.Sprintf("user%d@acme.test", n%dayUsers), Domain: "acme.test"}}},
	}
}

func dayHash(seq event.Seq) (h eventlog.Hash) {
	binary.BigEndian.PutUint64(h[:], uint64(seq))
	return h
}

func (l *dayLog) segment(seq event.Seq) *eventlog.Segment {
	if n := int(seq) - 1 - l.first(); n >= 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.later[n]
	}
	settled := &event.DeliverySettled{}
	var evs []event.Event
	for n := int(seq-1) * dayPerSeg; n < min(int(seq)*dayPerSeg, l.messages); n++ {
		evs = append(evs, event.Event{ID: dayID(n), Tenant: dayTenant, Expiry: dayExpiry, Fact: l.accepted(n)})
		if n%dayDue != 0 {
			settled.Outcomes = append(settled.Outcomes, event.Outcome{Unit: event.Unit{Source: dayID(n)}, Result: event.ResultDelivered})
		}
	}
	return daySegment(seq, append(evs, event.Event{ID: event.NewID(), Tenant: dayTenant, Fact: settled})...)
}

func daySegment(seq event.Seq, evs ...event.Event) *eventlog.Segment {
	seg := &eventlog.Segment{Seq: seq, Hash: dayHash(seq), Time: dayBegin}
	if seq > 1 {
		seg.Prev = dayHash(seq - 1)
	}
	for i, e := range evs {
		seg.Events = append(seg.Events, eventlog.Recorded{
			Ref:    event.Ref{Position: event.Position{Seq: seq, Index: uint32(i)}, ID: e.ID},
			Tenant: e.Tenant, Class: e.Fact.Class(), Expiry: e.Expiry, Fact: e.Fact, Time: dayBegin,
		})
	}
	return seg
}

// append adds a segment.
func (l *dayLog) append(evs ...event.Event) event.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq := event.Seq(l.first() + len(l.later) + 1)
	l.later = append(l.later, daySegment(seq, evs...))
	close(l.changed)
	l.changed = make(chan struct{})
	return event.Position{Seq: seq}
}

func (l *dayLog) say(t event.Tenant, f event.Fact) event.Position {
	return l.append(event.Event{ID: event.NewID(), Tenant: t, Fact: f})
}

// file moves a tenth of each INBOX to the archive.
func (l *dayLog) file() {
	for i := range min(dayUsers+1, l.messages) {
		a, _ := l.account(0)
		n := l.messages / 2
		if i > 0 {
			a, _ = l.account(2*i - 1)
			n /= dayUsers
		}
		for uid := 1; uid <= n/dayFiled; uid += 1000 {
			l.say(dayTenant, &event.Copied{Account: a, From: 1, To: dayMailbox, Move: true,
				UIDs: []event.UIDRange{{First: event.UID(uid), Last: event.UID(min(uid+999, n/dayFiled))}}})
		}
	}
}

// keep keeps what was filed, and what is due, and returns how many.
func (l *dayLog) keep() (kept int) {
	var evs []event.Event
	for n := range l.messages {
		a, uid := l.account(n)
		all := l.messages / 2
		if a != (event.Account{1}) {
			all /= dayUsers
		}
		until := dayExpiry + 31
		switch {
		case int(uid) <= all/dayFiled:
		case n%dayDue == 0:
			until = dayExpiry + 3
		default:
			continue
		}
		kept++
		state, meta := event.Encode(l.accepted(n))
		evs = append(evs, event.Event{ID: event.NewID(), Tenant: dayTenant, Expiry: until, Fact: &event.Kept{
			Message: dayID(n), Was: state, Meta: &event.KeptMeta{Was: meta}, Why: event.KeptFiled,
		}})
		if len(evs) == dayPerSeg {
			l.append(evs...)
			evs = nil
		}
	}
	if len(evs) > 0 {
		l.append(evs...)
	}
	return kept
}

// watched is a store that notes its largest and longest commits.
type watched struct {
	projection.Store
	mu   sync.Mutex
	ops  int
	took time.Duration
}

func (w *watched) Commit(ops []projection.Op) error {
	began := time.Now()
	err := w.Store.Commit(ops)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ops, w.took = max(w.ops, len(ops)), max(w.took, time.Since(began))
	return err
}

func (w *watched) reset() (ops int, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ops, took = w.ops, w.took
	w.ops, w.took = 0, 0
	return ops, took
}

// dayNode is the four folds that have to do with the end of a day.
type dayNode struct {
	log     *dayLog
	runner  *projection.Runner
	store   *watched
	unswept []func(context.Context, event.Tenant) (bool, error)
}

var dayFolds = []string{"continuity", "delivery", "retention", "shadow"}

func startDay(b *testing.B) *dayNode {
	b.Helper()
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	st, err := projection.OpenBadger(projection.BadgerOptions{Dir: filepath.Join(b.TempDir(), "db"), Key: make([]byte, 32)})
	check(err)
	n := &dayNode{log: newDayLog(b, *dayMessages), store: &watched{Store: st}}
	// The services want a log, which has nothing to do here.
	empty, err := eventlog.Open(b.Context(), eventlog.Options{Bucket: mem.New(), URL: "mem:", Keys: crypto.MemoryRoot(dayExpiry - 40), MayCreate: true, Partitions: 1})
	check(err)
	n.runner, err = projection.Open(projection.Options{Store: n.store, Source: n.log})
	check(err)
	quiet := slog.New(slog.DiscardHandler)
	boxes, err := continuity.New(empty, n.runner, quiet)
	check(err)
	queue, err := delivery.New(delivery.Config{Log: empty, Runner: n.runner})
	check(err)
	index, err := shadow.New(n.log, n.runner, quiet)
	check(err)
	_, err = retention.New(retention.Config{Log: empty, Runner: n.runner})
	check(err)
	n.unswept = []func(context.Context, event.Tenant) (bool, error){boxes.Unswept, queue.Unswept, index.Unswept}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.runner.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-done
		check(n.store.Close())
		check(empty.Close(context.Background()))
	})
	return n
}

// folded waits until all folds have what is in the log.
func (n *dayNode) folded(b *testing.B) {
	b.Helper()
	pos := event.Position{Seq: n.log.TailAtLeast(0)}
	for _, name := range dayFolds {
		if err := n.runner.WaitFor(b.Context(), name, pos); err != nil {
			b.Fatal(err)
		}
	}
}

// end appends a fact that ends a day, and then lets all folds remove what that
// ends, as the daily work does.
func (n *dayNode) end(b *testing.B, f event.Fact) {
	b.Helper()
	n.log.say(dayTenant, f)
	steps := 0
	for n.folded(b); n.left(b); n.folded(b) {
		n.log.say(dayTenant, &event.DaySwept{})
		steps++
	}
	// The rows of copies are not asked for here; there are as many to each step.
	b.Logf("%d more steps", steps)
}

func (n *dayNode) left(b *testing.B) bool {
	b.Helper()
	for _, more := range n.unswept {
		if left, err := more(b.Context(), dayTenant); err != nil {
			b.Fatal(err)
		} else if left {
			return true
		}
	}
	return false
}

// phase measures what do takes, how long commands of another tenant wait
// meanwhile, and how much more memory is in use at most.
func (n *dayNode) phase(b *testing.B, name string, do func()) {
	b.Helper()
	runtime.GC()
	n.store.reset()
	inUse := []runmetrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	runmetrics.Read(inUse)
	before := inUse[0].Value.Uint64()
	stop, done := make(chan struct{}), make(chan struct{})
	var most uint64
	var longest time.Duration
	go func() {
		defer close(done)
		for {
			began := time.Now()
			pos := n.log.say(otherTenant, &event.UserSet{Account: event.Account{9}, Address: "x@other.test"})
			if err := n.runner.WaitFor(b.Context(), "continuity", pos); err != nil {
				b.Error(err)
			}
			longest = max(longest, time.Since(began))
			runmetrics.Read(inUse)
			most = max(most, inUse[0].Value.Uint64())
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	began, cpu := time.Now(), cpuTime(b)
	do()
	took := time.Since(began)
	cpu = cpuTime(b) - cpu
	close(stop)
	<-done
	ops, commit := n.store.reset()
	b.Logf("%-9s %8v (cpu %8v)   longest wait of another tenant %8v, longest commit %8v, most keys in one %8d, memory +%d MiB",
		name, took.Round(time.Millisecond), cpu.Round(time.Millisecond), longest.Round(time.Millisecond), commit.Round(time.Millisecond), ops, (max(most, before)-before)>>20)
}

// BenchmarkEndOfDay ends a day of one tenant, of whose mail a tenth is filed and a
// hundredth is due. Run it with -args -day 1000000 and -benchtime 1x.
func BenchmarkEndOfDay(b *testing.B) {
	for b.Loop() {
		n := startDay(b)
		n.phase(b, "accepted", func() { n.folded(b) })
		n.log.file()
		n.phase(b, "filed", func() { n.folded(b) })
		n.phase(b, "condemned", func() { n.end(b, &event.DayCondemned{Day: dayExpiry}) })
		n.phase(b, "kept", func() {
			b.Logf("%d messages are kept", n.log.keep())
			n.folded(b)
		})
		n.phase(b, "expired", func() { n.end(b, &event.DayExpired{Day: dayExpiry}) })
	}
}
