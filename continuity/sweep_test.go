package continuity

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"holdfast/event"
	"holdfast/projection"
)

// steps folds one log twice: in small steps, with other facts between them, and
// each day's end at once.
type steps struct {
	t           *testing.T
	src         *segments
	r           *rand.Rand
	small, once *ender
	day         event.Day // on which mail that comes in expires
}

// ender is a fold over steps' log.
type ender struct {
	fold  fold
	store projection.Store
}

func (x *steps) add(expiry event.Day, f event.Fact) {
	x.t.Helper()
	x.src.add(f)
	last := x.src.list[len(x.src.list)-1]
	last.Events[0].Expiry = expiry
	for _, e := range []*ender{x.small, x.once} {
		runFold(x.t, e.store, x.src, e.fold)
	}
}

// at is where a message is, and how, without its number.
type at struct {
	box    string
	email  event.ID
	flags  systemFlags
	expiry event.Day
	read   event.ID
}

// rows counts an ender's messages that are wanted.
func (x *steps) rows(e *ender, wanted func(at, bool) bool) map[at]int {
	x.t.Helper()
	out := map[at]int{}
	r := runFold(x.t, e.store, x.src, e.fold)
	err := r.View(context.Background(), foldName, func(v projection.View) error {
		list, err := loadMailboxes(v, alice)
		if err != nil {
			return err
		}
		for _, b := range list {
			n := uint32(0)
			for it, err := range v.Scan(messagePrefix(alice, b.id), nil, false) {
				var row messageRow
				if err == nil {
					err = row.decode(it.Value)
				}
				if err != nil {
					return err
				}
				n++
				m := at{b.row.Name, row.Email, row.Flags, row.Expiry, row.Ref.ID}
				if wanted(m, row.over(x.day) && row.needed(b.id, &b.row)) {
					out[m]++
				}
			}
			if b.row.Messages != n {
				x.t.Errorf("%s counts %d messages and has %d", b.row.Name, b.row.Messages, n)
			}
		}
		return nil
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return out
}

func (x *steps) unswept(e *ender) (left bool) {
	x.t.Helper()
	r := runFold(x.t, e.store, x.src, e.fold)
	err := r.View(context.Background(), foldName, func(v projection.View) error {
		raw, err := v.Get(sweepKey(event.Tenant{}))
		left = raw != nil
		return err
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return left
}

// act lets the user do something. He names messages of INBOX by their number; what
// is elsewhere has other numbers in the two folds, so that he takes all of it.
func (x *steps) act() {
	some, all := event.UID(1+x.r.IntN(60)), []event.UIDRange{{First: 1, Last: ^event.UID(0)}}
	few := []event.UIDRange{{First: some, Last: some + event.UID(x.r.IntN(3))}}
	op := event.FlagsAdd + event.FlagOp(x.r.IntN(2))*(event.FlagsRemove-event.FlagsAdd)
	box := func() event.MailboxID { return event.MailboxID(3 + x.r.IntN(4)) } // Drafts, Trash, Junk, Archive
	switch x.r.IntN(6) {
	case 0, 1:
		x.add(0, &event.FlagsChanged{Account: alice, Mailbox: inboxID, UIDs: few, Op: op, Flags: []string{`\Flagged`}})
	case 2, 3:
		x.add(0, &event.Copied{Account: alice, From: inboxID, To: box(), UIDs: few, Move: x.r.IntN(2) == 0})
	case 4:
		x.add(0, &event.FlagsChanged{Account: alice, Mailbox: box(), UIDs: all, Op: op, Flags: []string{`\Flagged`, `\Deleted`}})
	default:
		if from, to := box(), box(); from != to && x.r.IntN(3) == 0 {
			x.add(0, &event.Copied{Account: alice, From: from, To: to, UIDs: all, Move: x.r.IntN(2) == 0})
		}
	}
}

// settle lets the small steps come to their end, while the user goes on.
func (x *steps) settle() (took int) {
	for x.unswept(x.small) {
		x.act()
		x.add(0, &event.DaySwept{})
		took++
	}
	if x.unswept(x.once) {
		x.t.Fatal("one step was not enough")
	}
	return took
}

// alone returns the messages that are at one place in both folds. One that the user
// has taken out of his files after the condemnation may be there in the one and
// gone in the other: should it be kept since it is filed elsewhere, too, it stays
// where it was not looked at in time.
func (x *steps) alone() map[event.ID]bool {
	count := map[event.ID]int{}
	for i, e := range []*ender{x.small, x.once} {
		for m, n := range x.rows(e, func(at, bool) bool { return true }) {
			count[m.email] += n * (1 + 99*i)
		}
	}
	out := map[event.ID]bool{}
	for id, n := range count {
		out[id] = n == 101
	}
	return out
}

// TestEndInSteps: what is needed when a day is condemned, and what is left when
// it has expired, does not depend on when each message was looked at, whatever the
// user does meanwhile.
func TestEndInSteps(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			x := &steps{t: t, src: &segments{}, r: rand.New(rand.NewPCG(seed, 8)), day: mailExpires}
			x.small = &ender{fold{atOnce: 1 + x.r.IntN(4)}, projection.NewMemStore()}
			x.once = &ender{fold{atOnce: 1 << 20}, projection.NewMemStore()}
			took := 0
			for range 2 {
				for range 30 {
					x.add(x.day+event.Day(x.r.IntN(2)), received(alice, 100))
				}
				for range 10 {
					x.act()
				}
				x.add(0, &event.DayCondemned{Day: x.day})
				took += x.settle()
				isNeeded := func(_ at, needed bool) bool { return needed }
				needed := x.rows(x.once, isNeeded)
				if got := x.rows(x.small, isNeeded); !maps.Equal(got, needed) {
					t.Fatalf("needed:\n%v\nwant\n%v", got, needed)
				}
				alone := x.alone()
				for _, seg := range x.src.list {
					if _, ok := seg.Events[0].Fact.(*event.MessageAccepted); ok && x.r.IntN(2) == 0 {
						x.add(x.day+5, &event.Kept{Message: seg.Events[0].Ref.ID})
					}
				}
				x.add(0, &event.DayExpired{Day: x.day})
				took += x.settle()
				isAlone := func(m at, _ bool) bool { return alone[m.email] }
				if got, want := x.rows(x.small, isAlone), x.rows(x.once, isAlone); !maps.Equal(got, want) || len(want) == 0 {
					t.Fatalf("left:\n%v\nwant\n%v", got, want)
				}
				for _, e := range []*ender{x.small, x.once} {
					if got := x.rows(e, func(m at, _ bool) bool { return m.expiry <= x.day }); len(got) > 0 {
						t.Fatalf("not gone: %v", got)
					}
				}
				x.day++
			}
			if took < 10 {
				t.Errorf("%d steps", took)
			}
		})
	}
}

// TestExpiredStays: what has expired and was not swept yet goes to no mailbox that the
// sweep has passed, where it would stay.
func TestExpiredStays(t *testing.T) {
	const archive event.MailboxID = 6
	everything := []event.UIDRange{{First: 1, Last: ^event.UID(0)}}
	for name, f := range map[string]event.Fact{
		"copied":  &event.Copied{Account: alice, From: archive, To: inboxID, UIDs: everything},
		"moved":   &event.Copied{Account: alice, From: archive, To: inboxID, UIDs: everything, Move: true},
		"renamed": &event.MailboxRenamed{Account: alice, From: "INBOX", To: "Old"},
	} {
		t.Run(name, func(t *testing.T) {
			x := &steps{t: t, src: &segments{}, day: mailExpires}
			x.small = &ender{fold{atOnce: 2}, projection.NewMemStore()}
			x.once = &ender{fold{atOnce: 1 << 20}, projection.NewMemStore()}
			for range 9 {
				x.add(x.day, received(alice, 100))
			}
			x.add(x.day+5, received(alice, 100)) // it lives
			x.add(0, &event.FlagsChanged{Account: alice, Mailbox: inboxID, UIDs: everything, Op: event.FlagsAdd, Flags: []string{`\Flagged`}})
			x.add(0, &event.Copied{Account: alice, From: inboxID, To: archive, UIDs: []event.UIDRange{{First: 5, Last: 10}}, Move: true})
			x.add(0, &event.DayCondemned{Day: x.day})
			for x.unswept(x.small) {
				x.add(0, &event.DaySwept{})
			}
			x.add(0, &event.DayExpired{Day: x.day})
			for range 2 {
				x.add(0, &event.DaySwept{})
			}
			if !x.unswept(x.small) {
				t.Fatal("nothing is left to sweep")
			}
			x.add(0, f)
			for x.unswept(x.small) {
				x.add(0, &event.DaySwept{})
			}
			all := func(at, bool) bool { return true }
			got, want := x.rows(x.small, all), x.rows(x.once, all)
			for m := range want {
				if m.expiry <= x.day || !maps.Equal(got, want) {
					t.Errorf("left: %v, want %v", got, want)
				}
			}
			again := projection.NewMemStore()
			if x.hash(again) != x.hash(x.small.store) || len(want) == 0 {
				t.Error("a fold from the beginning has another state")
			}
		})
	}
}

// hash folds the log to its end in small steps.
func (x *steps) hash(store projection.Store) [32]byte {
	x.t.Helper()
	h, err := runFold(x.t, store, x.src, x.small.fold).Hash(context.Background(), foldName)
	if err != nil {
		x.t.Fatal(err)
	}
	return h
}
