package shadow

import (
	"slices"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// What a user put into a mailbox has no envelope. Its one recipient is the user,
// in the state appended, which follows from the event's state part alone; the
// sender is the first of From, and where there is none the user. It is also to
// whoever stands in To, Cc and Bcc: a client's own copy of a message takes the
// place of the one that was sent, and is found by whom that was found by.

// byUser is the origin of what a user put into a mailbox.
const byUser event.Origin = 0

// append takes a message that a user put into a mailbox.
func (f fold) append(tx projection.Txn, r eventlog.Recorded, e *event.Appended) error {
	return f.enter(tx, r, arrival{routes: []event.Route{{Domain: e.Domain, N: 1}}, size: e.Size, state: appended})
}

// newAppended makes the row of what a user put into a mailbox.
func newAppended(r eventlog.Recorded, f *event.Appended, o order) *row {
	w := &row{
		id: r.Ref.ID, ref: r.Ref, order: o, received: r.Time, origin: byUser, size: f.Size,
		rcpts: []rcpt{{path: f.Meta.Owner, domain: f.Domain}}, shelf: shelfID{tenant: r.Tenant, day: r.Expiry},
	}
	h := w.readHeader(f.Meta.Index)
	e := &h.Envelope
	w.hdrTo = addresses(slices.Concat(e.To, e.Cc, e.Bcc), maxFiledTo)
	w.from = f.Meta.Owner
	if len(w.hdrFrom) > 0 {
		w.from = w.hdrFrom[0]
	}
	return w
}

// isTo reports whether a recipient is looked for: one of the envelope, or of the
// header where there is no envelope.
func (q *query) isTo(w *row) bool {
	return slices.ContainsFunc(w.rcpts, q.hasRcpt) ||
		w.origin == byUser && slices.ContainsFunc(w.hdrTo, func(s string) bool { return q.rcpt.matches(canonical(s)) })
}

// unasked reports whether a row is passed over because a search finds what users
// put into mailboxes only when it asks for that.
func (q *query) unasked(w *row) bool {
	return w.origin == byUser && q.hold == nil && q.state != appended
}

// tokensTo calls add for the recipients that only the header names.
func (w *row) tokensTo(add func(token)) {
	if w.origin != byUser {
		return
	}
	for _, addr := range w.hdrTo {
		add(newToken(tokRcpt, canonical(addr).whole))
		add(newToken(tokRcptDomain, canonical(addr).domain))
	}
}
