package projection

import "bytes"

// overlay gathers the writes of a batch, sorted, so that reads and scans see
// them before they are committed. It is a skip list whose nodes never go away:
// a deletion is a node too, and scans may run while the list grows. The heights
// come from a fixed sequence, so that the same writes cost the same every time.
type overlay struct {
	head  node
	level int
	n     int // nodes
	bytes int // of keys and values
	seed  uint64
}

const maxHeight = 16

type node struct {
	key, value []byte
	deleted    bool
	next       []*node
}

func newOverlay() *overlay {
	return &overlay{head: node{next: make([]*node, maxHeight)}, level: 1, seed: 0x9e3779b97f4a7c15}
}

// height returns h with probability 3/4^h.
func (o *overlay) height() int {
	o.seed ^= o.seed << 13
	o.seed ^= o.seed >> 7
	o.seed ^= o.seed << 17
	h := 1
	for s := o.seed; s&3 == 0 && h < maxHeight; s >>= 2 {
		h++
	}
	return h
}

// before returns the last node before key, and fills path with the last node
// before key of each level, when path is not nil.
func (o *overlay) before(key []byte, path *[maxHeight]*node) *node {
	n := &o.head
	for l := o.level - 1; l >= 0; l-- {
		for next := n.next[l]; next != nil && bytes.Compare(next.key, key) < 0; next = n.next[l] {
			n = next
		}
		if path != nil {
			path[l] = n
		}
	}
	return n
}

// last returns the last node, or nil.
func (o *overlay) last() *node {
	n := &o.head
	for l := o.level - 1; l >= 0; l-- {
		for n.next[l] != nil {
			n = n.next[l]
		}
	}
	if n == &o.head {
		return nil
	}
	return n
}

// find returns the node of key, or nil.
func (o *overlay) find(key []byte) *node {
	if n := o.before(key, nil).next[0]; n != nil && bytes.Equal(n.key, key) {
		return n
	}
	return nil
}

// put takes over key and value.
func (o *overlay) put(key, value []byte, deleted bool) {
	var path [maxHeight]*node
	n := o.before(key, &path).next[0]
	if n != nil && bytes.Equal(n.key, key) {
		o.bytes += len(value) - len(n.value)
		n.value, n.deleted = value, deleted
		return
	}
	h := o.height()
	for ; o.level < h; o.level++ {
		path[o.level] = &o.head
	}
	n = &node{key: key, value: value, deleted: deleted, next: make([]*node, h)}
	for l := range h {
		n.next[l] = path[l].next[l]
		path[l].next[l] = n
	}
	o.n++
	o.bytes += len(key) + len(value)
}

// after returns the first node behind key in the given direction, or the one at
// key itself when inclusive. A nil key stands before the first in direction.
func (o *overlay) after(key []byte, inclusive, reverse bool) *node {
	if reverse {
		if key == nil {
			return o.last()
		}
		n := o.before(key, nil)
		if at := n.next[0]; inclusive && at != nil && bytes.Equal(at.key, key) {
			return at
		}
		if n == &o.head {
			return nil
		}
		return n
	}
	n := o.before(key, nil).next[0]
	if !inclusive && n != nil && bytes.Equal(n.key, key) {
		n = n.next[0]
	}
	return n
}

// ops returns what the overlay says, in key order, with room for extra more.
func (o *overlay) ops(extra int) []Op {
	ops := make([]Op, 0, o.n+extra)
	for n := o.head.next[0]; n != nil; n = n.next[0] {
		ops = append(ops, Op{Key: n.key, Value: n.value, Delete: n.deleted})
	}
	return ops
}
