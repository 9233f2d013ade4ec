package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
)

// Entry is one event of the log, as a fresh reader found it.
type Entry struct {
	eventlog.Recorded
	Writer event.Writer
	Since  Moment // when its segment, and what of its body lies apart, was durable
	Body   []byte // of an acceptance or an upload; nil once it has expired
	Gone   bool   // the body has expired
}

// Log is all that is in a bucket.
type Log struct {
	Partitions [][]Entry // each in order
	byID       map[event.ID]*Entry
}

// ReadLog reads everything in a bucket with a reader that knows nothing yet.
// since, which may be nil, tells when an object became durable.
func ReadLog(ctx context.Context, bucket objstore.Bucket, keys crypto.KeyService, url string, since *Recorder) (*Log, error) {
	l, err := eventlog.Open(ctx, eventlog.Options{Bucket: bucket, URL: url, Keys: keys, Inspect: true})
	if err != nil {
		return nil, fmt.Errorf("open the log for judgement: %w", err)
	}
	defer l.Close(ctx)
	out := &Log{byID: map[event.ID]*Entry{}}
	for p := range l.Partitions() {
		var entries []Entry
		for seg, err := range l.Segments(ctx, event.Partition(p), eventlog.Cursor{}) {
			if err != nil {
				return nil, fmt.Errorf("read partition %d: %w", p, err)
			}
			for _, r := range seg.Events {
				e := Entry{Recorded: r, Writer: seg.Writer}
				if err := e.readBody(ctx, l); err != nil {
					return nil, fmt.Errorf("body of %v at %v: %w", r.Ref.ID, r.Ref.Position, err)
				}
				if since != nil {
					e.Since = since.durable(seg.Partition, seg.Seq, r.Ref.ID)
				}
				entries = append(entries, e)
			}
		}
		out.Partitions = append(out.Partitions, entries)
	}
	for p := range out.Partitions {
		for i := range out.Partitions[p] {
			out.byID[out.Partitions[p][i].Ref.ID] = &out.Partitions[p][i]
		}
	}
	return out, nil
}

func (e *Entry) readBody(ctx context.Context, l *eventlog.Log) error {
	if !e.HasBody {
		return nil
	}
	r, err := l.Body(ctx, e.Ref)
	if errors.Is(err, crypto.ErrExpired) {
		e.Gone = true
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	e.Body, err = io.ReadAll(r)
	if e.Body == nil {
		e.Body = []byte{}
	}
	return err
}

// durable returns when all of an event was: its segment and the parts of its
// body (docs/format.md gives them the event's id as a name).
func (r *Recorder) durable(p event.Partition, s event.Seq, id event.ID) Moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.since[fmt.Sprintf("log/%02x/%020d", uint8(p), uint64(s))]
	apart := "/" + id.String() + "/"
	for key, m := range r.since {
		if strings.HasPrefix(key, "blob/") && strings.Contains(key, apart) {
			last = max(last, m)
		}
	}
	return last
}

// Find returns the entry of an event, or nil.
func (l *Log) Find(id event.ID) *Entry { return l.byID[id] }

// All calls fn for every entry, partition by partition.
func (l *Log) All(fn func(*Entry)) {
	for p := range l.Partitions {
		for i := range l.Partitions[p] {
			fn(&l.Partitions[p][i])
		}
	}
}

// repudiated returns the first repudiation of each event.
func (l *Log) repudiated() map[event.ID]*Entry {
	out := map[event.ID]*Entry{}
	l.All(func(e *Entry) {
		if f, ok := e.Fact.(*event.Repudiated); ok && out[f.Message] == nil {
			out[f.Message] = e
		}
	})
	return out
}
