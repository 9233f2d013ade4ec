package shadow

import (
	"slices"
	"strings"

	"holdfast/event"
)

// query is a Query made ready: what a row must have, and the tokens that its
// block's filter then has.
type query struct {
	tokens []token

	rcpt, from  addressQuery
	messageID   string
	words, runs []string
	literal     string // folded text that the subject must contain
	state       state  // gone: any
	since       event.Millis
	until       event.Millis
	before      order // rows must be older; zero: any
	hold        *hold // what else a hold asks for, or nil

	limit int // of rows that are yielded
}

// addressQuery looks for an address or, without whole, for a domain.
type addressQuery struct {
	set   bool
	whole bool
	text  string
}

// newAddressQuery reads what an administrator typed.
func newAddressQuery(s string) addressQuery {
	s = strings.TrimSpace(s)
	if s == "" {
		return addressQuery{}
	}
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		s = s[1 : len(s)-1]
	}
	a := canonical(s)
	if domain, ok := strings.CutPrefix(a.whole, "@"); ok {
		return addressQuery{set: true, text: domain}
	}
	return addressQuery{set: true, whole: a.whole == "" || strings.Contains(a.whole, "@"), text: a.whole}
}

func (q addressQuery) matches(a address) bool {
	if q.whole {
		return a.whole == q.text
	}
	return a.domain == q.text
}

func (q addressQuery) token(whole, domain byte) token {
	if q.whole {
		return newToken(whole, q.text)
	}
	return newToken(domain, q.text)
}

// newQuery makes a query ready, but for where it begins.
func newQuery(q Query) (*query, error) {
	p := &query{
		rcpt: newAddressQuery(q.Rcpt), from: newAddressQuery(q.From),
		messageID: normalID(q.MessageID),
	}
	if q.State != "" {
		if p.state = parseState(q.State); p.state == gone {
			return nil, ErrState
		}
	}
	if !q.Since.IsZero() {
		p.since = event.Millis(q.Since.UnixMilli())
	}
	p.until = noEnd
	if !q.Until.IsZero() {
		p.until = event.Millis(q.Until.UnixMilli())
	}
	if p.rcpt.set {
		p.tokens = append(p.tokens, p.rcpt.token(tokRcpt, tokRcptDomain))
	}
	if p.from.set {
		p.tokens = append(p.tokens, p.from.token(tokFrom, tokFromDomain))
	}
	if p.messageID != "" {
		p.tokens = append(p.tokens, newToken(tokMessageID, p.messageID))
	}
	folded := foldCase(strings.TrimSpace(q.Subject))
	for w := range words(folded) {
		if !slices.Contains(p.words, w) {
			p.words = append(p.words, w)
			p.tokens = append(p.tokens, newToken(tokWord, w))
		}
	}
	p.runs = slices.Collect(runs(folded))
	if len(p.words) == 0 {
		p.literal = folded
	}
	return p, nil
}

// noEnd is later than any reception.
const noEnd event.Millis = 1<<63 - 1

// timed: the query is about a part of the time.
func (q *query) timed() bool { return q.since != 0 || q.until != noEnd || q.before != order{} }

// within: rows received in this time may match.
func (q *query) within(from, to event.Millis) bool { return to >= q.since && from < q.until }

// may reports whether among rows of these times there can be one that is received
// in time and old enough.
func (q *query) may(sp span) bool {
	return q.within(sp.from, sp.to) && (q.before == order{} || sp.oldest.compare(q.before) < 0)
}

// either returns sets of tokens, of one of which a row that matches has all.
func (q *query) either() [][]token {
	if q.hold != nil {
		return q.hold.either
	}
	return [][]token{q.tokens}
}

// matches reports whether a row has what is looked for, states aside.
func (q *query) matches(w *row) bool {
	switch {
	case !q.within(w.received, w.received),
		q.before != order{} && w.order.compare(q.before) >= 0,
		q.messageID != "" && w.msgID != q.messageID,
		q.unasked(w),
		q.rcpt.set && !q.isTo(w),
		q.from.set && !q.hasFrom(w),
		q.hold != nil && !q.hold.matches(w):
		return false
	}
	return q.hasSubject(w)
}

func (q *query) hasRcpt(c rcpt) bool { return slices.ContainsFunc(c.names(), q.rcpt.matches) }

func (q *query) hasFrom(w *row) bool {
	return q.from.matches(canonical(w.from)) ||
		slices.ContainsFunc(w.hdrFrom, func(s string) bool { return q.from.matches(canonical(s)) })
}

func (q *query) hasSubject(w *row) bool {
	if len(q.words) == 0 && q.literal == "" {
		return true
	}
	folded := foldCase(w.subject)
	if !strings.Contains(folded, q.literal) {
		return false
	}
	for _, r := range q.runs {
		if !strings.Contains(folded, r) {
			return false
		}
	}
	if len(q.words) == 0 {
		return true
	}
	missing := slices.Clone(q.words)
	for word := range words(folded) {
		if i := slices.Index(missing, word); i >= 0 {
			missing[i] = missing[len(missing)-1]
			if missing = missing[:len(missing)-1]; len(missing) == 0 {
				return true
			}
		}
	}
	return false
}

// choose says which recipients of a row that matches are looked for, and
// whether the row is still one: it has not vanished, and a recipient that is
// looked for is in the state that is.
func (q *query) choose(w *row) bool {
	w.selected = make([]bool, len(w.rcpts))
	any, visible := false, len(w.rcpts) == 0
	for i, c := range w.rcpts {
		s := w.states[i]
		visible = visible || s.kind() != gone
		w.selected[i] = (q.state == gone || s.kind() == q.state) && (!q.rcpt.set || w.origin == byUser || q.hasRcpt(c))
		any = any || w.selected[i]
	}
	return visible && (any || q.state == gone && len(w.rcpts) == 0)
}
