// Package world holds the inhabitants of a simulation: senders, the domains'
// primary servers and smart host, users, and an administrator. They speak to the
// nodes only as the outside does: SMTP, IMAP and the administrator's requests.
// What they see they write down, each for itself; the judges of package check
// read it.
//
// # Fault model
//
// Senders cut the line at any byte: between commands, in the text, in the middle
// of the final dot, behind it, and when the answer is there but not read. They
// stall, lose patience, and try again until they hear 250 or 5xx, as an MTA does;
// some give up. Primaries refuse connections, die, hang before the banner and
// after the final dot, answer the dot and cut the line before the answer, refuse
// temporarily, refuse everything for good (as one does whose users are gone),
// say 421 in the middle of a session, are slow, and come back. Users lose their
// connection at any byte of a command or its answer. The administrator has
// messages delivered again and overrides the detector.
//
// Nobody lies: a primary that answers 250 has the message, one that answers
// anything else has not; a user does not touch another's account.
//
// # Seeds
//
// Each inhabitant has a generator of its own, made of the seed and its name, so
// that what it does depends on what it meets, and not on who was faster. Pauses
// are drawn in nanoseconds, so that no two timers are due together, and after
// each an inhabitant asks for its turn (package turn).
package world

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"holdfast/internal/turn"
	"holdfast/sim/check"
)

// Network is one inhabitant's. Its functions are those of net.Dialer and
// net.ListenConfig.
type Network struct {
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
}

// Size says how much the inhabitants do.
type Size struct {
	Senders int // each with Letters messages
	Letters int
	Visits  int // of each user
	Orders  int // of the administrator
	Moods   int // of each primary: how often its behaviour changes
	Large   int // percent of the messages that are too large for a segment
}

// Small is a world for a seed among many.
func Small() Size { return Size{Senders: 3, Letters: 6, Visits: 4, Orders: 3, Moods: 8, Large: 5} }

// Config is what a World is made of.
type Config struct {
	Seed  uint64
	Order *check.Order
	Nodes []string // their hosts, which listen at ports 25, 587 and 143
	Net   func(inhabitant string) Network
	// Admin returns what answers a node's administrator; nil while it is down.
	Admin func(node int) http.Handler
	Size  Size
}

// Actor is an inhabitant to be started. Run returns when it has nothing to do any
// more, or ctx ends.
type Actor struct {
	Name string
	Run  func(ctx context.Context)
}

// World is all inhabitants of one simulation.
type World struct {
	cfg       Config
	senders   []*sender
	primaries []*primary
	users     []*user
	admin     *admin
	calm      atomic.Bool
	probing   atomic.Bool
	workers   []*worker
}

// New makes the inhabitants. Nothing runs yet.
func New(cfg Config) *World {
	w := &World{cfg: cfg}
	for i := range cfg.Size.Senders {
		w.senders = append(w.senders, newSender(w, i))
	}
	for _, host := range hosts {
		w.primaries = append(w.primaries, newPrimary(w, host))
	}
	for _, address := range residents {
		w.users = append(w.users, newUser(w, address))
	}
	w.admin = newAdmin(w)
	return w
}

// Actors returns who is to be started, the primaries first.
func (w *World) Actors() []Actor {
	var out []Actor
	for _, p := range w.primaries {
		out = append(out, Actor{p.name, p.run})
	}
	for _, s := range w.senders {
		out = append(out, w.worker(s.name, s.run))
	}
	for _, u := range w.users {
		out = append(out, w.worker(u.name, u.run))
	}
	return append(out, w.worker(w.admin.name, w.admin.run))
}

// worker is an actor that comes to an end by itself.
type worker struct {
	name string
	over atomic.Bool
}

func (w *World) worker(name string, run func(context.Context)) Actor {
	k := &worker{name: name}
	w.workers = append(w.workers, k)
	return Actor{name, func(ctx context.Context) {
		defer k.over.Store(true)
		run(ctx)
	}}
}

// Calm makes everybody behave from now on. It does not block.
func (w *World) Calm() { w.calm.Store(true) }

// Done reports whether everybody but the primaries has finished.
func (w *World) Done() bool { return len(w.Busy()) == 0 }

// Busy names those who have not.
func (w *World) Busy() (names []string) {
	for _, k := range w.workers {
		if !k.over.Load() {
			names = append(names, k.name)
		}
	}
	return names
}

// Probes returns who is to be started, one after the other, once the world is
// calm, no fault is left and the queues are empty: lone messages and commands
// that must be answered in time, and last the users, who look at everything at
// every node.
func (w *World) Probes() []Actor {
	w.probing.Store(true)
	var out []Actor
	for _, s := range w.senders {
		out = append(out, w.worker(s.name+"-probe", s.probe))
	}
	for _, u := range w.users {
		out = append(out, w.worker(u.name+"-probe", u.probe))
	}
	for _, u := range w.users {
		out = append(out, w.worker(u.name+"-final", u.final))
	}
	return out
}

// History returns what was seen. Nobody may be at work.
func (w *World) History() check.History {
	var h check.History
	for _, s := range w.senders {
		h.Append(check.History{Transactions: s.said})
	}
	for _, u := range w.users {
		h.Append(check.History{Transactions: u.said, Acts: u.acts})
	}
	for _, p := range w.primaries {
		h.Append(check.History{Arrivals: p.arrivals()})
	}
	h.Append(words())
	return h
}

// inhabitant is what all of them are made of.
type inhabitant struct {
	world *World
	name  string
	net   Network
	rng   *rand.Rand
}

func (w *World) inhabitant(name string) inhabitant {
	h := fnv.New64a()
	h.Write([]byte(name))
	return inhabitant{world: w, name: name, net: w.cfg.Net(name), rng: rand.New(rand.NewPCG(w.cfg.Seed, h.Sum64()))}
}

// chance is true in percent of all cases.
func (i *inhabitant) chance(percent int) bool { return i.rng.IntN(100) < percent }

// between draws a duration.
func (i *inhabitant) between(least, most time.Duration) time.Duration {
	return least + time.Duration(i.rng.Int64N(int64(most-least)+1))
}

// pause sleeps, and asks for its turn. It returns false when ctx has ended.
func (i *inhabitant) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	turn.Take(ctx, "woke up")
	return ctx.Err() == nil
}

// node chooses a node.
func (i *inhabitant) node() string { return i.world.cfg.Nodes[i.rng.IntN(len(i.world.cfg.Nodes))] }

func (i *inhabitant) misbehaves() bool { return !i.world.calm.Load() }

func pick[T any](i *inhabitant, from []T) T { return from[i.rng.IntN(len(from))] }
