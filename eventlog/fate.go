package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/crypto"
	"holdfast/event"
)

// ErrCondemned says that an event was not appended because its day, or the
// objects with its body, are to be destroyed: it came too late. To whoever sent
// it that is a temporary failure: sent again, it is sealed under a later day.
var ErrCondemned = errors.New("the day or the objects of the event are condemned")

// ErrCertified says that an [event.Erased] was not appended because one of the same
// order stands in the log that names the same places.
var ErrCertified = errors.New("the erasure is certified already")

// maxBodyAge is how long a body may wait for its event. Objects without an event
// are condemned after a day, so that it also bounds how long what is condemned
// has to be remembered.
const maxBodyAge = 12 * time.Hour

// fate is what this process has read of destruction. Whoever puts a segment has
// noted everything that stands before it: so nothing is appended behind its own
// condemnation, whatever else was going on.
type fate struct {
	mu        sync.Mutex
	condemned map[event.Tenant]event.Day
	expired   map[event.Tenant]event.Day
	ratchet   event.Day             // every tenant's days before have expired
	lasts     map[event.Tenant]bool // whose last event is in the log
	ended     map[event.Tenant]bool // whose keys are gone, or are going
	objects   map[event.ID]time.Time
	certified map[event.ID]certificate // by order
	blind     time.Time                // when something that could not be read was passed over
}

// certificate is what was read of the erasure of an order.
type certificate struct {
	at     time.Time
	places map[event.ID]bool
}

// NoteCondemned makes known that the days of a tenant up to d are condemned.
// Nothing is appended under their keys from then on. What this log reads while it
// follows its partitions it notes itself; this is for what came before. It may be
// called again, and with an earlier day.
func (l *Log) NoteCondemned(t event.Tenant, d event.Day) { l.fate.condemn(t, d) }

// NoteExpired makes known that the days of a tenant up to d have expired, and so
// are condemned: a key page or a body that is missing was removed. As for
// [Log.NoteCondemned].
func (l *Log) NoteExpired(t event.Tenant, d event.Day) { l.fate.expire(t, d) }

func (f *fate) condemn(t event.Tenant, d event.Day) {
	f.mu.Lock()
	defer f.mu.Unlock()
	raise(&f.condemned, t, d)
}

func (f *fate) expire(t event.Tenant, d event.Day) {
	f.mu.Lock()
	defer f.mu.Unlock()
	raise(&f.condemned, t, d)
	raise(&f.expired, t, d)
}

// last notes that nothing of a tenant comes any more.
func (f *fate) last(t event.Tenant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lasts == nil {
		f.lasts = map[event.Tenant]bool{}
	}
	f.lasts[t] = true
}

// end notes that a tenant has ended.
func (f *fate) end(t event.Tenant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended == nil {
		f.ended = map[event.Tenant]bool{}
	}
	f.ended[t] = true
}

func (f *fate) hasEnded(t event.Tenant) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended[t]
}

// closed reports whether nothing of a tenant is appended any more.
func (f *fate) closed(t event.Tenant) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lasts[t] || f.ended[t]
}

func raise(m *map[event.Tenant]event.Day, t event.Tenant, d event.Day) {
	if *m == nil {
		*m = map[event.Tenant]event.Day{}
	}
	if old, ok := (*m)[t]; !ok || d > old {
		(*m)[t] = d
	}
}

// note takes a fact that is in the log.
func (f *fate) note(t event.Tenant, fact event.Fact) {
	switch fact := fact.(type) {
	case *event.DayCondemned:
		f.condemn(t, fact.Day)
	case *event.DayExpired:
		f.expire(t, fact.Day)
	case *event.TenantCondemned:
		if t == fact.Tenant && t != event.SystemTenant {
			f.last(t)
		}
	case *event.RatchetMoved:
		f.mu.Lock()
		defer f.mu.Unlock()
		if t == event.SystemTenant {
			f.ratchet = max(f.ratchet, fact.To)
		}
	case *event.ObjectsCondemned:
		f.mu.Lock()
		defer f.mu.Unlock()
		now := time.Now()
		if f.objects == nil {
			f.objects = map[event.ID]time.Time{}
		}
		for id, at := range f.objects {
			if now.Sub(at) > maxBodyAge+time.Hour {
				delete(f.objects, id)
			}
		}
		for _, id := range fact.Messages {
			f.objects[id] = now
		}
	case *event.Erased:
		f.certify(fact)
	}
}

// certify remembers a certificate for longer than anybody waits with another one.
func (f *fate) certify(e *event.Erased) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.certified == nil {
		f.certified = map[event.ID]certificate{}
	}
	for id, c := range f.certified {
		if now.Sub(c.at) > maxBodyAge {
			delete(f.certified, id)
		}
	}
	c, ok := f.certified[e.Order]
	if !ok {
		c = certificate{now, map[event.ID]bool{}}
	}
	for _, i := range e.Items {
		c.places[i.Place.ID] = true
	}
	f.certified[e.Order] = c
}

