package eventlog

import (
	"fmt"

	"holdfast/event"
	"holdfast/internal/sabotage"
)

// Recorded is one event as read from the log.
type Recorded struct {
	Ref    event.Ref
	Tenant event.Tenant
	Class  event.Class
	// Expiry is the day under whose key the mail-derived parts are sealed, 0
	// when there are none.
	Expiry event.Day
	// Time is when the segment was written, by its writer's reckoning of the
	// store's clock.
	Time event.Millis
	// Fact is what happened. Its mail-derived part is nil once it has expired.
	// It is shared between readers and must not be changed.
	Fact event.Fact
	// HasBody says that [Log.Body] can be asked for a body.
	HasBody bool
	// Blobs says that the body lies in objects of its own.
	Blobs bool
	// Kept is set by [Log.Event] alone, for a message that was kept: it is what
	// stands at Ref, and Fact is what the first event recorded.
	Kept *event.Kept
}

// Segment is one object of a partition's log, opened and verified.
type Segment struct {
	Partition event.Partition
	Seq       event.Seq
	Hash      Hash // of its header; the next segment's Prev
	Prev      Hash
	Writer    event.Writer
	Time      event.Millis
	Events    []Recorded

	weight int64 // about what it takes in memory
}

// Hash is the SHA-256 of a segment's header and signature.
type Hash [32]byte

// Cursor is how far a reader has come in one partition: the last segment that
// it has handled, and that segment's hash. The zero Cursor stands before the
// first segment.
type Cursor struct {
	Seq  event.Seq `cbor:"1,keyasint"`
	Hash Hash      `cbor:"2,keyasint"`
}

// follows checks that a segment continues the one at a cursor. Where that is
// the reader's own cursor of earlier, the log may have been rolled back; further
// on, and at the beginning, it is damaged.
func follows(seg *Segment, at, began Cursor) error {
	if seg.Prev == at.Hash || sabotage.On(sabotage.SwapUnseen) {
		return nil
	}
	err := ErrDamaged
	if at.Seq == began.Seq && at.Seq > 0 {
		err = ErrRolledBack
	}
	return fmt.Errorf("segment %s does not follow what was read before it: %w", segmentKey(seg.Partition, seg.Seq), err)
}

// At returns the event with an index. Those of tenants that have ended are not
// there, nor those of classes that were not asked for.
func (s *Segment) At(index uint32) (Recorded, bool) {
	if i := int(index); i < len(s.Events) && s.Events[i].Ref.Position.Index == index {
		return s.Events[i], true // where nothing is left out
	}
	for _, r := range s.Events {
		if r.Ref.Position.Index == index {
			return r, true
		}
	}
	return Recorded{}, false
}
