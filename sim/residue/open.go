package residue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
)

// maxPlain bounds what one part opens to.
const maxPlain = 1 << 30

// read goes through what has come into the bucket since the last time: first
// the keys, then what they may open.
func (t *Thief) read(ctx context.Context) error {
	fresh := t.hoard.take()
	for _, v := range fresh {
		for _, what := range t.plain.Bytes(v.key, append([]byte(v.key+"\n"), v.data...)) {
			t.early = append(t.early, Finding{What: "can be read as it stands: " + what})
		}
		part := strings.Split(v.key, "/")
		switch {
		case part[0] == "key" && len(part) == 3 && part[1] == "tenant":
			tenant, err := event.ParseTenant(part[2])
			if err != nil {
				return fmt.Errorf("%s: %w", v.key, err)
			}
			t.wrapped[tenant] = append(t.wrapped[tenant], v.data)
		case part[0] == "key" && len(part) == 4:
			if err := t.takePage(v, part); err != nil {
				return fmt.Errorf("%s: %w", v.key, err)
			}
		case part[0] == "blob":
			t.blobs[v.key] = append(t.blobs[v.key], v.data)
		case part[0] == "snap":
			t.fresh = append(t.fresh, v)
		}
	}
	for _, v := range fresh {
		if strings.HasPrefix(v.key, "snap/") {
			continue
		}
		headers, ends := headersIn(v.data)
		if len(headers) == 0 {
			continue
		}
		t.log = headers[0].Log
		if err := t.unwrap(ctx); err != nil {
			return err
		}
		parts := partsOf(v.data, headers, ends)
		for _, h := range headers {
			if err := t.takeEvents(ctx, v.key, h, parts); err != nil {
				return fmt.Errorf("%s: %w", v.key, err)
			}
		}
	}
	return nil
}

func (t *Thief) takePage(v version, part []string) error {
	day, err := event.ParseDay(part[1])
	if err != nil {
		return err
	}
	tenant, err := event.ParseTenant(part[2])
	if err != nil {
		return err
	}
	id, err := event.ParsePage(part[3])
	if err != nil {
		return err
	}
	p := t.pages[id]
	if p == nil {
		p = &page{key: v.key, at: tenantDay{tenant, day}}
		t.pages[id] = p
	}
	p.versions, p.opened = append(p.versions, v.data), nil
	return nil
}

// unwrap opens the secrets of tenants, which takes the log's id.
func (t *Thief) unwrap(ctx context.Context) error {
	for tenant, all := range t.wrapped {
		for _, w := range all {
			keys, err := t.keys.OpenTenant(ctx, tenant, t.log, w)
			if errors.Is(err, crypto.ErrNotOpened) {
				continue
			}
			if err != nil {
				return fmt.Errorf("open tenant %v: %w", tenant, err)
			}
			t.tenants[tenant] = append(t.tenants[tenant], keys)
		}
		delete(t.wrapped, tenant)
	}
	return nil
}

// takeEvents opens what it can of the events of a segment, for ever sealed or
// not, and keeps what it could not.
func (t *Thief) takeEvents(ctx context.Context, key string, h *header, parts map[[32]byte][]byte) error {
	for i := range h.Events {
		e := &h.Events[i]
		var wait []*sealed
		for j := range e.Parts {
			p := &e.Parts[j]
			switch {
			case p.Role == event.RoleState:
				if part := parts[p.Digest]; part != nil && !t.seen(part) {
					t.openState(key, e, p, part)
				}
			case len(p.Blobs) > 0 || parts[p.Digest] != nil:
				wait = append(wait, &sealed{p, parts[p.Digest]})
			}
		}
		if e.Page == 0 || int(e.Page) > len(h.Pages) || len(wait) == 0 {
			continue
		}
		at := &h.Pages[e.Page-1]
		k := eventKey{e.ID, at.Page, e.Leaf}
		l := t.events[k]
		if l == nil {
			l = &loot{writer: h.Writer, at: tenantDay{at.Tenant, at.Day}}
			t.events[k] = l
		}
		if l.open { // seen already, in another object
			continue
		}
		l.wait, l.tried = wait, 0
		if err := t.open(ctx, k, l); err != nil {
			return err
		}
	}
	return nil
}

// seen says whether a part has been looked at before: it comes again in packs.
func (t *Thief) seen(part []byte) bool {
	id := maphash.Bytes(t.seed, part)
	was := t.states[id]
	t.states[id] = true
	return was
}

// openState opens what outlives the mail: no mark may be in it.
func (t *Thief) openState(key string, e *eventEntry, p *partEntry, sealed []byte) {
	for _, keys := range t.tenants[e.Tenant] {
		t.tried++
		plain, err := keys.OpenState(t.binding(e.Tenant, e.ID, event.RoleState), p.Commit, sealed)
		if err != nil {
			continue
		}
		for _, m := range MarksIn(plain) {
			t.early = append(t.early, Finding{m, fmt.Sprintf("is in the state part of event %v in %s, which is sealed for ever", e.ID, key)})
		}
	}
}

func (t *Thief) binding(tenant event.Tenant, id event.ID, r event.Role) crypto.Binding {
	return crypto.Binding{Log: t.log, Tenant: tenant, Event: id, Role: r}
}

// leaves returns the leaf of an event, once for each version of its page that has
// it.
func (t *Thief) leaves(ctx context.Context, k eventKey, l *loot, versions [][]byte) ([]crypto.Leaf, error) {
	pair, err := t.pair(ctx, l.at)
	if pair == nil || err != nil {
		return nil, err
	}
	var out []crypto.Leaf
	for _, p := range t.opened(pair, k, l, versions) {
		if p == nil {
			continue // not this one
		}
		if leaf, err := p.Leaf(k.leaf); err == nil {
			out = append(out, leaf)
		}
	}
	return out, nil
}

