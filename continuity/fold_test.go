package continuity

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

func newMem() objstore.Bucket { return mem.New() }

func uvarint(r io.ByteReader) uint64 {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		panic(err)
	}
	return n
}

var alice, bob = event.Account{1, 'a'}, event.Account{2, 'b'}

const everything = ^event.UID(0)

func all() []event.UIDRange { return []event.UIDRange{{First: 1, Last: everything}} }

func one(u event.UID) []event.UIDRange { return []event.UIDRange{{First: u, Last: u}} }

// names lists an account's mailboxes with their marks.
func names(t *testing.T, u *User) string {
	t.Helper()
	boxes, err := u.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, b := range boxes {
		s := b.Name
		if b.Use != "" {
			s += " " + b.Use
		}
		if b.Subscribed {
			s += " subscribed"
		}
		if b.NonExistent {
			s += " nonexistent"
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

const first = `Archive \Archive subscribed; Drafts \Drafts subscribed; INBOX subscribed; Junk \Junk subscribed; Sent \Sent subscribed; Trash \Trash subscribed`

func TestFirstMailboxes(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u := n.user(alice)
		if got := names(t, u); got != first {
			t.Errorf("after UserSet: %s", got)
		}
		n.deliver(bob, "Subject: x\r\n\r\n")
		if got := names(t, n.user(bob)); got != first {
			t.Errorf("after the first message: %s", got)
		}
	})
}

func TestNamesOfMailboxes(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		for _, c := range []struct {
			act  string
			err  error
			want error
		}{
			{"create a/b/c", u.Create(ctx, "a/b/c", ""), nil},
			{"create a/b", u.Create(ctx, "a/b", ""), ErrExists},
			{"create with a last delimiter", u.Create(ctx, "x/", ""), nil},
			{"create empty level", u.Create(ctx, "a//b", ""), ErrBadName},
			{"create nothing", u.Create(ctx, "", ""), ErrBadName},
			{"create wildcard", u.Create(ctx, "a*", ""), ErrBadName},
			{"create control", u.Create(ctx, "a\u0085b", ""), ErrBadName},
			{"create too long", u.Create(ctx, strings.Repeat("n", maxName+1), ""), ErrBadName},
			{"create no UTF-8", u.Create(ctx, "a\xff", ""), ErrBadName},
			{"create with a use", u.Create(ctx, "Old", `\Archive`), nil},
			{"delete INBOX", u.Delete(ctx, "INBOX"), ErrInbox},
			{"delete nothing", u.Delete(ctx, "y"), ErrNoMailbox},
			{"delete with children", u.Delete(ctx, "a"), nil},
			{"rename over another", u.Rename(ctx, "x", "a/b"), ErrExists},
			{"rename below itself", u.Rename(ctx, "x", "x/y"), ErrBadName},
			{"rename nothing", u.Rename(ctx, "y", "z"), ErrNoMailbox},
			{"rename to no name", u.Rename(ctx, "x", "z//z"), ErrBadName},
			{"rename with children", u.Rename(ctx, "a/b", "p/q"), nil},
			{"rename child onto another", u.Create(ctx, "r/c", ""), nil},
			{"delete r", u.Delete(ctx, "r"), nil},
			{"rename p/q to r, where r/c is", u.Rename(ctx, "p/q", "r"), ErrExists},
			{"rename a child beyond the limit", u.Rename(ctx, "p/q", strings.Repeat("n", maxName)), ErrBadName},
			{"subscribe to nothing", u.Subscribe(ctx, "gone", true), nil},
			{"unsubscribe Junk", u.Subscribe(ctx, "Junk", false), nil},
		} {
			if !errors.Is(c.err, c.want) {
				t.Errorf("%s: %v, want %v", c.act, c.err, c.want)
			}
		}
		want := `Archive \Archive subscribed; Drafts \Drafts subscribed; INBOX subscribed; Junk \Junk; Old \Archive; Sent \Sent subscribed; Trash \Trash subscribed; ` +
			`gone subscribed nonexistent; p; p/q; p/q/c; r/c; x`
		if got := names(t, u); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		_, err := u.Status(ctx, "gone")
		wantErr(t, "status of a name that is only subscribed", err, ErrNoMailbox)
	})
}

