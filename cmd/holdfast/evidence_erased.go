package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
)

// erasure is what a certificate proves, as JSON.
type erasure struct {
	Log        string       `json:"log"`
	Tenant     string       `json:"tenant"`
	ID         string       `json:"id"`
	Partition  int          `json:"partition"`
	Segment    uint64       `json:"segment"`
	Index      int          `json:"index"`
	What       string       `json:"what"`
	Erased     time.Time    `json:"erased"`
	Who        string       `json:"who"`
	Reason     string       `json:"reason"`
	Order      string       `json:"order"`
	Written    time.Time    `json:"written"`
	Checkpoint uint64       `json:"checkpoint"`
	Signed     time.Time    `json:"signed"`
	Messages   int          `json:"messages"` // which stood at the places of the items
	Items      []erasedItem `json:"items"`
}

// erasedItem is one place in the log where an erased message stood.
type erasedItem struct {
	Message   string   `json:"message"`
	ID        string   `json:"id"`
	Partition int      `json:"partition"`
	Segment   uint64   `json:"segment"`
	Index     int      `json:"index"`
	Size      int64    `json:"size"`
	Accounts  []string `json:"accounts"`
	SHA256    []string `json:"sha256"` // of the sealed metadata and body
}

func newErasure(ev *eventlog.Evidence, f *event.Erased) erasure {
	pos := ev.Ref.Position
	out := erasure{
		Log: ev.Log.String(), Tenant: ev.Tenant.String(), ID: ev.Ref.ID.String(),
		Partition: int(pos.Partition), Segment: uint64(pos.Seq), Index: int(pos.Index),
		What: ev.Kind(), Erased: ev.Received(), Who: f.Who, Reason: f.Reason, Order: f.Order.String(),
		Written: time.UnixMilli(int64(ev.Written)).UTC(), Checkpoint: uint64(ev.Checkpoint.Seq), Signed: ev.Checkpoint.At(),
		Messages: len(f.Messages()), Items: []erasedItem{},
	}
	for _, it := range f.Items {
		at := it.Place.Position
		item := erasedItem{
			Message: it.Message.String(), ID: it.Place.ID.String(), Size: it.Size, Accounts: []string{}, SHA256: []string{},
			Partition: int(at.Partition), Segment: uint64(at.Seq), Index: int(at.Index),
		}
		for _, a := range it.Accounts {
			item.Accounts = append(item.Accounts, a.String())
		}
		for _, d := range it.Digests {
			item.SHA256 = append(item.SHA256, hex.EncodeToString(d[:]))
		}
		out.Items = append(out.Items, item)
	}
	return out
}

// tellErasure prints the certificate of an erasure.
func tellErasure(e *env, ev *eventlog.Evidence, f *event.Erased) error {
	p := newErasure(ev, f)
	if e.json {
		return e.writeJSON(p)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "the certificate holds")
	fmt.Fprintf(w, "erased\t%s, %s by %s\n", erasedText(f), p.Erased.Format(time.RFC3339Nano), printable(p.Who))
	fmt.Fprintf(w, "reason\t%s\n", printable(p.Reason))
	fmt.Fprintf(w, "id\t%s, order %s\n", p.ID, p.Order)
	fmt.Fprintf(w, "place\tlog %s, partition %02x, segment %d, index %d, written %s\n", p.Log, p.Partition, p.Segment, p.Index, p.Written.Format(time.RFC3339Nano))
	fmt.Fprintf(w, "signed\tcheckpoint of segment %d, %s\n", p.Checkpoint, p.Signed.Format(time.RFC3339Nano))
	tellPlaces(w, p.Items)
	return w.Flush()
}

// erasedText counts what was erased.
func erasedText(f *event.Erased) string {
	messages := f.Messages()
	text := count(len(messages), "message")
	if copies := len(f.Items) - len(messages); copies > 0 {
		text += " and " + plural(copies, "kept copy", "kept copies")
	}
	return text
}

// tellPlaces prints each message with the places at which it stood.
func tellPlaces(w io.Writer, items []erasedItem) {
	for i, it := range items {
		same := func(o erasedItem) bool { return o.Message == it.Message }
		if slices.ContainsFunc(items[:i], same) {
			continue
		}
		fmt.Fprintf(w, "message\t%s, %s\n", it.Message, count(it.Size, "byte"))
		for _, a := range it.Accounts {
			fmt.Fprintf(w, "\taccount %s\n", a)
		}
		for _, place := range items[i:] {
			if !same(place) {
				continue
			}
			what := "stood"
			if place.ID != place.Message {
				what = "copy " + place.ID + " stood"
			}
			fmt.Fprintf(w, "\t%s at partition %02x, segment %d, index %d\n", what, place.Partition, place.Segment, place.Index)
			for _, d := range place.SHA256 {
				fmt.Fprintf(w, "\tSHA-256 of what was sealed %s\n", d)
			}
		}
	}
}
