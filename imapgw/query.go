package imapgw

import (
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"holdfast/event"
	"holdfast/message"
)

// truth is what is known about a key's outcome so far.
type truth uint8

const (
	unknown truth = iota // a dearer key decides
	yes
	not
)

func known(b bool) truth {
	if b {
		return yes
	}
	return not
}

// cost is what has to be looked at to evaluate a key.
type cost uint8

const (
	costView   cost = iota // the view: flags, sizes, dates, numbers
	costIndex              // the index: envelope
	costHeader             // the header
	costText               // the text of the message
)

// query is a compiled SearchCriteria: all of keys, all of nots false, one of
// each pair of ors.
type query struct {
	keys []key
	nots []*query
	ors  [][2]*query
}

// key is one search key. test is called for candidates that what cost says has
// been paid for.
type key struct {
	cost   cost
	isText bool
	test   func(c *candidate) (bool, error)
}

// eval evaluates q as far as limit allows.
func (q *query) eval(c *candidate, limit cost) (truth, error) {
	out := yes
	for i := range q.keys {
		if q.keys[i].cost > limit {
			out = unknown
			continue
		}
		ok, err := q.keys[i].test(c)
		if err != nil || !ok {
			return not, err
		}
	}
	for _, n := range q.nots {
		v, err := n.eval(c, limit)
		switch {
		case err != nil || v == yes:
			return not, err
		case v == unknown:
			out = unknown
		}
	}
	for _, pair := range q.ors {
		a, err := pair[0].eval(c, limit)
		if err != nil {
			return not, err
		}
		if a == yes {
			continue
		}
		b, err := pair[1].eval(c, limit)
		switch {
		case err != nil || a == not && b == not:
			return not, err
		case b != yes:
			out = unknown
		}
	}
	return out, nil
}

// texts counts the strings that are looked for.
func (q *query) texts() int {
	n := 0
	for _, k := range q.keys {
		if k.isText {
			n++
		}
	}
	for _, sub := range q.nots {
		n += sub.texts()
	}
	for _, pair := range q.ors {
		n += pair[0].texts() + pair[1].texts()
	}
	return n
}

// compile turns criteria into a query. The library bounds their depth.
func compile(v *view, saved []event.UID, c *imap.SearchCriteria) (*query, error) {
	q := &query{}
	for _, set := range c.SeqNum {
		if err := q.addSet(v, saved, set); err != nil {
			return nil, err
		}
	}
	for _, set := range c.UID {
		if err := q.addSet(v, saved, set); err != nil {
			return nil, err
		}
	}
	q.addFlags(c)
	q.addSizes(c)
	q.addDates(c)
	for _, h := range c.Header {
		q.keys = append(q.keys, headerKey(h.Key, h.Value))
	}
	for _, s := range c.Body {
		q.keys = append(q.keys, textKey(s, false))
	}
	for _, s := range c.Text {
		q.keys = append(q.keys, textKey(s, true))
	}
	for i := range c.Not {
		sub, err := compile(v, saved, &c.Not[i])
		if err != nil {
			return nil, err
		}
		q.nots = append(q.nots, sub)
	}
	for i := range c.Or {
		a, err := compile(v, saved, &c.Or[i][0])
		if err != nil {
			return nil, err
		}
		b, err := compile(v, saved, &c.Or[i][1])
		if err != nil {
			return nil, err
		}
		q.ors = append(q.ors, [2]*query{a, b})
	}
	return q, nil
}

func (q *query) add(k cost, test func(c *candidate) (bool, error)) {
	q.keys = append(q.keys, key{cost: k, test: test})
}

