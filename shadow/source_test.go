package shadow

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
	"holdfast/projection"
)

// memLog is a synthetic log with real day keys. It never fails, but that days
// in expired have no key, and that their mail and that of punctured events is
// not read any more.
type memLog struct {
	mu      sync.Mutex
	parts   [][]*eventlog.Segment
	changed chan struct{}
	sealers map[shelfID]*crypto.LocalSealer
	expired map[event.Day]bool
	// punctured events have no mail-derived part any more.
	punctured map[event.ID]bool
}

const testDay = event.Day(20800)

func newMemLog(partitions int) *memLog {
	return &memLog{
		parts: make([][]*eventlog.Segment, partitions), changed: make(chan struct{}),
		sealers: map[shelfID]*crypto.LocalSealer{}, expired: map[event.Day]bool{}, punctured: map[event.ID]bool{},
	}
}

func (l *memLog) Partitions() int { return len(l.parts) }

func (l *memLog) PartitionOf(t event.Tenant) event.Partition {
	return event.Partition(int(t[0]) % len(l.parts))
}

// timeOf is when the segment of a message was written: in these tests, when the
// message came in.
func timeOf(f event.Fact) event.Millis {
	switch m := f.(type) {
	case *event.MessageAccepted:
		return m.At
	case *event.Appended:
		return m.At
	}
	return 0
}

// append adds one segment, in which all events are of one tenant.
func (l *memLog) append(evs ...event.Event) event.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.PartitionOf(evs[0].Tenant)
	seg := &eventlog.Segment{Partition: p, Seq: event.Seq(len(l.parts[p]) + 1)}
	h := sha256.New()
	if n := len(l.parts[p]); n > 0 {
		seg.Prev = l.parts[p][n-1].Hash
	}
	h.Write(seg.Prev[:])
	for i, e := range evs {
		h.Write(e.ID[:])
		seg.Events = append(seg.Events, eventlog.Recorded{
			Ref:    event.Ref{Position: event.Position{Partition: p, Seq: seg.Seq, Index: uint32(i)}, ID: e.ID},
			Tenant: e.Tenant, Class: e.Fact.Class(), Expiry: e.Expiry, Fact: e.Fact, Time: timeOf(e.Fact),
		})
	}
	h.Sum(seg.Hash[:0])
	l.parts[p] = append(l.parts[p], seg)
	close(l.changed)
	l.changed = make(chan struct{})
	return seg.Seq
}

func (l *memLog) Segments(_ context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for seq := int(after.Seq); ; seq++ {
			l.mu.Lock()
			var seg *eventlog.Segment
			if seq < len(l.parts[p]) {
				seg = l.readable(l.parts[p][seq])
			}
			l.mu.Unlock()
			if seg == nil || !yield(seg, nil) {
				return
			}
		}
	}
}

// readable returns the segment as it is read now.
func (l *memLog) readable(seg *eventlog.Segment) *eventlog.Segment {
	gone := func(r eventlog.Recorded) bool { return l.expired[r.Expiry] || l.punctured[r.Ref.ID] }
	if !slices.ContainsFunc(seg.Events, gone) {
		return seg
	}
	now := *seg
	now.Events = slices.Clone(seg.Events)
	for i, r := range now.Events {
		if !gone(r) {
			continue
		}
		switch f := r.Fact.(type) {
		case *event.MessageAccepted:
			bare := *f
			bare.Meta = nil
			now.Events[i].Fact = &bare
		case *event.Appended:
			bare := *f
			bare.Meta = nil
			now.Events[i].Fact = &bare
		case *event.Kept:
			bare := *f
			bare.Meta = nil
			now.Events[i].Fact = &bare
		}
	}
	return &now
}

func (l *memLog) Wait(ctx context.Context, p event.Partition, after event.Seq) error {
	for {
		l.mu.Lock()
		n, changed := len(l.parts[p]), l.changed
		l.mu.Unlock()
		if event.Seq(n) > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *memLog) TailAtLeast(p event.Partition) event.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return event.Seq(len(l.parts[p]))
}

