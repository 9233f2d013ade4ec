package eventlog

import (
	"slices"

	"holdfast/event"
)

// keepOwn keeps a segment that has just landed for those who will read it next:
// its bytes, its header, and its events as a reader would get them. The folds of
// this node read everything that it writes within moments, and what was encoded
// and sealed a moment ago need not be read, verified, opened and decoded to be
// known.
func (l *Log) keepOwn(seg *built, batch []*item) {
	h := &parsed{header: *seg.header, hash: seg.hash, front: seg.front}
	for i := range h.Events {
		h.classes |= event.ClassesOf(h.Events[i].Class)
	}
	if err := h.place(); err != nil {
		panic("internal error: own segment: " + err.Error())
	}
	at := slot{h.Partition, h.Seq}
	l.cache.headers.keep(at, h)
	l.cache.keepRaw(at, seg.image)
	if opened := ownSegment(h, batch); opened != nil {
		l.cache.segments.keep(at, opened)
	}
}

// ownSegment returns a segment of this process as [Log.Segment] would open it;
// nil if some of it has to be decoded to be known.
func ownSegment(h *parsed, batch []*item) *Segment {
	seg := newSegment(h)
	i := 0
	for _, it := range batch {
		for j := range it.events {
			e := &h.Events[i]
			fact := asRead(it.events[j].fact)
			if fact == nil {
				return nil
			}
			r := newRecorded(h, i)
			if page, ok := h.page(e); ok {
				r.Expiry = page.Day
			}
			r.Fact = fact
			seg.Events = append(seg.Events, r)
			i++
		}
	}
	seg.weigh(h)
	return seg
}

// asRead returns a fact as decoding would give it, without sharing what the
// caller of Append may still change (nobody changes byte strings); nil for kinds
// that are not worth it. Those that are come with every message.
func asRead(f event.Fact) event.Fact {
	switch f := f.(type) {
	case *event.MessageAccepted:
		c := *f
		c.Allotments, c.Routes = cloneSome(f.Allotments), cloneSome(f.Routes)
		if f.Meta != nil {
			m := *f.Meta
			m.Recipients = slices.Clone(m.Recipients)
			c.Meta = &m
		}
		return &c
	case *event.DeliveryIntended:
		c := *f
		c.Units = slices.Clone(f.Units)
		return &c
	case *event.DeliverySettled:
		c := *f
		c.Outcomes = slices.Clone(f.Outcomes)
		if f.Meta != nil {
			m := *f.Meta
			m.Replies = slices.Clone(m.Replies)
			c.Meta = &m
		}
		return &c
	}
	return nil
}

// cloneSome copies a list that the encoding leaves out when it is empty.
func cloneSome[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return slices.Clone(list)
}
