package year

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// awayDays is how many days in a row the nodes are down.
const awayDays = 4

// away says whether the nodes are down on a day: all of them, for some days.
func (w *World) away(day int) bool { return !w.plan.Calm && day%100 >= 33 && day%100 < 33+awayDays }

// idles says whether the nodes are stopped while nothing is to be done: leases
// that are renewed all day cost more to simulate than all else.
func (w *World) idles(day int) bool { return day%cmp.Or(w.plan.Awake, 20) != 0 }

// sleep stops all nodes.
func (w *World) sleep() (err error) {
	for _, k := range w.keepers {
		err = errors.Join(err, k.stop())
	}
	return err
}

// happens is what befalls the installation on a day.
func (w *World) happens(day int) error {
	if w.plan.Calm {
		return nil
	}
	n1, n2 := w.keepers[0], w.keepers[1]
	gannet := w.hosts["mx.gannet.test"]
	switch day % 38 {
	case 12:
		w.tell("the primary of gannet.test goes down")
		gannet.down()
	case 17:
		w.tell("the primary of gannet.test is back, and knows nobody")
		if err := gannet.upEmpty(); err != nil {
			return err
		}
	case 22:
		if err := w.releaseHeld(); err != nil {
			return err
		}
	case 26:
		w.tell("the primary of gannet.test loses three answers")
		gannet.lose(3)
	}
	switch day % 15 {
	case 3:
		return w.again(n1, func() error { return n1.stop() })
	case 6:
		return w.again(n2, func() error { n2.kill(); return nil })
	case 9:
		w.tell("n2 loses its database")
		return w.again(n2, func() error { err := n2.stop(); n2.wipe(); return err })
	case 13:
		w.tell("n1 loses its database")
		return w.again(n1, func() error { n1.kill(); n1.wipe(); return nil })
	}
	change := map[int]map[string]int{
		25: {"annex.test": 5, "gannet.test": 4}, 45: {"annex.test": 10, "pelican.test": 15}, 60: {"pelican.test": 20, "gannet.test": 3},
	}[day%90]
	if change != nil {
		for name, keep := range change {
			w.days[name] = keep
		}
		w.tell("retention is %v", w.days)
		return w.apply()
	}
	return nil
}

// releaseHeld has what is held in the queue delivered: what the primary refused
// when it came back, of which some was kept past its day.
func (w *World) releaseHeld() error {
	s, err := w.awake().status()
	if err != nil {
		return err
	}
	if s.Balance == nil || s.Balance.Total.Held == 0 {
		w.finds("delivery", "nothing is held of what the primary of gannet.test refused when it came back")
		return nil
	}
	w.tell("%d are held, and ordered to be delivered", s.Balance.Total.Held)
	if err := w.awake().ask("POST", "/redeliver", map[string]any{"state": "held"}, nil); err != nil {
		return err
	}
	time.Sleep(amnesia)
	w.collect()
	for _, l := range w.ledger.order {
		for to, due := range l.due {
			if due && domainOf(to).name == "gannet.test" {
				w.finds("delivery", "%s is not there though it was ordered: %s", to, l.tell())
			}
		}
	}
	return nil
}

// again ends a node in some way and starts it.
func (w *World) again(k *keeper, end func() error) error {
	if err := end(); err != nil {
		return err
	}
	time.Sleep(10 * time.Minute)
	return k.start()
}

// users lets every user look at everything, and work.
func (w *World) users(day int) error {
	for _, u := range users() {
		bodies := w.plan.Daily <= 100 || (day+len(u))%7 == 0
		if err := w.visit(u, w.awake(), func(s *session) error { return s.work(bodies) }); err != nil {
			return err
		}
		time.Sleep(2 * pollEvery)
	}
	return nil
}

// administer places and releases holds, and erases messages.
func (w *World) administer(day int) error {
	if w.plan.Calm {
		return nil
	}
	g := w.ledger
	if day%9 == 4 {
		h := &hold{name: fmt.Sprintf("case-%d", day), users: []string{users()[w.rng.IntN(len(users()))]}}
		w.tell("hold %s on %v", h.name, h.users)
		req := map[string]any{"name": h.name, "reason": "a case", "user": h.users[0]}
		if err := w.awake().ask("POST", "/hold/add", req, nil); err != nil {
			return err
		}
		g.holds[h.name] = h
	}
	if h := g.holds[fmt.Sprintf("case-%d", day-12)]; h != nil {
		w.tell("hold %s is released", h.name)
		if err := w.awake().ask("POST", "/hold/release", map[string]any{"name": h.name, "reason": "closed"}, nil); err != nil {
			return err
		}
		delete(g.holds, h.name)
		time.Sleep(3 * pollEvery) // until the other node knows, it refuses to erase
	}
	if day%2 == 1 {
		return w.erase()
	}
	return nil
}

// erase has some message erased, or refused if it is under a hold.
func (w *World) erase() error {
	g := w.ledger
	var some []*letter
	for _, l := range g.order {
		if g.readable(l) {
			some = append(some, l)
		}
	}
	if len(some) == 0 {
		return nil
	}
	if own := slices.DeleteFunc(slices.Clone(some), func(l *letter) bool { return l.owner == "" }); len(own) > 0 && w.rng.IntN(3) == 0 {
		some = own // what users have put into mailboxes themselves
	}
	l := some[w.rng.IntN(len(some))]
	w.collect()
	held := g.held(l)
	req := map[string]any{"tenant": l.tenant, "reason": "asked for", "ids": []string{l.id}}
	if l.n%2 == 0 || l.owner != "" { // who appends is not told the id
		delete(req, "ids")
		req["message_id"] = l.mark + "@far.test"
	}
	err := w.awake().ask("POST", "/erase", req, nil)
	no := new(refusal)
	switch {
	case held && err == nil:
		w.finds("kept", "%s was erased although it is under a hold", l.tell())
	case held && !errors.As(err, &no):
		return err
	case held:
		return nil
	case err != nil:
		return fmt.Errorf("erase %s: %w", l.tell(), err)
	}
	w.tell("erased: %s", l.tell())
	l.erased = w.today()
	for u := range l.due {
		l.due[u] = false
	}
	for _, boxes := range g.boxes {
		for _, b := range boxes {
			for uid, c := range b.messages {
				if c.l == l {
					delete(b.messages, uid)
				}
			}
		}
	}
	return nil
}

func (w *World) tell(format string, args ...any) {
	if w.plan.Tell != nil {
		w.plan.Tell(fmt.Sprintf("day %d: ", w.today()-w.began) + fmt.Sprintf(format, args...))
	}
}
