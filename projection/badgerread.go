package projection

import (
	"bytes"
	"errors"
	"iter"

	"github.com/dgraph-io/badger/v4"
)

type badgerSnapshot struct {
	s      *badgerStore
	txn    *badger.Txn
	arena  []byte
	period uint64 // in which it was opened
}

// keep copies b to where it stays until the snapshot is closed: Badger's own
// slices end with the next step of an iterator.
func (r *badgerSnapshot) keep(b []byte) []byte {
	const chunk = 16 << 10
	if len(b) > chunk/4 {
		return append([]byte{}, b...)
	}
	if cap(r.arena)-len(r.arena) < len(b) {
		r.arena = make([]byte, 0, chunk)
	}
	n := len(r.arena)
	r.arena = append(r.arena, b...)
	return r.arena[n:len(r.arena):len(r.arena)]
}

func (r *badgerSnapshot) Get(key []byte) ([]byte, error) {
	item, err := r.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, r.s.damaged(err)
	}
	var out []byte
	if err := item.Value(func(v []byte) error { out = append(make([]byte, 0, len(v)), v...); return nil }); err != nil {
		return nil, r.s.damaged(err)
	}
	return out, nil
}

func (r *badgerSnapshot) Scan(prefix, from []byte, reverse bool) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		opt := badger.IteratorOptions{Reverse: reverse}
		start := from
		if !reverse {
			opt.Prefix = prefix // passes over tables that have none of it
		}
		if start == nil {
			start = prefix
			if reverse {
				start = prefixEnd(prefix)
			}
		}
		it := r.txn.NewIterator(opt)
		defer it.Close()
		it.Seek(start)
		if reverse && from == nil && it.Valid() && bytes.Equal(it.Item().Key(), start) {
			it.Next() // the end of the prefix is no part of it
		}
		for ; it.ValidForPrefix(prefix); it.Next() {
			item := it.Item()
			key := r.keep(item.Key())
			var value []byte
			if err := item.Value(func(v []byte) error { value = r.keep(v); return nil }); err != nil {
				yield(Item{}, r.s.damaged(err))
				return
			}
			if !yield(Item{Key: key, Value: value}, nil) {
				return
			}
		}
	}
}

func (r *badgerSnapshot) Close() {
	r.txn.Discard()
	r.s.open.remove(r.period)
}
