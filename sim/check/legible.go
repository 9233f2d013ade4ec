package check

import (
	"context"
	"fmt"
	"time"

	"holdfast/e2e/outside"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/projection"
)

// Legible judges whether anything of anybody's can be read where it is kept:
// texts, subjects, addresses and names of mailboxes in the objects of the bucket
// and their names; what stems from mail, in the local databases too (settings
// may stand there: the whole database is encrypted on disk). Plain, in any case,
// base64, hex, UTF-16, and inside compressed streams.
func Legible(ctx context.Context, bucket objstore.Bucket, stores map[string]projection.Store, h *History) ([]Finding, error) {
	c := &court{rule: "legible"}
	all, err := outside.NewResidue(h.Words...)
	if err != nil {
		return nil, err
	}
	mail, err := outside.NewResidue(h.MailWords...)
	if err != nil {
		return nil, err
	}
	const most = 1 << 30
	for info, err := range bucket.List(ctx, "", "") {
		if err != nil {
			return nil, fmt.Errorf("list the bucket for judgement: %w", err)
		}
		data, _, err := objstore.ReadAll(ctx, bucket, info.Key, most)
		if err != nil {
			return nil, fmt.Errorf("read %s for judgement: %w", info.Key, err)
		}
		for _, what := range all.Bytes(info.Key, append([]byte(info.Key+"\n"), data...)) {
			c.finds("%s", what)
		}
	}
	for name, store := range stores {
		snap, err := store.Snapshot()
		if err != nil {
			return nil, fmt.Errorf("look into the database of %s: %w", name, err)
		}
		for it, err := range snap.Scan(nil, nil, false) {
			if err != nil {
				snap.Close()
				return nil, fmt.Errorf("look into the database of %s: %w", name, err)
			}
			for _, what := range mail.Bytes(fmt.Sprintf("%s: %x", name, it.Key), append(append([]byte{}, it.Key...), it.Value...)) {
				c.finds("%s", what)
			}
		}
		snap.Close()
	}
	return c.found, nil
}

// Retained judges what can be judged of retention today: every event with a
// mail-derived part or a body says until which day it may be read, that day is
// its reception plus what its domains keep, and once the day has passed by the
// store's clock its body can no longer be opened. Removing expired objects from
// the bucket, and moving the ratchet, is not done by anybody yet, so that mail is
// held to the last rule only where forgets says that the keys of a day are gone.
func Retained(l *Log, least, most int, forgets func(event.Day) bool) []Finding {
	c := &court{rule: "retained"}
	l.All(func(e *Entry) {
		f, ok := e.Fact.(*event.MessageAccepted)
		if !ok {
			return
		}
		days := int(e.Expiry - event.DayOf(time.UnixMilli(int64(f.At))))
		if days < least || days > most {
			c.finds("%v expires %d days after its reception", e.Ref.ID, days)
		}
		if forgets != nil && forgets(e.Expiry) && (!e.Gone || f.Meta != nil) {
			c.finds("%v can be read although the key of %v is gone", e.Ref.ID, e.Expiry)
		}
	})
	return c.found
}
