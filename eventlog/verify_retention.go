package eventlog

import (
	"context"
	"fmt"

	"holdfast/event"
)

// kept checks what a message was kept as. It stands for the first event from then
// on, should that be gone with its day.
func (w *verifying) kept(i int, f *event.Kept) error {
	w.refs = append(w.refs, reference{i, w.h.Events[i].ID, true}, reference{i, f.Message, true})
	_, err := original(f)
	return w.found(i, w.key(), DamagedState, err)
}

// erased checks that the keys of what an event says was erased are not back: the
// key page may have been replaced with the one that was there before.
func (w *verifying) erased(ctx context.Context, i int, f *event.Erased) error {
	for _, item := range f.Items {
		pos := item.Place.Position
		if err := w.position(ctx, i, pos, &item.Place.ID); err != nil {
			return err
		}
		h, err := w.headerAt(ctx, pos)
		if err != nil {
			return err
		}
		if h == nil || int64(pos.Index) >= int64(len(h.Events)) {
			continue // that was reported
		}
		if err := w.isErased(ctx, i, h, &h.Events[pos.Index]); err != nil {
			return err
		}
	}
	return nil
}

func (w *verifying) isErased(ctx context.Context, i int, h *parsed, ev *eventEntry) error {
	entry, ok := h.page(ev)
	if !ok {
		return nil
	}
	page, err := w.v.checkPage(ctx, entry, h.Writer)
	if err != nil || page.page == nil {
		return err
	}
	if _, err := page.page.Leaf(ev.Leaf); err != nil {
		return nil
	}
	return w.found(i, pageKey(entry), DamagedKeyPage, fmt.Errorf("it has the key of event %v again, which was erased: %w", ev.ID, ErrDamaged))
}

// headerAt returns the header of the segment at a place; nil where none can be
// read.
func (w *verifying) headerAt(ctx context.Context, pos event.Position) (*parsed, error) {
	if int(pos.Partition) >= len(w.v.log.partitions) || pos.Seq == 0 {
		return nil, nil
	}
	if pos.Partition == w.p && pos.Seq == w.seq {
		return w.h, nil
	}
	h, err := w.v.headers.get(ctx, slot{pos.Partition, pos.Seq}, func(ctx context.Context) (*parsed, error) {
		return w.v.header(ctx, pos.Partition, pos.Seq)
	})
	if damaging(err) {
		return nil, nil
	}
	return h, err
}
