package projection

import (
	"bytes"
	"iter"
	"sync"
)

// NewMemStore returns a store that lives in memory, for simulations and tests.
// It has no goroutines and no randomness, and its fault model is that nothing
// ever fails.
func NewMemStore() Store { return new(memStore) }

// memStore is a persistent treap: a commit copies the nodes that it changes,
// once, so that a snapshot is no more than the root it began with.
type memStore struct {
	mu     sync.Mutex
	root   *treap
	commit uint64 // number of the last commit
}

type treap struct {
	key, value  []byte
	priority    uint64
	commit      uint64 // which made this node, and may change it while it runs
	left, right *treap
}

func (s *memStore) Snapshot() (Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return memSnapshot{s.root}, nil
}

func (s *memStore) Commit(ops []Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit++
	root := s.root
	for _, op := range ops {
		less, more := root.split(op.Key, s.commit)
		if !op.Delete {
			less = less.merge(&treap{key: op.Key, value: nonNil(op.Value), priority: priority(op.Key), commit: s.commit}, s.commit)
		}
		root = less.merge(more, s.commit)
	}
	s.root = root
	return nil
}

func (s *memStore) Close() error { return nil }

// priority spreads keys over the heap order: FNV-1a with a final mix. It is a
// function of the key, so that the same content has the same shape every time.
func priority(key []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range key {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// own returns t itself if this commit made it, else a copy that it may change.
func (t *treap) own(commit uint64) *treap {
	if t.commit == commit {
		return t
	}
	n := *t
	n.commit = commit
	return &n
}

// split divides t into the nodes before key and behind it, without key itself.
func (t *treap) split(key []byte, commit uint64) (less, more *treap) {
	if t == nil {
		return nil, nil
	}
	switch c := bytes.Compare(key, t.key); {
	case c == 0:
		return t.left, t.right
	case c < 0:
		more = t.own(commit)
		less, more.left = t.left.split(key, commit)
		return less, more
	default:
		less = t.own(commit)
		less.right, more = t.right.split(key, commit)
		return less, more
	}
}

// merge joins two treaps, of which t's keys all lie before u's.
func (t *treap) merge(u *treap, commit uint64) *treap {
	switch {
	case t == nil:
		return u
	case u == nil:
		return t
	case t.priority >= u.priority:
		n := t.own(commit)
		n.right = n.right.merge(u, commit)
		return n
	default:
		n := u.own(commit)
		n.left = t.merge(n.left, commit)
		return n
	}
}

// ascend yields the nodes with low <= key, in order, until yield says no.
func (t *treap) ascend(low []byte, yield func(*treap) bool) bool {
	if t == nil {
		return true
	}
	if bytes.Compare(low, t.key) <= 0 {
		if !t.left.ascend(low, yield) || !yield(t) {
			return false
		}
	}
	return t.right.ascend(low, yield)
}

// descend yields the nodes with key <= high (all, when high is nil) in reverse.
func (t *treap) descend(high []byte, yield func(*treap) bool) bool {
	if t == nil {
		return true
	}
	if high == nil || bytes.Compare(t.key, high) <= 0 {
		if !t.right.descend(high, yield) || !yield(t) {
			return false
		}
	}
	return t.left.descend(high, yield)
}

type memSnapshot struct{ root *treap }

func (s memSnapshot) Get(key []byte) ([]byte, error) {
	for t := s.root; t != nil; {
		switch c := bytes.Compare(key, t.key); {
		case c == 0:
			return t.value, nil
		case c < 0:
			t = t.left
		default:
			t = t.right
		}
	}
	return nil, nil
}

func (s memSnapshot) Scan(prefix, from []byte, reverse bool) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if !reverse {
			low := prefix
			if from != nil {
				low = from
			}
			s.root.ascend(low, func(t *treap) bool {
				return bytes.HasPrefix(t.key, prefix) && yield(Item{t.key, t.value}, nil)
			})
			return
		}
		high := from
		if high == nil {
			high = prefixEnd(prefix)
		}
		s.root.descend(high, func(t *treap) bool {
			if !bytes.HasPrefix(t.key, prefix) {
				// Only the end of the prefix itself may lie behind it.
				return bytes.Compare(t.key, prefix) > 0
			}
			return yield(Item{t.key, t.value}, nil)
		})
	}
}

func (s memSnapshot) Close() {}
