package imapgw

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/emersion/go-imap/v2"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/message"
)

func TestMatchName(t *testing.T) {
	for _, tc := range []struct {
		name, pattern string
		want          bool
	}{
		{"INBOX", "*", true}, {"INBOX", "%", true}, {"INBOX", "inbox", true}, {"INBOX/a", "inbox/%", true},
		{"INBOXES", "inboxes", false}, {"a/b", "%", false}, {"a/b", "%/%", true}, {"a/b/c", "a/%", false},
		{"a/b/c", "a/*", true}, {"a/b/c", "*c", true}, {"a/b/c", "%c", false}, {"", "*", true}, {"a", "", false},
		{"INBOX", "INB%", true}, {"Inbox2", "inbox2", false}, {"INBOX", "iNbOx*", true},
	} {
		if got := matchName(tc.name, mailboxPattern(tc.pattern)); got != tc.want {
			t.Errorf("%q with %q: %v", tc.name, tc.pattern, got)
		}
	}
}

func FuzzMatchName(f *testing.F) {
	f.Add("a/b/c", "a%*")
	f.Add("INBOX", "%%**%")
	f.Fuzz(func(t *testing.T, name, pattern string) {
		if len(name) > 200 || len(pattern) > 50 {
			return
		}
		expr := regexp.QuoteMeta(pattern)
		expr = strings.ReplaceAll(strings.ReplaceAll(expr, `\*`, `(?s:.*)`), "%", `[^/]*`)
		re, err := regexp.Compile("^(?:" + expr + ")$")
		if err != nil || strings.ToValidUTF8(name+pattern, "") != name+pattern {
			return
		}
		// The expression's $ means the very end, since there is no (?m).
		if got, want := matchName(name, pattern), re.MatchString(name); got != want {
			t.Errorf("%q with %q: %v, want %v", name, pattern, got, want)
		}
	})
}

