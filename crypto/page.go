package crypto

import (
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"holdfast/event"
)

// Errors of key pages.
var (
	// ErrPageFull means that every leaf of the page was handed out.
	ErrPageFull = errors.New("key page is full")
	// ErrPunctured means that the leaf's secret was removed from the page.
	ErrPunctured = errors.New("leaf was punctured")
)

const (
	pageDepth = 20
	// PageLeaves is the number of leaves of a key page.
	PageLeaves = 1 << pageDepth
)

// PageBinding says which page a key page object is. It is bound into its seal.
type PageBinding struct {
	Log    event.LogID
	Tenant event.Tenant
	Day    event.Day // expiry day
	Page   event.Page
	Writer event.Writer
}

func (b PageBinding) info() []byte {
	return labelled("holdfast key page v1", b.Log[:], b.Tenant[:], dayBytes(b.Day), b.Page[:], b.Writer[:])
}

// matches reports whether a page of this binding belongs under a day's key.
func (b PageBinding) matches(p *DayPublic) bool {
	return b.Log == p.log && b.Tenant == p.tenant && b.Day == p.day
}

// node is one node of the tree: the one at depth d and index i covers the
// leaves from i<<(20-d) up to, not including, (i+1)<<(20-d).
type node struct {
	depth uint8
	index uint32
	key   *secret
}

func (n node) first() uint32 { return n.index << (pageDepth - n.depth) }
func (n node) end() uint32   { return (n.index + 1) << (pageDepth - n.depth) }

// child returns the left (0) or right (1) child.
func (n node) child(side byte) node {
	key := childKey(n.key.key, side)
	return node{n.depth + 1, n.index<<1 | uint32(side), &secret{&key}}
}

// childKey is SHA-256 of "holdfast ggm v1", the side, and the parent: 48 bytes,
// one block of SHA-256. A parent does not follow from its children, nor one
// child from the other.
func childKey(parent *[32]byte, side byte) [32]byte {
	var in [48]byte
	copy(in[:], "holdfast ggm v1")
	in[15] = side
	copy(in[16:], parent[:])
	return sha256.Sum256(in[:])
}

// Leaf is the secret of one event: the message keys of its parts are derived
// from it. A leaf serves one event only.
type Leaf struct {
	redacted
	index uint32
	key   *secret
}

// Index returns which leaf of its page this is.
func (l Leaf) Index() uint32 { return l.index }

// PageSealer hands out the leaves of one page, each once, in order. It keeps
// the frontier of unused leaves only: what was sealed under the leaves it
// handed out cannot be opened with what it holds. All methods may be called by
// any goroutine.
type PageSealer struct {
	redacted
	binding PageBinding

	mu    sync.Mutex
	stack [pageDepth + 1]node // roots of unused subtrees, the next one last
	n     int
	used  uint32
}

// NewPage mints a page towards a day's public key. The sealed page must be
// stored under its own name, durably, before anything sealed under its leaves
// is acknowledged. [ErrMalformed] if the binding is not of the key's log,
// tenant and day.
func NewPage(pub *DayPublic, b PageBinding) (*PageSealer, []byte, error) {
	root := node{key: newSecret()}
	sealed, err := sealPage(pub, b, []node{root})
	if err != nil {
		return nil, nil, fmt.Errorf("make key page %v: %w", b.Page, err)
	}
	s := &PageSealer{binding: b, n: 1}
	s.stack[0] = root
	return s, sealed, nil
}

// Binding returns which page this is.
func (s *PageSealer) Binding() PageBinding { return s.binding }

// Remaining returns how many leaves are left.
func (s *PageSealer) Remaining() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return PageLeaves - int(s.used)
}

// Next hands out the next leaf and forgets it. [ErrPageFull] after the last.
func (s *PageSealer) Next() (Leaf, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		return Leaf{}, ErrPageFull
	}
	s.n--
	at := s.stack[s.n]
	s.stack[s.n] = node{}
	for at.depth < pageDepth {
		s.stack[s.n] = at.child(1)
		s.n++
		left := at.child(0)
		at.key.wipe()
		at = left
	}
	s.used++
	return Leaf{index: at.index, key: at.key}, nil
}

// Page is an opened key page. All methods may be called by any goroutine.
type Page struct {
	redacted
	binding PageBinding

	mu    sync.Mutex
	nodes []node // disjoint, in order of the leaves they cover
	path  *pagePath
}

// pagePath remembers the nodes on the way to the last leaf asked for, so that
// leaves asked for in order cost two hashes each.
type pagePath struct {
	redacted
	leaf  uint32
	cover int // which of the page's nodes the way begins at; -1 for none
	keys  *[pageDepth + 1][32]byte
}

// OpenPage opens a key page object. [ErrNotOpened] if it was not sealed towards
// this pair with this binding, [ErrMalformed] if it is none.
func OpenPage(pair *DayPair, b PageBinding, sealed []byte) (*Page, error) {
	nodes, err := openPage(pair, b, sealed)
	if err != nil {
		return nil, fmt.Errorf("open key page %v of %d bytes: %w", b.Page, len(sealed), err)
	}
	return &Page{binding: b, nodes: nodes, path: &pagePath{cover: -1, keys: new([pageDepth + 1][32]byte)}}, nil
}

