package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore/mem"
)

// everyByte makes TestDamageAnyBit change every byte of the small objects, which
// takes a minute, not one in eleven.
var everyByte = os.Getenv("HOLDFAST_EVERY_BYTE") != ""

// secret stands in every message, so that a finding that quotes one shows.
const secret = "Confidential"

// museum is a log that holds an object of every kind, and what is in it.
type museum struct {
	opt    Options
	p      event.Partition
	other  event.Tenant // beside the archive's own
	day    event.Day
	good   map[string][]byte
	ids    map[string]event.ID
	refs   map[string]event.Position
	latest *Checkpoint
}

// newMuseum makes small objects: each is looked at thousands of times.
func newMuseum(t *testing.T) *museum {
	t.Helper()
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	opt.Partitions = 1
	f := openFixture(t, opt)
	m := &museum{opt: opt, day: f.day, good: map[string][]byte{}, ids: map[string]event.ID{}, refs: map[string]event.Position{}}
	var err error
	if m.other, err = opt.Keys.TenantID(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	if err := f.EnsureTenant(ctx, m.other); err != nil {
		t.Fatal(err)
	}
	g := *f
	g.tenant = m.other
	add := func(name string, evs ...event.Event) {
		pos, err := f.Append(ctx, evs...)
		if err != nil {
			t.Fatal(err)
		}
		m.ids[name], m.refs[name] = evs[0].ID, pos
	}
	fact := func(f event.Fact, tenant event.Tenant) event.Event {
		return event.Event{ID: event.NewID(), Tenant: tenant, Fact: f}
	}
	body := bytes.Repeat([]byte(secret+" text\r\n"), 40)
	add("mine", f.message(t, body), g.message(t, append(body, '2')))
	add("theirs", g.message(t, body), f.message(t, nil))
	m.checkpoint(t, f)
	large := append([]byte(secret), randomBytes(maxInline)...)
	add("large", f.message(t, large))
	add("large of theirs", g.message(t, append(large, '2')))
	add("facts",
		fact(&event.MailboxCreated{Name: "x"}, f.tenant), fact(&event.DomainClaimed{Domain: "acme.test"}, m.other),
		fact(&event.DeliveryIntended{Units: []event.Unit{{Source: m.ids["mine"]}}}, f.tenant),
		fact(&event.RedeliveryOrdered{Items: []event.Redelivery{{Message: event.Ref{Position: m.refs["mine"], ID: m.ids["mine"]}}}}, f.tenant),
		fact(&event.Repudiated{Message: m.ids["theirs"]}, m.other), fact(&event.CursorMoved{Group: "g", Topic: "t", To: m.refs["mine"]}, f.tenant))
	add("system", fact(&event.KeysBackedUp{At: 1}, event.SystemTenant))
	m.latest = m.checkpoint(t, f)
	for _, name := range []string{"deliver", "retain"} {
		if _, err := f.Acquire(ctx, name, time.Minute, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(ctx); err != nil {
		t.Fatal(err)
	}
	a := archive{bucket: opt.Bucket.(*mem.Bucket)}
	for _, key := range a.keys(t, "") {
		m.good[key] = a.get(t, key)
	}
	return m
}

func (m *museum) checkpoint(t *testing.T, f *fixture) *Checkpoint {
	t.Helper()
	c, err := f.Checkpoint(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (m *museum) keys() []string { return slices.Sorted(maps.Keys(m.good)) }

// copy returns an archive of the same bytes in a bucket of its own.
func (m *museum) copy(t *testing.T) *archive {
	t.Helper()
	a := &archive{bucket: mem.New(), opt: m.opt, p: m.p}
	a.opt.Bucket = a.bucket
	for key, b := range m.good {
		put(t, a.bucket, key, b)
	}
	return a
}

// look verifies, also what does not open: whatever is wrong is a finding.
func (a *archive) look(t *testing.T, since ...*Checkpoint) []Finding {
	t.Helper()
	opt := a.opt
	opt.Inspect, opt.MayCreate = true, false
	l, err := Open(context.Background(), opt)
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrWrongKey) || errors.Is(err, ErrMissing) || errors.Is(err, ErrNewer) {
		return []Finding{{Index: -1, Key: formatKey, What: DamagedFormat, Err: err}}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(context.Background())
	var fs []Finding
	if _, err := l.VerifyWith(context.Background(), VerifyOptions{Since: since, Report: func(f Finding) { fs = append(fs, f) }}); err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if s := f.String(); strings.Contains(s, "@") || strings.Contains(s, secret) || strings.Contains(s, "acme") {
			t.Errorf("a finding quotes what is sealed: %s", s)
		}
	}
	return fs
}

// names reports whether a finding is about one of the objects.
func names(fs []Finding, keys ...string) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return slices.Contains(keys, f.Key) })
}

// kindOf is the part of a key that says what the object is.
func kindOf(key string) string {
	if strings.HasPrefix(key, tenantPrefix) {
		return "tenant"
	}
	kind, _, _ := strings.Cut(key, "/")
	return kind
}

// The museum has something of every kind, and nothing in it is damaged.
func TestDamageOfNothing(t *testing.T) {
	m := newMuseum(t)
	if fs := m.copy(t).look(t, m.latest); len(fs) > 0 {
		t.Errorf("findings: %v", fs)
	}
	kinds := map[string]int{}
	for _, key := range m.keys() {
		kinds[kindOf(key)]++
	}
	want := map[string]int{"format": 1, "log": 6, "blob": 2, "key": 2, "tenant": 3, "checkpoint": 2, "lease": 2}
	if !maps.Equal(kinds, want) {
		t.Errorf("the museum holds %v, want %v", kinds, want)
	}
}

// A flipped bit anywhere is found, and the object is named.
func TestDamageAnyBit(t *testing.T) {
	m := newMuseum(t)
	var flips atomic.Int64
	t.Cleanup(func() { t.Logf("%d flips", flips.Load()) })
	for n, key := range m.keys() {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			a, good := m.copy(t), m.good[key]
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			step := 11
			switch {
			case len(good) > 10_000:
				step = len(good) / 20
			case everyByte:
				step = 1
			case testing.Short():
				step = 67
			}
			for at := 0; at < len(good); at += step {
				here, bit := min(at+rng.IntN(step), len(good)-1), rng.IntN(8)
				bad := bytes.Clone(good)
				bad[here] ^= 1 << bit
				put(t, a.bucket, key, bad)
				flips.Add(1)
				if fs := a.look(t); !names(fs, key) {
					t.Errorf("bit %d of byte %d of %d (%q): %v", bit, here, len(good), good[here], fs)
				}
			}
		})
	}
}

