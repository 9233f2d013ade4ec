package year

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"strings"
	"syscall"
	"time"

	"holdfast/event"
	"holdfast/node"
	"holdfast/projection"
	"holdfast/sim/residue"
)

// patience is how long the work of a night may take.
const patience = 3 * time.Hour

// settled waits until the mail of a day and of those before it has been
// destroyed: the ratchet is past it, and its objects are not in the bucket.
func (w *World) settled(over event.Day) error {
	why := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pollEvery) {
		var err error
		if why, err = w.unsettled(over); err != nil {
			return err
		}
		if why == "" {
			return nil
		}
	}
	w.finds("gone", "the work of %v is not done: %s", over, why)
	return nil
}

func (w *World) unsettled(over event.Day) (string, error) {
	if d := w.root.Day(); d <= over {
		return fmt.Sprintf("the ratchet stands at %v", d), nil
	}
	for _, dir := range []string{"key/", "blob/"} {
		for info, err := range w.bucket.List(context.Background(), dir, "") {
			if err != nil {
				return "", err
			}
			_, rest, _ := strings.Cut(info.Key, "/")
			name, _, _ := strings.Cut(rest, "/")
			if d, err := event.ParseDay(name); err == nil && d <= over {
				return info.Key + " is still there", nil
			}
		}
	}
	for _, k := range w.keepers {
		s, err := k.status()
		if err != nil {
			return "", err
		}
		for _, p := range s.Projections {
			if p.Lag != 0 || p.Stopped != "" || p.Rebuilding {
				return fmt.Sprintf("%s: %s is behind by %d %s", k.name, p.Name, p.Lag, p.Stopped), nil
			}
		}
	}
	return "", nil
}

// judge looks at everything, at rest.
func (w *World) judge(day int) error {
	g := w.ledger
	stores := map[string]projection.Store{}
	for _, k := range w.keepers {
		stores[k.name] = k.store
		s, err := k.status()
		if err != nil {
			return err
		}
		w.sheet(k.name, s)
	}
	res, err := w.thief.Search(context.Background(), residue.Question{
		Over: g.done + 1, Fate: g.fate, Stores: stores, Deep: w.plan.Deep > 0 && day%w.plan.Deep == 0,
	})
	if err != nil {
		return err
	}
	for _, f := range res.Found {
		what := f.String()
		if l := g.letters[f.Mark]; l != nil {
			what += " (" + l.tell() + ")"
		}
		w.finds("gone", "%s", what)
	}
	for _, l := range g.order {
		if g.readable(l) && !res.Opened[l.mark] {
			w.finds("kept", "nothing in the bucket opens %s", l.tell())
		}
	}
	if res.Values == 0 && w.plan.Daily > 0 {
		w.finds("gone", "the thief is blind: nothing that is sealed in any database opens")
	}
	if len(res.Based) == 0 && w.plan.Daily > 0 && day > 0 {
		w.finds("gone", "the thief is blind: nothing that is sealed in any Base opens")
	}
	w.Ended += res.Ended
	w.Last = res
	return nil
}

// newcomer asks a thief who comes only now: what is to be kept opens with what is
// in the bucket now, and nothing else does.
func (w *World) newcomer() error {
	late, err := residue.NewHoard(context.Background(), w.bucket)
	if err != nil {
		return err
	}
	thief, err := residue.NewThief(late, w.root)
	if err != nil {
		return err
	}
	res, err := thief.Search(context.Background(), residue.Question{Over: w.ledger.done + 1, Fate: w.ledger.fate, Deep: true})
	if err != nil {
		return err
	}
	for _, f := range res.Found {
		w.finds("gone", "a newcomer: %v", f)
	}
	if res.Copied != 0 {
		w.finds("gone", "a newcomer opens %d erased messages", res.Copied)
	}
	for _, l := range w.ledger.order {
		if w.ledger.readable(l) && !res.Opened[l.mark] {
			w.finds("kept", "a newcomer opens nothing of %s", l.tell())
		}
	}
	return nil
}