// Binding returns which page this is.
func (p *Page) Binding() PageBinding { return p.binding }

// find returns which of the page's nodes covers the leaf.
func (p *Page) find(leaf uint32) (int, bool) {
	if leaf >= PageLeaves {
		return 0, false
	}
	i, found := slices.BinarySearchFunc(p.nodes, leaf, func(n node, leaf uint32) int {
		switch {
		case n.end() <= leaf:
			return -1
		case n.first() > leaf:
			return 1
		}
		return 0
	})
	return i, found
}

// Leaf returns the leaf of the given index. [ErrPunctured] if the page does not
// hold it (any more).
func (p *Page) Leaf(index uint32) (Leaf, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, found := p.find(index)
	if !found {
		return Leaf{}, fmt.Errorf("leaf %d of key page %v: %w", index, p.binding.Page, ErrPunctured)
	}
	way, top := p.path, p.nodes[i]
	depth := int(top.depth)
	if way.cover == i { // both leaves are below this node
		depth = max(depth, pageDepth-bits.Len32(index^way.leaf))
	} else {
		way.keys[depth] = *top.key.key
	}
	for ; depth < pageDepth; depth++ {
		side := byte(index >> (pageDepth - 1 - depth) & 1)
		way.keys[depth+1] = childKey(&way.keys[depth], side)
	}
	way.leaf, way.cover = index, i
	key := way.keys[pageDepth]
	return Leaf{index: index, key: &secret{&key}}, nil
}

// Puncture removes leaves from the page: what remains derives every other leaf
// and none of these. Leaves that are not there are passed over. It changes the
// page in memory only; see [Page.Seal].
func (p *Page) Puncture(indexes ...uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.path.keys[:])
	p.path.cover = -1
	for _, index := range indexes {
		i, found := p.find(index)
		if !found {
			continue
		}
		at := p.nodes[i]
		var left, right []node // what remains on either side of the leaf
		for at.depth < pageDepth {
			children := [2]node{at.child(0), at.child(1)}
			at.key.wipe()
			side := index >> (pageDepth - 1 - at.depth) & 1
			if side == 0 {
				right = append(right, children[1])
			} else {
				left = append(left, children[0])
			}
			at = children[side]
		}
		at.key.wipe()
		slices.Reverse(right)
		p.nodes = slices.Replace(p.nodes, i, i+1, append(left, right...)...)
	}
}

// Seal seals the page as it is now, in the format of [NewPage]'s.
func (p *Page) Seal(pub *DayPublic) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sealed, err := sealPage(pub, p.binding, p.nodes)
	if err != nil {
		return nil, fmt.Errorf("seal key page %v: %w", p.binding.Page, err)
	}
	return sealed, nil
}

const (
	pageMagic     = "HFK1"
	pageEntrySize = 1 + 4 + 32
)

func sealPage(pub *DayPublic, b PageBinding, nodes []node) ([]byte, error) {
	if !b.matches(pub) {
		return nil, fmt.Errorf("binding is not of the day key: %w", ErrMalformed)
	}
	plain := make([]byte, 0, 4+len(nodes)*pageEntrySize)
	plain = binary.BigEndian.AppendUint32(plain, uint32(len(nodes)))
	for _, n := range nodes {
		plain = append(plain, n.depth)
		plain = binary.BigEndian.AppendUint32(plain, n.index)
		plain = append(plain, n.key.bytes()...)
	}
	defer clear(plain)
	sealed, err := hpke.Seal(pub.key, hpkeKDF(), hpkeAEAD(), b.info(), plain)
	if err != nil {
		return nil, err
	}
	return append([]byte(pageMagic), sealed...), nil
}

func openPage(pair *DayPair, b PageBinding, sealed []byte) ([]node, error) {
	if len(sealed) < len(pageMagic)+kemEncSize+4+tagSize || string(sealed[:len(pageMagic)]) != pageMagic {
		return nil, ErrMalformed
	}
	if !b.matches(pair.public) {
		return nil, ErrNotOpened
	}
	plain, err := hpke.Open(pair.sec.kem, hpkeKDF(), hpkeAEAD(), b.info(), sealed[len(pageMagic):])
	if err != nil {
		return nil, ErrNotOpened
	}
	defer clear(plain)
	return decodePage(plain)
}

// decodePage reads the nodes of a page. They are disjoint and in order.
func decodePage(plain []byte) ([]node, error) {
	if len(plain) < 4 {
		return nil, ErrMalformed
	}
	count := binary.BigEndian.Uint32(plain)
	if uint64(len(plain)) != 4+uint64(count)*pageEntrySize {
		return nil, fmt.Errorf("%d nodes in %d bytes: %w", count, len(plain), ErrMalformed)
	}
	nodes := make([]node, 0, count)
	var end uint32
	for e := range slices.Chunk(plain[4:], pageEntrySize) {
		n := node{e[0], binary.BigEndian.Uint32(e[1:]), secretOf(e[5:])}
		if n.depth > pageDepth || n.index >= 1<<n.depth || n.first() < end {
			return nil, fmt.Errorf("node %d at depth %d: %w", n.index, n.depth, ErrMalformed)
		}
		end = n.end()
		nodes = append(nodes, n)
	}
	return nodes, nil
}
