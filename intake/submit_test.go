package intake

import (
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"holdfast/event"
	"holdfast/message"
)

func TestEnvelopeSenderIsTheUser(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		for from, want := range map[string]error{
			"alice@acme.example": nil, "al@acme.example": nil, "": ErrSenderNotYours, "bob@acme.example": ErrSenderNotYours,
		} {
			_, err := h.Submit(peer, Envelope{From: from}, h.sender())
			wantErr(t, from, err, want)
		}
	})
}

func TestHeaderSenderIsTheUser(t *testing.T) {
	const rest = "\r\nMessage-ID: <1@x>\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n\r\nx\r\n"
	in(t, func(t *testing.T, h *house) {
		for _, c := range []struct {
			header string
			want   error
		}{
			{"From: alice@acme.example", nil},
			{"From: Alice <AL@acme.example>", nil},
			{"From: \"a l\"@acme.example", nil},
			{"from : alice@acme.example", nil},
			{"From: friends: alice@acme.example, al@acme.example;", nil},
			{"From: bob@acme.example", ErrSenderNotYours},
			{"From: alice@acme.example, bob@acme.example", ErrSenderNotYours},
			{"From: alice@acme.example\r\nFrom: bob@acme.example", ErrSenderNotYours},
			{"From: alice@acme.example\r\nSender: bob@acme.example", ErrSenderNotYours},
			{"From: alice@acme.example\r\nSender: al@acme.example", nil},
			{"From: \r\n bob@acme.example", ErrSenderNotYours},
			{"FROM\t: bob@acme.example", ErrSenderNotYours},
			{"From: the boss", ErrSenderNotYours},
			{"From: bob:;", ErrSenderNotYours},
			{"From:", ErrSenderNotYours},
			{"From: <>", ErrSenderNotYours},
			{"From: alice@acme.example <bob@acme.example>", ErrSenderNotYours},
			{"From: \"bob <bob@acme.example>\" (<bob@acme.example>) <alice@acme.example>", nil},
			{"From: \"a l\"@acme.example, <\"a l\"@acme.example>", nil},
			{"From: alice@acme.example\rFrom: bob@acme.example", ErrSenderNotYours},
			{"Subject: x\rFrom: bob@acme.example", ErrSenderNotYours},
			{"garbage\r\nFrom: bob@acme.example", nil}, // no header: all of it is the body
			{"From: alice@acme.example\r\ngarbage\r\nFrom: bob@acme.example", ErrSenderNotYours},
			{"Subject: no From", nil},
			{"X: " + strings.Repeat("y", maxHeader) + "\r\nFrom: bob@acme.example", ErrSenderNotYours},
		} {
			readers := []io.Reader{strings.NewReader(c.header + rest)}
			if len(c.header) < 1000 {
				readers = append(readers, iotest.OneByteReader(strings.NewReader(c.header+rest)))
			}
			for _, body := range readers {
				_, err := h.submit("bob@acme.example").Data(t.Context(), body)
				wantErr(t, c.header[:min(len(c.header), 60)], err, c.want)
			}
		}
	})
}

func TestMissingFieldsAreAdded(t *testing.T) {
	const from, date, id = "From: alice@acme.example\r\n", "Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n", "Message-ID: <1@x>\r\n"
	in(t, func(t *testing.T, h *house) {
		for _, c := range []struct{ text, adds string }{
			{from + date + id + "\r\nbody\r\n", ""},
			{from + date + "\r\nbody\r\n", "Message-ID"},
			{from + id + "\r\nbody\r\n", "Date"},
			{from + "\r\nbody\r\n", "Date Message-ID"},
			{from, "Date Message-ID"},
			{"\r\nbody\r\n", "Date Message-ID"},
			{"just text, no header\r\n\r\nmore\r\n", "Date Message-ID"},
			{"", "Date Message-ID"},
			{"\r\n" + strings.Repeat("long text\r\n", maxHeader/8), "Date Message-ID"},
			{"no header" + strings.Repeat("long text\r\n", maxHeader/8), "Date Message-ID"},
		} {
			f, body := h.keep(h.submit("bob@acme.example"), c.text)
			added, ok := strings.CutSuffix(string(body), c.text)
			if !ok {
				t.Errorf("%.60q: the user's own bytes were changed", c.text)
				continue
			}
			var names []string
			for name := range message.HeaderFields([]byte(added)) {
				names = append(names, name)
			}
			if got := strings.Join(names, " "); got != c.adds {
				t.Errorf("%.60q: added %q", c.text, added)
			}
			ix := new(message.Index)
			if err := event.Unmarshal(f.Meta.Index, ix); err != nil || ix.Envelope.MessageID == "" || ix.Envelope.Date == "" {
				t.Errorf("%.60q: envelope %+v, %v", c.text, ix.Envelope, err)
			}
		}
	})
}

