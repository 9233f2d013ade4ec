package projection

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"holdfast/event"
)

// A commit that exceeds one transaction of Badger is written to a journal in
// the database first: chunks, then a marker that makes it valid. From the marker
// on it is carried out, if need be by the next start, and repeating it changes
// nothing.
//
//	journalChunk  number of the chunk (4)   operations, as CBOR
//	journalMarker                           number of chunks (4)
//
// There is one such commit at a time.
const (
	journalChunk  = 0xf0
	journalMarker = 0xf1
	// chunkBytes bounds a chunk, so that it fits one transaction by far.
	chunkBytes = 512 << 10
	chunkOps   = 4096
)

func chunkKey(i uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{journalChunk}, i)
}

// commitLarge commits any number of ops.
func (s *badgerStore) commitLarge(ops []Op) error {
	s.large.Lock()
	defer s.large.Unlock()
	var n uint32
	for chunk := range chunks(ops) {
		if err := s.commitOne([]Op{{Key: chunkKey(n), Value: encodeOps(chunk)}}); err != nil {
			// Without the marker the chunks mean nothing, and the next commit of this
			// kind overwrites them.
			return fmt.Errorf("write journal of a large commit: %w", err)
		}
		n++
	}
	if err := s.commitOne([]Op{{Key: []byte{journalMarker}, Value: binary.BigEndian.AppendUint32(nil, n)}}); err != nil {
		return fmt.Errorf("write journal of a large commit: %w", err)
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := s.applyJournal(n); err != nil {
		// The half of it is in the database, and no state of it may be seen before
		// the whole is. The next start finds the journal.
		err = fmt.Errorf("carry out a large commit: %w", err)
		s.failed.Store(&err)
		return err
	}
	return nil
}

func encodeOps(ops []Op) []byte { return event.Marshal(ops) }

// chunks divides ops into pieces of bounded size, and at least one op.
func chunks(ops []Op) func(yield func([]Op) bool) {
	return func(yield func([]Op) bool) {
		for len(ops) > 0 {
			n, size := 0, 0
			for n < len(ops) && n < chunkOps && (n == 0 || size+len(ops[n].Key)+len(ops[n].Value) <= chunkBytes) {
				size += len(ops[n].Key) + len(ops[n].Value)
				n++
			}
			if !yield(ops[:n]) {
				return
			}
			ops = ops[n:]
		}
	}
}

// applyJournal carries out n chunks and ends the journal.
func (s *badgerStore) applyJournal(n uint32) error {
	for i := range n {
		b, err := s.value(chunkKey(i))
		if err != nil {
			return err
		}
		var ops []Op
		if err := event.Unmarshal(b, &ops); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if err := s.commitOne(ops); err != nil {
			return err
		}
	}
	if err := s.commitOne([]Op{{Key: []byte{journalMarker}, Delete: true}}); err != nil {
		return err
	}
	for i := range n {
		if err := s.commitOne([]Op{{Key: chunkKey(i), Delete: true}}); err != nil {
			return err
		}
	}
	return nil
}

// recover carries out a large commit that the last process did not finish.
func (s *badgerStore) recover() error {
	b, err := s.value([]byte{journalMarker})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil
	}
	if err != nil || len(b) != 4 {
		return fmt.Errorf("journal marker of %d bytes: %w", len(b), errors.Join(err, event.ErrMalformed))
	}
	return s.applyJournal(binary.BigEndian.Uint32(b))
}

func (s *badgerStore) value(key []byte) (b []byte, err error) {
	err = s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		b, err = item.ValueCopy(nil)
		return err
	})
	return b, err
}
