package crypto

import (
	"encoding/binary"

	"github.com/klauspost/compress/huff0"
)

// A chunk of a body is packed in one of three ways, by what is in it. All mail
// has the first as most of its bytes; the second and third are zstd frames alike,
// so that readers need not know.
type packing uint8

const (
	asItIs    packing = iota // base64, or too short
	byEntropy                // text: the letters are of unequal use, and that is nearly all
	byRepeats                // what repeats itself, such as HTML
)

// packingOf looks at samples of a chunk. zstd finds few matches in base64, and
// saves the quarter that Huffman coding gives, at 200 MB/s; most bytes of mail
// are attachments in base64, and as they are they pass at the speed of AES. In
// text it finds matches that are short and far apart: Huffman codes alone take a
// fifth of the time and give nearly the same.
func packingOf(chunk []byte) packing {
	switch {
	case len(chunk) < minCompress || looksBase64(chunk):
		return asItIs
	case repeats(chunk):
		return byRepeats
	}
	return byEntropy
}

// looksBase64 reports whether three samples hold nothing but the base64 alphabet
// and line ends.
func looksBase64(chunk []byte) bool {
	const window = 256
	if len(chunk) < 8*window {
		return false
	}
	for _, at := range []int{len(chunk) / 4, len(chunk) / 2, len(chunk) * 3 / 4} {
		for _, b := range chunk[at : at+window] {
			switch {
			case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '+', b == '/', b == '=', b == '\r', b == '\n':
			default:
				return false
			}
		}
	}
	return true
}

const (
	// repeatSpan is how much of a chunk is searched for repeats, half of it being
	// looked up in the other half.
	repeatSpan = 4 << 10
	// repeatLength is how many bytes have to be the same.
	repeatLength = 8
	// repeatStep is the distance between two places that are looked up.
	repeatStep = 4
	// repeatShare: with one look-up in so many found, zstd is worth its time.
	repeatShare = 4
	repeatBits  = 11
)

// repeats reports whether strings of a chunk's middle come again soon after.
func repeats(chunk []byte) bool {
	if len(chunk) > repeatSpan {
		from := (len(chunk) - repeatSpan) / 2
		chunk = chunk[from : from+repeatSpan]
	}
	half := len(chunk) / 2
	var seen [1 << repeatBits]uint16
	place := func(v uint64) uint64 { return v * 0x9E3779B97F4A7C15 >> (64 - repeatBits) }
	for i := 0; i+repeatLength <= half; i++ {
		seen[place(binary.LittleEndian.Uint64(chunk[i:]))] = uint16(i)
	}
	found, tried := 0, 0
	for i := half; i+repeatLength <= len(chunk); i += repeatStep {
		v := binary.LittleEndian.Uint64(chunk[i:])
		if binary.LittleEndian.Uint64(chunk[seen[place(v)]:]) == v {
			found++
		}
		tried++
	}
	return found*repeatShare > tried
}

// The parts of a zstd frame (RFC 8878) that holds one block of literals.
const (
	zstdMagic       = 0xFD2FB528
	singleSegment   = 1 << 5 // no window descriptor: the content is the window
	contentSize2    = 1 << 6 // two bytes of content size, less 256
	contentSize4    = 2 << 6 // four bytes
	lastBlock       = 1
	compressedBlock = 2 << 1
	huffmanLiterals = 2
	fourStreams14   = 2 << 2 // four streams, sizes of 14 bits each
	fourStreams18   = 3 << 2 // of 18 bits
)

// huffman appends a zstd frame of plain, coded by Huffman alone, to dst. It
// appends nothing when that does not make it shorter. plain has at least
// minCompress bytes and at most chunkSize.
func (c *Codec) huffman(dst, plain []byte) []byte {
	h, ok := c.coders.get()
	if !ok {
		h = &huff0.Scratch{Reuse: huff0.ReusePolicyNone}
	}
	defer c.coders.put(h)
	coded, _, err := huff0.Compress4X(plain, h)
	if err != nil {
		return dst // too even, or all the same
	}
	dst = binary.LittleEndian.AppendUint32(dst, zstdMagic)
	if len(plain) < 1<<16 {
		dst = append(dst, contentSize2|singleSegment)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(plain)-256))
	} else {
		dst = append(dst, contentSize4|singleSegment)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(plain)))
	}
	literals, size := 4, uint64(huffmanLiterals|fourStreams14)|uint64(len(plain))<<4|uint64(len(coded))<<18
	if len(plain) >= 1<<14 {
		literals, size = 5, uint64(huffmanLiterals|fourStreams18)|uint64(len(plain))<<4|uint64(len(coded))<<22
	}
	block := uint32(literals+len(coded)+1)<<3 | compressedBlock | lastBlock
	dst = append(dst, byte(block), byte(block>>8), byte(block>>16))
	for range literals {
		dst = append(dst, byte(size))
		size >>= 8
	}
	dst = append(dst, coded...)
	return append(dst, 0) // no sequences
}
