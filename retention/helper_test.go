package retention

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// world is a bucket with its keys and mail, on which nodes run. The mail is a
// model: what the folds of other packages would say about it is said at once,
// and its fault model is what the hooks do.
type world struct {
	t      *testing.T
	bucket objstore.Bucket
	keys   *crypto.Root
	tenant event.Tenant
	shift  time.Duration // how much later it is for nodes that start now
	fold   fold

	mu     sync.Mutex // guards what follows
	mail   map[event.ID]*letter
	onKeep func(ctx context.Context, ref event.Ref) error
}

// letter is one message of the model.
type letter struct {
	message    event.ID
	place      event.Ref
	expiry     event.Day
	filed, due bool
	held       string // the subject by which holds select it
	gone       bool
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, bucket: mem.New(), keys: crypto.MemoryRoot(event.DayOf(time.Now())), fold: newFold(), mail: map[event.ID]*letter{}}
	var err error
	if w.tenant, err = w.keys.TenantID(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	return w
}

// node is one process.
type node struct {
	*world
	log    *eventlog.Log
	runner *projection.Runner
	svc    *Service
	root   *crypto.Root // its own
	ctx    context.Context
	stop   context.CancelFunc
	close  func()
}

// start starts a node with an empty local database that follows the ratchet but
// does no daily work.
func (w *world) start() *node {
	w.t.Helper()
	return w.startOn(projection.NewMemStore())
}

// startOn starts a node that has a local database already.
func (w *world) startOn(st projection.Store) *node {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{world: w, ctx: ctx, stop: cancel, root: w.keys}
	var err error
	n.log, err = eventlog.Open(ctx, eventlog.Options{Bucket: w.bucket, URL: "mem:", Keys: w.keys, MayCreate: true, Partitions: 2, Poll: time.Minute, Shift: w.shift})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := n.log.EnsureTenant(ctx, w.tenant); err != nil && !errors.Is(err, eventlog.ErrEnded) {
		w.t.Fatal(err)
	}
	if n.runner, err = projection.Open(projection.Options{Store: st, Source: n.log, Snaps: n.log}); err != nil {
		w.t.Fatal(err)
	}
	n.svc, err = newService(Config{
		Log: n.log, Runner: n.runner, Keep: n, Index: n, Ratchet: w.keys,
		Filed:  w.find(func(l *letter) bool { return l.filed }),
		Needed: w.find(func(l *letter) bool { return l.due }),
	}, w.fold)
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { n.runner.Run(ctx) })
	wg.Go(func() { n.svc.Follow(ctx) })
	n.close = func() {
		cancel()
		wg.Wait()
		short, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		n.log.Close(short)
		n.close = func() {}
	}
	w.t.Cleanup(func() { n.close() })
	if err := n.runner.CaughtUp(ctx); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// run lets the node do the daily work until the test ends or it is closed.
func (n *node) run() {
	before := n.close
	done := make(chan struct{})
	go func() { defer close(done); n.svc.Run(n.ctx) }()
	n.close = func() { n.stop(); <-done; before() }
}

// unfinished asks the node when it does not work.
func (n *node) unfinished() (left bool, err error) {
	err = n.svc.alone(n.ctx, func() (err error) {
		left, err = n.svc.unfinished(n.ctx)
		return err
	})
	return left, err
}

