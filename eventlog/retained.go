package eventlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/objstore"
)

// Tenants returns all tenants that have keys in the bucket, in the order of their
// ids; [event.SystemTenant] is one.
func (l *Log) Tenants(ctx context.Context) (out []event.Tenant, err error) {
	for info, err := range l.bucket.List(ctx, tenantPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list tenants: %w", err)
		}
		if t, err := event.ParseTenant(strings.TrimPrefix(info.Key, tenantPrefix)); err == nil {
			out = append(out, t)
		}
	}
	return out, nil
}

// Blob is what lies in the bucket of one event's body.
type Blob struct {
	Day      event.Day
	ID       event.ID
	Parts    int
	Modified time.Time // when the last part was put, by the store's own clock
	keys     []string
}

// maxBlobKeys bounds the parts of one body that are listed; there are no more.
const maxBlobKeys = 10_000

// Blobs yields the bodies that have objects of their own and expire on a day or
// later, by day and event. What is no body's is passed over.
func (l *Log) Blobs(ctx context.Context, from event.Day) iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		var b Blob
		// Behind all keys of the day before.
		after := "blob/" + (from - 1).String() + "/~"
		for info, err := range l.bucket.List(ctx, "blob/", after) {
			if err != nil {
				yield(Blob{}, fmt.Errorf("list bodies: %w", err))
				return
			}
			day, id, ok := parseBlobKey(info.Key)
			if !ok {
				continue
			}
			if b.Parts > 0 && (day != b.Day || id != b.ID) {
				if !yield(b, nil) {
					return
				}
				b = Blob{}
			}
			b.Day, b.ID, b.Parts = day, id, b.Parts+1
			if info.Modified.After(b.Modified) {
				b.Modified = info.Modified
			}
			if len(b.keys) < maxBlobKeys {
				b.keys = append(b.keys, info.Key)
			}
		}
		if b.Parts > 0 {
			yield(b, nil)
		}
	}
}

// parseBlobKey reads what blobKey wrote, without the part.
func parseBlobKey(key string) (d event.Day, id event.ID, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 {
		return 0, id, false
	}
	d, err := event.ParseDay(parts[1])
	id, err2 := event.ParseID(parts[2])
	return d, id, err == nil && err2 == nil
}

// RemoveBlob removes the objects of a body. The caller knows that no event refers
// to them, or ever will: [event.ObjectsCondemned] stands in the log. It returns how
// many are gone; those that the store does not let go are not.
func (l *Log) RemoveBlob(ctx context.Context, b Blob) (gone int, err error) {
	if l.readOnly.Load() {
		return 0, l.refusal()
	}
	for _, key := range b.keys {
		err := l.bucket.Delete(ctx, key)
		switch {
		case errors.Is(err, objstore.ErrLocked):
		case err != nil:
			return gone, fmt.Errorf("remove %s: %w", key, err)
		default:
			gone++
		}
	}
	return gone, nil
}
