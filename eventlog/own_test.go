package eventlog

import (
	"bytes"
	"context"
	"io"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/fxamacker/cbor/v2"

	"holdfast/event"
	"holdfast/objstore/mem"
)

// fill sets every field below v to something that is not its zero value; lists
// get n elements and are never nil.
func fill(v reflect.Value, n int, next *uint64) {
	*next++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n, next)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n, next)
		}
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[cbor.RawMessage]() {
			v.SetBytes(event.Marshal(*next))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), n, next)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n, next)
		}
	case reflect.String:
		v.SetString(string(rune('a' + *next%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(int64(*next))
	case reflect.Uint8:
		v.SetUint(*next%255 + 1)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(*next)
	default:
		panic("fill: " + v.Type().String())
	}
}

// TestOwnSegmentsAreAsRead: what a node keeps of the segments that it wrote is
// what another node reads.
func TestOwnSegmentsAreAsRead(t *testing.T) {
	bucket := mem.New()
	f := openFixture(t, newOptions(t, bucket))
	ctx := context.Background()
	body := func(ev event.Event) event.Event {
		b, err := f.NewBody(ctx, ev.ID, ev.Tenant, ev.Expiry)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write(randomBytes(5000)); err != nil {
			t.Fatal(err)
		}
		if ev.Body, err = b.Finish(); err != nil {
			t.Fatal(err)
		}
		return ev
	}
	var last event.Position
	next := uint64(0)
	kept := 0
	for _, n := range []int{0, 1, 3} {
		facts := []event.Fact{&event.MessageAccepted{}, &event.DeliverySettled{}, &event.DeliveryIntended{}, &event.Repudiated{}}
		for _, fact := range facts {
			fill(reflect.ValueOf(fact).Elem(), n, &next)
			ev := event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: fact}
			evs := []event.Event{ev}
			if fact.Kind() == event.KindMessageAccepted {
				evs[0].Expiry = f.day
				evs[0] = body(evs[0])
				// Another in the same segment, without a body and what is optional.
				evs = append(evs, event.Event{ID: event.NewID(), Tenant: f.tenant, Fact: &event.MessageAccepted{Origin: event.OriginInbound}})
			} else if fact.Kind() == event.KindDeliverySettled {
				evs[0].Expiry = f.day
			}
			at, err := f.Append(ctx, evs...)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := f.cache.segments.peek(slot{at.Partition, at.Seq}); ok {
				kept++
			}
			last = at
		}
	}
	if kept < 6 {
		t.Errorf("%d segments were kept: nothing was compared", kept)
	}
	other := openFixture(t, f.opt)
	for s := event.Seq(1); s <= last.Seq; s++ {
		got, err := f.Segment(ctx, last.Partition, s)
		if err != nil {
			t.Fatal(err)
		}
		want, err := other.Segment(ctx, last.Partition, s)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("segment %d:\nkept %+v\nread %+v", s, got, want)
		}
		ownHeader, err := f.readHeader(ctx, last.Partition, s)
		if err != nil {
			t.Fatal(err)
		}
		header, err := other.readHeader(ctx, last.Partition, s)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(ownHeader, header) {
			t.Errorf("header of segment %d:\nkept %+v\nread %+v", s, ownHeader, header)
		}
	}
}

// TestFactsAreNotShared: what a caller does with its fact after Append does not
// change what readers see.
func TestFactsAreNotShared(t *testing.T) {
	f := openFixture(t, newOptions(t, mem.New()))
	fact := &event.DeliverySettled{At: 1, Outcomes: []event.Outcome{{Result: event.ResultDelivered, Code: 250}}, Meta: &event.ReplyMeta{Replies: []string{"a"}}}
	id := event.NewID()
	at, err := f.Append(t.Context(), event.Event{ID: id, Tenant: f.tenant, Expiry: f.day, Fact: fact})
	if err != nil {
		t.Fatal(err)
	}
	fact.At, fact.Outcomes[0].Code, fact.Meta.Replies[0] = 2, 550, "b"
	r, err := f.Event(t.Context(), event.Ref{Position: at, ID: id})
	if err != nil {
		t.Fatal(err)
	}
	want := &event.DeliverySettled{At: 1, Outcomes: []event.Outcome{{Result: event.ResultDelivered, Code: 250}}, Meta: &event.ReplyMeta{Replies: []string{"a"}}}
	if !reflect.DeepEqual(r.Fact, want) {
		t.Errorf("fact is %+v", r.Fact)
	}
}

func TestImage(t *testing.T) {
	var want []byte
	m := newImage(randomBytes(100))
	want = append(want, m.front...)
	for _, n := range []int{7, 0, 1, 64 << 10} {
		b := randomBytes(n)
		want = append(want, b...)
		m.add(b)
	}
	if m.size != int64(len(want)) {
		t.Fatalf("size %d, want %d", m.size, len(want))
	}
	if err := iotest.TestReader(m.reader(), want); err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	r := m.reader()
	if _, err := r.Seek(50, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if n, err := r.WriteTo(&out); err != nil || n != m.size-50 || !bytes.Equal(out.Bytes(), want[50:]) {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	for off := range m.size {
		p := m.piece(off)
		if len(p) == 0 || !bytes.Equal(p, want[off:off+int64(len(p))]) {
			t.Fatalf("piece at %d is wrong", off)
		}
	}
	if m.piece(m.size) != nil {
		t.Error("there is something behind the end")
	}
	if _, ok := m.slice(99, 2); ok {
		t.Error("a slice over two pieces")
	}
}
