package shadow

import (
	"encoding/binary"
	"math/bits"

	"holdfast/projection"
)

// A filter is a Bloom filter over what a block's rows can be found by. Its bits
// lie in pages, and all bits of one token in one page. Where a group is full
// the filters of its blocks are turned round: for each bit there is a word that
// says which blocks have it, so that one page tells about 64 blocks at once.
const (
	filterPages = 8
	pageBits    = 512
	tokenBits   = 5 // set by one token; with some 300 tokens 1 block in 200 is opened in vain
	filterSize  = filterPages * pageBits / 8
)

type filter [filterSize]byte

// token is the hash of something that rows are found by.
type token uint64

// The kinds of tokens.
const (
	tokRcpt       = 'r'
	tokRcptDomain = 'R'
	tokFrom       = 'f'
	tokFromDomain = 'F'
	tokMessageID  = 'm'
	tokWord       = 's'
)

// newToken hashes with FNV-1a and a final mix. Whoever makes two texts meet
// makes a search open a block in vain; the hashes themselves are only in sealed
// values.
func newToken(kind byte, text string) token {
	h := (uint64(14695981039346656037) ^ uint64(kind)) * 1099511628211
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return token(h ^ h>>33)
}

func (t token) page() int { return int(t % filterPages) }

// bit returns the i-th bit of the token in its page.
func (t token) bit(i int) int { return int(t>>(8+9*i)) % pageBits }

func (f *filter) add(t token) {
	for i := range tokenBits {
		b := t.page()*pageBits + t.bit(i)
		f[b/8] |= 1 << (b % 8)
	}
}

func (f *filter) has(t token) bool {
	for i := range tokenBits {
		b := t.page()*pageBits + t.bit(i)
		if f[b/8]&(1<<(b%8)) == 0 {
			return false
		}
	}
	return true
}

// tokens calls add for everything by which the row can be found.
func (w *row) tokens(add func(token)) {
	for _, c := range w.rcpts {
		for _, name := range c.names() {
			add(newToken(tokRcpt, name.whole))
			add(newToken(tokRcptDomain, name.domain))
		}
	}
	add(newToken(tokFrom, canonical(w.from).whole))
	add(newToken(tokFromDomain, canonical(w.from).domain))
	for _, addr := range w.hdrFrom {
		add(newToken(tokFrom, canonical(addr).whole))
		add(newToken(tokFromDomain, canonical(addr).domain))
	}
	if w.msgID != "" {
		add(newToken(tokMessageID, w.msgID))
	}
	for word := range words(foldCase(w.subject)) {
		add(newToken(tokWord, word))
	}
}

func newFilter(rows []*row) *filter {
	f := new(filter)
	for _, w := range rows {
		w.tokens(f.add)
	}
	return f
}

// page is a page of a full group: for each bit, the set of blocks that have it.
type page [pageBits]uint64

// turn makes the pages of a group from the filters of its blocks.
func turn(filters []*filter) *[filterPages]page {
	out := new([filterPages]page)
	for n, f := range filters {
		for i := 0; i < filterSize; i += 8 {
			w := binary.LittleEndian.Uint64(f[i:])
			for ; w != 0; w &= w - 1 {
				b := i*8 + bits.TrailingZeros64(w)
				out[b/pageBits][b%pageBits] |= 1 << n
			}
		}
	}
	return out
}

func (p *page) bytes() []byte {
	b := make([]byte, 0, 8*pageBits)
	for _, w := range p {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// blocksWith returns which blocks of a full group may have all tokens, out of
// those in set.
func blocksWith(v projection.View, s shelfID, group uint32, tokens []token, set uint64) (uint64, error) {
	var opened [filterPages][]byte
	for _, t := range tokens {
		if set == 0 {
			return 0, nil
		}
		n := t.page()
		if opened[n] == nil {
			key := s.in(keyPage, group, byte(n))
			raw, err := open(v, s, key)
			if err != nil {
				return 0, err
			}
			if len(raw) != 8*pageBits {
				return 0, malformed(raw)
			}
			opened[n] = raw
		}
		for i := range tokenBits {
			set &= binary.LittleEndian.Uint64(opened[n][8*t.bit(i):])
		}
	}
	return set, nil
}

// open reads a sealed value of a shelf, which must be there.
func open(v projection.View, s shelfID, key []byte) ([]byte, error) {
	raw, err := v.Get(key)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, malformed(raw)
	}
	return v.OpenSealed(s.tenant, s.day, key, raw)
}
