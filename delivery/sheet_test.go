package delivery

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore/fault"
	"holdfast/projection"
)

// tallied is the balance sheet counted another way: it follows every unit
// through the facts of the log, one by one, and knows no queue.
type tallied struct {
	newest uint64 // epoch of an intent
	units  map[event.Unit]*follow
	lines  map[string]*Numbers
	over   event.Day // the last day that was condemned
}

type follow struct {
	line    string
	held    bool
	open    []uint64 // epochs of intents
	ended   event.Result
	message event.ID
	at      event.ID // where it is read
	expiry  event.Day
}

func lineName(domain string, outside, again bool, day event.Day) string {
	return fmt.Sprint(domain, " outside=", outside, " again=", again, " ", day)
}

func (y *tallied) at(name string) *Numbers {
	if y.lines[name] == nil {
		y.lines[name] = &Numbers{}
	}
	return y.lines[name]
}

func tallyOf(facts []eventlog.Recorded) *tallied {
	y := &tallied{units: map[event.Unit]*follow{}, lines: map[string]*Numbers{}}
	for _, r := range facts {
		day := event.DayOf(time.UnixMilli(int64(r.Time)))
		switch f := r.Fact.(type) {
		case *event.MessageAccepted:
			i := uint32(0)
			for _, route := range f.Routes {
				name := lineName(route.Domain, route.Outside, false, day)
				for range route.N {
					y.units[event.Unit{Source: r.Ref.ID, N: i}] = &follow{line: name, message: r.Ref.ID, at: r.Ref.ID, expiry: r.Expiry}
					y.at(name).Accepted++
					if f.Origin == event.OriginBounce {
						y.at(name).Notices++
					}
					i++
				}
			}
		case *event.Repudiated:
			for u, is := range y.units {
				if u.Source == f.Message {
					if is.ended == 0 {
						y.at(is.line).Accepted--
						y.at(is.line).Repudiated++
					}
					delete(y.units, u)
				}
			}
		case *event.RedeliveryOrdered:
			for i, item := range f.Items {
				y.order(f, item, event.Unit{Source: r.Ref.ID, N: uint32(i)}, day)
			}
		case *event.DeliveryIntended:
			y.intent(f)
		case *event.DeliverySettled:
			for _, o := range f.Outcomes {
				y.outcome(o)
			}
		case *event.DayCondemned:
			y.over = max(y.over, f.Day)
		case *event.DayExpired:
			y.end(event.ResultExpired, func(is *follow) bool { return is.expiry != 0 && is.expiry <= min(f.Day, y.over) })
		case *event.Erased:
			for _, item := range f.Items {
				y.end(event.ResultErased, func(is *follow) bool { return is.message == item.Message })
			}
		case *event.Kept:
			for _, is := range y.units {
				if is.message == f.Message && is.ended == 0 && r.Expiry > y.over {
					is.expiry, is.at = r.Expiry, r.Ref.ID
				}
			}
		}
	}
	for _, is := range y.units {
		switch {
		case is.ended != 0:
		case is.held:
			y.at(is.line).Held++
		default:
			y.at(is.line).Due++
		}
	}
	return y
}

func (y *tallied) order(f *event.RedeliveryOrdered, item event.Redelivery, u event.Unit, day event.Day) {
	original := event.Unit{Source: item.Message.ID, N: item.N}
	is := y.units[original]
	if f.To == "" && is != nil && is.held && is.ended == 0 {
		delete(y.units, original)
		y.units[u] = is
		is.held, is.open = false, nil
		return
	}
	switch {
	case (f.To != "" || is == nil || is.ended != 0) && item.Expiry != 0 && item.Expiry <= y.over:
	case f.To != "" || is == nil || is.ended != 0:
		name := lineName(item.Domain, item.Outside, true, day)
		y.at(name).Accepted++
		y.units[u] = &follow{line: name, message: item.Message.ID, at: item.At().ID, expiry: cmp.Or(item.Expiry, f.Until)}
	}
}

// end ends what is due or held, not by anybody's word.
func (y *tallied) end(how event.Result, which func(*follow) bool) {
	for u, is := range y.units {
		if is.ended != 0 || !which(is) {
			continue
		}
		if how == event.ResultErased {
			y.at(is.line).Erased++
		} else {
			y.at(is.line).Expired++
		}
		if is.ended = how; len(is.open) == 0 {
			delete(y.units, u)
		}
	}
}

