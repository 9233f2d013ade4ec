package check

import (
	"bytes"
	"slices"

	"holdfast/event"
)

// Allotted judges whether the mailboxes hold what the log gave them, by what
// users saw at the very end.
//
// The rules: a message that the log puts into an account, whose acceptance
// stands, and that the user never moved, copied or expunged, is shown once for
// each such acceptance in INBOX, and once in all in Sent, where the copies of one
// message recognise each other. A message that
// begins with our Received line is the one of the acceptance that the line
// names, byte for byte.
func Allotted(l *Log, h *History) []Finding {
	c := &court{rule: "allotted"}
	users := map[string]event.Account{}
	l.All(func(e *Entry) {
		if f, ok := e.Fact.(*event.UserSet); ok && users[f.Address] == (event.Account{}) {
			users[f.Address] = f.Account
		}
	})
	touched := map[string]bool{} // letters that a user did something to
	letters := map[string]map[uint32]string{}
	for i := range h.Acts {
		a := &h.Acts[i]
		box := a.User + "\n" + a.Mailbox
		switch a.Act {
		case Looked:
			if letters[box] == nil {
				letters[box] = map[uint32]string{}
			}
			for _, s := range a.Seen {
				letters[box][s.UID] = s.Letter
			}
		case Moved, Copied, Expunged:
			for _, uid := range a.UIDs {
				touched[a.User+"\n"+letters[box][uid]] = true
			}
		}
	}
	expected := allotments(l, h)
	for i := range h.Acts {
		if a := &h.Acts[i]; a.Act == Looked && a.Final && a.Answer == AnswerOK {
			c.shown(l, a)
			if place, ok := map[string]event.Place{"INBOX": event.PlaceInbox, "Sent": event.PlaceSent}[a.Mailbox]; ok {
				c.counts(a, expected[allotment{users[a.User], place}], touched)
			}
		}
	}
	return c.found
}

type allotment struct {
	account event.Account
	place   event.Place
}

// allotments counts the standing acceptances of each letter in each place.
func allotments(l *Log, h *History) map[allotment]map[string]int {
	letters := map[string]string{}
	for i := range h.Transactions {
		letters[h.Transactions[i].Mark] = h.Transactions[i].Letter
	}
	regrets := l.repudiated()
	out := map[allotment]map[string]int{}
	l.All(func(e *Entry) {
		f, ok := e.Fact.(*event.MessageAccepted)
		if !ok || f.Meta == nil || regrets[e.Ref.ID] != nil || letters[f.Meta.EnvID] == "" {
			return
		}
		for _, al := range f.Allotments {
			k := allotment{al.Account, al.Place}
			if out[k] == nil {
				out[k] = map[string]int{}
			}
			// Copies in Sent recognise each other by their Message-ID.
			if n := out[k][letters[f.Meta.EnvID]]; n == 0 || al.Place != event.PlaceSent {
				out[k][letters[f.Meta.EnvID]] = n + 1
			}
		}
	})
	return out
}

func (c *court) counts(a *UserAct, expected map[string]int, touched map[string]bool) {
	shown := map[string]int{}
	for _, s := range a.Seen {
		shown[s.Letter]++
	}
	var names []string
	for letter := range expected {
		names = append(names, letter)
	}
	slices.Sort(names)
	for _, letter := range names {
		if n := expected[letter]; shown[letter] != n && !touched[a.User+"\n"+letter] {
			c.finds("%s: %s at %s shows %s %d times, the log put it there %d times", a.User, a.Mailbox, a.Node, letter, shown[letter], n)
		}
	}
}

func (c *court) shown(l *Log, a *UserAct) {
	for _, s := range a.Seen {
		m := traceID.FindSubmatch(s.Body[:min(len(s.Body), 1000)])
		if m == nil || !bytes.HasPrefix(s.Body, []byte("Received:")) {
			continue
		}
		id, err := event.ParseID(string(m[1]))
		if err != nil {
			continue
		}
		e := l.Find(id)
		if e == nil {
			c.finds("%s: %s/%d is %v, which is not in the log", a.User, a.Mailbox, s.UID, id)
			continue
		}
		f, ok := e.Fact.(*event.MessageAccepted)
		if ok && f.Meta != nil && !e.Gone && !bytes.Equal(s.Body, slices.Concat(f.Meta.Trace, e.Body)) {
			c.finds("%s: %s/%d is not the %d bytes of %v", a.User, a.Mailbox, s.UID, len(e.Body), id)
		}
	}
}
