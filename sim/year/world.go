package year

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/crypto"
	"holdfast/e2e/outside"
	"holdfast/event"
	"holdfast/node"
	"holdfast/objstore/mem"
	"holdfast/projection"
	"holdfast/sim/lan"
	"holdfast/sim/residue"
)

// pollEvery is how often nodes look for each other's segments.
const pollEvery = time.Minute

// Plan is what a world is made of.
type Plan struct {
	Seed  uint64
	Days  int
	Daily int // messages a day
	// Deep is every how many nights the thief tries every value of the databases
	// with every key.
	Deep int
	// Large is the percentage of messages whose bodies go in parts; 0 for 1.
	Large int
	// Enough is how many findings end it; 0 for some.
	Enough int
	// Awake is every how many days the nodes run all day.
	Awake int
	// Poll is how often nodes look for each other's segments; 0 for once a minute.
	Poll time.Duration
	// Calm: nothing happens but mail, and what users do.
	Calm bool
	// Last, if set, is asked each morning whether the day is the last one.
	Last func() bool
	// Root is the installation's; nil for one in memory.
	Root *crypto.Root
	Log  *slog.Logger   // of the nodes; may be nil
	Tell func(s string) // what happens, day by day; may be nil
}

// Finding is something that is not as it should be.
type Finding struct {
	Rule string
	Day  int
	Text string
}

// String tells the finding in one line.
func (f Finding) String() string { return fmt.Sprintf("day %d: %s: %s", f.Day, f.Rule, f.Text) }

// World is one simulated time. It is lived through by one goroutine of a synctest
// bubble.
type World struct {
	plan    Plan
	rng     *rand.Rand
	net     *lan.Net
	bucket  *mem.Bucket
	hoard   *residue.Hoard
	thief   *residue.Thief
	root    *crypto.Root
	keepers []*keeper
	hosts   map[string]*primary
	ledger  *Ledger
	days    map[string]int // shadow_days
	began   event.Day

	mu      sync.Mutex
	arrived []arrival

	counted Counts // until the last note
	parts   Kinds
	Found   []Finding
	Figures []Figure
	Last    *residue.Result // of the newest search
	Rebuild Rebuild
	Naps    int // nights in which a worker stood still
	Ended   int // events of erased messages that copied keys opened until their day
}

// Figure is what one day came to.
type Figure struct {
	Day     int
	Mail    int    // messages that may be read
	Large   int    // of them with bodies in parts
	Bytes   int64  // of them, as they were sent
	Objects int64  // in the bucket, but checkpoints
	Stored  int64  // bytes in the bucket
	Spent   Counts // of all nodes
	Kinds   Kinds  // the same in parts
	Opened  int    // messages that the thief could read
}

// New makes a world in which nothing runs yet.
func New(plan Plan) (*World, error) {
	w := &World{
		plan: plan, rng: rand.New(rand.NewPCG(plan.Seed, 365)), net: lan.New(), bucket: mem.New(), hosts: map[string]*primary{},
		ledger: newLedger(), days: shadowDays(), began: event.DayOf(time.Now()),
	}
	if w.root = plan.Root; w.root == nil {
		w.root = crypto.MemoryRoot(w.began)
	}
	return w, w.furnish()
}

// furnish sets up what stands around the bucket.
func (w *World) furnish() (err error) {
	if w.hoard, err = residue.NewHoard(context.Background(), w.bucket); err != nil {
		return err
	}
	if w.thief, err = residue.NewThief(w.hoard, w.root); err != nil {
		return err
	}
	for _, name := range []string{"n1", "n2"} {
		w.keepers = append(w.keepers, w.newKeeper(name))
	}
	return nil
}

func (w *World) newKeeper(name string) *keeper {
	return &keeper{w: w, name: name, store: projection.NewMemStore(), meter: &Meter{Bucket: w.hoard}, root: w.root}
}

func (w *World) today() event.Day { return event.DayOf(time.Now()) }

func (w *World) finds(rule, format string, args ...any) {
	w.Found = append(w.Found, Finding{rule, int(w.today() - w.began), fmt.Sprintf(format, args...)})
	w.tell("found: %v", w.Found[len(w.Found)-1])
}

// maxFound ends a world in which too much is wrong to go on.
const maxFound = 20

var errEnough = errors.New("enough has been found")

// Live lives through the plan. What is wrong is in Found; an error says that life
// could not go on.
func (w *World) Live() (err error) {
	defer func() { err = errors.Join(err, w.end()) }()
	if err := w.open(); err != nil {
		return err
	}
	for day := 0; day < w.plan.Days; day++ {
		if w.plan.Last != nil && day > 0 && !w.away(day) && w.plan.Last() {
			w.plan.Days = day + 1
		}
		if err := w.day(day); err != nil {
			return fmt.Errorf("day %d: %w", day, err)
		}
		if len(w.Found) > cmp.Or(w.plan.Enough, maxFound) {
			return errEnough
		}
	}
	w.bounded()
	if err := w.rebuild(); err != nil {
		return err
	}
	w.tell("rebuild %+v: %.2f of a day's fold and a Base", w.Rebuild, w.Rebuild.Ratio())
	return nil
}

// open lets the primaries answer.
func (w *World) open() error {
	for _, host := range []string{"mx.pelican.test", "mx.gannet.test"} {
		p := w.newPrimary(host)
		if err := p.up(); err != nil {
			return err
		}
		w.hosts[host] = p
	}
	return nil
}

// end stops everything.
func (w *World) end() (err error) {
	for _, k := range w.keepers {
		err = errors.Join(err, k.stop())
	}
	for _, p := range w.hosts {
		p.down()
	}
	return err
}