// needed returns the messages that are needed until a day, by the places where
// they are read.
func (y *tallied) needed(until event.Day) map[event.ID]event.ID {
	at := map[event.ID]event.ID{}
	for _, is := range y.units {
		if is.ended == 0 && is.expiry != 0 && is.expiry <= until {
			at[is.at] = is.message
		}
	}
	return at
}

func (y *tallied) intent(f *event.DeliveryIntended) {
	if f.Epoch < y.newest {
		return
	}
	y.newest = f.Epoch
	for _, u := range f.Units {
		if is := y.units[u]; is != nil && !is.held && is.ended == 0 {
			is.open = append(is.open, f.Epoch)
		}
	}
}

func (y *tallied) outcome(o event.Outcome) {
	is := y.units[o.Unit]
	if is == nil {
		return
	}
	n := y.at(is.line)
	if i := slices.Index(is.open, o.Epoch); i >= 0 {
		is.open = slices.Delete(is.open, i, i+1)
	}
	if is.ended != 0 {
		if o.Doubts(is.ended) {
			n.Uncertain++
			switch is.ended {
			case event.ResultBounced:
				n.Bounced, n.Delivered = n.Bounced-1, n.Delivered+1
			case event.ResultExpired:
				n.Expired, n.Delivered = n.Expired-1, n.Delivered+1
			case event.ResultErased:
				n.Erased, n.Delivered = n.Erased-1, n.Delivered+1
			}
			is.open = nil
		}
		if len(is.open) == 0 {
			delete(y.units, o.Unit)
		}
		return
	}
	switch o.Result {
	case event.ResultDelivered:
		n.Delivered++
		if o.Uncertain {
			n.Uncertain++
		}
	case event.ResultBounced:
		n.Bounced++
	case event.ResultExpired:
		n.Expired++
	case event.ResultHeld:
		is.held = true
		return
	default:
		return
	}
	if len(is.open) > 0 && !o.Uncertain {
		is.ended = o.Result
		return
	}
	delete(y.units, o.Unit)
}

// balanced fails unless the node's sheet balances and says what the facts of the
// log say.
func (n *node) balanced() *Sheet {
	n.w.t.Helper()
	facts := n.facts()
	n.w.check(n.runner.WaitFor(context.Background(), foldName, facts[len(facts)-1].Ref.Position))
	s, err := n.svc.Sheet(context.Background())
	n.w.check(err)
	if !s.Balanced() {
		n.w.t.Errorf("does not balance: %+v", s)
	}
	got, want := map[string]Numbers{}, map[string]Numbers{}
	for _, l := range s.Lines {
		got[lineName(l.Domain, l.Outbound, l.Again, l.Day)] = l.Numbers
	}
	tally := tallyOf(facts)
	for name, nums := range tally.lines {
		want[name] = *nums
	}
	if !maps.Equal(got, want) {
		n.w.t.Errorf("the sheet says\n%+v\nthe facts say\n%+v", got, want)
	}
	n.needs(tally)
	return s
}

// needs compares what is needed with the facts, for the days up to the one that
// was condemned and for all.
func (n *node) needs(tally *tallied) {
	n.w.t.Helper()
	everywhere := func(string, bool) bool { return true }
	for _, until := range []event.Day{tally.over, 1 << 20} {
		want := tally.needed(until)
		left := map[event.ID]bool{}
		for _, message := range want {
			left[message] = true
		}
		for ref, err := range n.svc.Needed(context.Background(), n.w.tenant, until, everywhere) {
			n.w.check(err)
			if message := want[ref.ID]; !left[message] {
				n.w.t.Errorf("until %v: %v is not needed there, or was named before", until, ref)
			} else {
				delete(left, message)
			}
		}
		if len(left) > 0 {
			n.w.t.Errorf("needed until %v, but not named: %v", until, left)
		}
	}
}

// total adds up the lines of a sheet.
func total(s *Sheet, again bool) (n Numbers) {
	for _, l := range s.Lines {
		if l.Again == again {
			n.Add(l.Numbers)
		}
	}
	return n
}

func TestSheetOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days = 1
		n := w.start()
		defer n.stop()
		is := func(want, again Numbers) {
			t.Helper()
			s := n.balanced()
			if got := total(s, false); got != want {
				t.Errorf("mail:\n%+v, want\n%+v", got, want)
			}
			if got := total(s, true); got != again {
				t.Errorf("again:\n%+v, want\n%+v", got, again)
			}
		}
		l := n.accept("s@far.test", text("a"), "alice@"+domain, "bob@"+domain)
		n.drained(time.Minute)
		is(Numbers{Accepted: 2, Delivered: 2}, Numbers{})

		// The primary refuses one of them: a notice goes out to the sender.
		w.mx().Script(smtptest.Script{Rcpt: func(to string) smtptest.Action {
			if to == "bob@"+domain {
				return smtptest.Action{Reply: "550 5.1.1 unknown"}
			}
			return smtptest.Action{}
		}})
		n.accept("s@far.test", text("b"), "alice@"+domain, "bob@"+domain)
		w.await("the notice is out", time.Minute, func() bool { return len(w.servers["out"].Transactions()) == 1 })
		w.await("and recorded", time.Minute, func() bool { return n.status().Out == 0 })
		is(Numbers{Accepted: 5, Notices: 1, Delivered: 4, Bounced: 1}, Numbers{})

		// A redelivery of what was delivered is on a line of its own.
		w.mx().Script(smtptest.Script{})
		item := event.Redelivery{Message: l.ref, N: 1, Domain: domain}
		_, err := n.svc.Redeliver(context.Background(), Order{
			Tenant: w.tenant, Who: "root", Items: []event.Redelivery{item}, Until: event.DayOf(time.Now()) + 3,
		}, time.Minute)
		w.check(err)
		is(Numbers{Accepted: 5, Notices: 1, Delivered: 4, Bounced: 1}, Numbers{Accepted: 1, Delivered: 1})

		// The primary goes: mail is due, and when there is none any more, expires.
		w.mx().Stop()
		n.accept("", text("c"), "alice@"+domain)
		synctest.Wait()
		is(Numbers{Accepted: 6, Notices: 1, Delivered: 4, Bounced: 1, Due: 1}, Numbers{Accepted: 1, Delivered: 1})
		time.Sleep(25 * time.Hour)
		is(Numbers{Accepted: 6, Notices: 1, Delivered: 4, Bounced: 1, Due: 1}, Numbers{Accepted: 1, Delivered: 1})
		w.configure(n, func(s *Site) { s.Primary = nil })
		n.drained(time.Hour)
		is(Numbers{Accepted: 6, Notices: 1, Delivered: 4, Bounced: 1, Expired: 1}, Numbers{Accepted: 1, Delivered: 1})
	})
}

func TestSheetLeavesOutWhatWasRepudiated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.open()
		defer n.stop()
		n.accept("s@far.test", text("a"), "alice@"+domain)
		// The answer to the put is lost, and storage then silent past the deadline.
		n.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LostAnswer})
		h := n.bucket.Inject(fault.Rule{KeyPrefix: "log/", Kind: fault.Hang, Times: -1})
		if _, err := n.offer("s@far.test", text("b"), "alice@"+domain, "bob@"+domain); !errors.Is(err, eventlog.ErrTimeout) {
			t.Fatalf("offer: %v", err)
		}
		h.Remove()
		time.Sleep(5 * time.Minute)
		s := n.balanced()
		if got, want := total(s, false), (Numbers{Accepted: 1, Due: 1, Repudiated: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// TestUnitOutlivesItsMail loses the local database and the day's key before a
// unit has come to its end: it ends as expired all the same.
func TestUnitOutlivesItsMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.days = 1
		n := w.open()
		n.accept("s@far.test", text("a"), "alice@"+domain, "bob@"+domain)
		n.stop()
		time.Sleep(50 * time.Hour)
		w.check(w.keys.AdvanceTo(event.DayOf(time.Now())))
		n = w.start()
		defer n.stop()
		n.drained(time.Hour)
		s, err := n.svc.Sheet(context.Background())
		w.check(err)
		if got, want := total(s, false), (Numbers{Accepted: 2, Expired: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if got := w.mx().Transactions(); len(got) > 0 {
			t.Errorf("%d transactions", len(got))
		}
	})
}

// TestSheetByFacts lets any fact follow any other, by seed, and compares the
// sheet with the facts, and with a rebuild.
func TestSheetByFacts(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if seed%2 == 1 {
					w.fold.atOnce = 1 + int(seed%5)
				}
				n := w.open()
				g := &factory{n: n, rng: rand.New(rand.NewPCG(seed, 11)), over: event.DayOf(time.Now()) - 1, expiry: map[event.ID]event.Day{}}
				for range 200 {
					g.step()
					if g.rng.IntN(10) == 0 {
						time.Sleep(time.Duration(g.rng.IntN(20)) * time.Hour)
						n.balanced()
					}
				}
				n.balanced()
				live, err := n.runner.Hash(context.Background(), foldName)
				w.check(err)
				n.stop()
				// Without the mail a rebuild is the same.
				w.check(w.keys.AdvanceTo(g.over + 30))
				again := w.open()
				defer again.stop()
				again.balanced()
				if rebuilt, err := again.runner.Hash(context.Background(), foldName); err != nil || rebuilt != live {
					t.Errorf("a rebuild is another state (%v)", err)
				}
			})
		})
	}
}

