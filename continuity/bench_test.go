package continuity

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// segments is a log of one partition in memory.
type segments struct {
	list []*eventlog.Segment
}

func (s *segments) Partitions() int { return 1 }

func (s *segments) Segments(_ context.Context, _ event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for _, seg := range s.list[after.Seq:] {
			if !yield(seg, nil) {
				return
			}
		}
	}
}

func (s *segments) Wait(ctx context.Context, _ event.Partition, after event.Seq) error {
	if int(after) < len(s.list) {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *segments) TailAtLeast(event.Partition) event.Seq { return event.Seq(len(s.list)) }

func (s *segments) LocalSealer(context.Context, event.Tenant, event.Day) (*crypto.LocalSealer, error) {
	return nil, crypto.ErrExpired // the mailboxes keep nothing that has to be sealed
}

// add appends a segment with the facts.
func (s *segments) add(facts ...event.Fact) {
	seg := &eventlog.Segment{Seq: event.Seq(len(s.list) + 1), Time: event.Millis(1_700_000_000_000 + 1000*len(s.list))}
	binary.BigEndian.PutUint64(seg.Hash[:], uint64(seg.Seq))
	if n := len(s.list); n > 0 {
		seg.Prev = s.list[n-1].Hash
	}
	for i, f := range facts {
		var id event.ID
		binary.BigEndian.PutUint64(id[:], uint64(seg.Seq))
		binary.BigEndian.PutUint32(id[8:], uint32(i)+1)
		seg.Events = append(seg.Events, eventlog.Recorded{
			Ref:  event.Ref{Position: event.Position{Seq: seg.Seq, Index: uint32(i)}, ID: id},
			Time: seg.Time, Class: f.Class(), Fact: f, Expiry: expiryOf(f),
		})
	}
	s.list = append(s.list, seg)
}

// mailExpires is the day of all messages here.
const mailExpires event.Day = 19_700

func expiryOf(f event.Fact) event.Day {
	if f.Class() == event.ClassAcceptance {
		return mailExpires
	}
	return 0
}

// received is a message for one account.
func received(a event.Account, size int64) event.Fact {
	return &event.MessageAccepted{
		Origin: event.OriginInbound, At: 1_700_000_000_000, Size: size, Shown: size + 200, Recipients: 1,
		Allotments: []event.Allotment{{Account: a, Place: event.PlaceInbox}},
	}
}

// runToTail folds all that a source has into a store.
func runToTail(tb testing.TB, store projection.Store, src projection.Source) *projection.Runner {
	tb.Helper()
	return runFold(tb, store, src, newFold())
}

func runFold(tb testing.TB, store projection.Store, src projection.Source, f fold) *projection.Runner {
	tb.Helper()
	r, err := projection.Open(projection.Options{Store: store, Source: src})
	if err != nil {
		tb.Fatal(err)
	}
	if err := r.Add(f); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	if err := r.CaughtUp(ctx); err != nil {
		tb.Fatal(err)
	}
	cancel()
	<-done
	return r
}

// BenchmarkFoldAccepted folds messages for 200 accounts, as a rebuild does, with
// everything that the runner does around it.
func BenchmarkFoldAccepted(b *testing.B) {
	stores := map[string]func(b *testing.B) projection.Store{
		"mem": func(*testing.B) projection.Store { return projection.NewMemStore() },
		"badger": func(b *testing.B) projection.Store {
			s, err := projection.OpenBadger(projection.BadgerOptions{Dir: b.TempDir(), Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			return s
		},
	}
	const perSegment = 300
	src := &segments{}
	for n := 0; n < 60_000; n += perSegment {
		var facts []event.Fact
		for i := range perSegment {
			facts = append(facts, received(event.Account{byte((n + i*7) % 200), 1}, 10_000))
		}
		src.add(facts...)
	}
	for _, name := range []string{"mem", "badger"} {
		b.Run(name, func(b *testing.B) {
			n := 0
			begin := cpuTime()
			for b.Loop() {
				b.StopTimer()
				store := stores[name](b)
				b.StartTimer()
				runToTail(b, store, src)
				b.StopTimer()
				store.Close()
				b.StartTimer()
				n += len(src.list) * perSegment
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/message")
			b.ReportMetric(float64((cpuTime()-begin).Microseconds())/float64(n), "cpu-µs/message")
		})
	}
}

// cpuTime is what this process has used of all cores, which other work on the
// machine disturbs less than the clock.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// large is an INBOX of 100,000 messages.
func large(b *testing.B) (*projection.Runner, projection.Store, *segments) {
	src := &segments{}
	for range 100 {
		var facts []event.Fact
		for range 1000 {
			facts = append(facts, received(alice, 10_000))
		}
		src.add(facts...)
	}
	store := projection.NewMemStore()
	return runToTail(b, store, src), store, src
}

// BenchmarkSelect opens a mailbox of 100,000 messages.
func BenchmarkSelect(b *testing.B) {
	r, _, _ := large(b)
	for b.Loop() {
		err := r.View(context.Background(), foldName, func(v projection.View) error {
			s := Selected{key: boxKey{alice, inboxID}}
			if err := s.load(v, false); err != nil {
				return err
			}
			if len(s.first) != 100_000 {
				return fmt.Errorf("%d messages", len(s.first))
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStoreAll folds STORE 1:* in a mailbox of 100,000 messages.
func BenchmarkStoreAll(b *testing.B) {
	_, store, src := large(b)
	op := event.FlagsAdd
	for b.Loop() {
		src.add(&event.FlagsChanged{Account: alice, Mailbox: inboxID, UIDs: all(), Op: op, Flags: []string{`\Seen`}})
		op = event.FlagsAdd + event.FlagsRemove - op
		runToTail(b, store, src)
	}
}

// BenchmarkCondemn ends the day of 100,000 messages that nobody has filed.
func BenchmarkCondemn(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		_, store, src := large(b)
		src.add(&event.DayCondemned{Day: mailExpires})
		b.StartTimer()
		runToTail(b, store, src)
	}
}

// BenchmarkMoveAll folds MOVE 1:* of 100,000 messages, there and back.
func BenchmarkMoveAll(b *testing.B) {
	_, store, src := large(b)
	from, to := inboxID, inboxID+5
	for b.Loop() {
		src.add(&event.Copied{Account: alice, From: from, To: to, UIDs: all(), Move: true})
		from, to = to, from
		runToTail(b, store, src)
	}
}