// silent are the objects whose absence is no damage: what holds a lease is asked
// for again, and the newest checkpoint is missed only by who knows of it.
func (m *museum) silent(key string) bool {
	return kindOf(key) == "lease" || key == m.latest.String()
}

func TestDamageAnythingRemoved(t *testing.T) {
	m := newMuseum(t)
	a := m.copy(t)
	for _, key := range m.keys() {
		a.remove(t, key)
		if fs := a.look(t); names(fs, key) == m.silent(key) || m.silent(key) && len(fs) > 0 {
			t.Errorf("without %s: %v", key, fs)
		}
		put(t, a.bucket, key, m.good[key])
	}
	// The last segment with the checkpoint about it: only who kept that knows.
	last := segmentKey(0, m.latest.Seq)
	a.remove(t, last)
	a.remove(t, m.latest.String())
	if fs := a.look(t); len(fs) > 0 {
		t.Errorf("rolled back as a whole, nothing kept: %v", fs)
	}
	if fs := a.look(t, m.latest); !names(fs, last) || fs[0].What != RolledBack {
		t.Errorf("rolled back as a whole: %v", fs)
	}
}

// No object can stand in the place of another, of whatever kind.
func TestDamageAnythingReplayedOrSwapped(t *testing.T) {
	m := newMuseum(t)
	a, keys, n := m.copy(t), m.keys(), 0
	for i, x := range keys {
		for j, y := range keys {
			if i == j || testing.Short() && (i+j)%5 != 0 {
				continue
			}
			put(t, a.bucket, y, m.good[x]) // replayed
			if fs := a.look(t); !names(fs, y) {
				t.Errorf("%s in the place of %s: %v", x, y, fs)
			}
			if n++; i < j {
				put(t, a.bucket, x, m.good[y]) // swapped
				fs, same := a.look(t), kindOf(x) == kindOf(y)
				// What only an unreadable object speaks of is not missed.
				if !names(fs, x, y, formatKey) || same && (!names(fs, x) || !names(fs, y)) {
					t.Errorf("%s and %s swapped: %v", x, y, fs)
				}
				put(t, a.bucket, x, m.good[x])
				n++
			}
			put(t, a.bucket, y, m.good[y])
		}
		if kindOf(x) != "log" {
			continue
		}
		// As a further segment, which it is not.
		next := segmentKey(0, m.latest.Seq+1)
		put(t, a.bucket, next, m.good[x])
		if fs := a.look(t); !names(fs, next) {
			t.Errorf("%s again at the end: %v", x, fs)
		}
		a.remove(t, next)
	}
	t.Logf("%d objects in others' places", n)
}