// sheet judges a node's balance sheet.
func (w *World) sheet(name string, s node.Status) {
	switch b := s.Balance; {
	case b == nil:
		w.finds("balance", "%s has no balance sheet", name)
	case !b.Balanced || b.Strays != 0:
		w.finds("balance", "%s: the balance sheet does not balance: difference %d, %d strays", name, b.Total.Difference, b.Strays)
	default:
		var due int64
		for _, l := range w.ledger.order {
			for _, is := range l.due {
				if is {
					due++
				}
			}
		}
		if b.Total.Due+b.Total.Held != due || b.Total.Bounced != 0 {
			w.finds("balance", "%s: %d due and %d held and %d bounced, of %d that no primary has got", name, b.Total.Due, b.Total.Held, b.Total.Bounced, due)
		}
	}
}

// spent adds up what all nodes have asked of the bucket.
func (w *World) spent() (c Counts, parts Kinds) {
	parts = Kinds{}
	for _, k := range w.keepers {
		o := k.meter.Counts()
		c = Counts{c.Put + o.Put, c.Get + o.Get, c.List + o.List, c.Delete + o.Delete, c.In + o.In, c.Out + o.Out}
		for what, n := range k.meter.Kinds() {
			parts[what] += n
		}
	}
	return c, parts
}

// note takes down a day's figures.
func (w *World) note(day int) error {
	s, err := stock(context.Background(), w.bucket)
	if err != nil {
		return err
	}
	spent, parts := w.spent()
	f := Figure{Day: day, Spent: spent.Minus(w.counted), Kinds: parts.Minus(w.parts), Opened: len(w.Last.Opened)}
	f.Objects, f.Stored = s.Total()
	f.Objects -= s["checkpoint"].Objects
	for _, l := range w.ledger.order {
		if !w.ledger.gone(l) {
			f.Mail++
			f.Bytes += int64(len(l.body))
			if l.large {
				f.Large++
			}
		}
	}
	w.Figures = append(w.Figures, f)
	w.counted, w.parts = spent, parts
	w.tell("%d messages, %d KB may be read; %d objects, %d KB stored: %v; %+v; %d values opened", f.Mail, f.Bytes>>10, f.Objects, f.Stored>>10, s, f.Spent, w.Last.Values)
	if day%10 == 0 {
		w.tellKept()
	}
	return nil
}

// tellKept tells what is kept past its day, and why.
func (w *World) tellKept() {
	open, past, filed, due, held := 0, 0, 0, 0, 0
	by := w.ledger.filedBy()
	for _, l := range w.ledger.order {
		if !w.Last.Opened[l.mark] || l.erased != 0 {
			continue
		}
		open++
		if l.expiry > w.ledger.done {
			continue
		}
		past++
		switch {
		case by[l]:
			filed++
		case l.isDue():
			due++
		case w.ledger.held(l):
			held++
		}
	}
	w.tell("%d messages open, of which %d are past their day: %d are filed, %d due, %d under a hold now", open, past, filed, due, held)
}

// catchesUp says whether nights that nobody was there have just been made up for in
// one: each of their copies is in a segment of its own until it is packed.
func (w *World) catchesUp(day int) bool {
	for back := range 3 {
		if d := day - back; d > 0 && w.away(d) {
			return true
		}
	}
	return false
}