// opened opens versions of a page. Those of [page.versions] are opened once; they
// are forgotten with the day.
func (t *Thief) opened(pair *crypto.DayPair, k eventKey, l *loot, versions [][]byte) (out []*crypto.Page) {
	open := func(v []byte) *crypto.Page {
		if v = bare(v); v == nil {
			return nil
		}
		b := crypto.PageBinding{Log: t.log, Tenant: l.at.tenant, Day: l.at.day, Page: k.page, Writer: l.writer}
		p, err := crypto.OpenPage(pair, b, v)
		if err != nil {
			return nil
		}
		return p
	}
	known := t.pages[k.page]
	all := known.opened[l.writer]
	if all == nil {
		for _, v := range known.versions {
			all = append(all, open(v))
		}
		if known.opened == nil {
			known.opened = map[event.Writer][]*crypto.Page{}
		}
		known.opened[l.writer] = all
	}
	for _, v := range versions {
		if i := slices.IndexFunc(known.versions, func(o []byte) bool { return bytes.Equal(o, v) }); i >= 0 {
			out = append(out, all[i])
			continue
		}
		out = append(out, open(v))
	}
	return out
}

// A rewritten page begins with a magic, a certificate and a generation, and ends
// with a signature.
const (
	rewrittenMagic = "HFR1"
	rewrittenHead  = 111
)

// bare returns the sealed page in a page object as it was first stored, or as it
// was rewritten (docs/format-keys.md).
func bare(object []byte) []byte {
	if !bytes.HasPrefix(object, []byte(rewrittenMagic)) {
		return object
	}
	if len(object) < rewrittenHead+signatureBytes {
		return nil
	}
	return object[rewrittenHead : len(object)-signatureBytes]
}

// open tries to open an event's parts with every version of its page.
func (t *Thief) open(ctx context.Context, k eventKey, l *loot) error {
	p := t.pages[k.page]
	if p == nil || l.tried == len(p.versions) && l.blobs == len(t.blobs) {
		return nil
	}
	l.tried, l.blobs = len(p.versions), len(t.blobs)
	leaves, err := t.leaves(ctx, k, l, p.versions)
	if err != nil {
		return err
	}
	for _, leaf := range leaves {
		for _, s := range l.wait {
			t.tried++
			plain, ok := t.openPart(k.id, l.at, leaf, s)
			if !ok {
				continue
			}
			l.open = true
			for _, m := range MarksIn(plain) {
				if !slices.Contains(l.marks, m) {
					l.marks = append(l.marks, m)
				}
			}
		}
		if l.open {
			l.wait = nil
			return nil
		}
	}
	for _, s := range l.wait { // not the whole object, for the sake of a part
		s.bytes = bytes.Clone(s.bytes)
	}
	return nil
}

func (t *Thief) openPart(id event.ID, at tenantDay, leaf crypto.Leaf, s *sealed) ([]byte, bool) {
	b := t.binding(at.tenant, id, s.entry.Role)
	if s.entry.Role == event.RoleMeta {
		plain, err := t.codec.OpenSmall(leaf, b, s.entry.Commit, s.bytes, maxPlain)
		return plain, err == nil
	}
	src := s.bytes
	if len(s.entry.Blobs) > 0 {
		for n := range s.entry.Blobs {
			all := t.blobs[fmt.Sprintf("blob/%s/%s/%04d", at.day, id, n)]
			if len(all) == 0 {
				return nil, false
			}
			src = append(src, all[len(all)-1]...)
		}
	}
	r, err := t.codec.OpenStream(leaf, b, s.entry.Commit, bytes.NewReader(src), int64(len(src)))
	if err != nil {
		return nil, false
	}
	plain, err := io.ReadAll(r)
	return plain, err == nil
}

// judge says whether an event that was opened once may still be.
func (t *Thief) judge(ctx context.Context, k eventKey, l *loot, q Question, r *Result) error {
	if !l.open { // its parts or its page may have come since
		if err := t.open(ctx, k, l); err != nil {
			return err
		}
	}
	if !l.open {
		return nil
	}
	pair, err := t.pair(ctx, l.at)
	if pair == nil || err != nil {
		return err
	}
	for _, m := range l.marks {
		r.Opened[m] = true
	}
	for _, m := range l.marks {
		switch q.Fate(m) {
		case Expired:
			r.finds(m, "has expired, and event %v opens with the key of %v", k.id, l.at.day)
		case Unknown:
			r.finds(m, "nobody sent that, and event %v opens with the key of %v", k.id, l.at.day)
		case Erased:
			now, err := t.current(ctx, t.pages[k.page].key)
			if err != nil {
				return err
			}
			leaves, err := t.leaves(ctx, k, l, now)
			if err != nil {
				return err
			}
			if len(leaves) > 0 {
				r.finds(m, "was erased, and key page %s in the bucket still has the key of event %v", t.pages[k.page].key, k.id)
			} else {
				r.Copied++
				l.copied = true
			}
		}
	}
	return nil
}

// current returns the object that the bucket has under a key now, if any.
func (t *Thief) current(ctx context.Context, key string) ([][]byte, error) {
	data, _, err := objstore.ReadAll(ctx, t.hoard.Bucket, key, 1<<20)
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, nil
	}
	return [][]byte{data}, err
}