// Anything cut short, at every place where something ends, or made longer.
func TestDamageAnythingCut(t *testing.T) {
	m := newMuseum(t)
	a, n := m.copy(t), 0
	for _, key := range m.keys() {
		good := m.good[key]
		ends := []int{0, 1, 4, 8, 12, 16, 64, 93, len(good) / 3, len(good) / 2, len(good) - 64, len(good) - 16, len(good) - 2, len(good) - 1}
		if kindOf(key) == "log" {
			h, err := parseHeader(good, believe)
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, int(h.front)-65, int(h.front)-64, int(h.front)-1, int(h.front), int(h.bodies)-1, int(h.bodies))
			for i := range h.offsets {
				for j, off := range h.offsets[i] {
					if off >= 0 {
						ends = append(ends, int(off), int(off+h.Events[i].Parts[j].Length)-1, int(off+h.Events[i].Parts[j].Length))
					}
				}
			}
		}
		for _, end := range ends {
			if end < 0 || end >= len(good) {
				continue
			}
			put(t, a.bucket, key, good[:end])
			if fs := a.look(t); !names(fs, key) {
				t.Errorf("%s cut at %d of %d: %v", key, end, len(good), fs)
			}
			n++
		}
		for _, more := range [][]byte{{0}, {'\n'}, good} {
			put(t, a.bucket, key, append(bytes.Clone(good), more...))
			if fs := a.look(t); !names(fs, key) {
				t.Errorf("%s with %d bytes more: %v", key, len(more), fs)
			}
			n++
		}
		put(t, a.bucket, key, good)
	}
	t.Logf("%d lengths", n)
}

// rewrite changes the header of a segment and signs it, and all that follow, so
// that the chain is whole again.
func (m *museum) rewrite(t *testing.T, a *archive, from event.Seq, sign func([]byte) []byte, change func(*header)) {
	t.Helper()
	var prev Hash
	for s := from; s <= m.latest.Seq; s++ {
		raw := m.good[segmentKey(0, s)]
		h, err := parseHeader(raw, believe)
		if err != nil {
			t.Fatal(err)
		}
		if s == from {
			change(&h.header)
		} else {
			h.Prev = prev
		}
		head := encodeHeader(&h.header, sign)
		prev = sha256.Sum256(head)
		put(t, a.bucket, segmentKey(0, s), append(head, raw[h.front:]...))
	}
}