func FuzzContains(f *testing.F) {
	f.Add([]byte("Viele Grüße aus Köln"), "GRÜSSE", uint8(1))
	f.Add([]byte("ΟΔΥΣΣΕΥΣ"), "οδυσσεύς", uint8(2))
	f.Add([]byte(strings.Repeat("a", 3*textBuffer)+"b"), "ab", uint8(0))
	f.Fuzz(func(t *testing.T, text []byte, needle string, how uint8) {
		needle = fold(needle)
		want := strings.Contains(fold(string(text)), needle)
		var r io.Reader = bytes.NewReader(text)
		switch how % 4 {
		case 1:
			r = iotest.OneByteReader(r)
		case 2:
			r = iotest.HalfReader(r)
		case 3:
			r = iotest.DataErrReader(r)
		}
		got, err := contains(r, needle)
		if err != nil {
			t.Fatal(err)
		}
		if got != want && bytes.Equal(bytes.ToValidUTF8(text, nil), text) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// FuzzSections asks for any section of any message: what is served lies within
// the message, is what the index says, and pieces of it make up the whole.
func FuzzSections(f *testing.F) {
	f.Add([]byte("Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--b--\r\n"), uint16(1), uint8(0), int64(1), int64(3))
	f.Add([]byte("Content-Type: message/rfc822\n\nA: b\n\nc"), uint16(0x11), uint8(2), int64(0), int64(1<<40))
	f.Fuzz(func(t *testing.T, mail []byte, path uint16, spec uint8, off, n int64) {
		ix := message.ReadIndex(mail)
		var part []int
		for ; path > 0; path >>= 4 {
			part = append(part, int(path&15))
		}
		specs := []imap.PartSpecifier{imap.PartSpecifierNone, imap.PartSpecifierHeader, imap.PartSpecifierText, imap.PartSpecifierMIME}
		section := func(p *imap.SectionPartial) []byte {
			b := &imap.FetchItemBodySection{Part: part, Specifier: specs[spec&3], Partial: p}
			if spec&4 != 0 {
				b.HeaderFields = []string{"Subject", "X"}
			}
			return read(t, mail, ix, func(r io.ReadSeeker) (literal, error) { return bodySection(ix, r, b) })
		}
		binary := func(p *imap.SectionPartial) []byte {
			return read(t, mail, ix, func(r io.ReadSeeker) (literal, error) { return binarySection(ix, r, part, p) })
		}
		for _, of := range []func(*imap.SectionPartial) []byte{section, binary} {
			whole, piece := of(nil), of(&imap.SectionPartial{Offset: off, Size: n})
			from := min(max(off, 0), int64(len(whole)))
			to := min(from+min(max(n, 0), int64(len(whole))), int64(len(whole)))
			if !bytes.Equal(piece, whole[from:to]) {
				t.Errorf("<%d.%d> is %q of %q", off, n, piece, whole)
			}
		}
		if bs := bodyStructure(&ix.Root); bs == nil {
			t.Error("no structure")
		}
		envelope(&ix.Envelope)
	})
}

func read(t *testing.T, mail []byte, ix *message.Index, of func(io.ReadSeeker) (literal, error)) []byte {
	t.Helper()
	p, err := of(bytes.NewReader(mail))
	if err != nil {
		var own *imap.Error
		if asIMAP(err, &own) && own.Code == imap.ResponseCodeUnknownCTE {
			return nil
		}
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := p.copyTo(&out); err != nil {
		t.Fatal(err)
	}
	if int64(out.Len()) != p.size {
		t.Fatalf("%d bytes, announced %d", out.Len(), p.size)
	}
	return out.Bytes()
}

func asIMAP(err error, to **imap.Error) bool {
	e, ok := err.(*imap.Error)
	*to = e
	return ok
}

// TestQueryLogic evaluates random trees of keys, and compares with the meaning
// of AND, OR and NOT. Keys of every cost take part, so that deciding early is
// tried as well.
func TestQueryLogic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		q, want := randomQuery(r, 4)
		c := &candidate{ctx: context.Background(), m: &continuity.Message{}}
		got, err := c.matches(q)
		if err != nil || got != want {
			t.Fatalf("%v, %v; want %v", got, err, want)
		}
	}
}

func randomQuery(r *rand.Rand, depth int) (*query, bool) {
	q, all := &query{}, true
	for range r.IntN(3) {
		b := r.IntN(3) > 0
		all = all && b
		q.add(cost(r.IntN(4)), func(*candidate) (bool, error) { return b, nil })
	}
	if depth == 0 {
		return q, all
	}
	for range r.IntN(2) {
		sub, b := randomQuery(r, depth-1)
		q.nots = append(q.nots, sub)
		all = all && !b
	}
	for range r.IntN(2) {
		x, a := randomQuery(r, depth-1)
		y, b := randomQuery(r, depth-1)
		q.ors = append(q.ors, [2]*query{x, y})
		all = all && (a || b)
	}
	return q, all
}

// counting is a mailbox that notes what is asked of it.
type counting struct {
	Selected
	mail         []byte
	indexed, got int
}

func (c *counting) Index(context.Context, continuity.Message) (*message.Index, error) {
	c.indexed++
	return message.ReadIndex(c.mail), nil
}

func (c *counting) Open(context.Context, continuity.Message) (io.ReadSeekCloser, error) {
	c.got++
	return nopCloser{bytes.NewReader(c.mail)}, nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// TestSearchReadsLittle: keys are answered from what is at hand, the cheapest
// first, and a message is read only when it must be.
func TestSearchReadsLittle(t *testing.T) {
	v := viewOf(1)
	v.msgs[0].Flags = []string{`\Seen`}
	header := func(k, val string) imap.SearchCriteria {
		return imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: k, Value: val}}}
	}
	for name, tc := range map[string]struct {
		c            imap.SearchCriteria
		want         bool
		indexed, got int
	}{
		"flags":                 {imap.SearchCriteria{Flag: []imap.Flag{imap.FlagSeen}}, true, 0, 0},
		"flags decide":          {imap.SearchCriteria{NotFlag: []imap.Flag{imap.FlagSeen}, Text: []string{"x"}}, false, 0, 0},
		"from":                  {header("From", "hans"), true, 1, 0},
		"absent cc":             {header("Cc", "hans"), false, 1, 0},
		"from decides":          {imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "From", Value: "nobody"}}, Body: []string{"x"}}, false, 1, 0},
		"either, cheap is true": {imap.SearchCriteria{Or: [][2]imap.SearchCriteria{{{Body: []string{"light"}}, {Flag: []imap.Flag{imap.FlagSeen}}}}}, true, 0, 0},
		"other header":          {header("X-Tag", "seven"), true, 1, 1},
		"body":                  {imap.SearchCriteria{Body: []string{"LIGHT"}}, true, 1, 1},
	} {
		box := &counting{mail: []byte("From: Hans <h@example.test>\r\nX-Tag: seven\r\n\r\nFirst light.\r\n")}
		q, err := compile(v, []event.UID{}, &tc.c)
		if err != nil {
			t.Fatal(err)
		}
		c := &candidate{ctx: context.Background(), box: box, m: &v.msgs[0]}
		got, err := c.matches(q)
		if err != nil || got != tc.want || box.indexed != tc.indexed || box.got != tc.got {
			t.Errorf("%s: %v, %v with %d indexes and %d readings", name, got, err, box.indexed, box.got)
		}
	}
}