func (q *query) addSet(v *view, saved []event.UID, set imap.NumSet) error {
	spans, err := v.resolve(set, saved)
	if err != nil {
		return err
	}
	q.add(costView, func(c *candidate) (bool, error) {
		// Candidates come in ascending order, but a set may stand in several
		// keys, so each is looked up.
		lo, hi := 0, len(spans)
		for lo < hi {
			mid := (lo + hi) / 2
			if spans[mid].to <= c.i {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		return lo < len(spans) && spans[lo].from <= c.i, nil
	})
	return nil
}

func (q *query) addFlags(c *imap.SearchCriteria) {
	for _, f := range c.Flag {
		q.add(costView, func(c *candidate) (bool, error) { return hasFlag(c.m.Flags, string(f)), nil })
	}
	for _, f := range c.NotFlag {
		q.add(costView, func(c *candidate) (bool, error) { return !hasFlag(c.m.Flags, string(f)), nil })
	}
}

func (q *query) addSizes(c *imap.SearchCriteria) {
	if n := c.Larger; n > 0 {
		q.add(costView, func(c *candidate) (bool, error) { return c.m.Size > n, nil })
	}
	if n := c.Smaller; n > 0 {
		q.add(costView, func(c *candidate) (bool, error) { return c.m.Size < n, nil })
	}
}

// addDates adds the keys about dates. RFC 9051 §6.4.4: time and zone are
// disregarded, so for SENTSINCE and its like the day is the one that stands in
// the Date field. INTERNALDATE is shown in UTC, so its day is that of UTC.
func (q *query) addDates(c *imap.SearchCriteria) {
	internal := func(c *candidate) (time.Time, bool, error) {
		return time.UnixMilli(int64(c.m.Date)).UTC(), true, nil
	}
	sent := func(c *candidate) (time.Time, bool, error) {
		ix, err := c.index()
		if ix == nil {
			return time.Time{}, false, err
		}
		t, ok := message.ParseDate(ix.Envelope.Date)
		return t, ok, nil
	}
	for _, d := range []struct {
		bound time.Time
		since bool
		cost  cost
		of    func(*candidate) (time.Time, bool, error)
	}{
		{c.Since, true, costView, internal}, {c.Before, false, costView, internal},
		{c.SentSince, true, costIndex, sent}, {c.SentBefore, false, costIndex, sent},
	} {
		if d.bound.IsZero() {
			continue
		}
		bound := day(d.bound)
		q.add(d.cost, func(c *candidate) (bool, error) {
			t, ok, err := d.of(c)
			if err != nil || !ok {
				return false, err
			}
			return day(t).Before(bound) != d.since, nil
		})
	}
}

// day is the calendar day of t where t is, as an instant that can be compared.
func day(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// headerKey finds a string in a field of the header. Fields that the index holds
// are found there, without reading the message.
func headerKey(name, value string) key {
	needle := fold(value)
	k := key{cost: costIndex, isText: true}
	inIndex := indexedField(strings.ToLower(name))
	if inIndex == nil {
		k.cost = costHeader
	}
	k.test = func(c *candidate) (bool, error) {
		if inIndex != nil {
			ix, err := c.index()
			if ix == nil {
				return false, err
			}
			if v := inIndex(ix, needle); v == yes || v == not && !ix.Truncated {
				return v == yes, nil
			}
		}
		header, err := c.headerBytes()
		if err != nil {
			return false, err
		}
		for field, raw := range message.HeaderFields(header) {
			if strings.EqualFold(field, name) && strings.Contains(fold(message.DecodeHeader(raw)), needle) {
				return true, nil
			}
		}
		return false, nil
	}
	return k
}

// lookup looks for a folded string in a field as the index has it. It is unknown
// when the index cannot tell.
type lookup func(ix *message.Index, needle string) truth

// indexedField returns the lookup for a field, or nil if it is not in the index.
func indexedField(name string) lookup {
	addrs := func(list func(*message.Envelope) []message.Address) lookup {
		return func(ix *message.Index, needle string) truth { return inAddresses(list(&ix.Envelope), needle) }
	}
	text := func(s func(*message.Envelope) string, bit message.EnvelopeFields) lookup {
		return func(ix *message.Index, needle string) truth {
			e := &ix.Envelope
			return known(e.Has&bit != 0 && strings.Contains(fold(message.DecodeHeader([]byte(s(e)))), needle))
		}
	}
	switch name {
	case "from":
		return addrs(func(e *message.Envelope) []message.Address { return e.From })
	case "sender":
		return addrs(func(e *message.Envelope) []message.Address { return e.Sender })
	case "reply-to":
		return addrs(func(e *message.Envelope) []message.Address { return e.ReplyTo })
	case "to":
		return addrs(func(e *message.Envelope) []message.Address { return e.To })
	case "cc":
		return addrs(func(e *message.Envelope) []message.Address { return e.Cc })
	case "bcc":
		return addrs(func(e *message.Envelope) []message.Address { return e.Bcc })
	case "subject":
		return text(func(e *message.Envelope) string { return e.Subject }, message.HasSubject)
	case "message-id":
		return text(func(e *message.Envelope) string { return e.MessageID }, message.HasMessageID)
	case "in-reply-to":
		return text(func(e *message.Envelope) string { return e.InReplyTo }, message.HasInReplyTo)
	}
	return nil
}

// inAddresses looks for a folded string in addresses written one after the
// other. Where the list was broken, or empty and asked whether it is there at
// all, the header has to be read.
func inAddresses(list []message.Address, needle string) truth {
	var text strings.Builder
	isWhole := len(list) > 0 || needle != ""
	for _, a := range list {
		switch {
		case a.IsGroupStart():
			text.WriteString(a.Mailbox + ": ")
		case a.IsGroupEnd():
			text.WriteString("; ")
		default:
			isWhole = isWhole && a.IsValid()
			text.WriteString(a.DecodedName() + " <" + a.Mailbox + "@" + a.Host + ">, ")
		}
	}
	switch {
	case len(list) > 0 && strings.Contains(fold(text.String()), needle):
		return yes
	case isWhole:
		return not
	}
	return unknown
}
