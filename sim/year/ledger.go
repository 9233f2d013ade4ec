package year

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/event"
	"holdfast/sim/residue"
)

// How long the product keeps what is needed past its day, at most.
const (
	keptDays  = 30 // what is filed or under a hold
	maxShadow = 20 // the longest of the domains
	slack     = 2  // days between being needed last and being looked at
)

// letter is one message and what has been done to it.
type letter struct {
	n      uint64
	mark   string
	body   []byte
	id     string // of its acceptance
	tenant string
	day    event.Day // of reception
	expiry event.Day // the last on which it is read, were it never needed
	large  bool

	due    map[string]bool // recipients whose primary has not got it
	erased event.Day       // when it was erased by order; 0 for never
	last   event.Day       // the last night on which it may have been needed past its day; 0 for never
	sure   bool            // it was needed on every night since its day
	owner  string          // of a draft, which was never sent to anybody
}

// copied is one message in one mailbox.
type copied struct {
	l     *letter
	flags map[string]bool
}

// box is a mailbox as its user knows it.
type box struct {
	validity, next uint32
	messages       map[uint32]*copied
	past           map[uint32]string // every UID that was ever seen, and the mark under it
}

// mailbox names with a meaning (package continuity).
var unfiled = []string{"INBOX", "Sent", "Trash", "Junk"}

// filed says whether a message in a mailbox is kept by its user.
func (c *copied) filed(name string) bool {
	return !slices.Contains(unfiled, name) || c.flags[`\Flagged`] && (name == "INBOX" || name == "Sent")
}

// hold is a legal hold on the mail of users, present and future.
type hold struct {
	name  string
	users []string
}

// selects says whether a hold is on a letter: one to its users, or that they have
// put into a mailbox themselves.
func (h *hold) selects(l *letter) bool {
	return slices.Contains(h.users, l.owner) || slices.ContainsFunc(h.users, func(u string) bool { _, ok := l.due[u]; return ok })
}

// Ledger knows what has become of every message.
type Ledger struct {
	done    event.Day          // the last whose mail was destroyed; 0 at the beginning
	letters map[string]*letter // by mark
	order   []*letter
	boxes   map[string]map[string]*box // by user and name
	holds   map[string]*hold
}

func newLedger() *Ledger {
	return &Ledger{letters: map[string]*letter{}, boxes: map[string]map[string]*box{}, holds: map[string]*hold{}}
}

// box returns a mailbox of a user, empty if it was not seen before.
func (g *Ledger) box(user, name string) *box {
	if g.boxes[user] == nil {
		g.boxes[user] = map[string]*box{}
	}
	b := g.boxes[user][name]
	if b == nil {
		b = &box{messages: map[uint32]*copied{}, past: map[uint32]string{}}
		g.boxes[user][name] = b
	}
	return b
}

// isDue says whether a recipient's primary still waits for a letter.
func (l *letter) isDue() bool {
	for _, due := range l.due {
		if due {
			return true
		}
	}
	return false
}

// filedBy says whether any user has filed a letter.
func (g *Ledger) filedBy() map[*letter]bool {
	out := map[*letter]bool{}
	for _, boxes := range g.boxes {
		for name, b := range boxes {
			for _, c := range b.messages {
				if c.filed(name) {
					out[c.l] = true
				}
			}
		}
	}
	return out
}

// held says whether a hold is on a letter.
func (g *Ledger) held(l *letter) bool {
	for _, h := range g.holds {
		if h.selects(l) {
			return true
		}
	}
	return false
}

// night settles who is needed, in the night in which the mail that expires on day
// or before is destroyed.
func (g *Ledger) night(day event.Day) {
	filed := g.filedBy()
	for _, l := range g.order {
		// What has gone does not come back, whatever is done to its copies.
		if l.expiry > day || g.gone(l) {
			continue
		}
		needed := filed[l] || l.isDue() || g.held(l)
		// Once it was not needed it may have gone, and nothing is promised of it any
		// more, though it may be needed again before its day comes anew.
		l.sure = needed && (l.last == 0 || l.sure)
		if needed {
			l.last = day
		}
	}
	g.done = day
}

// gone says whether nothing of a letter may be readable.
func (g *Ledger) gone(l *letter) bool { return l.erased != 0 || g.over(l) }

// over says whether the last day of a letter is over, so that no copy of its keys
// opens it either.
func (g *Ledger) over(l *letter) bool {
	return l.expiry <= g.done && (l.last == 0 || l.last+keptDays+slack < g.done)
}

// readable says whether a letter must be readable.
func (g *Ledger) readable(l *letter) bool {
	return l.erased == 0 && (l.expiry > g.done || l.last == g.done && l.sure)
}

// fate is that of a mark. What was erased opens with copies of its key page from
// before, until its day is over.
func (g *Ledger) fate(mark string) residue.Fate {
	l := g.letters[mark]
	switch {
	case l == nil:
		return residue.Unknown
	case g.over(l):
		return residue.Expired
	case l.erased != 0:
		return residue.Erased
	}
	return residue.Kept
}

// tell returns what the ledger knows of a letter.
func (l *letter) tell() string {
	var to []string
	for u, due := range l.due {
		to = append(to, fmt.Sprintf("%s due:%v", u, due))
	}
	slices.Sort(to)
	return fmt.Sprintf("%s of %v, expires %v, needed last %v, erased %v, large %v, draft of %q, to %s",
		l.mark, l.day, l.expiry, l.last, l.erased, l.large, l.owner, strings.Join(to, ", "))
}
