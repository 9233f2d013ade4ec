package shadow

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"holdfast/projection"
)

// A filter has a Bloom filter over what each quarter of a block's rows can be
// found by. Its bits lie in pages, and all bits of one token in one page. Where
// a group is full the filters of its blocks are turned round: for each bit there
// are words that say which blocks have it, so that one page tells about 64
// blocks at once.
const (
	quarters    = 4
	quarterRows = blockRows / quarters
	filterPages = 8
	pageBits    = 256
	quarterSize = filterPages * pageBits / 8
	// tokenBits are set by one token. With some 100 tokens in a quarter, 1 of
	// 600 is looked at in vain.
	tokenBits = 5
)

type filter [quarters][quarterSize]byte

const filterSize = quarters * quarterSize

// quarterSet is a set of quarters in a group: bit i of word j stands for the
// j-th quarter of the i-th block.
type quarterSet [quarters]uint64

// blocks returns the blocks of which there is a quarter in the set.
func (s *quarterSet) blocks() (set uint64) {
	for _, w := range s {
		set |= w
	}
	return set
}

// keep leaves only blocks that are in set.
func (s *quarterSet) keep(set uint64) {
	for j := range s {
		s[j] &= set
	}
}

// of returns which quarters of a block are in the set.
func (s *quarterSet) of(block int) (set uint8) {
	for j, w := range s {
		set |= uint8(w>>block&1) << j
	}
	return set
}

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
func (t token) bit(i int) int { return int(t>>(8+8*i)) % pageBits }

func (f *filter) add(quarter int, t token) {
	for i := range tokenBits {
		b := t.page()*pageBits + t.bit(i)
		f[quarter][b/8] |= 1 << (b % 8)
	}
}

// with returns the quarters that may have all tokens.
func (f *filter) with(tokens []token) (set uint8) {
	for j := range f {
		if !slices.ContainsFunc(tokens, func(t token) bool { return !f.has(j, t) }) {
			set |= 1 << j
		}
	}
	return set
}

func (f *filter) has(quarter int, t token) bool {
	for i := range tokenBits {
		b := t.page()*pageBits + t.bit(i)
		if f[quarter][b/8]&(1<<(b%8)) == 0 {
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
	w.tokensTo(add)
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
	for i, w := range rows {
		if w == nil {
			continue
		}
		w.tokens(func(t token) { f.add(i/quarterRows, t) })
	}
	return f
}

func (f *filter) append(b []byte) []byte {
	for j := range f {
		b = append(b, f[j][:]...)
	}
	return b
}

func parseFilter(b []byte) *filter {
	f := new(filter)
	for j := range f {
		copy(f[j][:], b[j*quarterSize:])
	}
	return f
}

// pageSize is the size of a page of a full group: for each bit, a quarterSet.
const pageSize = pageBits * quarters * 8

// turn makes the pages of a group from the filters of its blocks.
func turn(filters []*filter) *[filterPages][pageSize]byte {
	out := new([filterPages][pageSize]byte)
	for n, f := range filters {
		for j := range f {
			for i := 0; i < quarterSize; i += 8 {
				w := binary.LittleEndian.Uint64(f[j][i:])
				for ; w != 0; w &= w - 1 {
					b := i*8 + bits.TrailingZeros64(w)
					at := (b%pageBits*quarters + j) * 8
					out[b/pageBits][at+n/8] |= 1 << (n % 8)
				}
			}
		}
	}
	return out
}

// keepWith leaves in set only the quarters of a full group that may have all
// tokens.
func (set *quarterSet) keepWith(v projection.View, s shelfID, group uint32, tokens []token) error {
	var opened [filterPages][]byte
	for _, t := range tokens {
		if set.blocks() == 0 {
			return nil
		}
		n := t.page()
		if opened[n] == nil {
			raw, err := open(v, s, s.in(keyPage, group, byte(n)))
			if err != nil {
				return err
			}
			if len(raw) != pageSize {
				return malformed(raw)
			}
			opened[n] = raw
		}
		for i := range tokenBits {
			at := t.bit(i) * quarters * 8
			for j := range set {
				set[j] &= binary.LittleEndian.Uint64(opened[n][at+8*j:])
			}
		}
	}
	return nil
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
