package residue

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// desk is a log with some mail in it, and a thief beside it.
type desk struct {
	t      *testing.T
	bucket *mem.Bucket
	hoard  *Hoard
	root   *crypto.Root
	log    *eventlog.Log
	tenant event.Tenant
	thief  *Thief
	today  event.Day
	fate   map[string]Fate
	stores map[string]projection.Store
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	ctx := t.Context()
	d := &desk{t: t, bucket: mem.New(), today: event.DayOf(time.Now()), fate: map[string]Fate{}, stores: map[string]projection.Store{}}
	d.root = crypto.MemoryRoot(d.today)
	var err error
	if d.hoard, err = NewHoard(ctx, d.bucket); err != nil {
		t.Fatal(err)
	}
	if d.log, err = eventlog.Open(ctx, eventlog.Options{Bucket: d.hoard, URL: "mem:", Keys: d.root, MayCreate: true, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.log.Close(context.WithoutCancel(ctx)) })
	if d.tenant, err = d.root.TenantID(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if err := d.log.EnsureTenant(ctx, d.tenant); err != nil {
		t.Fatal(err)
	}
	if d.thief, err = NewThief(d.hoard, d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// mail stores message n, which expires some days from now.
func (d *desk) mail(n uint64, days event.Day, size int) (id event.ID, mark string) {
	d.t.Helper()
	ctx := d.t.Context()
	id, mark = event.NewID(), Mark(n)
	w, err := d.log.NewMail(ctx, id, d.tenant, d.today+days, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	text := fmt.Sprintf("Subject: about %s\r\n\r\n%s\r\n", mark, mark)
	noise := make([]byte, size)
	for i := range noise { // what does not shrink
		noise[i] = byte(uint64(i*i*i) * (n | 1) >> 7)
	}
	for _, part := range [][]byte{[]byte(text), noise} {
		if _, err := w.Write(part); err != nil {
			d.t.Fatal(err)
		}
	}
	m, err := w.Finish()
	if err != nil {
		d.t.Fatal(err)
	}
	f := &event.MessageAccepted{
		Origin: event.OriginInbound, At: d.log.Millis(), Size: m.Size, Shown: m.Shown,
		Meta: &event.MessageMeta{From: mark + "@far.test", SHA256: m.SHA256, Index: m.Raw},
	}
	if _, err := d.log.Append(ctx, event.Event{ID: id, Tenant: d.tenant, Expiry: d.today + days, Fact: f, Body: m.Body}); err != nil {
		d.t.Fatal(err)
	}
	d.fate[mark] = Kept
	return id, mark
}

func (d *desk) search(over event.Day) *Result {
	d.t.Helper()
	r, err := d.thief.Search(d.t.Context(), Question{
		Over: d.today + over, Fate: func(m string) Fate { return d.fate[m] }, Stores: d.stores, Deep: true,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// quiet wants nothing found, and these messages opened.
func (d *desk) quiet(r *Result, open ...string) {
	d.t.Helper()
	for _, f := range r.Found {
		d.t.Errorf("found: %v", f)
	}
	for m := range d.fate {
		if r.Opened[m] != slices.Contains(open, m) {
			d.t.Errorf("%s opened: %v", m, r.Opened[m])
		}
	}
}

// wants a finding about a message, with a word in it.
func (d *desk) wants(r *Result, mark, word string) {
	d.t.Helper()
	if !slices.ContainsFunc(r.Found, func(f Finding) bool { return f.Mark == mark && strings.Contains(f.What, word) }) {
		d.t.Errorf("not found: %s %q, but %v", mark, word, r.Found)
	}
}

func (d *desk) put(key string, data []byte) {
	d.t.Helper()
	if _, err := d.hoard.Put(d.t.Context(), key, bytes.NewReader(data), int64(len(data)), objstore.PutOptions{}); err != nil {
		d.t.Fatal(err)
	}
}

// advance moves the ratchet.
func (d *desk) advance(days event.Day) {
	d.t.Helper()
	if err := d.root.AdvanceTo(d.today + days); err != nil {
		d.t.Fatal(err)
	}
}

// remove deletes what is below a prefix.
func (d *desk) remove(prefix string) {
	d.t.Helper()
	for info, err := range d.bucket.List(d.t.Context(), prefix, "") {
		if err == nil {
			err = d.bucket.Delete(d.t.Context(), info.Key)
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// The thief opens what lives, in segments and in blobs, and nothing of a day whose
// key is gone, though it has every object that ever was.
func TestExpired(t *testing.T) {
	d := newDesk(t)
	_, a := d.mail(1, 1, 100)
	_, b := d.mail(2, 3, 100)
	_, c := d.mail(3, 3, 600<<10)
	_, e := d.mail(4, 1, 600<<10)
	d.quiet(d.search(0), a, b, c, e)
	d.fate[a], d.fate[e] = Expired, Expired
	d.advance(2)
	d.quiet(d.search(2), b, c)
	// One who comes later has no more.
	late, err := NewHoard(t.Context(), d.bucket)
	if err != nil {
		t.Fatal(err)
	}
	if d.thief, err = NewThief(late, d.root); err != nil {
		t.Fatal(err)
	}
	d.quiet(d.search(2), b, c)
}

// A ratchet that was not moved is found, and everything that it keeps open, even
// though the objects were removed.
func TestRatchetForgotten(t *testing.T) {
	d := newDesk(t)
	_, a := d.mail(1, 1, 100)
	d.quiet(d.search(0), a)
	d.fate[a] = Expired
	d.remove("key/20")
	d.remove("log/")
	r := d.search(2)
	d.wants(r, "", "can still be derived")
	d.wants(r, a, "has expired")
}

// An erased message is found as long as the page in the bucket has its leaf. A
// copy of the page opens it, which is counted and no finding; until its day.
func TestErased(t *testing.T) {
	d := newDesk(t)
	id, a := d.mail(1, 1, 600<<10)
	_, b := d.mail(2, 1, 100)
	d.quiet(d.search(0), a, b)
	d.fate[a] = Erased
	d.remove("blob/")
	d.wants(d.search(0), a, "still has the key")
	d.puncture(id)
	r := d.search(0)
	d.quiet(r, a, b)
	if r.Copied != 1 {
		t.Errorf("%d erased messages open with copied pages, want 1", r.Copied)
	}
	// One without the copied page opens the other message only.
	late, err := NewHoard(t.Context(), d.bucket)
	if err != nil {
		t.Fatal(err)
	}
	early := d.thief
	if d.thief, err = NewThief(late, d.root); err != nil {
		t.Fatal(err)
	}
	d.quiet(d.search(0), b)
	d.thief, d.fate[b] = early, Expired
	d.advance(2)
	r = d.search(2) // its day is over: the copied page opens no more
	d.quiet(r)
	if r.Copied != 0 || r.Ended != 1 {
		t.Errorf("%d erased messages open with copied pages after their day, want 0; %d ended with it, want 1", r.Copied, r.Ended)
	}
}

// A copied page that opens with a key of a later day is found.
func TestSealedForTwoDays(t *testing.T) {
	d := newDesk(t)
	id, a := d.mail(1, 1, 100)
	_, b := d.mail(2, 3, 100)
	d.quiet(d.search(0), a, b)
	later, err := d.thief.pair(t.Context(), tenantDay{d.tenant, d.today + 3})
	if err != nil {
		t.Fatal(err)
	}
	d.onPage(id, func(key string, b crypto.PageBinding, _ *crypto.DayPair, _ *crypto.Page, _ uint32) {
		b.Day = d.today + 3
		_, sealed, err := crypto.NewPage(later.Public(), b)
		if err != nil {
			t.Fatal(err)
		}
		d.put(key, sealed)
	})
	d.fate[a] = Expired
	d.advance(2)
	d.wants(d.search(2), "", "opens with the key of "+(d.today+3).String())
}

// puncture removes the leaf of an event from its page in the bucket.
func (d *desk) puncture(id event.ID) {
	d.t.Helper()
	d.onPage(id, func(key string, _ crypto.PageBinding, pair *crypto.DayPair, page *crypto.Page, leaf uint32) {
		page.Puncture(leaf)
		sealed, err := page.Seal(pair.Public())
		if err != nil {
			d.t.Fatal(err)
		}
		d.put(key, sealed)
	})
}

// onPage opens the page of an event.
func (d *desk) onPage(id event.ID, do func(key string, b crypto.PageBinding, pair *crypto.DayPair, page *crypto.Page, leaf uint32)) {
	d.t.Helper()
	for k, l := range d.thief.events {
		if k.id != id {
			continue
		}
		p := d.thief.pages[k.page]
		pair, err := d.thief.pair(d.t.Context(), l.at)
		if err != nil {
			d.t.Fatal(err)
		}
		binding := crypto.PageBinding{Log: d.thief.log, Tenant: l.at.tenant, Day: l.at.day, Page: k.page, Writer: l.writer}
		open, err := crypto.OpenPage(pair, binding, p.versions[0])
		if err != nil {
			d.t.Fatal(err)
		}
		do(p.key, binding, pair, open, k.leaf)
		return
	}
	d.t.Fatalf("no page of %v", id)
}

// What is sealed for ever, or not at all, is found.
func TestForEver(t *testing.T) {
	d := newDesk(t)
	_, a := d.mail(1, 1, 100)
	order := &event.ErasureOrdered{Who: a}
	if _, err := d.log.Append(t.Context(), event.Event{ID: event.NewID(), Tenant: d.tenant, Fact: order}); err != nil {
		t.Fatal(err)
	}
	d.wants(d.search(0), a, "sealed for ever")
	d = newDesk(t)
	d.put("snap/x", []byte("what "+a+" says"))
	d.wants(d.search(0), "", "as it stands")
}

// A database must not hold what is gone, sealed or not.
func TestStores(t *testing.T) {
	d := newDesk(t)
	_, a := d.mail(1, 1, 100)
	_, b := d.mail(2, 3, 100)
	store := projection.NewMemStore()
	d.stores["n1"] = store
	key := slices.Concat([]byte{'r'}, d.tenant[:], []byte{0, 0, 0, 1})
	at := func(day event.Day, text string) projection.Op {
		s, err := d.log.LocalSealer(t.Context(), d.tenant, d.today+day)
		if err != nil {
			t.Fatal(err)
		}
		return projection.Op{Key: slices.Concat([]byte{tagState, 0, 0, 0, 1}, key), Value: s.Seal(slices.Concat([]byte("rows\x00"), key), []byte(text))}
	}
	meta := projection.Op{Key: []byte("\x01rows"), Value: event.Marshal(struct {
		Live uint32 `cbor:"1,keyasint"`
	}{1})}
	commit := func(op projection.Op) {
		if err := store.Commit([]projection.Op{meta, op}); err != nil {
			t.Fatal(err)
		}
	}
	commit(at(1, a))
	d.quiet(d.search(0), a, b)
	d.fate[a] = Erased
	d.wants(d.search(0), a, "opens in the database of n1")
	d.fate[a] = Expired
	d.advance(2)
	d.quiet(d.search(2), b) // the row is there, and dead
	commit(at(3, a))
	d.wants(d.search(2), a, "opens in the database of n1")
	commit(projection.Op{Key: []byte{tagState, 0, 0, 0, 1, 'x'}, Value: []byte(a)})
	d.wants(d.search(2), a, "stands unsealed in the database of n1")
}

// A Base in the bucket must not hold what is gone; an earlier copy of one may,
// until the day of what was erased is over.
func TestBases(t *testing.T) {
	d := newDesk(t)
	_, a := d.mail(1, 1, 100)
	_, b := d.mail(2, 3, 100)
	d.stores["n1"] = projection.NewMemStore()
	meta := projection.Op{Key: []byte("\x01rows"), Value: event.Marshal(struct {
		Live uint32 `cbor:"1,keyasint"`
	}{1})}
	if err := d.stores["n1"].Commit([]projection.Op{meta}); err != nil {
		t.Fatal(err)
	}
	base := func(day event.Day, texts ...string) string {
		var state []byte
		for i, text := range texts {
			key := slices.Concat([]byte{'r', byte(i)}, d.tenant[:], binary.BigEndian.AppendUint32(nil, uint32(d.today+day)))
			s, err := d.log.LocalSealer(t.Context(), d.tenant, d.today+day)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range [][]byte{key, s.Seal(slices.Concat([]byte("rows\x00"), key), []byte(text))} {
				state = append(binary.BigEndian.AppendUint64(state, uint64(len(x))), x...)
			}
		}
		name, err := d.log.PutSnap(t.Context(), state)
		if err != nil {
			t.Fatal(err)
		}
		return "snap/" + name.String()
	}
	first := base(1, a, "nothing")
	base(3, b)
	r := d.search(0)
	d.quiet(r, a, b)
	if len(r.Based) != 2 || r.Pieces != 2 {
		t.Errorf("%d messages and %d pieces open in Bases, want 2 and 2", len(r.Based), r.Pieces)
	}
	d.fate[a] = Erased
	d.wants(d.search(0), a, "opens in a Base, "+first)
	d.remove(first)
	if r = d.search(0); r.CopiedBases != 1 {
		t.Errorf("%d copies of pieces hold what was erased, want 1", r.CopiedBases)
	}
	d.fate[a] = Expired
	d.advance(2)
	r = d.search(2)
	d.quiet(r, b)
	if r.CopiedBases != 0 || len(r.Based) != 1 {
		t.Errorf("%d copies of pieces hold what has expired, want 0; %d messages open, want 1", r.CopiedBases, len(r.Based))
	}
	state := slices.Concat(binary.BigEndian.AppendUint64(nil, 1), []byte("k"), binary.BigEndian.AppendUint64(nil, uint64(len(b))), []byte(b))
	if _, err := d.log.PutSnap(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	d.wants(d.search(2), b, "stands unsealed in a Base")
}

func TestMarks(t *testing.T) {
	a, b := Mark(1), Mark(0xfff)
	for text, want := range map[string][]string{
		"":                                nil,
		a:                                 {a},
		b + a + b:                         {a, b},
		"x" + strings.ToUpper(b) + "\xff": {b},
		"resi" + a[:len(a)-1]:             nil,
		"residuemar" + a:                  {a},
	} {
		if got := MarksIn([]byte(text)); !slices.Equal(got, want) {
			t.Errorf("%q has %q, want %q", text, got, want)
		}
	}
}