func TestUIDValidityIsNeverUsedAgain(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		seen := map[uint32]bool{}
		for range 5 {
			if err := u.Create(ctx, "box", ""); err != nil {
				t.Fatal(err)
			}
			m, err := u.Status(ctx, "box")
			if err != nil || seen[m.UIDValidity] {
				t.Fatalf("UIDVALIDITY %d again, error %v", m.UIDValidity, err)
			}
			seen[m.UIDValidity] = true
			if err := u.Delete(ctx, "box"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestRenameOfINBOX(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		n.deliver(alice, "Subject: 1\r\n\r\n")
		n.deliver(alice, "Subject: 2\r\n\r\n")
		before, _ := u.Status(ctx, "INBOX")
		s := mustSelect(t, u, "INBOX")
		if err := s.Store(ctx, one(2), event.FlagsAdd, []string{`\Seen`, "Work"}, 0, nil); err != nil {
			t.Fatal(err)
		}
		if err := u.Create(ctx, "INBOX/below", ""); err != nil {
			t.Fatal(err)
		}
		if err := u.Rename(ctx, "INBOX", "old/mail"); err != nil {
			t.Fatal(err)
		}
		after, _ := u.Status(ctx, "INBOX")
		moved, _ := u.Status(ctx, "old/mail")
		if after.Messages != 0 || after.UIDNext != before.UIDNext || after.UIDValidity != before.UIDValidity {
			t.Errorf("INBOX is now %+v", after)
		}
		if moved.Messages != 2 || moved.Unseen != 1 || moved.UIDNext != 3 || !slices.Equal(moved.Keywords, []string{"Work"}) {
			t.Errorf("new mailbox is %+v", moved)
		}
		if _, err := u.Status(ctx, "INBOX/below"); err != nil {
			t.Errorf("what was below INBOX: %v", err)
		}
		if cs := s.Changes(); len(cs) != 4 || cs[3].Kind != ChangeExpunged || cs[3].Message.UID != 2 {
			t.Errorf("the session saw %+v", cs)
		}
		if n.deliver(alice, "Subject: 3\r\n\r\n"); !strings.HasPrefix(list(t, u, "INBOX"), "3 ") {
			t.Error("UIDs began anew")
		}
	})
}

func TestDeletedWhileSelected(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		if err := u.Create(ctx, "box", ""); err != nil {
			t.Fatal(err)
		}
		uid := mustAppend(t, u, "box", "Subject: x\r\n\r\n")
		s := mustSelect(t, u, "box")
		if err := n.user(alice).Delete(ctx, "box"); err != nil {
			t.Fatal(err)
		}
		if cs := s.Changes(); len(cs) != 1 || cs[0].Kind != ChangeDropped {
			t.Errorf("changes: %+v", cs)
		}
		select {
		case <-s.Wake():
		default:
			t.Error("the session was not woken")
		}
		wantErr(t, "store", s.Store(ctx, one(uid), event.FlagsAdd, []string{`\Seen`}, 0, nil), ErrNoMailbox)
		_, err := s.Expunge(ctx, all(), nil)
		wantErr(t, "expunge", err, ErrNoMailbox)
		_, err = s.Copy(ctx, one(uid), "INBOX")
		wantErr(t, "copy", err, ErrNoMailbox)
		// The new one of that name is another mailbox.
		if err := u.Create(ctx, "box", ""); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, u, "box", "Subject: y\r\n\r\n")
		if cs := s.Changes(); len(cs) != 0 {
			t.Errorf("changes of the new mailbox: %+v", cs)
		}
	})
}

func TestRenameKeepsTheSelection(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		if err := u.Create(ctx, "a", ""); err != nil {
			t.Fatal(err)
		}
		s := mustSelect(t, u, "a")
		if err := u.Rename(ctx, "a", "b"); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, u, "b", "Subject: x\r\n\r\n")
		if cs := s.Changes(); len(cs) != 1 || cs[0].Kind != ChangeAdded {
			t.Errorf("changes: %+v", cs)
		}
	})
}

func TestFlagsAndKeywords(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		n.deliver(alice, "Subject: x\r\n\r\n")
		s := mustSelect(t, u, "INBOX")
		token := new(int)
		flags := func() []string { return mustSelect(t, u, "INBOX").Snapshot()[0].Flags }
		for _, c := range []struct {
			op      event.FlagOp
			flags   []string
			since   uint64
			want    []string
			changes int
		}{
			{event.FlagsAdd, []string{`\seen`, `\Recent`, "Work"}, 0, []string{`\Seen`, "Work"}, 2},
			{event.FlagsAdd, []string{`\Seen`, "wORK"}, 0, []string{`\Seen`, "Work"}, 0},
			{event.FlagsReplace, []string{"other", `\Draft`, "work"}, 0, []string{`\Draft`, "Work", "other"}, 2},
			{event.FlagsReplace, nil, 2, []string{`\Draft`, "Work", "other"}, 0},
			{event.FlagsRemove, []string{"WORK", "unheard-of"}, 0, []string{`\Draft`, "other"}, 1},
			{event.FlagsReplace, nil, 0, nil, 1},
		} {
			if err := s.Store(ctx, all(), c.op, c.flags, c.since, token); err != nil {
				t.Fatal(err)
			}
			if got := flags(); !slices.Equal(got, c.want) {
				t.Errorf("%v %v: %v, want %v", c.op, c.flags, got, c.want)
			}
			cs := s.Changes()
			if len(cs) != c.changes || slices.ContainsFunc(cs, func(c Change) bool { return c.Origin != token }) {
				t.Errorf("%v %v: changes %+v", c.op, c.flags, cs)
			}
		}
		m, _ := u.Status(ctx, "INBOX")
		if !slices.Equal(m.Keywords, []string{"Work", "other"}) {
			t.Errorf("keywords %v", m.Keywords)
		}
		if err := s.Store(ctx, one(77), event.FlagsAdd, []string{"nobody"}, 0, nil); err != nil {
			t.Fatal(err)
		}
		if after, _ := u.Status(ctx, "INBOX"); len(after.Keywords) != 2 || after.HighestModSeq != m.HighestModSeq {
			t.Errorf("a store to no message changed the mailbox to %+v", after)
		}
	})
}

