package imapgw

import (
	"fmt"
	"slices"
	"testing"

	"github.com/emersion/go-imap/v2"

	"holdfast/continuity"
	"holdfast/event"
)

func viewOf(uids ...event.UID) *view {
	var msgs []continuity.Message
	for _, u := range uids {
		msgs = append(msgs, continuity.Message{UID: u})
	}
	return newView(msgs, nil)
}

func TestResolve(t *testing.T) {
	v := viewOf(2, 3, 5, 8, 13)
	for _, tc := range []struct {
		set  imap.NumSet
		want string // "error" or spans
	}{
		{imap.SeqSet{{Start: 1, Stop: 1}}, "[{0 1}]"},
		{imap.SeqSet{{Start: 1, Stop: 0}}, "[{0 5}]"},
		{imap.SeqSet{{Start: 0, Stop: 0}}, "[{4 5}]"},
		{imap.SeqSet{{Start: 9, Stop: 0}}, "[{4 5}]"},
		{imap.SeqSet{{Start: 1, Stop: 2}, {Start: 3, Stop: 0}}, "[{0 5}]"},
		{imap.SeqSet{{Start: 1, Stop: 2}, {Start: 4, Stop: 4}}, "[{0 2} {3 4}]"},
		{imap.SeqSet{{Start: 6, Stop: 6}}, "error"},
		{imap.SeqSet{{Start: 4, Stop: 6}}, "error"},
		{imap.UIDSet{{Start: 3, Stop: 8}}, "[{1 4}]"},
		{imap.UIDSet{{Start: 4, Stop: 4}}, "[]"},
		{imap.UIDSet{{Start: 14, Stop: 99}}, "[]"},
		{imap.UIDSet{{Start: 99, Stop: 0}}, "[{4 5}]"},
		{imap.UIDSet{{Start: 0, Stop: 0}}, "[{4 5}]"},
		{imap.UIDSet{{Start: 1, Stop: 2}, {Start: 99, Stop: 0}}, "[{0 1} {4 5}]"},
		{imap.UIDSet{{Start: 1, Stop: ^imap.UID(0)}}, "[{0 5}]"},
		{imap.SearchRes(), "[{1 2} {3 4}]"},
	} {
		spans, err := v.resolve(tc.set, []event.UID{3, 4, 8})
		got := fmt.Sprint(spans)
		if err != nil {
			got = "error"
		}
		if got != tc.want {
			t.Errorf("%v: %s, want %s", tc.set, got, tc.want)
		}
	}
	empty := viewOf()
	for _, set := range []imap.NumSet{imap.SeqSet{{Start: 1, Stop: 0}}, imap.UIDSet{{Start: 1, Stop: 0}}, imap.UIDSet{{Start: 1, Stop: 9}}} {
		if spans, err := empty.resolve(set, nil); err != nil || len(spans) != 0 {
			t.Errorf("%v in an empty mailbox: %v, %v", set, spans, err)
		}
	}
}

func TestRanges(t *testing.T) {
	v := viewOf(2, 3, 5, 8, 13)
	v.gone[8] = struct{}{}
	got, gone := v.ranges([]span{{0, 5}}, nil)
	if want := "[{{} 2 5} {{} 13 13}]"; fmt.Sprint(got) != want || !gone {
		t.Errorf("%v, %v; want %s with one gone", got, gone, want)
	}
	got, gone = v.ranges([]span{{0, 3}}, func(m *continuity.Message) bool { return m.UID != 3 })
	if want := "[{{} 2 2} {{} 5 5}]"; fmt.Sprint(got) != want || gone {
		t.Errorf("%v, %v; want %s with none gone", got, gone, want)
	}
}

func TestAbsorb(t *testing.T) {
	v := viewOf(1, 2, 3)
	own := new(command)
	msg := func(uid event.UID, flags ...string) continuity.Message {
		return continuity.Message{UID: uid, Flags: flags}
	}
	v.absorb([]continuity.Change{
		{Kind: continuity.ChangeFlags, Message: msg(1, `\Seen`), Origin: own},
		{Kind: continuity.ChangeFlags, Message: msg(3, `\Seen`), Origin: new(command)},
		{Kind: continuity.ChangeExpunged, Message: msg(2)},
		{Kind: continuity.ChangeAdded, Message: msg(4)},
		{Kind: continuity.ChangeAdded, Message: msg(5)},
		{Kind: continuity.ChangeFlags, Message: msg(4, `\Draft`)},
		{Kind: continuity.ChangeExpunged, Message: msg(5)},
		{Kind: continuity.ChangeExpunged, Message: msg(77)},
	}, own)
	if !slices.Equal(v.msgs[0].Flags, []string{`\Seen`}) {
		t.Errorf("own change was not taken in: %v", v.msgs[0].Flags)
	}
	// The client has heard of 1, 2 and 3. 5 came and went unheard.
	if got := v.removeGone(); !slices.Equal(got, []uint32{2}) {
		t.Errorf("expunged numbers %v, want only 2", got)
	}
	if v.told != 2 || len(v.msgs) != 3 {
		t.Errorf("told %d of %d, want 2 of 3", v.told, len(v.msgs))
	}
	v.told = len(v.msgs)
	if got := v.takeDirty(); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("dirty %v, want those of UIDs 3 and 4", got)
	}
	if got := v.takeDirty(); got != nil {
		t.Errorf("dirty again: %v", got)
	}
}

func TestRemoveGoneOrder(t *testing.T) {
	v := viewOf(1, 2, 3, 4, 5, 6)
	model := []event.UID{1, 2, 3, 4, 5, 6}
	for _, u := range []event.UID{1, 3, 4, 6} {
		v.gone[u] = struct{}{}
	}
	for _, seq := range v.removeGone() { // as a client applies them
		model = slices.Delete(model, int(seq)-1, int(seq))
	}
	if !slices.Equal(model, []event.UID{2, 5}) {
		t.Errorf("the client is left with %v", model)
	}
}

func TestUIDSetKeepsOrder(t *testing.T) {
	if got := uidSet([]event.UID{7, 8, 9, 3, 5, 4}).String(); got != "7:9,3,5,4" {
		t.Errorf("set %s", got)
	}
}

func TestFlagStrings(t *testing.T) {
	known := []string{"Work"}
	for _, tc := range []struct {
		in   []imap.Flag
		want string
	}{
		{[]imap.Flag{imap.FlagSeen, "work", "WORK", "New", "new"}, `[\Seen Work New]`},
		{[]imap.Flag{`\Recent`}, `[]`},
		{[]imap.Flag{`\*`}, "error"},
		{[]imap.Flag{`\Odd`}, "error"},
		{[]imap.Flag{"caf\xe9"}, "error"},
	} {
		got, err := flagStrings(tc.in, known)
		s := fmt.Sprint(got)
		if err != nil {
			s = "error"
		}
		if s != tc.want {
			t.Errorf("%q: %s, want %s", tc.in, s, tc.want)
		}
	}
	var many []string
	for i := range maxKeywords {
		many = append(many, fmt.Sprint("k", i))
	}
	if _, err := flagStrings([]imap.Flag{"K7"}, many); err != nil {
		t.Errorf("a known keyword: %v", err)
	}
	if _, err := flagStrings([]imap.Flag{"fresh"}, many); err == nil {
		t.Error("keywords without end")
	}
}
