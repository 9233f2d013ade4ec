package residue

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/crypto"
	"holdfast/event"
)

// snap is a piece of a Base, as far as something of it is alive.
type snap struct {
	key   string
	marks map[tenantDay][]string // what was sealed in it, by whose key and until when
}

// An object of a Base is a magic, a commitment and what was sealed under the
// system tenant's key, as a piece or as an index (docs/format.md).
const (
	snapMagic = "HFSNP\x00\x00\x01"
	snapFront = len(snapMagic) + 32
	pieceRole = 0
)

// bases opens what has come under snap/, every version of it, and judges by all
// that is alive in it. Nothing that is there now may hold what is gone; earlier
// copies may, of what was erased, until its day.
func (t *Thief) bases(ctx context.Context, q Question, r *Result) error {
	sealers, err := t.sealers(ctx)
	if err != nil {
		return err
	}
	for _, v := range t.fresh {
		t.takeSnap(v, sealers, r)
	}
	t.fresh = nil
	there := map[string]bool{}
	for info, err := range t.hoard.Bucket.List(ctx, "snap/", "") {
		if err != nil {
			return fmt.Errorf("look for Bases: %w", err)
		}
		there[info.Key] = true
	}
	r.Based = map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(t.snaps)) {
		s, copied := t.snaps[key], false
		if len(s.marks) == 0 { // all dead
			delete(t.snaps, key)
			continue
		}
		for at, marks := range s.marks {
			for _, m := range marks {
				switch f := q.Fate(m); {
				case f == Kept && there[key]:
					r.Based[m] = true
				case f == Erased && !there[key]:
					copied = true
				case f != Kept:
					r.finds(m, "is gone (%d), and opens in a Base, %s, with the key of %v", f, key, at.day)
				}
			}
		}
		if copied {
			r.CopiedBases++
		}
	}
	return nil
}

// takeSnap opens one piece and what is sealed in it.
func (t *Thief) takeSnap(v version, sealers map[tenantDay]*crypto.LocalSealer, r *Result) {
	name, err := event.ParseSnap(strings.TrimPrefix(v.key, "snap/"))
	if err != nil || len(v.data) < snapFront || string(v.data[:len(snapMagic)]) != snapMagic {
		return // the list of Bases, or nothing that the program wrote
	}
	commit := crypto.Commitment(v.data[len(snapMagic):snapFront])
	b := crypto.Binding{Log: t.log, Tenant: event.SystemTenant, Event: event.ID(name), Role: event.RoleSnap, Part: pieceRole}
	for _, keys := range t.tenants[event.SystemTenant] {
		t.tried++
		plain, err := t.codec.OpenSnap(keys, b, commit, v.data[snapFront:], maxPlain)
		if err != nil {
			continue // an index
		}
		t.pieces++
		s := &snap{key: v.key, marks: map[tenantDay][]string{}}
		for rest := plain; len(rest) > 0; {
			var key, value []byte
			var ok1, ok2 bool
			key, rest, ok1 = cutItem(rest)
			value, rest, ok2 = cutItem(rest)
			if !ok1 || !ok2 {
				r.finds("", "%s is a piece of a Base that cannot be read: the thief is blind there", v.key)
				break
			}
			t.takeItem(s, key, value, sealers, r)
		}
		for at := range s.marks {
			slices.Sort(s.marks[at])
			s.marks[at] = slices.Compact(s.marks[at])
		}
		t.snaps[v.key] = s
	}
}

// cutItem takes a length and so many bytes from the front of a state.
func cutItem(b []byte) (item, rest []byte, ok bool) {
	if len(b) < 8 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint64(b)
	if n > uint64(len(b)-8) {
		return nil, nil, false
	}
	return b[8 : 8+n], b[8+n:], true
}

// takeItem looks at one key and value of a piece. Which projection it is of is not
// said there, so all names are tried.
func (t *Thief) takeItem(s *snap, key, value []byte, sealers map[tenantDay]*crypto.LocalSealer, r *Result) {
	id := t.itemID(key, value)
	v, known := t.values[id]
	if !known {
		for _, text := range [][]byte{key, value} {
			for _, m := range MarksIn(text) {
				r.finds(m, "stands unsealed in a Base, %s, at %x", s.key, key)
			}
		}
		for name := range t.names {
			if v = t.unseal(name, key, value, sealers, false); v.open {
				break
			}
		}
	}
	if len(v.marks) > 0 && sealers[v.at] != nil {
		s.marks[v.at] = append(s.marks[v.at], v.marks...)
	}
}
