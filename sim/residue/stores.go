package residue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
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
	for it, err := range snap.Scan(nil, nil, false) {
		if err != nil {
			return fmt.Errorf("look into the database of %s: %w", node, err)
		}
		for _, m := range MarksIn(slices.Concat(it.Key, []byte("\n"), it.Value)) {
			r.finds(m, "stands unsealed in the database of %s, at %x", node, it.Key)
		}
		if len(it.Key) <= 1+slotSize || it.Key[0] != tagState {
			continue
		}
		name := names[binary.BigEndian.Uint32(it.Key[1:])]
		id := sha256.Sum256(slices.Concat([]byte(name), it.Key, it.Value))
		v, known := t.values[id]
		if !known || sealers[v.at] == nil {
			var ok bool
			if v, ok = t.unseal(name, it.Key[1+slotSize:], it.Value, sealers, q.Deep); !ok {
				continue
			}
		}
		t.next[id] = v
		if len(v.marks) > 0 {
			r.Values++
		}
		for _, m := range v.marks {
			r.Opened[m] = true
			switch f := q.Fate(m); f {
			case Kept:
			default:
				r.finds(m, "is gone (%d), and opens in the database of %s, at %x", f, node, it.Key)
			}
		}
	}
	return nil
}

// value is what a sealed value of a database held.
type value struct {
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
func (t *Thief) unseal(name string, key, sealed []byte, sealers map[tenantDay]*crypto.LocalSealer, deep bool) (v value, ok bool) {
	place := slices.Concat([]byte(name), []byte{0}, key)
	for at, s := range sealers {
		if !deep {
			i := bytes.Index(key, at.tenant[:])
			if i < 0 || len(key) < i+20 || event.Day(binary.BigEndian.Uint32(key[i+16:])) != at.day {
				continue
			}
		}
		t.tried++
		if plain, err := s.Open(place, sealed); err == nil {
			return value{at, MarksIn(plain)}, true
		}
	}
	return value{}, false
}
