package imapgw

import (
	"slices"
	"sort"

	"github.com/emersion/go-imap/v2"

	"holdfast/continuity"
	"holdfast/event"
)

// view is a mailbox as one client knows it. Message i of msgs has sequence
// number i+1. It is for one goroutine at a time.
type view struct {
	msgs []continuity.Message // ascending by UID
	// told is how many of msgs the client has heard of.
	told int
	// gone are messages that the log has expunged but the client has not heard
	// so: they keep their sequence numbers until then.
	gone map[event.UID]struct{}
	// dirty are messages whose flags changed since the client heard of them.
	dirty    map[event.UID]struct{}
	keywords []string
	// flagsChanged: keywords has one the client has not heard of.
	flagsChanged bool
	// dropped: the mailbox is gone.
	dropped bool
}

func newView(msgs []continuity.Message, keywords []string) *view {
	return &view{
		msgs: msgs, told: len(msgs), keywords: keywords,
		gone: map[event.UID]struct{}{}, dirty: map[event.UID]struct{}{},
	}
}

// absorb takes changes in. Changes of flags whose origin is own do not make
// messages dirty: the session itself tells the client of them, or was asked not
// to.
func (v *view) absorb(changes []continuity.Change, own any) {
	for i := range changes {
		c := &changes[i]
		switch c.Kind {
		case continuity.ChangeAdded:
			if n := len(v.msgs); n == 0 || v.msgs[n-1].UID < c.Message.UID {
				v.msgs = append(v.msgs, c.Message)
			}
		case continuity.ChangeFlags:
			if i, ok := v.find(c.Message.UID); ok {
				v.msgs[i].Flags, v.msgs[i].ModSeq = c.Message.Flags, c.Message.ModSeq
				if c.Origin == nil || c.Origin != own {
					v.dirty[c.Message.UID] = struct{}{}
				}
			}
		case continuity.ChangeExpunged:
			if _, ok := v.find(c.Message.UID); ok {
				v.gone[c.Message.UID] = struct{}{}
			}
		case continuity.ChangeKeywords:
			v.keywords, v.flagsChanged = c.Keywords, true
		case continuity.ChangeDropped:
			v.dropped = true
		}
	}
}

// find returns the index of a message.
func (v *view) find(uid event.UID) (int, bool) {
	i := v.from(uid)
	return i, i < len(v.msgs) && v.msgs[i].UID == uid
}

// from returns the index of the first message with a UID not below uid.
func (v *view) from(uid event.UID) int {
	return sort.Search(len(v.msgs), func(i int) bool { return v.msgs[i].UID >= uid })
}

func (v *view) isGone(i int) bool {
	if len(v.gone) == 0 {
		return false
	}
	_, ok := v.gone[v.msgs[i].UID]
	return ok
}

// removeGone takes the expunged messages out of the view and returns the
// sequence numbers to say so with: falling, so that each is right when the
// client has heard those before it.
func (v *view) removeGone() []uint32 {
	if len(v.gone) == 0 {
		return nil
	}
	var seqs []uint32
	for i := v.told - 1; i >= 0; i-- {
		if v.isGone(i) {
			seqs = append(seqs, uint32(i+1))
		}
	}
	v.told -= len(seqs)
	v.msgs = slices.DeleteFunc(v.msgs, func(m continuity.Message) bool {
		_, gone := v.gone[m.UID]
		if gone {
			delete(v.dirty, m.UID)
		}
		return gone
	})
	clear(v.gone)
	return seqs
}

// takeDirty returns the indexes of the messages whose flags the client has to
// hear, ascending, and counts them as told.
func (v *view) takeDirty() []int {
	if len(v.dirty) == 0 {
		return nil
	}
	var idx []int
	for uid := range v.dirty {
		if i, ok := v.find(uid); ok && i < v.told && !v.isGone(i) {
			idx = append(idx, i)
		}
	}
	clear(v.dirty)
	slices.Sort(idx)
	return idx
}