func TestTombstones(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		for range 10 {
			mustAppend(t, u, "Trash", "Subject: x\r\n\r\n", `\Deleted`)
		}
		s := mustSelect(t, u, "Trash")
		some := []event.UIDRange{{First: 9, Last: 9}, {First: 2, Last: 3}, {First: 3, Last: 5}, {First: 20, Last: 10}}
		gone, err := s.Expunge(ctx, some, nil)
		if want := []event.UID{2, 3, 4, 5, 9}; err != nil || !slices.Equal(gone, want) {
			t.Errorf("expunged %v, %v, want %v", gone, err, want)
		}
		m, _ := u.Status(ctx, "Trash")
		err = n.runner.View(ctx, foldName, func(v projection.View) error {
			b, err := v.Get(tombstoneKey(alice, m.ID, m.HighestModSeq))
			if got := parseTombstone(b); !slices.Equal(got, gone) {
				t.Errorf("tombstone %v, want %v", got, gone)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestMoreRangesThanAnEventHolds(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		var uids []event.UIDRange
		for i := range event.UID(maxRanges + 3) {
			uids = append(uids, event.UIDRange{First: 2*i + 1, Last: 2*i + 1})
		}
		mustAppend(t, u, "Trash", "Subject: x\r\n\r\n")
		s := mustSelect(t, u, "Trash")
		if err := s.Store(ctx, uids, event.FlagsAdd, []string{`\Deleted`}, 0, nil); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.Expunge(ctx, uids, nil); err != nil || len(gone) != 1 {
			t.Errorf("expunged %v, %v", gone, err)
		}
		n.hash() // the log is still read
	})
}

func TestMoveWithinOneMailbox(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		mustAppend(t, u, "Trash", "Subject: x\r\n\r\n", "key", `\Seen`)
		s := mustSelect(t, u, "Trash")
		res, err := s.Move(ctx, all(), "Trash")
		if err != nil || !slices.Equal(res.Source, []event.UID{1}) || !slices.Equal(res.Dest, []event.UID{2}) {
			t.Errorf("%+v, %v", res, err)
		}
		m, _ := u.Status(ctx, "Trash")
		if m.Messages != 1 || m.Unseen != 0 || m.UIDNext != 3 {
			t.Errorf("%+v", m)
		}
	})
}

func TestSlowSessionIsDropped(t *testing.T) {
	b := &box{sessions: map[*Selected]bool{}}
	slow, quick := &Selected{wake: make(chan struct{}, 1)}, &Selected{wake: make(chan struct{}, 1)}
	b.sessions[slow], b.sessions[quick] = true, true
	changes := make([]Change, 1<<16)
	for range maxPending/len(changes) + 2 {
		b.take(changes, nil)
		quick.pending, quick.behind = nil, 0
	}
	if len(slow.pending) != 1 || len(slow.pending[0]) != 1 || slow.pending[0][0].Kind != ChangeDropped {
		t.Errorf("the slow session has %d lists of changes", len(slow.pending))
	}
	if b.sessions[slow] || !b.sessions[quick] {
		t.Error("the wrong session was dropped")
	}
}

func TestMessageRows(t *testing.T) {
	rows := []messageRow{
		{},
		{Flags: flagSeen | flagDraft, ModSeq: 1 << 40, Size: 5 << 30, Date: -1, Saved: 3, Ref: event.Ref{ID: event.ID{1, 15: 2}, Position: event.Position{Partition: 63, Seq: 1 << 50, Index: 999}}},
		{Copy: [16]byte{15: 9}, Keywords: []uint16{0, 7, 999}},
		{Keywords: []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9}},
	}
	for _, want := range rows {
		var got messageRow
		if err := got.decode(want.encode()); err != nil {
			t.Fatal(err)
		}
		if got.ModSeq != want.ModSeq || got.Ref != want.Ref || got.Copy != want.Copy || got.Flags != want.Flags || got.Size != want.Size ||
			got.Date != want.Date || got.Saved != want.Saved || !slices.Equal(got.Keywords, want.Keywords) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	for _, n := range []int{0, 1, rowFixed - 1, rowFixed + 1} {
		if err := new(messageRow).decode(make([]byte, n)); !errors.Is(err, event.ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if err := new(messageRow).decode(append([]byte{rowMarked}, make([]byte, rowFixed+3)...)); !errors.Is(err, event.ErrMalformed) {
		t.Errorf("mark cut short: %v", err)
	}
}
