package judge

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
)

// A message of a world whose days pass may be read through the day after it came,
// longer when a user flagged it or a hold was placed before that was over, and
// shorter when it was erased. Which day it was sent on is known at least: it cannot
// have come in earlier.

// filedFlag is the flag with which a user files a message where it is.
const filedFlag = `\Flagged`

// lastDay is the day through which a message is kept at least.
func lastDay(s *Sent) event.Day { return event.DayOf(s.Began) + 1 }

// claim is what is known of somebody's wish about a message.
type claim struct {
	sure    bool // it was confirmed
	perhaps bool // it was asked for
}

// wishes are what became of each message by others than time.
type wishes struct {
	filed   map[string]claim // by number: in time, and so in its mailbox after its day
	held    map[string]claim // by number: the same, and so readable after its day
	gone    map[string]bool  // by number: expunged, or perhaps, and so not filed any more
	erased  map[string]*Order
	byID    map[string]*Sent
	numbers map[string]*Sent
}

// wished gathers what was asked for.
func (v *verdict) wished() wishes {
	w := wishes{filed: map[string]claim{}, held: map[string]claim{}, gone: map[string]bool{}, erased: map[string]*Order{}, byID: map[string]*Sent{}, numbers: map[string]*Sent{}}
	for i := range v.rec.Sent {
		s := &v.rec.Sent[i]
		w.numbers[s.Number()] = s
		if s.Answer == Kept {
			w.byID[s.ID] = s
		}
	}
	uids := map[uint32]string{} // in INBOX
	for i := range v.rec.Steps {
		s := &v.rec.Steps[i]
		if s.Mailbox != "INBOX" {
			continue
		}
		for uid, m := range s.Messages {
			uids[uid] = m.Number
		}
		switch {
		case s.Kind == Expunge && !s.No:
			w.gone[uids[s.UID]] = true
		case s.Kind == Flag && s.Flags == filedFlag && !s.No:
			w.claims(uids[s.UID], s.OK, s.At)
		}
	}
	for _, o := range v.rec.Holds {
		if s := w.byID[o.Message]; s != nil {
			w.held[s.Number()] = claim{sure: o.OK && event.DayOf(o.At) <= lastDay(s), perhaps: true}
		}
	}
	for n := range w.gone {
		w.filed[n] = claim{perhaps: w.filed[n].perhaps}
	}
	for i := range v.rec.Erasures {
		w.erased[v.rec.Erasures[i].Message] = &v.rec.Erasures[i]
	}
	return w
}

func (w *wishes) claims(number string, confirmed bool, at time.Time) {
	if s := w.numbers[number]; s != nil {
		c := w.filed[number]
		c.sure = c.sure || confirmed && event.DayOf(at) <= lastDay(s)
		c.perhaps = true
		w.filed[number] = c
	}
}

// kept tells of a message that is filed or held.
func (w *wishes) kept(number string) claim {
	f, h := w.filed[number], w.held[number]
	return claim{f.sure || h.sure, f.perhaps || h.perhaps}
}

// today is the day by the node's clock.
func (v *verdict) today() event.Day { return event.DayOf(time.Now().Add(v.rec.Config.Shift)) }

// checkFate: what got 250 and is not over, or is filed, or under a hold, can be
// read, byte for byte; what was erased, and what is over when all work is done, can
// not.
func (v *verdict) checkFate(s *Sent) {
	m, order, want := v.found.byID[s.ID], v.wishes.erased[s.ID], v.wishes.kept(s.Number())
	asked := order != nil
	must := !asked && (want.sure || v.today() <= lastDay(s))
	if m == nil {
		if len(v.found.begin) == 0 {
			v.complain("message %d (run %d) got 250 as %s and is not in the log", s.N, s.Run, s.ID)
			return
		}
		m = &letter{id: v.idOf(s.ID)} // what stands before the beginning is found by the program alone
	}
	exported := v.rec.Exported[s.ID]
	opens := m.sum != "" || exported != ""
	switch {
	case m.repudiated:
		v.complain("message %d got 250 as %s and is repudiated", s.N, s.ID)
	case m.sum != "" && m.sum != s.SHA256, exported != "" && exported != s.SHA256:
		v.complain("message %d got 250 as %s, and the log has other bytes", s.N, s.ID)
	case !opens && must && m.err != nil:
		v.complain("message %d (%s) of %v is to be kept (%+v) and cannot be read: %v", s.N, s.ID, s.Began, want, m.err)
	case exported == "" && must && v.rec.Exported != nil:
		v.complain("message %d (%s) of %v is to be kept (%+v) and is not found", s.N, s.ID, s.Began, want)
	case opens && asked && order.OK:
		v.complain("message %d (%s) was erased and opens", s.N, s.ID)
	case opens && v.found.erased[m.id]:
		v.complain("message %d (%s) is certified to be erased and opens", s.N, s.ID)
	case opens && !v.rec.Over.IsZero() && !want.perhaps:
		v.complain("message %d (%s) of %v is over and opens", s.N, s.ID, s.Began)
	}
}

