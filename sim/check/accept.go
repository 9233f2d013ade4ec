package check

import (
	"bytes"
	"slices"
	"strings"

	"holdfast/event"
)

// Acceptance judges what senders were told.
//
// The rule, for each transaction (one MAIL, by its mark):
//
//   - answered 250: exactly one acceptance with its mark is in the log, under the
//     id that the reply names, with the reverse-path, the recipients that were
//     answered 250 and the body, byte for byte. It was durable, with the parts of
//     its body, before the reply was read. It is never repudiated.
//   - answered 4xx or 5xx: no acceptance with its mark stands: each that landed is
//     followed by its repudiation, and nothing of it came to a primary unless the
//     intent for that was durable before the repudiation was: while the store had
//     not told the accepting node that the message had landed, another could not
//     know that it was to be taken back. The one excuse for an acceptance that
//     stands is that the node was killed after it had answered: nobody was left
//     to take it back, and it counts as accepted.
//   - not answered, the end of the message perhaps sent: it may be in the log, but
//     at most once, whole and unaltered as above.
//   - not answered, the end of the message certainly not sent: not in the log.
//
// An acceptance from the network whose mark no sender used is one that nobody
// sent.
func Acceptance(l *Log, h *History) []Finding {
	c := &court{rule: "acceptance"}
	byMark := map[string][]*Entry{}
	l.All(func(e *Entry) {
		f, ok := e.Fact.(*event.MessageAccepted)
		if !ok || f.Origin == event.OriginBounce {
			return
		}
		switch {
		case f.Meta != nil:
			byMark[f.Meta.EnvID] = append(byMark[f.Meta.EnvID], e)
		case !e.Gone && e.HasBody:
			c.finds("acceptance %v has a body and no metadata", e.Ref.ID)
		}
	})
	regrets := l.repudiated()
	known := map[string]bool{}
	for i := range h.Transactions {
		tx := &h.Transactions[i]
		known[tx.Mark] = true
		c.transaction(tx, byMark[tx.Mark], regrets, h)
	}
	l.All(func(e *Entry) {
		f, ok := e.Fact.(*event.MessageAccepted)
		if ok && f.Origin != event.OriginBounce && f.Meta != nil && !known[f.Meta.EnvID] {
			c.finds("acceptance %v carries the mark %q of no transaction", e.Ref.ID, f.Meta.EnvID)
		}
	})
	return c.found
}

func (c *court) transaction(tx *Transaction, in []*Entry, regrets map[event.ID]*Entry, h *History) {
	if len(in) > 1 {
		c.finds("transaction %s is in the log %d times", tx.Mark, len(in))
	}
	for _, e := range in {
		c.contents(tx, e)
	}
	var standing []*Entry
	for _, e := range in {
		if regrets[e.Ref.ID] == nil {
			standing = append(standing, e)
		}
	}
	switch {
	case tx.Code/100 == 2:
		c.promised(tx, in, standing)
	case tx.Code != 0:
		for _, e := range standing {
			if !killedAfter(h.Kills, tx) {
				c.finds("transaction %s was answered %d, but %v stands in the log", tx.Mark, tx.Code, e.Ref.ID)
			}
		}
	case tx.Dot == DotUnsent && len(in) > 0:
		c.finds("transaction %s is in the log, though its end was never sent", tx.Mark)
	}
}

func (c *court) promised(tx *Transaction, in, standing []*Entry) {
	if len(standing) != 1 {
		c.finds("transaction %s was answered %q, but %d of its %d acceptances stand in the log", tx.Mark, tx.Reply, len(standing), len(in))
		return
	}
	e := standing[0]
	if !strings.Contains(tx.Reply, e.Ref.ID.String()) {
		c.finds("transaction %s was answered %q, but it is %v in the log", tx.Mark, tx.Reply, e.Ref.ID)
	}
	if e.Since == 0 || e.Since > tx.At {
		c.finds("transaction %s was answered 250 at %d, but was durable at %d only", tx.Mark, tx.At, e.Since)
	}
}

// contents compares an acceptance with what was sent.
func (c *court) contents(tx *Transaction, e *Entry) {
	f := e.Fact.(*event.MessageAccepted)
	if f.Meta.From != tx.From {
		c.finds("transaction %s: reverse-path is %q, sent was %q", tx.Mark, f.Meta.From, tx.From)
	}
	var to []string
	for _, r := range f.Meta.Recipients {
		to = append(to, r.Path)
	}
	if !slices.Equal(to, tx.To) {
		c.finds("transaction %s: recipients are %q, accepted were %q", tx.Mark, to, tx.To)
	}
	if !e.Gone && !bytes.Equal(e.Body, tx.Body) {
		c.finds("transaction %s: body of %d bytes is not the %d bytes that were sent", tx.Mark, len(e.Body), len(tx.Body))
	}
	if f.Size != int64(len(tx.Body)) {
		c.finds("transaction %s: its event says %d bytes, sent were %d", tx.Mark, f.Size, len(tx.Body))
	}
}

// killedAfter reports whether the node of a transaction was killed after the end
// of the message was sent.
func killedAfter(kills []Kill, tx *Transaction) bool {
	return slices.ContainsFunc(kills, func(k Kill) bool { return k.Node == tx.Node && k.At > tx.Sent })
}
