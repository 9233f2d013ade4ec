package event

import "fmt"

// Partition numbers one totally ordered log of a bucket, from 0.
type Partition uint8

// Seq numbers the segments of a partition, from 1. Zero means "before the
// first".
type Seq uint64

// Position is the place of one event: never a byte offset, because segments
// may be packed and compacted later.
type Position struct {
	Partition Partition `cbor:"1,keyasint"`
	Seq       Seq       `cbor:"2,keyasint"`
	Index     uint32    `cbor:"3,keyasint"`
}

// Less orders positions of one partition.
func (p Position) Less(q Position) bool {
	if p.Seq != q.Seq {
		return p.Seq < q.Seq
	}
	return p.Index < q.Index
}

// String returns partition/seq/index.
func (p Position) String() string {
	return fmt.Sprintf("%02x/%d/%d", uint8(p.Partition), uint64(p.Seq), p.Index)
}

// Ref refers to one event in the log.
type Ref struct {
	Position Position `cbor:"1,keyasint"`
	ID       ID       `cbor:"2,keyasint"`
}
