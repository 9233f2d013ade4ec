package retention

import (
	"fmt"
	"math"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// foldName is the name of the projection.
const foldName = "retention"

// fold folds what is decided about expiry, holds and erasure, and where the
// copies and the bodies of mail are that still lives. All rows but the
// installation's are under the tenant whose partition they come from; those of
// the installation come from partition 0 alone.
type fold struct {
	// atOnce is how many rows of an expired day are dropped by one event. It is
	// constant for a version.
	atOnce int
}

// newFold drops so many that it takes some 20 ms.
func newFold() fold { return fold{atOnce: 1000} }

func (fold) Name() string { return foldName }
func (fold) Version() int { return 4 }

// Classes implements projection.Selective: of mail only the bodies count that
// have objects of their own, of messages of the bus only that there are any.
func (fold) Classes() event.Classes {
	return event.ClassesOf(event.ClassRetention, event.ClassAcceptance, event.ClassMailbox, event.ClassPosted)
}

// ReadsVersion makes readers wait for the new version, so that nothing is
// decided by what an old one counted.
func (fold) ReadsVersion(int) bool { return false }

// What the fold emits.
type (
	// verdict is about a hold or an order: whether it took effect.
	verdict struct{ OK, Ending bool }
	// decision is which days of a tenant are condemned now, and which expired.
	decision struct {
		Tenant             event.Tenant
		Condemned, Expired event.Day
	}
	// erasure is where messages were that are erased.
	erasure struct {
		Tenant event.Tenant
		Places []event.Ref
	}
	// ending is a tenant whose last event stands in the log; ended one that is
	// condemned by the system tenant.
	ending struct{ Tenant event.Tenant }
	ended  struct{ Tenant event.Tenant }
	// ratchetMove is a [event.RatchetMoved] that moved something.
	ratchetMove struct{ To event.Day }
)

// Apply implements projection.Projection.
func (f fold) Apply(t projection.Txn, r eventlog.Recorded) error {
	w := &writer{t: t, tenant: r.Tenant, rec: r, atOnce: f.atOnce}
	if r.Blobs && r.Expiry != 0 {
		w.body(r.Expiry, r.Ref.ID)
	}
	switch e := r.Fact.(type) {
	case *event.DayCondemned:
		w.condemned(e)
	case *event.Kept:
		w.kept(e)
	case *event.DayExpired:
		w.expired(e)
	case *event.DaySwept:
		w.sweep()
	case *event.HoldPlaced:
		w.placed(e)
	case *event.HoldReleased:
		w.released(e)
	case *event.ErasureOrdered:
		w.ordered(e)
	case *event.Erased:
		w.erased(e)
	case *event.RatchetMoved:
		w.moved(e)
	case *event.DayRemoved:
		w.removed(e)
	case *event.TenantEndOrdered:
		w.endOrdered(e)
	case *event.TenantCondemned:
		w.tenantCondemned(e)
	case *event.TenantEnded:
		w.ended(e)
	case *event.BaseTaken:
		w.based(e)
	case *event.Posted, *event.CursorMoved:
		w.first(tenantPrefix(keyPosted, r.Tenant))
	}
	return w.err
}

// writer changes the rows that one event is about, and remembers the first
// error.
type writer struct {
	t      projection.Txn
	tenant event.Tenant
	rec    eventlog.Recorded
	atOnce int // see fold
	err    error
}

func (w *writer) fail(err error) {
	if w.err == nil && err != nil {
		w.err = fmt.Errorf("fold retention: %w", err)
	}
}

// get reports whether the row is there.
func (w *writer) get(key []byte, v any) bool {
	ok, err := getRow(w.t, key, v)
	w.fail(err)
	return ok && err == nil
}

func (w *writer) set(key []byte, v any) { w.t.Set(key, event.Marshal(v)) }

// keys returns the keys that begin with prefix.
func (w *writer) keys(prefix []byte) [][]byte { return w.keysTo(prefix, nil, prefix, math.MaxInt) }

// keysTo returns at most limit keys that begin with prefix, from a key on (nil:
// the first), up to last (inclusive, as far as it goes).
func (w *writer) keysTo(prefix, from, last []byte, limit int) (out [][]byte) {
	for it, err := range w.t.Scan(prefix, from, false) {
		if err != nil {
			w.fail(err)
			return nil
		}
		if len(out) == limit || string(it.Key[:len(last)]) > string(last) {
			break
		}
		out = append(out, append([]byte(nil), it.Key...))
	}
	return out
}

// body notes an event whose body may have objects of its own.
func (w *writer) body(d event.Day, id event.ID) {
	w.t.Set(bodyKey(d, id), present)
	w.t.Set(tenantBodyKey(w.tenant, d, id), present)
}

func (w *writer) condemned(f *event.DayCondemned) {
	var row tenantRow
	w.get(tenantKey(w.tenant), &row)
	if f.Day <= row.Condemned {
		return
	}
	if row.Expired >= row.Condemned {
		row.Pending = f.At
	}
	row.Condemned, row.At = f.Day, f.At
	w.set(tenantKey(w.tenant), row)
	w.t.Emit(decision{w.tenant, row.Condemned, row.Expired})
}

// kept notes a copy, so that an erasure finds all that live.
func (w *writer) kept(f *event.Kept) {
	ref := w.rec.Ref
	w.set(copyKey(w.tenant, f.Message, ref.ID), copyRow{Ref: ref, From: f.From, Expiry: w.rec.Expiry})
	w.set(messageKey(w.tenant, ref.ID), f.Message)
	w.t.Set(copyDayKey(w.tenant, w.rec.Expiry, f.Message, ref.ID), present)
}

// dropCopy forgets a copy that is gone.
func (w *writer) dropCopy(d event.Day, message, id event.ID) {
	w.t.Delete(copyKey(w.tenant, message, id))
	w.t.Delete(messageKey(w.tenant, id))
	w.t.Delete(copyDayKey(w.tenant, d, message, id))
}

func (w *writer) expired(f *event.DayExpired) {
	var row tenantRow
	w.get(tenantKey(w.tenant), &row)
	day := min(f.Day, row.Condemned) // nothing expires that was not condemned
	if day <= row.Expired {
		return
	}
	if row.Expired = day; row.Expired >= row.Condemned {
		row.Pending = 0
	}
	w.set(tenantKey(w.tenant), row)
	w.t.Emit(decision{w.tenant, row.Condemned, row.Expired})
	w.set(sweepKey(w.tenant), sweepRow{})
	w.sweep()
	w.forgetErased(day)
}

// sweep drops some rows of copies and of bodies that have expired.
func (w *writer) sweep() {
	var at sweepRow
	var row tenantRow
	if !w.get(sweepKey(w.tenant), &at) || !w.get(tenantKey(w.tenant), &row) {
		return
	}
	left := w.atOnce
	for _, kind := range [...]byte{keyCopyDay, keyTenantBody} {
		from := at.From
		switch {
		case len(from) == 0 || from[0] != kind && kind == keyTenantBody:
			from = nil
		case from[0] != kind:
			continue // all copies are dropped
		}
		gone := w.keysTo(tenantPrefix(kind, w.tenant), from, tenantDayPrefix(kind, w.tenant, row.Expired), left)
		for _, k := range gone {
			w.drop(kind, k)
		}
		if left -= len(gone); left == 0 {
			w.set(sweepKey(w.tenant), sweepRow{From: gone[len(gone)-1]})
			return
		}
	}
	w.t.Delete(sweepKey(w.tenant))
}

func (w *writer) drop(kind byte, k []byte) {
	if kind == keyCopyDay {
		d, message, id, err := parseCopyDayKey(k)
		w.fail(err)
		w.dropCopy(d, message, id)
		return
	}
	d, id, err := parseTenantBodyKey(k)
	w.fail(err)
	w.t.Delete(k)
	w.t.Delete(bodyKey(d, id))
}

// rememberErased is for how many days it is remembered that a message was
// erased. A copy that was being made meanwhile lands within a minute.
const rememberErased = 3

// forgetErased drops what was remembered of erasures long ago.
func (w *writer) forgetErased(day event.Day) {
	for _, k := range w.keys(tenantPrefix(keyErased, w.tenant)) {
		var row erasedRow
		if !w.get(k, &row) || row.Day+rememberErased >= day {
			continue
		}
		message := event.ID(k[len(k)-16:])
		if len(w.keys(copyPrefix(w.tenant, message))) == 0 {
			w.t.Delete(k)
		}
	}
}

func (w *writer) placed(f *event.HoldPlaced) {
	key := holdKey(w.tenant, f.Name)
	if ending := w.get(endingKey(w.tenant), &endingRow{}); ending || w.get(key, &holdRow{}) {
		w.t.Emit(verdict{Ending: ending})
		return
	}
	var row tenantRow
	w.get(tenantKey(w.tenant), &row)
	row.Changes++
	w.set(tenantKey(w.tenant), row)
	w.set(key, holdRow{Placed: *f, After: row.Condemned})
	w.t.Emit(verdict{OK: true})
}

func (w *writer) released(f *event.HoldReleased) {
	key := holdKey(w.tenant, f.Name)
	if !w.get(key, &holdRow{}) {
		w.t.Emit(verdict{})
		return
	}
	var row tenantRow
	w.get(tenantKey(w.tenant), &row)
	row.Changes++
	w.set(tenantKey(w.tenant), row)
	w.t.Delete(key)
	w.t.Emit(verdict{OK: true})
}

func (w *writer) ordered(f *event.ErasureOrdered) {
	var row tenantRow
	w.get(tenantKey(w.tenant), &row)
	if f.Holds != row.Changes {
		w.t.Emit(verdict{})
		return
	}
	w.set(orderKey(w.tenant, w.rec.Ref.ID), orderRow{Order: *f})
	w.t.Emit(verdict{OK: true})
}

// erased ends an order, when it is the first that says so. Each copy of a
// message is an item of its own; copies that are not named live still, and are
// erased in turn.
func (w *writer) erased(f *event.Erased) {
	var row tenantRow
	w.get(tenantKey(w.tenant), &row)
	seen := map[event.ID]bool{}
	var places []event.Ref
	for _, it := range f.Items {
		places = append(places, it.Place)
		var c copyRow
		if w.get(copyKey(w.tenant, it.Message, it.Place.ID), &c) {
			w.dropCopy(c.Expiry, it.Message, it.Place.ID)
		}
		if seen[it.Message] || w.get(erasedKey(w.tenant, it.Message), &erasedRow{}) {
			continue
		}
		seen[it.Message] = true
		row.Erased++
		row.ErasedBytes += uint64(max(it.Size, 0))
		w.set(erasedKey(w.tenant, it.Message), erasedRow{Order: f.Order, Day: dayOf(f.At)})
	}
	w.set(certifiedKey(w.tenant, w.rec.Ref.ID), w.rec.Ref)
	if key := certifiedKey(w.tenant, f.Order); f.Order != (event.ID{}) && !w.get(key, &event.Ref{}) {
		w.set(key, w.rec.Ref)
	}
	w.t.Delete(orderKey(w.tenant, f.Order))
	w.set(tenantKey(w.tenant), row)
	w.set(tenantPrefix(keyErasedAt, w.tenant), w.rec.Ref.Position)
	w.t.Emit(erasure{w.tenant, places})
}

// system reports whether the event may speak for the installation.
func (w *writer) system() bool { return w.tenant == event.SystemTenant }

func (w *writer) moved(f *event.RatchetMoved) {
	var row installRow
	w.get(installKey(), &row)
	if !w.system() || f.To <= row.Ratchet {
		return
	}
	row.Ratchet, row.RatchetAt = f.To, f.At
	w.set(installKey(), row)
	w.t.Emit(ratchetMove{f.To})
}

func (w *writer) removed(f *event.DayRemoved) {
	var row installRow
	w.get(installKey(), &row)
	if !w.system() {
		return
	}
	row.Removed = max(row.Removed, f.Day)
	row.Days++
	row.Objects += f.Objects
	row.Bytes += f.Bytes
	row.Locked += f.Locked
	w.set(installKey(), row)
}

// first notes the place of the first event of a kind.
func (w *writer) first(key []byte) {
	var at event.Position
	if !w.get(key, &at) {
		w.set(key, w.rec.Ref.Position)
	}
}

// basesKept is how many Bases of each version of a projection are remembered: as
// many as stay published.
const basesKept = 2

func (w *writer) based(f *event.BaseTaken) {
	if !w.system() {
		return
	}
	key := baseKey(f.Projection, f.Version)
	var row baseRow
	w.get(key, &row)
	row.Bases = append([]eventlog.Base{{Taken: f, Ref: w.rec.Ref}}, row.Bases...)
	row.Bases = row.Bases[:min(len(row.Bases), basesKept)]
	w.set(key, row)
}