// factory makes facts at random, about units that are due, held, at their end
// or never were.
type factory struct {
	n     *node
	rng   *rand.Rand
	mails []event.Ref
	units []event.Unit
	over  event.Day // the last that was condemned
	// expiry is when messages expire, where they are read now.
	expiry map[event.ID]event.Day
}

func pick[T any](rng *rand.Rand, all []T) T { return all[rng.IntN(len(all))] }

func (g *factory) append(f event.Fact) event.Ref { return g.appendUntil(f, 0) }

func (g *factory) appendUntil(f event.Fact, expiry event.Day) event.Ref {
	ev := event.Event{ID: event.NewID(), Tenant: g.n.w.tenant, Fact: f, Expiry: expiry}
	pos, err := g.n.log.Append(context.Background(), ev)
	g.n.w.check(err)
	return event.Ref{Position: pos, ID: ev.ID}
}

func (g *factory) step() {
	k := g.rng.IntN(14)
	if len(g.mails) == 0 {
		k = 0
	}
	switch k {
	case 0, 1, 2:
		var rcpts []event.Recipient
		for i := range 1 + g.rng.IntN(5) {
			rcpts = append(rcpts, event.Recipient{
				Path: fmt.Sprint("u", i), Domain: pick(g.rng, []string{"a.test", "b.test"}), Outside: g.rng.IntN(3) == 0, Via: "a.test",
			})
		}
		g.n.w.days = g.later() - event.DayOf(g.n.log.Now())
		l, err := g.n.offerRcpts("s@far.test", "x\r\n", rcpts)
		g.n.w.check(err)
		g.mails = append(g.mails, l.ref)
		g.expiry[l.id] = g.n.w.days + event.DayOf(g.n.log.Now())
		for i := range rcpts {
			g.units = append(g.units, event.Unit{Source: l.id, N: uint32(i)})
		}
	case 3:
		g.append(&event.Repudiated{Message: pick(g.rng, g.mails).ID})
	case 4, 5:
		g.order()
	case 10, 11, 12, 13:
		g.retain()
	case 6:
		g.append(&event.DeliveryIntended{Epoch: uint64(1 + g.rng.IntN(3)), Units: []event.Unit{pick(g.rng, g.units), pick(g.rng, g.units)}})
	default:
		f := &event.DeliverySettled{}
		for range 1 + g.rng.IntN(4) {
			f.Outcomes = append(f.Outcomes, event.Outcome{
				Unit: pick(g.rng, g.units), Result: event.Result(1 + g.rng.IntN(6)), Uncertain: g.rng.IntN(4) == 0,
				RetryAt: event.Millis(g.rng.IntN(1e6)), Code: pick(g.rng, []uint16{0, 250, 451, 550}), Epoch: uint64(g.rng.IntN(5)),
			})
		}
		g.append(f)
	}
}

func (g *factory) order() {
	f := &event.RedeliveryOrdered{Who: "root", Until: event.DayOf(time.Now()) + 3}
	if g.rng.IntN(4) == 0 {
		f.To = "other@a.test"
	}
	count := 1 + g.rng.IntN(3)
	for range count {
		m, n := pick(g.rng, g.mails), uint32(g.rng.IntN(5))
		item := event.Redelivery{Message: m, N: n, Domain: pick(g.rng, []string{"a.test", "b.test"}), Outside: g.rng.IntN(3) == 0}
		if g.rng.IntN(3) > 0 {
			item.Expiry = g.expiry[m.ID]
		}
		f.Items = append(f.Items, item)
	}
	ref := g.append(f)
	for i := range count {
		g.units = append(g.units, event.Unit{Source: ref.ID, N: uint32(i)})
	}
}