// until sleeps until a time of a day.
func (w *World) until(day, hour int) {
	time.Sleep(time.Until((w.began + event.Day(day)).Start().Add(time.Duration(hour) * time.Hour)))
}

// day is one day, from nine in the morning until the work of the night is done.
func (w *World) day(day int) error {
	w.until(day, 9)
	if w.away(day) {
		return nil
	}
	back := day > 0 && w.away(day-1)
	if err := w.wake(); err != nil {
		return err
	}
	switch {
	case day == 0:
		if err := w.apply(); err != nil {
			return err
		}
	case back:
		if err := w.night(day - 1); err != nil {
			return err
		}
	}
	if err := w.happens(day); err != nil {
		return err
	}
	if err := w.mail(); err != nil {
		return err
	}
	time.Sleep(2 * pollEvery)
	w.collect()
	if err := w.users(day); err != nil {
		return err
	}
	time.Sleep(2 * pollEvery)
	if err := w.administer(day); err != nil {
		return err
	}
	if w.idles(day) {
		if err := w.sleep(); err != nil {
			return err
		}
	}
	w.until(day, 23)
	w.collect()
	if err := w.beginners(day); err != nil {
		return err
	}
	if w.away(day + 1) {
		return w.sleep()
	}
	if err := w.wake(); err != nil {
		return err
	}
	if err := w.night(day); err != nil || !w.idles(day) {
		return err
	}
	return w.sleep()
}

// night waits until a day's mail is destroyed, and judges.
func (w *World) night(day int) error {
	n := w.napping(day)
	w.until(day+1, 0)
	over := w.began + event.Day(day)
	w.ledger.night(over)
	if err := w.settled(over); err != nil {
		return err
	}
	w.wakeUp(n)
	time.Sleep(2 * pollEvery)
	if err := w.judge(day); err != nil {
		return err
	}
	return w.note(day)
}

// beginners measures what it takes to begin with the log of the first day, and
// with that of the last evening.
func (w *World) beginners(day int) (err error) {
	switch {
	case w.plan.Calm:
	case day == 0:
		w.Rebuild.FirstDay, err = w.begin()
	case day == w.plan.Days-1:
		w.Rebuild.Evening, err = w.begin()
	}
	return err
}

// wake starts what is down.
func (w *World) wake() error {
	for _, k := range w.keepers {
		if k.life == nil {
			if err := k.start(); err != nil {
				return err
			}
		}
	}
	return nil
}

// awake returns some node that is up.
func (w *World) awake() *keeper {
	up := slices.DeleteFunc(slices.Clone(w.keepers), func(k *keeper) bool { return k.life == nil })
	return up[w.rng.IntN(len(up))]
}

func (w *World) apply() error {
	if err := w.awake().ask("POST", "/apply", node.ApplyRequest{File: file(w.days)}, nil); err != nil {
		return err
	}
	time.Sleep(3 * pollEvery)
	return nil
}

// write makes a letter of some bytes. Nobody has it yet.
func (w *World) write(from string, to []string, size int) *letter {
	g := w.ledger
	l := &letter{n: uint64(len(g.order) + 1), day: w.today(), due: map[string]bool{}}
	l.mark = residue.Mark(l.n)
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: about %s\r\nMessage-ID: <%s@far.test>\r\nDate: Sat, 01 Jan 2000 00:00:00 +0000\r\n\r\n",
		cmp.Or(from, l.mark+"@far.test"), strings.Join(to, ", "), l.mark, l.mark)
	fmt.Fprintf(&b, "This is %s.\r\n", l.mark)
	for b.Len() < size {
		line := make([]byte, min(76, size-b.Len()))
		for i := range line {
			line[i] = "abcdefghijklmnopqrstuvwxyz    ,."[w.rng.IntN(32)]
		}
		b.Write(append(line, "\r\n"...))
	}
	l.body, l.large = b.Bytes(), size > 256<<10
	for _, u := range to {
		l.due[u] = true
	}
	g.letters[l.mark], g.order = l, append(g.order, l)
	return l
}

// mail sends a day's mail, in some connections.
func (w *World) mail() error {
	const perConn = 20
	for left := w.plan.Daily; left > 0; left -= perConn {
		conn, err := w.net.Dialer(nil)(context.Background(), "tcp", w.awake().name+":25")
		if err != nil {
			return err
		}
		s, err := outside.OpenSMTP(conn)
		if err != nil {
			return err
		}
		for range min(left, perConn) {
			if err := w.send(s); err != nil {
				return err
			}
		}
		if err := s.Quit(); err != nil {
			return err
		}
		time.Sleep(time.Minute)
	}
	return nil
}

// send sends one letter.
func (w *World) send(s *outside.Sender) error {
	d := domains[w.rng.IntN(len(domains))]
	to, days := []string{d.users[w.rng.IntN(len(d.users))]}, w.days[d.name]
	if d.tenant == "acme" && w.rng.IntN(5) == 0 { // to both domains of a customer
		to, days = []string{"bob@pelican.test", "carol@annex.test"}, max(w.days["pelican.test"], w.days["annex.test"])
	}
	size := 400 + w.rng.IntN(3000)
	if w.rng.IntN(100) < cmp.Or(w.plan.Large, 1) {
		size = 500 << 10
	}
	l := w.write("", to, size)
	l.tenant = d.tenant
	l.expiry = l.day + event.Day(days)
	answer, err := s.Send(l.mark+"@far.test", to, l.body)
	if err != nil {
		return fmt.Errorf("send %s: %w", l.mark, err)
	}
	_, l.id, _ = strings.Cut(answer, "Kept as ")
	return nil
}