// accept puts a message that expires in some days into the log and the model.
func (n *node) accept(days int, change func(*letter)) *letter {
	n.t.Helper()
	ev := event.Event{ID: event.NewID(), Tenant: n.tenant, Expiry: event.DayOf(n.log.Now()) + event.Day(days)}
	ev.Fact = &event.MessageAccepted{
		Origin: event.OriginInbound, At: n.log.Millis(), Size: 10, Recipients: 1,
		Allotments: []event.Allotment{{Account: event.Account{1}, Place: event.PlaceInbox}},
		Meta:       &event.MessageMeta{From: "a@example.org", Trace: []byte("x")},
	}
	pos, err := n.log.Append(n.ctx, ev)
	if err != nil {
		n.t.Fatal(err)
	}
	l := &letter{message: ev.ID, place: event.Ref{Position: pos, ID: ev.ID}, expiry: ev.Expiry}
	if change != nil {
		change(l)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mail[l.message] = l
	return l
}

// letters returns copies of what is selected, in a fixed order.
func (w *world) letters(t event.Tenant, sel func(*letter) bool) (out []letter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t != w.tenant {
		return nil
	}
	for _, l := range w.mail {
		if !l.gone && sel(l) {
			out = append(out, *l)
		}
	}
	slices.SortFunc(out, func(a, b letter) int { return slices.Compare(a.message[:], b.message[:]) })
	return out
}

func (w *world) find(sel func(*letter) bool) Finder {
	return func(_ context.Context, t event.Tenant, until event.Day) iter.Seq2[event.Ref, error] {
		return func(yield func(event.Ref, error) bool) {
			for _, l := range w.letters(t, func(l *letter) bool { return l.expiry <= until && sel(l) }) {
				if !yield(l.place, nil) {
					return
				}
			}
		}
	}
}

// Under implements Index: the subject selects.
func (w *world) Under(_ context.Context, t event.Tenant, m event.HoldMatch, until event.Day) iter.Seq2[Selected, error] {
	return func(yield func(Selected, error) bool) {
		for _, l := range w.letters(t, func(l *letter) bool {
			return l.held == m.Subject && (until == 0 || l.expiry <= until) &&
				(len(m.Messages) == 0 || slices.Contains(m.Messages, l.message))
		}) {
			if !yield(Selected{Message: l.message, Place: l.place, Expiry: l.expiry}, nil) {
				return
			}
		}
	}
}

// Days implements Index.
func (w *world) Days(context.Context) (out []DayCount, err error) {
	for _, l := range w.letters(w.tenant, func(*letter) bool { return true }) {
		d := DayCount{Tenant: w.tenant, Day: l.expiry, Messages: 1, Bytes: 10}
		if l.place.ID != l.message {
			d.Past = 1
		}
		out = append(out, d)
	}
	return out, nil
}

// Domains implements Index: all mail is of one domain.
func (w *world) Domains(context.Context) ([]DomainCount, error) {
	c := DomainCount{Tenant: w.tenant, Domain: "acme.test"}
	for _, l := range w.letters(w.tenant, func(*letter) bool { return true }) {
		c.Messages++
		c.Bytes += 10
		c.Oldest = l.expiry
	}
	return []DomainCount{c}, nil
}

// Held implements Index.
func (w *world) Held(_ context.Context, t event.Tenant, holds []Hold) (HeldCount, error) {
	n := uint64(len(w.letters(t, func(l *letter) bool {
		return slices.ContainsFunc(holds, func(h Hold) bool { return l.held == h.Placed.Match.Subject && l.expiry > h.After })
	})))
	return HeldCount{n, map[string]uint64{"acme.test": n}}, nil
}

// Keep implements Keeper as the log does it: reads, and appends a copy.
func (n *node) Keep(ctx context.Context, ref event.Ref, until event.Day, why event.Reasons) (kept event.Ref, err error) {
	n.mu.Lock()
	hook := n.onKeep
	n.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, ref); err != nil {
			return kept, err
		}
	}
	rec, err := n.log.Event(ctx, ref)
	if err != nil {
		return kept, err
	}
	k := &event.Kept{At: n.log.Millis(), Message: ref.ID, From: ref, Why: why}
	if f := rec.Kept; f != nil {
		k.Message, k.Was, k.Meta = f.Message, f.Was, f.Meta
	} else {
		var meta []byte
		k.Was, meta = event.Encode(rec.Fact)
		k.Meta = &event.KeptMeta{Was: meta}
	}
	ev := event.Event{ID: event.NewID(), Tenant: rec.Tenant, Expiry: until, Fact: k}
	pos, err := n.log.Append(ctx, ev)
	if err != nil {
		return kept, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.mail[k.Message]
	if l.expiry < until {
		l.expiry, l.place = until, event.Ref{Position: pos, ID: ev.ID}
	}
	return event.Ref{Position: pos, ID: ev.ID}, nil
}

// Erase implements Keeper.
func (n *node) Erase(ctx context.Context, refs []event.Ref) (out []eventlog.Erasure, err error) {
	for _, r := range refs {
		rec, err := n.log.Event(ctx, r)
		if err != nil {
			return nil, err
		}
		e := eventlog.Erasure{Ref: r, Tenant: rec.Tenant, Message: r.ID, Digests: [][32]byte{{1}}, Size: 10, Accounts: []event.Account{{1}}}
		if rec.Kept != nil {
			e.Message = rec.Kept.Message
		}
		out = append(out, e)
		n.mu.Lock()
		for _, l := range n.mail {
			l.gone = l.gone || l.place.ID == r.ID
		}
		n.mu.Unlock()
	}
	return out, nil
}

// RemoveDays implements Keeper. The ratchet has to have passed.
func (n *node) RemoveDays(ctx context.Context, before event.Day) (eventlog.Removed, error) {
	if n.root.Day() < before {
		n.t.Errorf("objects before %v are removed, but the ratchet stands at %v", before, n.root.Day())
	}
	_, err := n.log.RemoveDays(ctx, before)
	return eventlog.Removed{Objects: 1, Bytes: 2}, err
}

// RemoveBodies implements Keeper.
func (n *node) RemoveBodies(ctx context.Context, t event.Tenant, bodies []eventlog.Blob) (eventlog.Removed, error) {
	return n.log.RemoveBodies(ctx, t, bodies)
}

// DestroyTenant implements Keeper.
func (n *node) DestroyTenant(ctx context.Context, t event.Tenant, by event.Ref) (eventlog.Removed, error) {
	return n.log.DestroyTenant(ctx, t, by)
}

// alive reports whether a message can still be read: its day's key is there.
func (w *world) alive(l *letter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !l.gone && l.expiry >= w.keys.Day()
}

// facts returns the facts of one kind in the log, with their tenants.
func facts[F event.Fact](n *node) (out []F) {
	n.t.Helper()
	for p := range n.log.Partitions() {
		if err := n.log.Refresh(n.ctx, event.Partition(p)); err != nil {
			n.t.Fatal(err)
		}
		for seq := event.Seq(1); seq <= n.log.TailAtLeast(event.Partition(p)); seq++ {
			seg, err := n.log.Segment(n.ctx, event.Partition(p), seq)
			if err != nil {
				n.t.Fatal(err)
			}
			for _, r := range seg.Events {
				if f, ok := r.Fact.(F); ok {
					out = append(out, f)
				}
			}
		}
	}
	return out
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// certificates returns where the log certifies erasures.
func certificates(n *node) (out []event.Ref) {
	n.t.Helper()
	for p := range n.log.Partitions() {
		for seq := event.Seq(1); seq <= n.log.TailAtLeast(event.Partition(p)); seq++ {
			seg, err := n.log.Segment(n.ctx, event.Partition(p), seq)
			if err != nil {
				n.t.Fatal(err)
			}
			for _, r := range seg.Events {
				if _, ok := r.Fact.(*event.Erased); ok {
					out = append(out, r.Ref)
				}
			}
		}
	}
	return out
}
