package year

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/projection"
	"holdfast/sim/lan"
)

// Moment is a world as it stands while no node runs. It holds nothing of a
// synctest bubble, so that a world can go on from it in another one, and again.
type Moment struct {
	at      time.Time
	plan    Plan
	objects []object
	stores  [][]projection.Op
	ledger  *Ledger
	days    map[string]int
	began   event.Day
}

type object struct {
	key  string
	data []byte
}

// Freeze takes a world down as it stands. The root is the caller's to keep.
func (w *World) Freeze() (*Moment, error) {
	if err := w.sleep(); err != nil {
		return nil, err
	}
	m := &Moment{at: time.Now(), plan: w.plan, ledger: w.ledger.clone(), days: maps.Clone(w.days), began: w.began}
	for info, err := range w.bucket.List(context.Background(), "", "") {
		if err != nil {
			return nil, err
		}
		data, _, err := objstore.ReadAll(context.Background(), w.bucket, info.Key, 1<<30)
		if err != nil {
			return nil, err
		}
		m.objects = append(m.objects, object{info.Key, data})
	}
	for _, k := range w.keepers {
		ops, err := dump(k.store)
		if err != nil {
			return nil, err
		}
		m.stores = append(m.stores, ops)
	}
	return m, nil
}

// dump returns what fills an empty database with the content of another.
func dump(s projection.Store) (ops []projection.Op, err error) {
	snap, err := s.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	for it, err := range snap.Scan(nil, nil, false) {
		if err != nil {
			return nil, err
		}
		ops = append(ops, projection.Op{Key: it.Key, Value: it.Value})
	}
	return ops, nil
}

// Thaw returns a world as it stood, at its time, in which no node runs. root is
// the installation's of that moment.
func (m *Moment) Thaw(root *crypto.Root) (*World, error) {
	time.Sleep(time.Until(m.at))
	w := &World{
		plan: m.plan, rng: rand.New(rand.NewPCG(m.plan.Seed, 366)), net: lan.New(), bucket: mem.New(), hosts: map[string]*primary{},
		ledger: m.ledger.clone(), days: maps.Clone(m.days), began: m.began, root: root,
	}
	for _, o := range m.objects {
		if _, err := w.bucket.Put(context.Background(), o.key, bytes.NewReader(o.data), int64(len(o.data)), objstore.PutOptions{}); err != nil {
			return nil, fmt.Errorf("put back %s: %w", o.key, err)
		}
	}
	if err := w.furnish(); err != nil {
		return nil, err
	}
	for i, k := range w.keepers {
		if err := k.store.Commit(m.stores[i]); err != nil {
			return nil, err
		}
	}
	return w, w.open()
}

// clone returns a copy that shares nothing with the ledger.
func (g *Ledger) clone() *Ledger {
	out := newLedger()
	out.done = g.done
	for _, l := range g.order {
		c := *l
		c.due = maps.Clone(l.due)
		out.letters[c.mark], out.order = &c, append(out.order, &c)
	}
	for user, boxes := range g.boxes {
		for name, b := range boxes {
			nb := out.box(user, name)
			nb.validity, nb.next, nb.past = b.validity, b.next, maps.Clone(b.past)
			for uid, c := range b.messages {
				nb.messages[uid] = &copied{l: out.letters[c.l.mark], flags: maps.Clone(c.flags)}
			}
		}
	}
	for name, h := range g.holds {
		out.holds[name] = &hold{name: h.name, users: h.users}
	}
	return out
}