func (l *memLog) LocalSealer(ctx context.Context, t event.Tenant, d event.Day) (*crypto.LocalSealer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expired[d] {
		return nil, fmt.Errorf("day %v: %w", d, crypto.ErrExpired)
	}
	k := shelfID{tenant: t, day: d}
	if s := l.sealers[k]; s != nil {
		return s, nil
	}
	root, id := crypto.MemoryRoot(testDay-10), event.LogID{1}
	wrapped, err := root.NewTenant(ctx, t, id)
	if err != nil {
		return nil, err
	}
	keys, err := root.OpenTenant(ctx, t, id, wrapped)
	if err != nil {
		return nil, err
	}
	pair, err := root.DayPair(ctx, keys, d)
	if err != nil {
		return nil, err
	}
	l.sealers[k] = pair.LocalSealer(crypto.NewCodec())
	return l.sealers[k], nil
}

func (l *memLog) puncture(id event.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.punctured[id] = true
}

func (l *memLog) expire(d event.Day) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expired[d] = true
}

// node is a running projection over a log.
type node struct {
	*Service
	store projection.Store
	stop  func()
}

func startNode(t testing.TB, st projection.Store, src interface {
	projection.Source
	Log
}) *node {
	t.Helper()
	return startFold(t, st, src, newFold())
}

func startFold(t testing.TB, st projection.Store, src interface {
	projection.Source
	Log
}, f fold) *node {
	t.Helper()
	r, err := projection.Open(projection.Options{Store: st, Source: src})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newService(src, r, nil, f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	n := &node{Service: s, store: st, stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})}
	t.Cleanup(n.stop)
	return n
}

func (n *node) hash(t testing.TB) [32]byte {
	t.Helper()
	if err := n.fresh(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	h, err := n.runner.Hash(t.Context(), foldName)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ids searches and returns what was found.
func (n *node) ids(t testing.TB, q Query) []event.ID {
	t.Helper()
	var out []event.ID
	for r, err := range n.Search(t.Context(), q) {
		if err != nil {
			t.Fatalf("search: %v", err)
		}
		out = append(out, r.ID)
	}
	return out
}

var (
	acme  = event.Tenant{0: 1, 15: 1}
	other = event.Tenant{0: 2, 15: 2}
	third = event.Tenant{0: 3, 15: 3}
)

// mail describes a message of a test.
type mail struct {
	tenant  event.Tenant
	at      event.Millis
	days    event.Day
	from    string
	to      []string
	outside bool
	text    string // header and body
}

func (m mail) accepted() event.Event {
	raw := event.Marshal(message.ReadIndex([]byte(m.text)))
	f := &event.MessageAccepted{Origin: event.OriginInbound, At: m.at, Size: int64(len(m.text)), Shown: int64(len(m.text)),
		Recipients: uint32(len(m.to)), Meta: &event.MessageMeta{From: m.from, Index: raw}}
	for _, to := range m.to {
		r := event.Recipient{Path: to, Domain: canonical(to).domain}
		if m.outside {
			r.Outside, r.Via = true, "acme.test"
		}
		f.Meta.Recipients = append(f.Meta.Recipients, r)
	}
	day := event.Day(int64(m.at) / 86_400_000)
	return event.Event{ID: event.NewID(), Tenant: m.tenant, Expiry: day + max(m.days, 1), Fact: f}
}

// appended is what the user with the first address of to has put into a mailbox.
func (m mail) appended() event.Event {
	f := &event.Appended{
		Account: event.Account{1}, Mailbox: 3, At: m.at, Date: m.at, Size: int64(len(m.text)), Domain: canonical(m.to[0]).domain,
		Meta: &event.AppendedMeta{Owner: m.to[0], Index: event.Marshal(message.ReadIndex([]byte(m.text)))},
	}
	return event.Event{ID: event.NewID(), Tenant: m.tenant, Expiry: event.Day(int64(m.at)/86_400_000) + max(m.days, 1), Fact: f}
}

const noon = event.Millis(testDay)*86_400_000 + 43_200_000

func settled(t event.Tenant, os ...event.Outcome) event.Event {
	return event.Event{ID: event.NewID(), Tenant: t, Fact: &event.DeliverySettled{Outcomes: os}}
}
