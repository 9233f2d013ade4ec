package residue

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/projection"
)

// How package projection lays out its database.
const (
	tagMeta  = 0x01
	tagState = 0x05
	slotSize = 4
)

// ransack goes through a local database: no mark may stand in it as it is, and
// what is sealed in it with a key that can be derived must be of mail that may be
// read.
func (t *Thief) ransack(ctx context.Context, node string, store projection.Store, q Question, r *Result) error {
	snap, err := store.Snapshot()
	if err != nil {
		return fmt.Errorf("look into the database of %s: %w", node, err)
	}
	defer snap.Close()
	names := map[uint32]string{}
	for it, err := range snap.Scan([]byte{tagMeta}, nil, false) {
		if err != nil {
			return fmt.Errorf("look into the database of %s: %w", node, err)
		}
		var m struct {
			Live     uint32 `cbor:"1,keyasint"`
			Building uint32 `cbor:"4,keyasint"`
		}
		if err := event.Unmarshal(it.Value, &m); err != nil {
			return fmt.Errorf("look into the database of %s: %w", node, err)
		}
		names[m.Live], names[m.Building] = string(it.Key[1:]), string(it.Key[1:])
	}
	sealers, err := t.sealers(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		t.names[name] = true
	}
	for it, err := range snap.Scan(nil, nil, false) {
		if err != nil {
			return fmt.Errorf("look into the database of %s: %w", node, err)
		}
		v := t.look(node, names, it, sealers, q, r)
		if len(v.marks) > 0 && sealers[v.at] != nil {
			r.Values++
			for _, m := range v.marks {
				r.Opened[m] = true
				if f := q.Fate(m); f != Kept {
					r.finds(m, "is gone (%d), and opens in the database of %s, at %x", f, node, it.Key)
				}
			}
		}
	}
	return nil
}

// look looks at an item of a database. What was found out about it in the last
// search is believed: keys die, and do not come back.
func (t *Thief) look(node string, names map[uint32]string, it projection.Item, sealers map[tenantDay]*crypto.LocalSealer, q Question, r *Result) (v value) {
	isState := len(it.Key) > 1+slotSize && it.Key[0] == tagState
	key := it.Key
	if isState {
		key = key[1+slotSize:]
	}
	id := t.itemID(key, it.Value)
	if v, known := t.values[id]; known {
		t.next[id] = v
		return v
	}
	plain := false
	for _, text := range [][]byte{it.Key, it.Value} {
		for _, m := range MarksIn(text) {
			plain = true
			r.finds(m, "stands unsealed in the database of %s, at %x", node, it.Key)
		}
	}
	if isState {
		v = t.unseal(names[binary.BigEndian.Uint32(it.Key[1:])], key, it.Value, sealers, q.Deep)
	}
	if !plain {
		t.next[id] = v
	}
	return v
}

// itemID tells items of all databases and Bases apart.
func (t *Thief) itemID(key, value []byte) uint64 {
	return maphash.Comparable(t.seed, [2]uint64{maphash.Bytes(t.seed, key), maphash.Bytes(t.seed, value)})
}

// value is what a value of a database held.
type value struct {
	open  bool // it was sealed, and opened
	at    tenantDay
	marks []string
}

// sealers returns what opens local values: one for each tenant and day that was
// ever seen, as far as the root still derives it.
func (t *Thief) sealers(ctx context.Context) (map[tenantDay]*crypto.LocalSealer, error) {
	out := map[tenantDay]*crypto.LocalSealer{}
	for _, p := range t.pages {
		if out[p.at] != nil {
			continue
		}
		pair, err := t.pair(ctx, p.at)
		if err != nil {
			return nil, err
		}
		if pair != nil {
			out[p.at] = pair.LocalSealer(t.codec)
		}
	}
	return out, nil
}

// unseal opens a value, which is sealed under its projection's name and its key.
// Keys of what is sealed have the tenant and the day in them.
func (t *Thief) unseal(name string, key, sealed []byte, sealers map[tenantDay]*crypto.LocalSealer, deep bool) value {
	place := slices.Concat([]byte(name), []byte{0}, key)
	with := func(at tenantDay, s *crypto.LocalSealer) (v value) {
		t.tried++
		if plain, err := s.Open(place, sealed); err == nil {
			v = value{true, at, MarksIn(plain)}
		}
		return v
	}
	if deep {
		for at, s := range sealers {
			if v := with(at, s); v.open {
				return v
			}
		}
		return value{}
	}
	for tenant := range t.tenants {
		i := bytes.Index(key, tenant[:])
		if i < 0 || len(key) < i+20 {
			continue
		}
		at := tenantDay{tenant, event.Day(binary.BigEndian.Uint32(key[i+16:]))}
		if s := sealers[at]; s != nil {
			return with(at, s)
		}
	}
	return value{}
}
