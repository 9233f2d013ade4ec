package residue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"holdfast/crypto"
	"holdfast/e2e/outside"
	"holdfast/event"
	"holdfast/projection"
)

// Fate is what has become of a message.
type Fate uint8

// The fates. Zero is a message that nobody is said to have sent.
const (
	Unknown Fate = iota
	Kept         // it may be read
	Expired      // nothing may open it
	Erased       // nothing that is there now may open it
)

// stem is how every mark begins. Letters and digits only, so that a mark is one
// word of a subject, and can stand in an address.
const stem = "residuemark"

const markSize = len(stem) + 16

// Mark returns the mark of message n.
func Mark(n uint64) string { return fmt.Sprintf("%s%016x", stem, n) }

// MarksIn returns the marks in a text, in any case of letters, each once and in
// order.
func MarksIn(text []byte) (marks []string) {
	const hook = 3 // the place in the stem of a letter that is rare: most of what is searched is noise
	for _, c := range []byte{stem[hook], stem[hook] - 'a' + 'A'} {
		for at := hook; at < len(text); at++ {
			i := bytes.IndexByte(text[at:], c)
			if i < 0 {
				break
			}
			at += i
			end := at - hook + markSize
			if end <= len(text) && bytes.EqualFold(text[at-hook:at-hook+len(stem)], []byte(stem)) {
				marks = append(marks, strings.ToLower(string(text[at-hook:end])))
			}
		}
	}
	slices.Sort(marks)
	return slices.Compact(marks)
}

// Finding is one thing that opens although it should be gone.
type Finding struct {
	Mark string // empty where it is about no message in particular
	What string
}

// String tells the finding in one line.
func (f Finding) String() string { return strings.TrimSpace(f.Mark + " " + f.What) }

// Result is what a search came to.
type Result struct {
	Found []Finding
	// Opened are the messages that open, from wherever: a thief that opens nothing
	// at all is blind.
	Opened map[string]bool
	// Copied is how many erased messages open with copies of their key pages, and
	// CopiedBases how many pieces of earlier Bases have something of such.
	Copied, CopiedBases int
	// Based are the messages of which the Bases in the bucket have something that
	// opens.
	Based map[string]bool
	// Ended is how many events of erased messages a copied page opened until their
	// day came in this search.
	Ended int
	// Pieces is how many pieces of Bases were opened, over all searches.
	Pieces int
	// Values is how many sealed values of the databases open, and hold marks.
	Values int
	// Dug is how many files of databases there was something in.
	Dug int
	// Tried is how many parts and values were tried, over all searches.
	Tried int
}

func (r *Result) finds(mark, format string, args ...any) {
	r.Found = append(r.Found, Finding{mark, fmt.Sprintf(format, args...)})
}

// Question is what a search is for.
type Question struct {
	// Over is the first day whose mail is not gone: the keys of all days before it
	// must not be derivable.
	Over event.Day
	// Fate tells what has become of a message.
	Fate func(mark string) Fate
	// Stores are the local databases, by their nodes' names.
	Stores map[string]projection.Store
	// Dirs are the directories of local databases, by their nodes' names, which may
	// be in use: what stands in their files is looked at, whether or not the
	// databases still show it.
	Dirs map[string]string
	// Deep tries everything again, also what did not open or was harmless in an
	// earlier search, and every value of the databases with every key, and not only
	// with those that the value's place suggests.
	Deep bool
}

// Thief searches. It remembers what it has opened, so that a search costs what
// has come since the last one. It is used by one goroutine.
type Thief struct {
	hoard *Hoard
	keys  crypto.KeyService
	codec *crypto.Codec
	plain *outside.Residue

	log     event.LogID
	tenants map[event.Tenant][]*crypto.TenantKeys
	wrapped map[event.Tenant][][]byte // not opened yet
	pages   map[event.Page]*page
	events  map[eventKey]*loot
	blobs   map[string][][]byte
	pairs   map[tenantDay]*crypto.DayPair // nil: not derivable any more, for ever
	values  map[uint64]value              // of databases, as they were found in the last search
	next    map[uint64]value              // and in this one
	snaps   map[string]*snap              // pieces of Bases with values that are alive
	names   map[string]bool               // of projections
	states  map[uint64]bool               // parts for ever sealed that have been looked at
	fresh   []version                     // objects of Bases that nobody has looked at yet
	pieces  int
	seed    maphash.Seed
	tried   int
	early   []Finding // what was found while reading, whoever asks; told once
}

type tenantDay struct {
	tenant event.Tenant
	day    event.Day
}

// page is a key page through all its versions.
type page struct {
	key      string
	at       tenantDay
	versions [][]byte
	// opened are the versions as a writer's key page; nil for one that is not.
	opened map[event.Writer][]*crypto.Page
}

type eventKey struct {
	id   event.ID
	page event.Page
	leaf uint32
}

// loot is an event with parts that are derived from mail.
type loot struct {
	writer event.Writer
	at     tenantDay
	open   bool     // it was opened once
	marks  []string // that were in it
	copied bool     // it was erased, and a copied page opened it
	wait   []*sealed
	tried  int // versions of the page, and
	blobs  int // objects of bodies, that there were when it was last tried
}

// sealed is a part that has not been opened yet.
type sealed struct {
	entry *partEntry
	bytes []byte // nil for one in blobs
}