// later picks a day that is not over.
func (g *factory) later() event.Day { return g.over + 1 + event.Day(g.rng.IntN(5)) }

// retain lets something of the life of a day happen.
func (g *factory) retain() {
	switch g.rng.IntN(5) {
	case 0:
		g.over += event.Day(g.rng.IntN(2))
		g.append(&event.DayCondemned{Day: g.over})
	case 1:
		g.append(&event.DayExpired{Day: g.over - event.Day(g.rng.IntN(3))})
		g.n.sweep()
	case 2:
		f := &event.Erased{Order: event.NewID()}
		for range 1 + g.rng.IntN(2) {
			f.Items = append(f.Items, event.ErasedItem{Message: pick(g.rng, g.mails).ID})
		}
		g.append(f)
	default:
		for _, m := range []event.Ref{pick(g.rng, g.mails), pick(g.rng, g.mails)} {
			day := g.later()
			g.expiry[m.ID] = day
			g.appendUntil(&event.Kept{Message: m.ID, Meta: &event.KeptMeta{Was: event.Marshal(1)}}, day)
		}
	}
}

// TestSheetHasTeeth damages the queue in the ways in which a wrong fold could,
// and looks whether the sheet says so.
func TestSheetHasTeeth(t *testing.T) {
	damages := map[string]struct {
		harm       func(entry, row projection.Item) []projection.Op
		difference int64
		strays     int64
	}{
		"an entry is lost": {func(entry, _ projection.Item) []projection.Op {
			return []projection.Op{{Key: entry.Key, Delete: true}}
		}, 1, 1},
		"a unit is lost, its entry stays": {func(_, row projection.Item) []projection.Op {
			return []projection.Op{{Key: row.Key, Delete: true}}
		}, 0, 1},
		"both are lost": {func(entry, row projection.Item) []projection.Op {
			return []projection.Op{{Key: entry.Key, Delete: true}, {Key: row.Key, Delete: true}}
		}, 1, 0},
		"an entry is there twice": {func(entry, _ projection.Item) []projection.Op {
			other := bytes.Clone(entry.Key)
			other[len(other)-21] ^= 1 // the index of its place
			return []projection.Op{{Key: other, Value: entry.Value}}
		}, -1, 1},
		"an entry leads to another unit": {func(entry, _ projection.Item) []projection.Op {
			other := bytes.Clone(entry.Value)
			other[0] ^= 1
			return []projection.Op{{Key: entry.Key, Value: other}}
		}, 1, 1},
		"nothing": {func(_, _ projection.Item) []projection.Op { return nil }, 0, 0},
	}
	for _, name := range slices.Sorted(maps.Keys(damages)) {
		d := damages[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				n := w.open()
				defer n.stop()
				n.accept("s@far.test", text("a"), "alice@"+domain, "bob@"+domain)
				n.balanced()
				entry, row := n.stored(keyFresh), n.stored(keyUnit)
				if ops := d.harm(entry, row); len(ops) > 0 {
					w.check(n.store.Commit(ops))
				}
				s, err := n.svc.Sheet(context.Background())
				w.check(err)
				sum := total(s, false)
				if got := sum.Difference(); got != d.difference || s.Strays != d.strays {
					t.Errorf("difference %d, %d strays; want %d, %d", got, s.Strays, d.difference, d.strays)
				}
				if s.Balanced() != (name == "nothing") {
					t.Errorf("balanced is %v", s.Balanced())
				}
			})
		})
	}
}

// stored returns the first item of a kind, with its key in the store.
func (n *node) stored(kind byte) (found projection.Item) {
	n.w.t.Helper()
	var short []byte
	err := n.runner.View(context.Background(), foldName, func(v projection.View) error {
		for it, err := range v.Scan([]byte{kind}, nil, false) {
			if err != nil {
				return err
			}
			short = bytes.Clone(it.Key)
			return nil
		}
		return nil
	})
	n.w.check(err)
	snap, err := n.store.Snapshot()
	n.w.check(err)
	defer snap.Close()
	for it, err := range snap.Scan(nil, nil, false) {
		n.w.check(err)
		if short != nil && bytes.HasSuffix(it.Key, short) {
			return projection.Item{Key: bytes.Clone(it.Key), Value: bytes.Clone(it.Value)}
		}
	}
	n.w.t.Fatalf("nothing of kind %c is stored", kind)
	return found
}
