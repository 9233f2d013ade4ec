package projection

import (
	"context"
	"strconv"

	"holdfast/event"
	"holdfast/internal/turn"
)

// piecesAhead is how many pieces are read before they are asked for.
const piecesAhead = 4

// readAhead reads pieces in order, several at a time.
type readAhead struct {
	ctx    context.Context
	cancel context.CancelFunc
	snaps  Snaps
	names  []event.Snap // not begun yet
	begun  []*pieceRead
}

type pieceRead struct {
	done  chan struct{}
	piece []byte
	err   error
}

func newReadAhead(ctx context.Context, snaps Snaps, names []event.Snap) *readAhead {
	r := &readAhead{snaps: snaps, names: names}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// next returns the next piece. There must be one.
func (r *readAhead) next() ([]byte, error) {
	for len(r.begun) < piecesAhead && len(r.names) > 0 {
		r.begun = append(r.begun, r.begin(len(r.names), r.names[0]))
		r.names = r.names[1:]
	}
	p := r.begun[0]
	<-p.done
	r.begun = r.begun[1:]
	return p.piece, p.err
}

func (r *readAhead) begin(n int, name event.Snap) *pieceRead {
	p := &pieceRead{done: make(chan struct{})}
	ctx := turn.Named(r.ctx, "piece "+strconv.Itoa(n))
	go func() {
		defer close(p.done)
		turn.Take(ctx, "read ahead")
		p.piece, p.err = r.snaps.Snap(ctx, name)
	}()
	return p
}

// stop waits for what was begun.
func (r *readAhead) stop() {
	r.cancel()
	for _, p := range r.begun {
		<-p.done
	}
	r.begun = nil
}