// certifies returns ErrCertified when nothing is in an Erased that is not certified.
func (f *fate) certifies(e *event.Erased) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.certified[e.Order]
	if !ok || e.Order == (event.ID{}) || // of no order, so that nothing is carried out twice
		slices.ContainsFunc(e.Items, func(i event.ErasedItem) bool { return !c.places[i.Place.ID] }) {
		return nil
	}
	return fmt.Errorf("order %v: %w", e.Order, ErrCertified)
}

// passedOver notes that something was not understood that may have condemned
// anything.
func (f *fate) passedOver() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blind = time.Now()
}

// day returns ErrCondemned, which is also crypto.ErrExpired, for a day under
// which nothing is sealed any more.
func (f *fate) day(t event.Tenant, d event.Day) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dayLocked(t, d)
}

func (f *fate) dayLocked(t event.Tenant, d event.Day) error {
	if last, ok := f.condemned[t]; ok && d <= last || d < f.ratchet {
		return fmt.Errorf("%v: %w: %w", d, ErrCondemned, crypto.ErrExpired)
	}
	return nil
}

// over reports whether a day of a tenant is known to have expired.
func (f *fate) over(t event.Tenant, d event.Day) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	last, ok := f.expired[t]
	return ok && d <= last || d < f.ratchet
}

// refuses says why an event must not be put behind what was read; nil if it may.
func (f *fate) refuses(s *sealedEvent, today event.Day) error {
	if f.closed(s.entry.Tenant) {
		return fmt.Errorf("tenant %v: %w: %w", s.entry.Tenant, ErrEnded, ErrCondemned)
	}
	if e, ok := s.fact.(*event.Erased); ok {
		return f.certifies(e)
	}
	if s.page == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.dayLocked(s.page.Tenant, s.page.Day); err != nil {
		return err
	}
	if !f.blind.IsZero() && s.page.Day < today {
		return fmt.Errorf("%v, as far as can be read: %w", s.page.Day, ErrCondemned)
	}
	if s.begun.IsZero() {
		return nil // no body in objects
	}
	_, named := f.objects[s.entry.ID]
	if named || s.begun.Before(f.blind) || time.Since(s.begun) > maxBodyAge {
		return fmt.Errorf("the body of %v: %w", s.entry.ID, ErrCondemned)
	}
	return nil
}

// refuse takes out of a batch what must not be put behind the known tail, and
// tells its callers. The tail was asked for before.
func (p *partition) refuse(batch []*item) []*item {
	today := event.DayOf(p.log.Now())
	rest := batch[:0:len(batch)]
	for _, it := range batch {
		var err error
		for i := range it.events {
			if err = p.log.fate.refuses(&it.events[i], today); err != nil {
				err = fmt.Errorf("append event %v: %w", it.events[i].entry.ID, err)
				break
			}
		}
		if err == nil {
			rest = append(rest, it)
			continue
		}
		p.mu.Lock()
		p.doneLocked(it, err)
		p.mu.Unlock()
	}
	return rest
}

// condemns reports whether an item says that something is to be destroyed, or that
// it is: what joins the queue after it goes into a later segment, where that is known.
func (it *item) condemns() bool {
	for i := range it.events {
		switch it.events[i].fact.(type) {
		case *event.DayCondemned, *event.DayExpired, *event.RatchetMoved, *event.ObjectsCondemned, *event.Erased, *event.TenantCondemned:
			return true
		}
	}
	return false
}

// noteOwn notes what a segment of this process says of destruction, before the
// tail moves past it.
func (l *Log) noteOwn(batch []*item) {
	for _, it := range batch {
		for i := range it.events {
			l.fate.note(it.events[i].entry.Tenant, it.events[i].fact)
			l.noteEnd(it.events[i].entry.Tenant, it.events[i].fact)
		}
	}
}

// learn notes what a segment of another process says of destruction, before the
// tail moves past it. What cannot be read there makes us careful, and stops
// nobody: whoever folds the log will find it.
func (p *partition) learn(ctx context.Context, h *parsed) error {
	l := p.log
	if !h.classes.Has(event.ClassRetention) {
		return nil
	}
	r, err := l.readFront(ctx, p.number, h.Seq, event.ClassesOf(event.ClassRetention))
	for i := 0; err == nil && i < len(h.Events); i++ {
		if h.Events[i].Class != event.ClassRetention {
			continue
		}
		var state []byte
		if state, err = l.openState(ctx, h, i, r.front); errors.Is(err, ErrEnded) {
			// It may have named bodies of other tenants.
			l.fate.passedOver()
			err = nil
			continue
		} else if err != nil {
			break
		}
		var fact event.Fact
		if fact, err = event.Decode(state, nil); err == nil {
			l.fate.note(h.Events[i].Tenant, fact)
			l.noteEnd(h.Events[i].Tenant, fact)
		}
	}
	if errors.Is(err, ErrDamaged) || errors.Is(err, event.ErrMalformed) {
		l.logger.Warn("a fact of retention cannot be read", "segment", segmentKey(p.number, h.Seq), "error", err)
		l.fate.passedOver()
		return nil
	}
	return err
}