// bounded judges what lies in the bucket by the mail that may be read: nothing
// else may add up. Checkpoints are left out: they are never removed.
func (w *World) bounded() {
	const restarts = 10 // key pages a day: of each start of a node, for each tenant
	for _, f := range w.Figures {
		objects := int64(100 + restarts*(keptDays+maxShadow) + f.Large + 2*(6*w.plan.Daily+150))
		if w.catchesUp(f.Day) {
			objects += int64(3 * w.plan.Daily * awayDays)
		}
		if f.Objects > objects {
			w.finds("bounded", "on day %d there were %d objects, of at most %d", f.Day, f.Objects, objects)
		}
		if bytes := 2*f.Bytes + 4<<10*int64(f.Mail) + 1<<20; f.Stored > bytes {
			w.finds("bounded", "on day %d there were %d bytes, of at most %d for %d messages of %d", f.Day, f.Stored, bytes, f.Mail, f.Bytes)
		}
	}
	if third := len(w.Figures) / 3; third >= keptDays/2 {
		// Both follow the mail that is kept, which grows with what is under holds.
		most := func(of []Figure) (objects, bytes float64) {
			for _, f := range of {
				if w.catchesUp(f.Day) {
					continue
				}
				objects = max(objects, float64(f.Objects)/float64(f.Mail+12*w.plan.Daily+300))
				bytes = max(bytes, float64(f.Stored)/float64(f.Bytes+2<<10*int64(f.Mail)))
			}
			return objects, bytes
		}
		objects, bytes := most(w.Figures[third : 2*third])
		laterObjects, laterBytes := most(w.Figures[2*third:])
		if laterObjects > 1.4*objects || laterBytes > 1.2*bytes {
			w.finds("bounded", "the bucket grows faster than the mail: %.2f objects a message and %.2f bytes a byte, later %.2f and %.2f", objects, bytes, laterObjects, laterBytes)
		}
	}
}

// Rebuild is what it takes a node that begins with nothing.
type Rebuild struct {
	Spent  Counts
	Missed int64 // gets of what is not there
	// Processor time of the process while a node that begins with nothing gets
	// ready and all others are down: on the log of the first day alone, on that of
	// the last evening (a Base and the day behind it), and after the night (a Base
	// and next to nothing behind it).
	FirstDay, Evening, AfterNight time.Duration
}

// Ratio compares the start in the evening with a fold of one day and the load of
// a Base.
func (r Rebuild) Ratio() float64 {
	return float64(r.Evening) / float64(max(r.FirstDay+r.AfterNight, 1))
}

// begin lets a node begin with nothing while all others are down, and returns the
// processor time that it takes.
func (w *World) begin() (time.Duration, error) {
	if err := w.sleep(); err != nil {
		return 0, err
	}
	const times = 3 // the least of so many: others use the machine, too
	least := time.Duration(math.MaxInt64)
	for range times {
		k := w.newKeeper("beginner")
		runtime.GC()
		before := cpuTime()
		if err := k.start(); err != nil {
			return 0, err
		}
		least = min(least, cpuTime()-before)
		if err := k.stop(); err != nil {
			return 0, err
		}
	}
	return least, nil
}

// cpuTime is what this process has used of the processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // nothing is judged by it
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rebuild lets a node begin with nothing and compares.
func (w *World) rebuild() (err error) {
	if w.Rebuild.AfterNight, err = w.begin(); err != nil {
		return err
	}
	if err := w.newcomer(); err != nil {
		return err
	}
	if err := w.wake(); err != nil {
		return err
	}
	fresh := w.newKeeper("fresh")
	if err := fresh.start(); err != nil {
		return err
	}
	w.Rebuild.Spent, w.Rebuild.Missed = fresh.meter.Counts(), fresh.meter.Missed()
	w.keepers = append(w.keepers, fresh)
	time.Sleep(3 * pollEvery)
	var first []node.Fold
	for _, k := range w.keepers {
		folds, err := k.life.node.Folds(context.Background())
		if err != nil {
			return err
		}
		if first == nil {
			first = folds
		}
		for i, f := range folds {
			if f.Stopped != nil || f.Trouble != nil || f.Rebuilding {
				w.finds("folds", "%s: %s stopped %v, in trouble %v, rebuilding %v", k.name, f.Name, f.Stopped, f.Trouble, f.Rebuilding)
			}
			if f.Hash != first[i].Hash {
				w.finds("folds", "%s and %s differ in %s", k.name, w.keepers[0].name, f.Name)
			}
		}
		s, err := k.status()
		if err != nil {
			return err
		}
		w.sheet(k.name, s)
	}
	return nil
}