// checkOrders: an erasure that was confirmed is certified in the log; and when all
// work is done, each order that stands there is.
func (v *verdict) checkOrders() {
	for _, o := range v.rec.Erasures {
		if s := v.wishes.byID[o.Message]; o.OK && s != nil && !v.found.erased[v.idOf(o.Message)] && len(v.found.begin) == 0 {
			v.complain("message %d (%s) was erased, and the log does not certify it", s.N, o.Message)
		}
	}
	for id, n := range v.found.orders {
		if n != 1 && (n > 1 || !v.rec.Over.IsZero()) {
			v.complain("the erasure %v is certified %d times", id, n)
		}
	}
}

func (v *verdict) idOf(text string) event.ID {
	id, err := event.ParseID(text)
	if err != nil {
		v.complain("%q is no id: %v", text, err)
	}
	return id
}

// checkObjects: when all work is done the bucket has nothing of the days that are
// over.
func (v *verdict) checkObjects(ctx context.Context, bucket objstore.Bucket) error {
	if v.rec.Over.IsZero() {
		return nil
	}
	for _, prefix := range []string{"blob/", "key/"} {
		for info, err := range bucket.List(ctx, prefix, "") {
			if err != nil {
				return fmt.Errorf("look for what is left: %w", err)
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
			if d, err := event.ParseDay(name); err == nil && d < event.DayOf(v.rec.Over) {
				v.complain("%s is left of a day that is over", info.Key)
			}
		}
	}
	return nil
}

// mayVanish reports whether a message that was in a mailbox, or should be, need not
// be in a view.
func (v *verdict) mayVanish(view *Step, number string) bool {
	s := v.wishes.numbers[number]
	if !v.rec.Days || view.Mailbox != "INBOX" || s == nil {
		return false
	}
	if o := v.wishes.erased[s.ID]; o != nil && s.Answer == Kept && o.Began < view.Ended {
		return true
	}
	return event.DayOf(view.At) > lastDay(s) && !v.wishes.filed[number].sure
}

// checkShown: a view does not show what was erased before, nor, when all work is
// done, what is over.
func (v *verdict) checkShown(view *Step) {
	if !v.rec.Days || view.Mailbox != "INBOX" {
		return
	}
	for uid, m := range view.Messages {
		s := v.wishes.numbers[m.Number]
		if s == nil {
			continue
		}
		if o := v.wishes.erased[s.ID]; o != nil && s.Answer == Kept && o.OK && o.Ended < view.Began {
			v.complain("INBOX: UID %d (message %s) was erased and is there", uid, m.Number)
		}
		if !v.rec.Over.IsZero() && !view.At.Before(v.rec.Over) && !v.wishes.filed[m.Number].perhaps {
			v.complain("INBOX: UID %d (message %s) is over and is there", uid, m.Number)
		}
	}
}

// takeRetention takes a fact of retention.
func (l *ledger) takeRetention(r eventlog.Recorded) error {
	switch f := r.Fact.(type) {
	case *event.Kept:
		m := l.byID[f.Message.String()]
		if m == nil {
			was, err := f.Original()
			if err != nil {
				return fmt.Errorf("what was kept at %v: %w", r.Ref, err)
			}
			accepted, ok := was.(*event.MessageAccepted)
			if !ok {
				return nil
			}
			m = l.letter(f.Message, accepted)
			m.partial = true
			if l.begin[r.Ref.Position.Partition] == 0 {
				l.strange = append(l.strange, fmt.Sprintf("message %v was kept and is not in the log before", f.Message))
			}
		}
		m.places = append(m.places, r.Ref)
	case *event.ErasureOrdered:
		l.orders[r.Ref.ID] += 0
	case *event.Erased:
		if _, ok := l.orders[f.Order]; ok {
			l.orders[f.Order]++
		}
		for _, i := range f.Items {
			l.erased[i.Message] = true
		}
	}
	return nil
}

// knownSum is the digest of a letter, also of one that opens no more, when its
// sender was told its id.
func (v *verdict) knownSum(m *letter) string {
	if s := v.wishes.byID[m.id.String()]; m.sum == "" && s != nil {
		return s.SHA256
	}
	return m.sum
}

// mayBeOver reports whether a transaction with a digest may be of a message that
// nothing opens any more.
func (v *verdict) mayBeOver(sum string) bool {
	return v.rec.Days && slices.ContainsFunc(v.rec.Sent, func(s Sent) bool { return s.SHA256 == sum && s.Answer != Refused })
}
