package shadow

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"holdfast/event"
	"holdfast/eventlog"
)

// FuzzRow makes a row of a stranger's message, and checks that it reads back
// the same, and that the filter has everything by which the row is found.
func FuzzRow(f *testing.F) {
	f.Add("From: a@b\r\nTo: c@d, e@f\r\nSubject: Hello World\r\nMessage-ID: <x@y>\r\n\r\n", "a@b", "c@d", "hello", "d")
	f.Add("Subject: =?utf-8?B?5pel5pys6Kqe?=\r\n\r\n", "", `"q\"uo ted"@Müller.example`, "日本", "<>")
	f.Add("Subject: "+strings.Repeat("long İıſK ", 400)+"\r\nFrom: <"+strings.Repeat("x", 400)+"@y>\r\n\r\n", "MiXed@CASE", "Postmaster", "LONG", "acme.test")
	f.Add("From: \x80\xff@\x00\r\nSubject: \xff\xfe\r\n\r\n", "\xff@\xfe", "@", "\xff", "@")
	f.Fuzz(func(t *testing.T, text, from, rcpt, words, addr string) {
		ev := mail{tenant: acme, at: noon, from: from, to: []string{rcpt, "bare"}, outside: len(text)%2 == 0, text: text}.accepted()
		fact := ev.Fact.(*event.MessageAccepted)
		fact.Meta.Recipients[1].Domain = "acme.test"
		rec := eventlog.Recorded{Ref: event.Ref{ID: ev.ID, Position: event.Position{Partition: 3, Seq: 1 << 40, Index: 7}}, Tenant: acme, Expiry: ev.Expiry, Time: timeOf(ev.Fact)}
		w := newRow(rec, fact, order{1<<33 + 5, rec.Ref.Position})
		plain := w.append(w.append(nil))
		rows, err := parseRows(plain, everyRow)
		if err != nil || len(rows) != 2 {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
		for _, r := range rows {
			r.shelf = w.shelf
			if !reflect.DeepEqual(r, w) {
				t.Fatalf("%+v reads back as %+v", w, r)
			}
		}
		if len(plain) > 2*(64<<10) {
			t.Errorf("a row of %d bytes", len(plain)/2)
		}
		fl := newFilter(rows)
		for _, q := range []Query{{Rcpt: rcpt}, {Rcpt: addr}, {Rcpt: "bare@acme.test"}, {Rcpt: "bare"}, {From: from}, {From: addr}, {Subject: words}, {Subject: w.subject}, {MessageID: w.msgID}, {MessageID: words}} {
			p, err := newQuery(q)
			if err != nil {
				t.Fatal(err)
			}
			if p.matches(w) && fl.with(p.tokens)&1 == 0 {
				t.Errorf("%+v matches, but is not in the filter", q)
			}
		}
		for _, q := range []Query{{Rcpt: "bare@acme.test"}, {Subject: w.subject}, {MessageID: w.msgID}} {
			if p, _ := newQuery(q); !p.matches(w) {
				t.Errorf("%+v does not find its own message", q)
			}
		}
	})
}

// FuzzParseRows: what is damaged is refused, and never more than read.
func FuzzParseRows(f *testing.F) {
	ev := mail{tenant: acme, at: noon, from: "a@b", to: []string{"c@d"}, text: "Subject: x\r\n\r\n"}.accepted()
	w := newRow(eventlog.Recorded{Tenant: acme, Time: timeOf(ev.Fact)}, ev.Fact.(*event.MessageAccepted), order{})
	f.Add(w.append(nil), uint8(everyRow))
	f.Add(w.append(nil)[:20], uint8(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, want uint8) {
		if rows, err := parseRows(b, want); err == nil && len(rows) > len(b) || err != nil && !errors.Is(err, event.ErrMalformed) {
			t.Errorf("%d rows of %d bytes, %v", len(rows), len(b), err)
		}
		_, _ = parsePlace(b)
		_, _ = parseHead(b)
		_, _ = parseStates(b)
	})
}

// TestFilter: turned round, the filters of a group say the same.
func TestFilter(t *testing.T) {
	filters := make([]*filter, groupBlocks)
	has := func(i, j, k int) bool { return (i*7+j*3+k)%11 == 0 }
	for i := range filters {
		filters[i] = new(filter)
		for j := range quarters {
			for k := range 40 {
				if has(i, j, k) {
					filters[i].add(j, newToken(tokWord, strings.Repeat("x", k)))
				}
			}
		}
	}
	pages := turn(filters)
	for k := range 40 {
		tok := newToken(tokWord, strings.Repeat("x", k))
		for i, fl := range filters {
			for j := range quarters {
				turned := true
				for n := range tokenBits {
					at := (tok.bit(n)*quarters+j)*8 + i/8
					turned = turned && pages[tok.page()][at]>>(i%8)&1 == 1
				}
				if turned != fl.has(j, tok) || has(i, j, k) && !turned {
					t.Fatalf("token %d in quarter %d of block %d: %v, turned round %v", k, j, i, fl.has(j, tok), turned)
				}
			}
		}
	}
	if slices.Contains(States(), "") || len(States()) != 8 {
		t.Errorf("the states are %q", States())
	}
}