// NewThief returns a Thief who has come by a hoard and the root. keys is used as
// it is at each search, and is the installation's own: what it has forgotten, the
// thief cannot have.
func NewThief(hoard *Hoard, keys crypto.KeyService) (*Thief, error) {
	plain, err := outside.NewResidue(stem)
	if err != nil {
		return nil, err
	}
	return &Thief{
		hoard: hoard, keys: keys, codec: crypto.NewCodec(), plain: plain,
		tenants: map[event.Tenant][]*crypto.TenantKeys{}, wrapped: map[event.Tenant][][]byte{},
		pages: map[event.Page]*page{}, events: map[eventKey]*loot{}, blobs: map[string][][]byte{},
		pairs: map[tenantDay]*crypto.DayPair{}, snaps: map[string]*snap{}, names: map[string]bool{}, states: map[uint64]bool{},
		seed: maphash.MakeSeed(),
	}, nil
}

// Search tries everything. An error says that the search itself failed.
func (t *Thief) Search(ctx context.Context, q Question) (*Result, error) {
	r := &Result{Opened: map[string]bool{}}
	dead, err := t.died(ctx, q, r)
	if err != nil {
		return nil, err
	}
	if err := t.read(ctx); err != nil {
		return nil, err
	}
	if err := t.lastTry(ctx, dead, r); err != nil {
		return nil, err
	}
	t.bury(dead)
	r.Found, t.early = append(r.Found, t.early...), nil
	if q.Deep {
		t.values = nil
		for _, l := range t.events {
			l.tried = 0
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(t.events), compareKeys) {
		if err := t.judge(ctx, k, t.events[k], q, r); err != nil {
			return nil, err
		}
	}
	t.next = map[uint64]value{}
	for _, name := range slices.Sorted(maps.Keys(q.Stores)) {
		if err := t.ransack(ctx, name, q.Stores[name], q, r); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(q.Dirs)) {
		if err := t.dig(ctx, name, q.Dirs[name], q, r); err != nil {
			return nil, err
		}
	}
	t.values = t.next
	if err := t.bases(ctx, q, r); err != nil {
		return nil, err
	}
	r.Tried, r.Pieces = t.tried, t.pieces
	return r, nil
}

func compareKeys(a, b eventKey) int { return slices.Compare(a.id[:], b.id[:]) }

// pair derives the keys of a day, and nil once they cannot be derived.
func (t *Thief) pair(ctx context.Context, at tenantDay) (*crypto.DayPair, error) {
	if p, ok := t.pairs[at]; ok {
		return p, nil
	}
	if len(t.tenants[at.tenant]) == 0 {
		return nil, nil
	}
	p, err := t.keys.DayPair(ctx, t.tenants[at.tenant][0], at.day)
	if errors.Is(err, crypto.ErrExpired) {
		t.pairs[at] = nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("derive the keys of %v: %w", at.day, err)
	}
	t.pairs[at] = p
	return p, nil
}

// died says which days' keys cannot be derived any more, and finds days that
// should be among them. What is remembered of a day is believed only as long as
// the root confirms it.
func (t *Thief) died(ctx context.Context, q Question, r *Result) (map[tenantDay]bool, error) {
	maps.DeleteFunc(t.pairs, func(_ tenantDay, p *crypto.DayPair) bool { return p != nil })
	dead := map[tenantDay]bool{}
	late := map[event.Day]bool{}
	check := func(at tenantDay) error {
		if _, ok := dead[at]; ok {
			return nil
		}
		p, err := t.pair(ctx, at)
		if err != nil {
			return err
		}
		dead[at] = p == nil && len(t.tenants[at.tenant]) > 0
		if p != nil && at.day < q.Over && !late[at.day] {
			late[at.day] = true
			r.finds("", "the keys of %v can still be derived", at.day)
		}
		return nil
	}
	for _, p := range t.pages {
		if err := check(p.at); err != nil {
			return nil, err
		}
	}
	return dead, nil
}

// bury drops what nothing opens any more.
func (t *Thief) bury(dead map[tenantDay]bool) {
	maps.DeleteFunc(t.pages, func(_ event.Page, p *page) bool { return dead[p.at] })
	maps.DeleteFunc(t.events, func(_ eventKey, l *loot) bool { return dead[l.at] })
	for _, s := range t.snaps {
		maps.DeleteFunc(s.marks, func(at tenantDay, _ []string) bool { return dead[at] })
	}
	gone := map[string]bool{}
	for at, is := range dead {
		if is {
			gone[at.day.String()] = true
		}
	}
	maps.DeleteFunc(t.blobs, func(key string, _ [][]byte) bool {
		return gone[strings.Split(key, "/")[1]]
	})
}

// lastTry is made when days have died: what was copied of the key pages of these
// days before something was erased from them must not open with any key that is
// left. It is why an erased message is beyond copies of key/ when its day is over.
func (t *Thief) lastTry(ctx context.Context, dead map[tenantDay]bool, r *Result) error {
	writers := map[event.Page][]event.Writer{}
	for k, l := range t.events {
		if !dead[l.at] || !l.open {
			continue
		}
		if !slices.Contains(writers[k.page], l.writer) {
			writers[k.page] = append(writers[k.page], l.writer)
		}
		if l.copied {
			r.Ended++
		}
	}
	for id, p := range t.pages {
		if !dead[p.at] || len(p.versions) < 2 {
			continue
		}
		for at := range dead {
			if at.tenant != p.at.tenant || dead[at] {
				continue
			}
			pair, err := t.pair(ctx, at)
			if pair == nil || err != nil {
				return err
			}
			for _, w := range writers[id] {
				for _, v := range p.versions {
					b := crypto.PageBinding{Log: t.log, Tenant: at.tenant, Day: at.day, Page: id, Writer: w}
					if _, err := crypto.OpenPage(pair, b, bare(v)); err == nil {
						r.finds("", "a copy of %s opens with the key of %v", p.key, at.day)
					}
				}
			}
		}
	}
	return nil
}