func TestSubmittedGoesEverywhere(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		const text = "From: alice@acme.example\r\nMessage-ID: <1@x>\r\n\r\nhi\r\n"
		f, _ := h.keep(h.submit("alice@acme.example", "bob@acme.example", "friend@far.example", "x@any.example", "postmaster"), text)
		var got []string
		for _, r := range f.Meta.Recipients {
			s := r.Path + " " + r.Domain
			if r.Outside {
				s += " via " + r.Via
			}
			got = append(got, s)
		}
		want := []string{"alice@acme.example acme.example", "bob@acme.example acme.example", "friend@far.example far.example via acme.example",
			"x@any.example any.example via acme.example", "postmaster acme.example"}
		if !slices.Equal(got, want) {
			t.Errorf("recipients %q", got)
		}
		mark := sha256.Sum256(append([]byte("<1@x>|"), make([]byte, 32)...))
		places := []event.Allotment{{Account: alice, Place: event.PlaceInbox}, {Account: bob, Place: event.PlaceInbox},
			{Account: alice, Place: event.PlaceSent, Seen: true, Copy: [16]byte(mark[:])}}
		if !slices.Equal(f.Allotments, places) {
			t.Errorf("allotments %+v", f.Allotments)
		}
		if f.Origin != event.OriginSubmission || f.Meta.Login != "alice@acme.example" || !strings.Contains(string(f.Meta.Trace), " with ESMTPA ") {
			t.Errorf("%+v %+v", f, f.Meta)
		}
	})
}

func TestMarkOfMessagesWithoutID(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		mark := func(text string) [16]byte {
			f, _ := h.keep(h.submit("bob@acme.example"), text)
			return f.Allotments[len(f.Allotments)-1].Copy
		}
		want := func(own string) [16]byte {
			own32 := sha256.Sum256([]byte(own))
			sum := sha256.Sum256(append([]byte("|"), own32[:]...))
			return [16]byte(sum[:])
		}
		const text = "From: alice@acme.example\r\n\r\nhi"
		for _, c := range []struct{ text, own string }{{text + "\r\n", text + "\r\n"}, {text, text + "\r\n"}, {text + "\n", text + "\n\r\n"}} {
			if mark(c.text) != want(c.own) {
				t.Errorf("%q: another mark", c.text)
			}
		}
	})
}

func TestNoWayOut(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		who := h.sender()
		who.Outbound = false
		tx, err := h.Submit(peer, Envelope{From: who.Address}, who)
		if err != nil {
			t.Fatal(err)
		}
		wantErr(t, "another domain", tx.Rcpt(rcpt("friend@far.example")), ErrNoOutbound)
		wantErr(t, "another customer", tx.Rcpt(rcpt("x@any.example")), ErrNoOutbound)
		wantErr(t, "unknown here", tx.Rcpt(rcpt("nobody@acme.example")), ErrUnknownRecipient)
		wantErr(t, "a colleague", tx.Rcpt(rcpt("bob@acme.example")), nil)
	})
}

// No more is held than the header.
func TestHeaderIsReadNoFurther(t *testing.T) {
	for _, header := range []string{"\r\n", "\n", "A: b\r\n\r\n", "A: b\n\n", "A: b\n\r\n", "A: b\r\nC: d\r\n\r\n"} {
		body := io.MultiReader(strings.NewReader(header), filler(1<<20))
		first, rest, err := readHeader(iotest.OneByteReader(body))
		if err != nil || string(first) != header || rest == nil {
			t.Errorf("%q: read %d bytes, %v", header, len(first), err)
		}
	}
	if first, _, err := readHeader(strings.NewReader("A: b\r\n")); err != nil || string(first) != "A: b\r\n" {
		t.Errorf("header alone: %q, %v", first, err)
	}
	if first, _, err := readHeader(io.LimitReader(&cycle{text: []byte("A: b\r\n")}, 4*maxHeader)); err != nil || len(first) < maxHeader || len(first) > 2*maxHeader {
		t.Errorf("header without an end: %d bytes, %v", len(first), err)
	}
}