// span is a run of indexes, from and up to but not including to.
type span struct{ from, to int }

// resolve turns a message set into runs of indexes, ascending and apart. Sets
// of UIDs may name any; sequence numbers have to be those of messages (RFC 9051
// §9, seq-number). saved is the result that "$" means, ascending.
func (v *view) resolve(set imap.NumSet, saved []event.UID) ([]span, error) {
	var spans []span
	if imap.IsSearchRes(set) {
		for _, uid := range saved {
			if i, ok := v.find(uid); ok {
				spans = append(spans, span{i, i + 1})
			}
		}
		return mergeSpans(spans), nil
	}
	switch set := set.(type) {
	case imap.SeqSet:
		for _, r := range set {
			s, err := v.seqSpan(r)
			if err != nil {
				return nil, err
			}
			spans = append(spans, s)
		}
	case imap.UIDSet:
		for _, r := range set {
			spans = append(spans, v.uidSpan(r))
		}
	}
	return mergeSpans(spans), nil
}

// seqSpan resolves a range of sequence numbers, of which 0 stands for "*".
func (v *view) seqSpan(r imap.SeqRange) (span, error) {
	last := uint32(v.told)
	if r.Stop == 0 { // n:* or *
		if last == 0 {
			return span{}, nil
		}
		// RFC 9051 §9 seq-range: 5:* in a mailbox of 3 is 3:5, but 4 and 5 are
		// no messages, so it is the last one.
		if r.Start == 0 || r.Start > last {
			return span{int(last) - 1, int(last)}, nil
		}
		return span{int(r.Start) - 1, int(last)}, nil
	}
	if r.Start == 0 || r.Stop > last {
		return span{}, errBadSet
	}
	return span{int(r.Start) - 1, int(r.Stop)}, nil
}

// uidSpan resolves a range of UIDs, of which 0 stands for "*".
func (v *view) uidSpan(r imap.UIDRange) span {
	n := v.told
	if n == 0 {
		return span{}
	}
	if r.Stop == 0 {
		if r.Start == 0 || event.UID(r.Start) > v.msgs[n-1].UID {
			return span{n - 1, n} // RFC 9051 §6.4.8: "*" is always the last message
		}
		return span{min(v.from(event.UID(r.Start)), n), n}
	}
	from, to := v.from(event.UID(r.Start)), len(v.msgs)
	if r.Stop != ^imap.UID(0) {
		to = v.from(event.UID(r.Stop) + 1)
	}
	return span{min(from, n), min(to, n)}
}

func mergeSpans(spans []span) []span {
	spans = slices.DeleteFunc(spans, func(s span) bool { return s.from >= s.to })
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

// ranges returns the UIDs of those messages in spans that are still there and
// that keep wants, as few ranges. UIDs between two neighbouring messages exist
// no more and will not again, so a range may cover them. gone tells whether a
// message was left out because it is expunged.
func (v *view) ranges(spans []span, keep func(*continuity.Message) bool) (rs []event.UIDRange, gone bool) {
	for _, s := range spans {
		open := false
		for i := s.from; i < s.to; i++ {
			m := &v.msgs[i]
			if v.isGone(i) {
				gone, open = true, false
				continue
			}
			if keep != nil && !keep(m) {
				open = false
				continue
			}
			if open {
				rs[len(rs)-1].Last = m.UID
			} else {
				rs = append(rs, event.UIDRange{First: m.UID, Last: m.UID})
				open = true
			}
		}
	}
	return rs, gone
}

// uidSet returns UIDs as a set in the given order, which matters in COPYUID
// (RFC 4315 §3): each element stands for the one at the same place in the other
// set.
func uidSet(uids []event.UID) imap.UIDSet {
	var set imap.UIDSet
	for _, u := range uids {
		uid := imap.UID(u)
		if n := len(set); n > 0 && set[n-1].Stop+1 == uid {
			set[n-1].Stop = uid
		} else {
			set = append(set, imap.UIDRange{Start: uid, Stop: uid})
		}
	}
	return set
}