// An event moved to another tenant, place or page, or taken out, by whoever can
// write to the bucket: with a key that nobody certified, with one that may sign
// less, and with one that may sign all of it and meant harm.
func TestDamageMovedEvents(t *testing.T) {
	ctx := context.Background()
	m := newMuseum(t)
	key := func(ks crypto.Installation, may event.Classes) *crypto.NodeKey {
		k, err := crypto.NewNodeKey(ctx, ks, may)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	signers := map[string]*crypto.NodeKey{
		"uncertified": key(crypto.MemoryRoot(1), event.AllClasses),
		"lesser":      key(m.opt.Keys, event.ClassesOf(event.ClassCheckpoint)),
		"certified":   key(m.opt.Keys, event.AllClasses),
	}
	mine, err := m.opt.Keys.TenantID(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]func(h *header, i int) bool{ // false where there is nothing to change
		"another tenant": func(h *header, i int) bool {
			to := m.other
			if h.Events[i].Tenant == to {
				to = mine
			}
			h.Events[i].Tenant = to
			return true
		},
		"another tenant, with its page": func(h *header, i int) bool {
			e := &h.Events[i]
			if e.Page == 0 {
				return false
			}
			if e.Tenant = m.other; h.Pages[e.Page-1].Tenant == m.other {
				e.Tenant = mine
			}
			h.Pages[e.Page-1].Tenant = e.Tenant
			return true
		},
		"another id":   func(h *header, i int) bool { h.Events[i].ID = event.NewID(); return true },
		"another leaf": func(h *header, i int) bool { h.Events[i].Leaf += 3; return h.Events[i].Page > 0 },
		"the class of another": func(h *header, i int) bool {
			h.Events[i].Class = h.Events[i].Class%event.ClassPosted + 1
			return true
		},
		"no page": func(h *header, i int) bool {
			had := h.Events[i].Page > 0
			h.Events[i].Page = 0
			return had
		},
		"another order": func(h *header, i int) bool {
			if i == 0 {
				return false
			}
			h.Events[i], h.Events[i-1] = h.Events[i-1], h.Events[i]
			return true
		},
		"without its body": func(h *header, i int) bool {
			e := &h.Events[i]
			j := e.part(event.RoleBody)
			if j < 0 {
				return false
			}
			e.Parts = slices.Delete(slices.Clone(e.Parts), j, j+1)
			return true
		},
		"taken out": func(h *header, i int) bool {
			h.Events = slices.Delete(h.Events, i, i+1)
			return len(h.Events) > 0
		},
		"twice": func(h *header, i int) bool {
			h.Events = append(h.Events, h.Events[i])
			return true
		},
	}
	for name, change := range changes {
		for who, node := range signers {
			t.Run(name+", "+who, func(t *testing.T) {
				a := m.copy(t)
				for s := event.Seq(1); s <= m.latest.Seq; s++ {
					h, err := parseHeader(m.good[segmentKey(0, s)], believe)
					if err != nil {
						t.Fatal(err)
					}
					for i := range h.Events {
						done := false
						m.rewrite(t, a, s, func(b []byte) []byte { return node.Sign(b) }, func(h *header) {
							if who != "lesser" || s%2 == 0 { // its own certificate, or the right one
								cert := node.Certificate()
								h.Cert = cert[:]
							}
							done = change(h, i)
						})
						fs := a.look(t)
						if done && !names(fs, segmentKey(0, s)) && !slices.ContainsFunc(fs, func(f Finding) bool { return f.Seq == s }) &&
							!slices.ContainsFunc(fs, func(f Finding) bool { return f.What == Forked }) {
							t.Errorf("event %d of segment %d: %v", i, s, fs)
						}
						if done && who != "certified" && !slices.ContainsFunc(fs, func(f Finding) bool { return f.Seq == s && f.What == DamagedHeader }) {
							t.Errorf("event %d of segment %d is believed: %v", i, s, fs)
						}
					}
				}
			})
		}
	}
}

// What a certified node can do unseen where no checkpoint tells: drop an event
// and sign all that follows anew. That is what checkpoints elsewhere are for.
func TestDamageThatOnlyCheckpointsShow(t *testing.T) {
	m := newMuseum(t)
	node, err := crypto.NewNodeKey(context.Background(), m.opt.Keys, event.AllClasses)
	if err != nil {
		t.Fatal(err)
	}
	a := m.copy(t)
	m.rewrite(t, a, m.latest.Seq-1, node.Sign, func(h *header) { // "facts"
		cert := node.Certificate()
		h.Cert = cert[:]
		h.Time++
	})
	// The rest has the old certificates and cannot be signed with them.
	raw := a.get(t, segmentKey(0, m.latest.Seq))
	h, err := parseHeader(raw, believe)
	if err != nil {
		t.Fatal(err)
	}
	cert := node.Certificate()
	h.Cert = cert[:]
	put(t, a.bucket, segmentKey(0, m.latest.Seq), append(encodeHeader(&h.header, node.Sign), raw[h.front:]...))
	if fs := a.look(t); len(fs) != 1 || fs[0].What != Forked {
		t.Errorf("with the checkpoint in the bucket: %v", fs)
	}
	a.remove(t, m.latest.String())
	if fs := a.look(t); len(fs) != 0 {
		t.Errorf("without: %v", fs)
	}
	if fs := a.look(t, m.latest); len(fs) != 1 || fs[0].What != Forked {
		t.Errorf("with the one that was kept: %v", fs)
	}
}

// A body that opens, under the right keys, and is not what the event says.
func TestDamageOfAnExchangedBody(t *testing.T) {
	ctx := context.Background()
	opt := newOptions(t, mem.New())
	opt.Partitions = 1
	for what, lie := range map[string]func(*event.MessageAccepted){
		"its sum":  func(m *event.MessageAccepted) { m.Meta.SHA256[5] ^= 1 },
		"its size": func(m *event.MessageAccepted) { m.Size++ },
	} {
		opt.Bucket = mem.New()
		f := openFixture(t, opt)
		ev := f.message(t, []byte("x"))
		lie(ev.Fact.(*event.MessageAccepted))
		if _, err := f.Append(ctx, ev); err != nil {
			t.Fatal(err)
		}
		a := &archive{bucket: opt.Bucket.(*mem.Bucket), opt: opt}
		if fs := a.look(t); len(fs) != 1 || fs[0].What != DamagedBody || fs[0].Event != ev.ID {
			t.Errorf("the event lies about %s: %v", what, fs)
		}
		if _, err := f.Prove(ctx, event.Ref{Position: event.Position{Seq: 1}, ID: ev.ID}, io.Discard); !errors.Is(err, ErrDamaged) {
			t.Errorf("and that can be proved: %v", err)
		}
	}
}

// A payload that is missing before its day is over is damage, and none
// afterwards, by the store's clock, also for who holds an older root key.
func TestDamageOrExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMuseum(t)
		a := m.copy(t)
		for _, key := range m.keys() {
			if kindOf(key) == "blob" || kindOf(key) == "key" {
				a.remove(t, key)
			}
		}
		time.Sleep(time.Until(m.day.Start().Add(24*time.Hour - time.Second)))
		if fs := a.look(t); !names(fs, m.keys()[0]) {
			t.Errorf("a second before: %v", fs)
		}
		time.Sleep(2 * time.Second)
		if fs := a.look(t); len(fs) > 0 {
			t.Errorf("a second after: %v", fs)
		}
		for _, key := range m.keys() { // what is still there counts
			if kindOf(key) == "blob" || kindOf(key) == "key" {
				bad := bytes.Clone(m.good[key])
				bad[len(bad)/2] ^= 1
				put(t, a.bucket, key, bad)
			}
		}
		for _, key := range m.keys() {
			if fs := a.look(t); (kindOf(key) == "blob" || kindOf(key) == "key") && !names(fs, key) {
				t.Errorf("%s changed after its day: %v", key, fs)
			}
		}
		if err := m.opt.Keys.(*crypto.Root).AdvanceTo(m.day + 1); err != nil {
			t.Fatal(err)
		}
		for _, key := range m.keys() {
			if fs := a.look(t); (kindOf(key) == "blob" || kindOf(key) == "key") && !names(fs, key) {
				t.Errorf("%s changed after its keys went: %v", key, fs)
			}
		}
	})
}
