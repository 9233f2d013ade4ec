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
		if err == nil {
			err = t.addNames(names, it.Key, it.Value)
		}
		if err != nil {
			return fmt.Errorf("look into the database of %s: %w", node, err)
		}
	}
	sealers, err := t.sealers(ctx)
	if err != nil {
		return err
	}
	for it, err := range snap.Scan(nil, nil, false) {
		if err != nil {
			return fmt.Errorf("look into the database of %s: %w", node, err)
		}
		t.want("the database of "+node, names, it, sealers, q, r)
	}
	return nil
}

// dig goes through the files of a local database, and wants of all that ever
// stood in them what ransack wants of what stands in the database.
func (t *Thief) dig(ctx context.Context, node, dir string, q Question, r *Result) error {
	key, err := t.keys.LocalKey(ctx, "local database")
	if err != nil {
		return err
	}
	names := map[uint32]string{}
	if _, err := remains(dir, key, func(m remain) error {
		if m.key[0] == tagMeta {
			return t.addNames(names, m.key, m.value)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("dig in the files of %s: %w", node, err)
	}
	sealers, err := t.sealers(ctx)
	if err != nil {
		return err
	}
	n, err := remains(dir, key, func(m remain) error {
		t.want("the files of "+node+", "+m.file, names, projection.Item{Key: m.key, Value: m.value}, sealers, q, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("dig in the files of %s: %w", node, err)
	}
	r.Dug += n
	return nil
}

// addNames adds what a projection is called whose slots a row names.
func (t *Thief) addNames(names map[uint32]string, key, value []byte) error {
	var m struct {
		Live     uint32 `cbor:"1,keyasint"`
		Building uint32 `cbor:"4,keyasint"`
	}
	if err := event.Unmarshal(value, &m); err != nil {
		return err
	}
	for _, slot := range []uint32{m.Live, m.Building} {
		if slot != 0 {
			names[slot] = string(key[1:])
		}
	}
	t.names[string(key[1:])] = true
	return nil
}

// want looks at an item, which must be of mail that may be read.
func (t *Thief) want(where string, names map[uint32]string, it projection.Item, sealers map[tenantDay]*crypto.LocalSealer, q Question, r *Result) {
	v := t.look(where, names, it, sealers, q, r)
	if len(v.marks) == 0 || sealers[v.at] == nil {
		return
	}
	r.Values++
	for _, m := range v.marks {
		r.Opened[m] = true
		if f := q.Fate(m); f != Kept {
			r.finds(m, "is gone (%d), and opens in %s, at %x", f, where, it.Key)
		}
	}
}

// look looks at an item of a database. What was found out about it in the last
// search is believed: keys die, and do not come back.
func (t *Thief) look(where string, names map[uint32]string, it projection.Item, sealers map[tenantDay]*crypto.LocalSealer, q Question, r *Result) (v value) {
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
			r.finds(m, "stands unsealed in %s, at %x", where, it.Key)
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
